"""How many sentences a second SONAR's encoder embeds, beside the naive way, at full size with random weights.

    python -m tools.bench_embed                     # on a GPU if there is one, else on the CPU
    python -m tools.bench_embed --layers 2           # a quick look

The text is the packaged one: blocks of 32 consecutive sentences from all over it. The naive way embeds each block as it
stands, padded to its longest sentence, as examples do; ours is the way of the codec. Both use the same modules, number
type and tokenizer, and tokenization is timed with both. The naive half before and the one behind ours are added up, so
that a machine that slows down meanwhile does not favour either. Without the published tokenizer at hand one is trained
on the text, which gives about as many tokens. The last line is one JSON object.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lexalcm.codec.options import DTYPES, choose_device, choose_dtype, dtype_name
from lexalcm.codec.sonar_checkpoint import SonarSizes, expected_shapes
from lexalcm.codec.sonar_files import PUBLISHED, cache_folder
from lexalcm.codec.sonar_tokenizer import PAD, SonarTokenizer
from lexalcm.data.corpus import Source, read_documents
from lexalcm.data.languages import SONAR_LANGUAGES
from lexalcm.data.sample import packaged_text
from lexalcm.data.segment import segment
from lexalcm.errors import LexaError, import_extra

if TYPE_CHECKING:
    from lexalcm.codec.sonar_encoder import SonarEncoder

BLOCK = 32
SIZES = SonarSizes(vocab_size=256_206, dim=1024, ffn_dim=8192, layers=24)
HEADS = 16
POSITIONS = 514
SENTENCES = {"cpu": 96, "cuda": 16384}
TRAINED_PIECES = 8000

Block = tuple[str, list[str]]
"""Consecutive sentences of one language."""


def text_blocks() -> list[Block]:
    """The packaged text as blocks, in its order."""
    blocks: list[Block] = []
    with packaged_text() as file:
        for document in read_documents([Source(file, file.name)]):
            sentences = segment(document.text, document.lang)
            whole = len(sentences) // BLOCK * BLOCK
            blocks += [(document.lang, sentences[start : start + BLOCK]) for start in range(0, whole, BLOCK)]
    return blocks


def spread(blocks: Sequence[Block], count: int) -> list[Block]:
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
    from lexalcm.codec.sonar_model import build_encoder

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
    for lang in np.unique(languages).tolist():
        sentences = [sentence for code, block in blocks if code == lang for sentence in block]
        embeddings[languages == lang] = encoder.embed(sentences, lang)
    return embeddings


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """What it gives, the seconds it took, and the processor's seconds of all threads."""
    start, used = time.perf_counter(), _processor_seconds()
    result = work()
    return result, time.perf_counter() - start, _processor_seconds() - used


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def padding(encoder: "SonarEncoder", blocks: Sequence[Block]) -> float:
    """The share of what the naive way computes that is padding."""
    lengths = [[len(tokens) for tokens in encoder.tokenizer.encode(block, lang)] for lang, block in blocks]
    return 1 - sum(map(sum, lengths)) / sum(max(block) * len(block) for block in lengths)


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure both ways; what the last line says."""
    import_extra("transformers", "hf", "the benchmark")
    from lexalcm.codec.sonar_encoder import SonarEncoder

    device = choose_device(arguments.device)
    dtype = choose_dtype(arguments.dtype, device)
    everything = text_blocks()
    wanted = arguments.sentences or SENTENCES.get(device.type, SENTENCES["cpu"])
    blocks = spread(everything, max(2, wanted // BLOCK))
    sizes = SonarSizes(SIZES.vocab_size, SIZES.dim, SIZES.ffn_dim, arguments.layers)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, which = find_tokenizer(everything, Path(folder))
    module = random_encoder(sizes, device, dtype)
    encoder = SonarEncoder(module, tokenizer, max_tokens=POSITIONS, batch_tokens=arguments.batch)  # type: ignore[arg-type]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    print(
        f"{parameters:,} parameters on {device} in {dtype_name(dtype)}; {len(blocks) * BLOCK:,} sentences, "
        f"{100 * padding(encoder, blocks):.0f}% padding in file order; tokenizer {which}",
        flush=True,
    )
    embed(encoder, blocks[:1])
    embed_naively(encoder, blocks[:1])
    half = len(blocks) // 2
    first, first_wall, first_cpu = timed(lambda: embed_naively(encoder, blocks[:half]))
    ours, wall, cpu = timed(lambda: embed(encoder, blocks))
    second, second_wall, second_cpu = timed(lambda: embed_naively(encoder, blocks[half:]))
    naive_wall, naive_cpu = first_wall + second_wall, first_cpu + second_cpu
    error = float(np.abs(np.concatenate([first, second]) - ours).max() / np.abs(ours).max())
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "dtype": dtype_name(dtype),
        "threads": torch.get_num_threads(),
        "parameters": parameters,
        "sentences": len(ours),
        "tokenizer": which,
        "batch_tokens": encoder.batch_tokens,
        "sentences_per_second": round(len(ours) / wall, 2),
        "naive_sentences_per_second": round(len(ours) / naive_wall, 2),
        "speedup": round(naive_wall / wall, 3),
        "speedup_processor_time": round(naive_cpu / cpu, 3),
        "largest_difference": error,
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
