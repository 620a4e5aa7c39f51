"""How far are samplers with few steps from many steps? On a trained model, from the same noise.

    python -m tools.compare_samplers --model runs/base --data data/sample

Each concept of some validation documents is guessed from those before it, with every sampler and number of steps, and
compared with DDIM over all the model's timesteps: the mean L2 distance in normalized space, printed as a table and as
one JSON object in the last line. There stand the mean L2 norm of the 100-step concepts too, and how often each sampler
asks the network.
"""

import argparse
import json
import sys

import numpy as np
import torch
from torch import Tensor

from lexalcm.data.format.dataset import Dataset
from lexalcm.errors import LexaError, UserError
from lexalcm.generate.denoising import Denoising
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.generate.teacher_forced import predict_each
from lexalcm.model.lcm import LCM
from lexalcm.model.storage.folder import load_model
from lexalcm.registries import SAMPLERS

ROW = 64


def main() -> int:
    """Measure, print; the exit code."""
    parser = argparse.ArgumentParser(description="Compare samplers by their distance from many steps.")
    parser.add_argument("--model", default="runs/base")
    parser.add_argument("--data", default="data/sample")
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 6, 8, 10, 12, 16, 20, 25, 40, 50])
    arguments = parser.parse_args()
    try:
        model = load_model(arguments.model)
        if model.schedule is None:
            raise UserError(f"{arguments.model} is a {model.config.architecture} model: it draws no samples")
        line = compare(model, Dataset.open(arguments.data), arguments)
    except LexaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(line))
    return 0


def compare(model: LCM, dataset: Dataset, arguments: argparse.Namespace) -> dict[str, object]:
    """Distances of each sampler and number of steps; the line that is printed."""
    assert model.schedule is not None
    split = dataset.split("validation")
    chosen = [split.embeddings(i)[:ROW] for i in range(min(arguments.documents, len(split)))]
    lengths = torch.tensor([len(concepts) for concepts in chosen])
    embeddings = torch.zeros(len(chosen), ROW, dataset.dim)
    for row, concepts in enumerate(chosen):
        embeddings[row, : len(concepts)] = torch.from_numpy(concepts.astype(np.float32))
    positions = torch.arange(ROW).expand(len(chosen), -1)
    documents = torch.where(positions < lengths[:, None], 0, -1)

    def options_of(sampler: str, steps: int) -> GenerationOptions:
        return GenerationOptions.for_model({}, sampler=sampler, steps=steps, guidance_scale=arguments.guidance)

    def sample(options: GenerationOptions) -> Tensor:
        guesses = predict_each(prepare(model, options), embeddings, documents, positions, seed=0)
        return model.normalizer.normalize(guesses[guesses.isfinite().all(-1)])

    exact = sample(options_of("ddim", model.schedule.steps))
    distances: dict[str, dict[int, float]] = {name: {} for name in SAMPLERS.names()}
    evaluations: dict[str, dict[int, int]] = {name: {} for name in distances}
    names = " ".join(f"{name:>12}" for name in distances)
    print(f"steps {names}   mean L2 from ddim in {model.schedule.steps} steps")
    for steps in arguments.steps:
        for sampler, found in distances.items():
            options = options_of(sampler, steps)
            found[steps] = round(float((sample(options) - exact).norm(dim=-1).mean()), 4)
            evaluations[sampler][steps] = Denoising(model.schedule, options).evaluations
        print(f"{steps:>5}", " ".join(f"{found[steps]:>12.4f}" for found in distances.values()))
    norm = round(float(exact.norm(dim=-1).mean()), 4)
    return {
        "concepts": len(exact),
        "guidance": arguments.guidance,
        "mean_norm": norm,
        "mean_l2": distances,
        "evaluations": evaluations,
    }


if __name__ == "__main__":
    sys.exit(main())
