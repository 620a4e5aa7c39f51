"""Check this code against numbers that the published implementations computed on tiny random models.

    python -m tools.check_reference tests/data/reference_lcm

The folder holds `config.json` (sizes and generation options), weights under the publisher's names and tensors as
safetensors. Each check compares one quantity and prints its largest error relative to the quantity's largest magnitude;
the last line is one JSON object; the exit code is 1 when a check fails and 2 when the folder cannot be read.

Processors, libraries and numbers of threads add up in different orders, and a hundred guided denoising steps enlarge
what that does. So the tolerance of a generation is measured: how far it moves when every weight is off in its last bit.
"""

import argparse
import copy
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lexalcm.config import validate
from lexalcm.data.normalizer.fit import NormalizerSettings, fit_normalizer
from lexalcm.diffusion.schedule import DiffusionSettings, NoiseSchedule
from lexalcm.errors import LexaError, UserError
from lexalcm.generate.autoregressive import generate_from_noise
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.model import BaseLCM, TwoTowerLCM
from lexalcm.model.importers.fairseq2 import import_fairseq2
from lexalcm.model.layers.masks import causal_mask
from lexalcm.model.lcm import LCM
from lexalcm.model.normalizer import Normalizer
from lexalcm.model.predictor import ConceptPredictor
from lexalcm.objective.diffusion import Diffusion
from lexalcm.objective.squared_l2 import SquaredL2, squared_l2

TOLERANCE = 1e-5
LAST_BIT = 2.0**-24
"""Of a float32 number, as a share of it."""
SCHEDULE_TOLERANCE = 32 * LAST_BIT
"""The published tables are products of a hundred float32 factors; each off by its last bit makes up to 21."""
DRAWS = 8
ROUNDING_MARGIN = 4.0
"""A generation from moved weights was three times as far off as the farthest of eight others, in 3000 draws of ten."""
CLIP_NORM = 25.0

# the published fit gives 0.25 and 0.75 to a parameter that counts in percent
PUBLISHED_QUANTILES = (0.0025, 0.0075)

NORMALIZER_FITS = {
    "robust": NormalizerSettings(quantiles=PUBLISHED_QUANTILES),
    "clipped": NormalizerSettings(quantiles=PUBLISHED_QUANTILES, clip_probability=0.001),
    "standard": NormalizerSettings(method="standard"),
}

GENERATION_NAMES = {
    "inference_timesteps": "steps",
    "ddim_eta": "eta",
    "clip_noise": "clip_noisy",
    "guidance_scale": "guidance_scale",
    "guidance_rescale": "guidance_rescale",
    "initial_noise_scale": "initial_noise_scale",
    "epsilon_scaling": "epsilon_scaling",
    "dynamic_thresholding_ratio": "dynamic_threshold",
    "sample_max_value": "dynamic_threshold_max",
}
PUBLISHED_GENERATION = {
    "sampler": "ddim",
    "guidance_scale": 1.0,
    "guidance_rescale": 0.0,
    "initial_noise_scale": 1.0,
    "epsilon_scaling": 1.0,
    "dynamic_threshold": 0.995,
}

# what config.json calls the sizes of a model
BASE_SIZES = {"base_layers": "num_layers", "ffn_inner_dim": "ffn_dim"}
TWO_TOWER_SIZES = {"context_layers": "context_layers", "denoiser_layers": "num_layers", "ffn_inner_dim": "ffn_dim"}


@dataclass(frozen=True)
class Check:
    """One compared quantity; the error is relative to the expected quantity's largest magnitude."""

    name: str
    error: float
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; NaN is not."""
        return self.error <= self.tolerance


def compare(name: str, computed: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> Check:
    """Largest absolute difference over the largest expected magnitude."""
    if computed.shape != expected.shape:
        return Check(f"{name}: shape {list(computed.shape)}, expected {list(expected.shape)}", float("nan"), tolerance)
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return Check(name, float((computed.detach() - expected).abs().max() / scale), tolerance)


def check_reference(folder: Path) -> Iterator[Check]:
    """Run all checks on a reference folder.

    Raises:
        UserError: a file is missing or damaged, or its weights are not those of the published code.
    """
    config = _config(folder)
    yield from check_normalizer_fits(_tensors(folder, "normalizer"))
    yield from check_schedules(_tensors(folder, "schedules"))

    base = import_fairseq2(folder / "base_weights.safetensors", folder / "config.json")
    assert isinstance(base, BaseLCM)
    check_sizes(base, config, BASE_SIZES)
    yield from check_base(base, _tensors(folder, "base_tensors"))

    two_tower = import_fairseq2(folder / "two_tower_weights.safetensors", folder / "config.json")
    assert isinstance(two_tower, TwoTowerLCM)
    check_sizes(two_tower, config, TWO_TOWER_SIZES)
    tensors = _tensors(folder, "two_tower_tensors")
    yield from check_towers(two_tower, tensors)
    yield from check_generation(two_tower, tensors, config["generation"])
    yield from check_training(two_tower, tensors)  # last: it changes the weights


def check_sizes(model: LCM, stated: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Make sure that weights have the sizes that `config.json` states; one that it leaves out may be any.

    Raises:
        UserError: names the first that they have not.
    """
    for theirs, ours in names.items():
        size = getattr(model.config, ours)
        if stated.get(theirs, size) != size:
            raise UserError(
                f"config.json says {theirs}={stated[theirs]}, the {model.config.architecture} weights {size}"
            )


def check_normalizer_fits(reference: Mapping[str, Tensor]) -> Iterator[Check]:
    """Three fits on the same data, and what they do to the first concepts of it."""
    data = reference["fit_data"]
    for name, settings in NORMALIZER_FITS.items():
        statistics = fit_normalizer(data.numpy(), settings)
        for part, value in statistics.items():
            yield compare(f"normalizer fit, {name}, {part}", torch.from_numpy(value), reference[f"{name}_{part}"])
        normalizer = Normalizer(data.shape[1])
        normalizer.set_statistics(statistics)
        normalized = reference[f"{name}_normalized"]
        yield compare(f"normalizer, {name}, normalize", normalizer.normalize(data[: len(normalized)]), normalized)
        denormalized = normalizer.denormalize(normalized)
        yield compare(f"normalizer, {name}, denormalize", denormalized, reference[f"{name}_denormalized"])


def check_schedules(reference: Mapping[str, Tensor]) -> Iterator[Check]:
    """Every schedule of the file; a name like `sigmoid_1.5_-2` or `cosine_nonzero_snr` says its settings."""
    for name, expected in reference.items():
        kind, *details = name.removesuffix("_nonzero_snr").split("_")
        settings: dict[str, Any] = {
            "schedule": kind,
            "steps": len(expected),
            "zero_terminal_snr": not name.endswith("_nonzero_snr"),
        }
        if kind == "sigmoid":
            settings |= {"sigmoid_alpha": float(details[0]), "sigmoid_beta": float(details[1])}
        computed = NoiseSchedule(validate(DiffusionSettings, settings)).alphas_cumprod
        yield compare(f"schedule, {name}", computed, expected, SCHEDULE_TOLERANCE)


def check_base(model: BaseLCM, reference: Mapping[str, Tensor]) -> Iterator[Check]:
    """The base model's forward pass, loss and prediction of the next concept."""
    documents, positions, real = _rows(reference)
    targets = real & (positions > 0)
    yield compare("base, normalized", model.normalizer.normalize(reference["embeddings"]), reference["normalized"])
    output = model(reference["normalized"], documents, positions)
    yield compare("base, output", output[real], reference["output"][real])
    loss = SquaredL2(model).loss(reference["embeddings"], documents, positions, targets)
    yield compare("base, loss", loss.sum, reference["loss_sum"])
    yield compare("base, number of targets", loss.count.float(), reference["num_targets"].float())
    prompts = reference["next_prompt"]
    options = GenerationOptions()
    after_each = []
    for length in range(1, prompts.shape[1] + 1):
        steps = generate_from_noise(prepare(model, options), list(prompts[:, :length]), _no_noise, 1)
        after_each.append(next(steps))
    yield compare("base, next concepts", torch.stack(after_each, dim=1), reference["next_output"])


def check_towers(model: TwoTowerLCM, reference: Mapping[str, Tensor]) -> Iterator[Check]:
    """Contextualizer, forward process, denoiser, loss and gradients, with the published table of the schedule."""
    documents, positions, real = _rows(reference)
    timesteps, noise = reference["timesteps"], reference["noise"]
    normalized = model.normalizer.normalize(reference["embeddings"])
    yield compare("two-tower, normalized", normalized, reference["normalized"])
    published = reference["alphas_cumprod"]
    yield compare("two-tower, alphas_cumprod", model.schedule.alphas_cumprod, published, SCHEDULE_TOLERANCE)
    model = with_table(model, published)
    yield compare("two-tower, snr", model.schedule.snr, reference["snr"])
    context = model.contexts(normalized, positions, causal_mask(documents, "sdpa"))
    yield compare("two-tower, context", context[real], reference["context"][real])
    noisy = model.schedule.add_noise(normalized, noise, timesteps)
    yield compare("two-tower, noisy", noisy, reference["noisy"])
    undropped = torch.zeros_like(real)
    denoised = model(normalized, documents, positions, noisy, timesteps, undropped)
    yield compare("two-tower, denoised", denoised[real], reference["denoised"][real])

    rows = (reference["embeddings"], documents, positions, real)
    loss = Diffusion(model).loss(*rows, timesteps=timesteps, noise=noise, dropped=undropped)
    yield compare("two-tower, loss per target", loss.per_target[real], reference["loss_per_target"])
    yield compare("two-tower, loss", loss.sum, reference["loss_sum"])
    denormalize = model.normalizer.denormalize
    unnormalized = squared_l2(denormalize(denoised), denormalize(normalized))
    yield compare("two-tower, unnormalized loss", unnormalized[real], reference["unnormalized_loss_per_target"])
    loss.sum.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    yield compare("two-tower, gradient norm", torch.nn.utils.get_total_norm(gradients), reference["grad_norm"])
    input_gradient = model.contextualizer.input_proj.weight.grad
    assert input_gradient is not None
    yield compare("two-tower, input gradient", input_gradient, reference["grad_pre_linear"])
    model.zero_grad()


def with_table(model: TwoTowerLCM, alphas_cumprod: Tensor) -> TwoTowerLCM:
    """The same weights with another table of the schedule, [T].

    The published table is in float32, where 1 - alphas_cumprod has four digits at the first timestep. Numbers computed
    with it can be compared with numbers that were computed with the same one.
    """
    twin = copy.copy(model)
    twin.schedule = NoiseSchedule(model.schedule.settings, alphas_cumprod)
    return twin


@torch.no_grad()
def moved_weights(model: TwoTowerLCM, seed: int) -> TwoTowerLCM:
    """A model whose every weight is off in the last bit, up or down at random."""
    twin, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for weight in twin.parameters():
        weight.copy_(move(weight, LAST_BIT, generator))
    return twin


def moved_table(model: TwoTowerLCM, seed: int) -> TwoTowerLCM:
    """The same weights with a schedule that is off as float32 tables are: four times the last bit."""
    generator = torch.Generator().manual_seed(seed)
    return with_table(model, move(model.schedule.alphas_cumprod, 4 * LAST_BIT, generator))


def move(numbers: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Every number made larger or smaller, at random, by a share of it."""
    signs = 2 * torch.randint(2, numbers.shape, generator=generator, dtype=torch.float64) - 1
    return (numbers * (1 + share * signs)).to(numbers.dtype)


def check_generation(
    model: TwoTowerLCM, reference: Mapping[str, Tensor], settings: Mapping[str, Mapping[str, Any]]
) -> Iterator[Check]:
    """Generation after a prompt, from given noise and over given timesteps.

    With the published table of the schedule, then with the model's own: as far off as rounding of a table gets.
    """
    published = with_table(model, reference["alphas_cumprod"])
    rounded = [moved_weights(published, seed) for seed in range(DRAWS)]
    tables = [moved_table(model, seed) for seed in range(DRAWS)]
    for name, stated in settings.items():
        options = read_options(name, stated)
        latents, prompts = reference[f"gen_{name}_latents"], list(reference[f"gen_{name}_prompt"])
        timesteps, expected = reference[f"gen_{name}_timesteps"].tolist(), reference[f"gen_{name}_output"]
        for kind, one, others in (("", published, rounded), (", own schedule", model, tables)):
            computed, *moved = (
                _generate(prepare(each, options, timesteps), prompts, latents) for each in [one, *others]
            )
            rounding = max(compare("", other, computed).error for other in moved)
            yield compare(f"generation, {name}{kind}", computed, expected, ROUNDING_MARGIN * rounding)


def read_options(name: str, stated: Mapping[str, Any]) -> GenerationOptions:
    """The options of a generation under their published names; null is the published default.

    Raises:
        ConfigError: an unknown option, or a value that it cannot have.
        UserError: fresh noise in each step, which the reference does not hold.
    """
    given = {key: value for key, value in stated.items() if value is not None}
    thresholds = given.pop("thresholding", False)
    named = {**PUBLISHED_GENERATION, **{GENERATION_NAMES.get(key, key): value for key, value in given.items()}}
    if not thresholds:
        named["dynamic_threshold"] = None
    options = validate(GenerationOptions, {**named, "initial_noise_scale": 1.0})  # the latents are scaled already
    if options.eta:
        raise UserError(
            f"generation {name}: ddim_eta={options.eta} needs the reference's noise of each step: set it to 0"
        )
    return options


def _generate(predictor: ConceptPredictor, prompts: list[Tensor], latents: Tensor) -> Tensor:
    noise = iter(latents.split(1, dim=1))
    return torch.stack(list(generate_from_noise(predictor, prompts, noise.__next__, latents.shape[1])), dim=1)


def check_training(model: TwoTowerLCM, reference: Mapping[str, Tensor]) -> Iterator[Check]:
    """Steps of AdamW on the mean loss over targets, with given timesteps and noise, dropout off."""
    documents, positions, real = _rows(reference)
    rows, undropped = (reference["embeddings"], documents, positions, real), torch.zeros_like(real)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1)
    objective, losses, norms = Diffusion(model), [], []
    for timesteps, noise in zip(reference["train_timesteps"], reference["train_noise"], strict=True):
        loss = objective.loss(*rows, timesteps=timesteps, noise=noise, dropped=undropped)
        mean = loss.sum / loss.count
        mean.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(mean.detach())
    yield compare("training, losses", torch.stack(losses), reference["train_losses"])
    yield compare("training, gradient norms", torch.stack(norms), reference["train_grad_norms"])


def _rows(reference: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Document ids, positions and which positions are real, of documents padded to one length."""
    lengths, length = reference["doc_lengths"], reference["embeddings"].shape[1]
    positions = torch.arange(length).expand(len(lengths), -1)
    real = positions < lengths[:, None]
    return torch.where(real, 0, -1), positions, real


def _no_noise() -> Tensor:
    raise AssertionError("a base model draws no noise")


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is missing or not JSON: give a folder with reference data") from error


def _tensors(folder: Path, name: str) -> dict[str, Tensor]:
    file = folder / f"{name}.safetensors"
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is missing or damaged: give a folder with reference data") from error


def main() -> int:
    """Print every check and a JSON summary; the exit code."""
    parser = argparse.ArgumentParser(description="Check this code against numbers of the published implementations.")
    parser.add_argument("folder", type=Path, help="e.g. tests/data/reference_lcm")
    folder = parser.parse_args().folder
    checks: list[Check] = []
    try:
        for check in check_reference(folder):
            checks.append(check)
            print(f"{'ok  ' if check.passed else 'FAIL'} {check.error:9.2e} of {check.tolerance:.0e}  {check.name}")
    except LexaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyError as error:
        print(f"{folder} holds no {error}: give a folder with reference data", file=sys.stderr)
        return UserError.exit_code
    failed = [check.name for check in checks if not check.passed]
    errors = {check.name: check.error if np.isfinite(check.error) else None for check in checks}
    print(json.dumps({"checks": len(checks), "failed": failed, "errors": errors}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
