"""How many sentences a second SONAR's encoder embeds, beside the naive way, at full size with random weights.

    python -m tools.bench_embed                     # on a GPU if there is one, else on the CPU
    python -m tools.bench_embed --layers 2           # a quick look

The text is the packaged one: blocks of 32 consecutive sentences from all over it. The naive way embeds each block as it
stands, padded to its longest sentence, as examples do; ours is the way of the codec. Both use the same modules, number
type and tokenizer, and tokenization is timed with both. The naive half before and the one behind ours are added up, so
that a machine that slows down meanwhile does not favour either. Where the published tokenizer is missing, one is
trained on the text, which gives about as many tokens. The last line is one JSON object.

On a GPU the naive way embeds a part of the blocks only. Ours is measured as it begins and, where kernels can be
compiled, as it goes on after `COMPILE_AFTER` tokens, each in several passes, of which the median counts, behind first
calls that are timed apart. The GPU waits whenever it computes no batch. The share is that of the rate of large matrix
products in the same number type, and counts linear layers alone, without attention.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from lexalcm.codec.options import DTYPES, choose_dtype, dtype_name
from lexalcm.codec.sonar.checkpoint import SonarSizes, expected_shapes
from lexalcm.codec.sonar.files import PUBLISHED, cache_folder
from lexalcm.codec.sonar.tokenizer import PAD, SonarTokenizer
from lexalcm.data.sources.corpus import Source, read_documents
from lexalcm.data.sources.sample import packaged_text
from lexalcm.device import can_compile, choose_device
from lexalcm.errors import LexaError, import_extra
from lexalcm.text.languages import SONAR_LANGUAGES
from lexalcm.text.segment import segment
from tools.matrix_rate import matrix_rate

if TYPE_CHECKING:
    from torch import Tensor

    from lexalcm.codec.sonar.encoder import SonarEncoder
    from lexalcm.codec.sonar.packed import DeviceBatch, PackedEncoder

BLOCK = 32
SIZES = SonarSizes(vocab_size=256_206, dim=1024, ffn_dim=8192, layers=24)
HEADS = 16
POSITIONS = 514
SENTENCES = {"cpu": 96, "cuda": 16384}
NAIVE_SENTENCES = {"cuda": 1024}
"""Of those, where the naive way would take minutes."""
PASSES = 3
MATRIX_SIZE = 8192
TRAINED_PIECES = 8000

Block = tuple[str, list[str]]
"""Consecutive sentences of one language."""

Drawn = TypeVar("Drawn")


def text_blocks() -> list[Block]:
    """The packaged text as blocks, in its order."""
    blocks: list[Block] = []
    with packaged_text() as file:
        for document in read_documents([Source(file, file.name)]):
            sentences = segment(document.text, document.lang)
            whole = len(sentences) // BLOCK * BLOCK
            blocks += [(document.lang, sentences[start : start + BLOCK]) for start in range(0, whole, BLOCK)]
    return blocks


def spread(blocks: Sequence[Drawn], count: int) -> list[Drawn]:
    """So many blocks, evenly from all of them."""
    places = np.linspace(0, len(blocks) - 1, min(count, len(blocks))).round().astype(int)
    return [blocks[place] for place in places]


def find_tokenizer(blocks: Sequence[Block], folder: Path) -> tuple[SonarTokenizer, str]:
    """The published tokenizer if it is in the cache, else one trained on the text; and which."""
    published = cache_folder() / "sonar" / PUBLISHED["tokenizer"]
    if published.is_file():
        return SonarTokenizer(published, SONAR_LANGUAGES), "published"
    sentencepiece = import_extra("sentencepiece", "hf", "the benchmark")
    text = folder / "text.txt"
    text.write_text("\n".join(sentence for _, block in blocks for sentence in block), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "pieces"), vocab_size=TRAINED_PIECES, minloglevel=2
    )
    return SonarTokenizer(folder / "pieces.model", SONAR_LANGUAGES), "trained on the text"


def random_encoder(sizes: SonarSizes, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """An encoder with random weights."""
    from lexalcm.codec.sonar.model import build_encoder

    tensors = {
        name: torch.empty(shape, device=device, dtype=dtype).normal_(std=0.02)
        for name, shape in expected_shapes(sizes, "encoder").items()
    }
    return torch.nn.Module.to(build_encoder(sizes, HEADS, POSITIONS, tensors), device, dtype)


@torch.inference_mode()
def embed_naively(encoder: "SonarEncoder", blocks: Sequence[Block]) -> np.ndarray:
    """Block by block in the order of the text, padded to the longest: float32 [n, D]."""
    parts = []
    for lang, sentences in blocks:
        tokens = encoder.tokenizer.encode(sentences, lang)
        longest = max(len(sequence) for sequence in tokens)
        ids = torch.tensor([[*sequence, *[PAD] * (longest - len(sequence))] for sequence in tokens])
        lengths = torch.tensor([len(sequence) for sequence in tokens])
        mask = (torch.arange(longest) < lengths[:, None]).long().to(encoder.device)
        states = encoder.packed.module(ids.to(encoder.device), attention_mask=mask).last_hidden_state.float()
        parts.append((states * mask[..., None]).sum(1).div(mask.sum(1, keepdim=True)).cpu().numpy())
    return np.concatenate(parts)


def embed(encoder: "SonarEncoder", blocks: Sequence[Block]) -> np.ndarray:
    """Language by language, as data sets are embedded: float32 [n, D], in the order of the text."""
    embeddings = np.empty((len(blocks) * BLOCK, encoder.dim), dtype=np.float32)
    languages = np.repeat([lang for lang, _ in blocks], BLOCK)
    known = np.unique(languages).tolist()
    requests = [([sentence for code, block in blocks if code == lang for sentence in block], lang) for lang in known]
    for lang, found in zip(known, encoder.stream(requests), strict=True):
        embeddings[languages == lang] = found
    return embeddings


class TimedBatches:
    """An encoder of batches on a GPU that notes how long each one's kernels take."""

    def __init__(self, packed: "PackedEncoder") -> None:
        self._packed = packed
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __call__(self, batch: "DeviceBatch") -> "Tensor":
        """As of the encoder."""
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        embeddings = self._packed(batch)
        ended.record()
        self._events.append((began, ended))
        return embeddings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._packed, name)

    def seconds(self) -> float:
        """Of the batches since this was asked last; waits for them."""
        torch.cuda.synchronize()
        events, self._events = self._events, []
        return sum(began.elapsed_time(ended) for began, ended in events) / 1000


def measure_on_gpu(
    encoder: "SonarEncoder", blocks: Sequence[Block], *, compiled: bool
) -> tuple[np.ndarray, float, float, dict[str, float]]:
    """Our way on a GPU, in several passes.

    Args:
        encoder: on a GPU.
        blocks: what to embed.
        compiled: whether kernels are compiled first.

    Returns:
        What `timed` does, of the median pass, and seconds by name.
    """
    packed = encoder.packed
    packed.compile_after = 0 if compiled else sys.maxsize
    _, first, _ = timed(lambda: np.concatenate([embed(encoder, blocks[:count]) for count in (8, 24)]))
    batches = TimedBatches(packed)
    encoder.packed = batches  # type: ignore[assignment]
    passes = []
    for _ in range(PASSES):
        embeddings, wall, cpu = timed(lambda: embed(encoder, blocks))
        passes.append((wall, cpu, batches.seconds()))
    encoder.packed = packed
    wall, cpu, busy = median_low(passes)
    seconds = {"pass_seconds": wall, "gpu_waited_seconds": wall - busy, "first_calls_seconds": first}
    return embeddings, wall, cpu, {name: round(value, 4) for name, value in seconds.items()}


def shown(figures: dict[str, Any]) -> str:
    """One line of what was measured on a GPU."""
    return (
        f"{figures['sentences_per_second']:,.0f} sentences/s, {figures['tokens_per_second']:,} tokens/s, "
        f"{figures['matrix_share']:.1%} of the matrix rate; the GPU waited {figures['gpu_waited_seconds']:.3f} s "
        f"of {figures['pass_seconds']:.3f} s; first calls {figures['first_calls_seconds']:.1f} s"
    )


def linear_weights(module: torch.nn.Module) -> int:
    """Weights that each token is multiplied with."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, torch.nn.Linear))


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """What it gives, the seconds it took, and the processor's seconds of all threads."""
    start, used = time.perf_counter(), _processor_seconds()
    result = work()
    return result, time.perf_counter() - start, _processor_seconds() - used


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def token_counts(encoder: "SonarEncoder", blocks: Sequence[Block]) -> np.ndarray:
    """Tokens of each sentence of each block, int64 [blocks, BLOCK]."""
    return np.array([[len(tokens) for tokens in encoder.tokenizer.encode(block, lang)] for lang, block in blocks])


def smallest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the embeddings of a sentence in two arrays, float32 [n, D] each."""
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure both ways; what the last line says."""
    import_extra("transformers", "hf", "the benchmark")
    from lexalcm.codec.sonar.encoder import SonarEncoder

    device = choose_device(arguments.device)
    dtype = choose_dtype(arguments.dtype, device)
    everything = text_blocks()
    wanted = arguments.sentences or SENTENCES.get(device.type, SENTENCES["cpu"])
    blocks = spread(everything, max(2, wanted // BLOCK))
    few = spread(range(len(blocks)), max(2, NAIVE_SENTENCES.get(device.type, wanted) // BLOCK))
    sizes = SonarSizes(SIZES.vocab_size, SIZES.dim, SIZES.ffn_dim, arguments.layers)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, which = find_tokenizer(everything, Path(folder))
    module = random_encoder(sizes, device, dtype)
    encoder = SonarEncoder(module, tokenizer, max_tokens=POSITIONS, batch_tokens=arguments.batch)  # type: ignore[arg-type]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    counts = token_counts(encoder, blocks)
    tokens = int(counts.sum())
    padding = 1 - tokens / int((counts.max(axis=1) * BLOCK).sum())
    print(
        f"{parameters:,} parameters on {device} in {dtype_name(dtype)}; {counts.size:,} sentences of "
        f"{tokens / counts.size:.1f} tokens, {100 * padding:.0f}% padding in file order; tokenizer {which}",
        flush=True,
    )

    def figures(wall: float) -> dict[str, Any]:
        return {"sentences_per_second": round(counts.size / wall, 2), "tokens_per_second": round(tokens / wall)}

    embed(encoder, blocks[:1])
    embed_naively(encoder, blocks[:1])
    naive_blocks = [blocks[place] for place in few]
    half = len(few) // 2
    first, first_wall, first_cpu = timed(lambda: embed_naively(encoder, naive_blocks[:half]))
    result: dict[str, Any] = {}
    if device.type == "cuda":
        rate = matrix_rate(device, dtype, MATRIX_SIZE, products=100)
        least = 2 * linear_weights(module) * tokens / rate
        ours, wall, cpu, seconds = measure_on_gpu(encoder, blocks, compiled=False)
        result = figures(wall) | {"matrix_share": round(least / wall, 4)} | seconds
        print(f"matrix rate {rate / 1e12:.0f} TFLOP/s\nnot compiled: {shown(result)}", flush=True)
        result |= {"torch": torch.__version__, "matrix_tflops": round(rate / 1e12, 1), "compiled": None}
        if can_compile(device):
            _, later, _, seconds = measure_on_gpu(encoder, blocks, compiled=True)
            compiled = figures(later) | {"matrix_share": round(least / later, 4)} | seconds
            print(f"compiled: {shown(compiled)}", flush=True)
            result["compiled"] = compiled
    else:
        ours, wall, cpu = timed(lambda: embed(encoder, blocks))
        result = figures(wall)
    second, second_wall, second_cpu = timed(lambda: embed_naively(encoder, naive_blocks[half:]))

    naive = np.concatenate([first, second])
    times_as_many = len(ours) / len(naive)
    naive_wall, naive_cpu = (first_wall + second_wall) * times_as_many, (first_cpu + second_cpu) * times_as_many
    same = ours.reshape(len(blocks), BLOCK, -1)[few].reshape(naive.shape)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "dtype": dtype_name(dtype),
        "threads": torch.get_num_threads(),
        "parameters": parameters,
        "sentences": len(ours),
        "naive_sentences": len(naive),
        "tokenizer": which,
        "batch_tokens": encoder.batch_tokens,
        **result,
        "naive_sentences_per_second": round(len(ours) / naive_wall, 2),
        "speedup": round(naive_wall / wall, 3),
        "speedup_processor_time": round(naive_cpu / cpu, 3),
        "largest_difference": float(np.abs(naive - same).max() / np.abs(same).max()),
        "smallest_cosine": smallest_cosine(naive, same),
    }


def main() -> int:
    """Print what was measured; the exit code."""
    parser = argparse.ArgumentParser(description="Sentences a second, beside the naive way.")
    parser.add_argument("--sentences", type=int, help="how many; default 96 on a CPU, 16384 on a GPU")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default a GPU if there is one")
    parser.add_argument("--dtype", default="auto", choices=["auto", *DTYPES], help="number type; default by device")
    parser.add_argument("--batch", type=int, help="tokens in a batch; default by device")
    parser.add_argument("--layers", type=int, default=SIZES.layers, help="fewer than SONAR's 24 for a quick look")
    try:
        result = run(parser.parse_args())
    except LexaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(
        f"naive {result['naive_sentences_per_second']} sentences/s, ours {result['sentences_per_second']}: "
        f"{result['speedup']} times as fast ({result['speedup_processor_time']} by processor time)"
    )
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
