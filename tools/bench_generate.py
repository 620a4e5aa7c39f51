"""Time generation: one concept after a prompt of concepts, at batch 1 and larger; and text, from prompt to sentences.

    python -m tools.bench_generate
    python -m tools.bench_generate --model runs/base --batches 1 64
    python -m tools.bench_generate --device cuda --dtype bf16 --batches 1 8 64

Without a model it is the fixed two-tower model of `tools.bench_train_step` with new weights: 50 steps, guidance 3, a
prompt of 32 concepts. The last line is one JSON object. `seconds` is the time from a prepared model and prompts of
concepts to the next concept: reading the prompt and all denoising steps. `prepare_seconds` is spent once for a model
and its options. On a GPU `seconds` is with CUDA graphs, once they are captured, and `without_graphs_seconds` without,
measured in turn with it; `capture_seconds` is what a batch's first two concepts took beyond that, once.
`published_work_seconds` is what the same takes when all is done that the published code does (`tools.published_work`;
two-tower with DDIM in float32 on a CPU only), measured in turn with it; `speedup` is the median of their ratios. `text`
is of `tools.text_rates`: the first sentence of a loaded model, and 64 prompts together against alone.
"""

import argparse
import json
import statistics
import sys

import torch

from lexalcm.errors import LexaError
from lexalcm.generate.autoregressive import generate
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.model.create import create_model
from lexalcm.model.placement import DTYPES, to_device
from lexalcm.model.predictor import ConceptPredictor
from lexalcm.model.storage.folder import load_model
from lexalcm.model.two_tower.network import TwoTowerLCM
from tools.bench_train_step import FIXED, RATE_SIZE
from tools.matrix_rate import matrix_rate, now
from tools.published_work import PublishedWork
from tools.text_rates import text_rates


def main() -> int:
    """Measure, print; the exit code."""
    parser = argparse.ArgumentParser(description="Time the generation of a concept.")
    parser.add_argument("--model", help="a model or run folder; default: a fixed model of 50M parameters")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="prompts at once")
    parser.add_argument("--prompt", type=int, default=32, help="concepts in a prompt")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--text-preset", default="two-tower-small", help="the model that text is timed with")
    parser.add_argument("--text-prompts", type=int, default=64, help="prompts continued together; 0: no text")
    parser.add_argument("--text-sentences", type=int, default=2, help="written for each")
    parser.add_argument("--text-repeats", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32", choices=list(DTYPES), help="of the weights")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    try:
        made = load_model(arguments.model) if arguments.model else create_model(FIXED, seed=0)
        model = to_device(made, arguments.device, arguments.dtype).eval()
        options = GenerationOptions.for_model(
            {}, sampler=arguments.sampler, steps=arguments.steps, guidance_scale=arguments.guidance
        )
        prepare(model, options)
        began = now(device)
        predictor = prepare(model, options)
        prepare_seconds = now(device) - began
    except LexaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    published = None
    if isinstance(model, TwoTowerLCM) and (arguments.sampler, device.type, arguments.dtype) == ("ddim", "cpu", "fp32"):
        published = PublishedWork(model, options)
    without_graphs = prepare(model, options, graphs=False) if device.type == "cuda" else None
    rates: list[float] = []
    medians, published_medians, speedups, without_medians, captures = {}, {}, {}, {}, {}
    for batch in arguments.batches:
        seconds, published_seconds, without_seconds, first_seconds = [], [], [], 0.0
        if without_graphs is not None:  # a size's first concept is made without a graph, the second captures it
            prompts = _prompts(batch, arguments.prompt, model.config.dim, seed=0)
            first_seconds = sum(_time_concept(predictor, prompts) for _ in range(2))
        for repeat in range(arguments.repeats + 1):
            rates.append(matrix_rate(device, DTYPES[arguments.dtype], RATE_SIZE[device.type]))
            prompts = _prompts(batch, arguments.prompt, model.config.dim, seed=repeat)
            seconds.append(_time_concept(predictor, prompts))
            if without_graphs is not None:
                without_seconds.append(_time_concept(without_graphs, prompts))
            if published is not None:
                began = now(device)
                published.next_concept(torch.stack(prompts))
                published_seconds.append(now(device) - began)
        medians[batch] = statistics.median(seconds[1:])
        if without_graphs is not None:
            without_medians[batch] = round(statistics.median(without_seconds[1:]), 4)
            captures[batch] = round(first_seconds - 2 * medians[batch], 4)
        if published is not None:
            published_medians[batch] = round(statistics.median(published_seconds[1:]), 4)
            ratios = [theirs / ours for theirs, ours in zip(published_seconds[1:], seconds[1:], strict=True)]
            speedups[batch] = round(statistics.median(ratios), 2)
    line = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "prompt": arguments.prompt,
        "sampler": arguments.sampler,
        "steps": arguments.steps,
        "guidance": arguments.guidance,
        "dtype": arguments.dtype,
        "prepare_seconds": round(prepare_seconds, 4),
        "seconds": {batch: round(median, 4) for batch, median in medians.items()},
        "concepts_per_s": {batch: round(batch / median, 2) for batch, median in medians.items()},
        "without_graphs_seconds": without_medians or None,
        "capture_seconds": captures or None,
        "published_work_seconds": published_medians or None,
        "speedup": speedups or None,
        "text": _text(arguments) if arguments.text_prompts else None,
        "matrix_gflops": round(statistics.median(rates) / 1e9, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    print(json.dumps(line))
    return 0


def _text(arguments: argparse.Namespace) -> dict[str, object]:
    return text_rates(
        arguments.text_preset,
        arguments.text_prompts,
        arguments.text_sentences,
        arguments.text_repeats,
        arguments.device,
    )


def _prompts(batch: int, length: int, dim: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, dim, generator=generator) for _ in range(batch)]


def _time_concept(predictor: ConceptPredictor, prompts: list[torch.Tensor]) -> float:
    device = predictor.model.device
    began = now(device)
    next(generate(predictor, prompts, list(range(len(prompts))), 1))
    return now(device) - began


if __name__ == "__main__":
    sys.exit(main())
