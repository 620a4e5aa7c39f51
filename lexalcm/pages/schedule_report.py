"""The report of noise schedules: how much noise each timestep has, and which timesteps a sampler takes.

Without a model, all schedules are shown side by side; with one, its own, and the steps of its generation options.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lexalcm.config import load_settings
from lexalcm.diffusion.samplers import Sampler
from lexalcm.diffusion.schedule import DiffusionSettings, NoiseSchedule
from lexalcm.errors import UserError
from lexalcm.generate.denoising import Denoising
from lexalcm.generate.options import GenerationOptions
from lexalcm.io.atomic import check_output
from lexalcm.io.progress import Progress, silent
from lexalcm.model.storage.folder import model_folder, read_config, read_generation_config
from lexalcm.pages import schedule_figures as figures
from lexalcm.pages.page import PAGE, Fact, FigureSpec, draw_figures, render_page, write_report
from lexalcm.pages.style import Format
from lexalcm.registries import SAMPLERS

SCHEDULES = ("cosine", "quadratic", "sigmoid")
FORMULAS = {
    "cosine": "Cosine: the share of the concept falls as cos² of time (arXiv 2102.09672).",
    "quadratic": "Quadratic: the square root of each timestep's share of new noise grows evenly.",
    "sigmoid": "Sigmoid: the share of the concept is a sigmoid of time's logit.",
}


@dataclass(frozen=True)
class Step:
    """Where a sampler's step begins; the log-SNR of pure noise, minus infinity, is None."""

    number: int
    timestep: int
    alpha: float
    sigma: float
    log_snr: float | None


@dataclass(frozen=True)
class SamplerSteps:
    """The steps of a sampler on a schedule, and how often they evaluate the network."""

    sampler: Sampler
    steps: list[Step]
    evaluations: int


@dataclass(frozen=True)
class ScheduleRow:
    """A line of the table of schedules; None for minus infinity, and where no timestep is found."""

    name: str
    steps: int
    first_log_snr: float | None
    last_log_snr: float | None
    even: int | None
    """The first timestep with at least as much noise as concept."""


def report_schedule(
    out: Path | str,
    *,
    model: str | None = None,
    schedule: str | None = None,
    overrides: Sequence[str] = (),
    sampler: str | None = None,
    steps: int | None = None,
    format: Format = "png",
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the report of schedules into the folder `out`.

    Args:
        out: a new folder for `index.html` and the pictures.
        model: a model or run folder whose schedule to show; None: schedules by name.
        schedule: one by name; None: all, or the model's.
        overrides: changes such as `diffusion.steps=200`.
        sampler: the one whose steps to mark; None: all.
        steps: how many it takes; None: the model's own number, or the default's.
        format: of the pictures.
        overwrite: replace `out` if it exists.
        progress: opens a report of long work.

    Returns:
        What was written, the schedules' alphas, the samplers' timesteps and how often they evaluate the network.

    Raises:
        UserError: no such model, a base model, unknown settings, too many steps, or `out` cannot be written.
    """
    check_output(out, overwrite=overwrite, marker=PAGE)
    schedules, own = _schedules(model, schedule, overrides)
    # a value that a folder keeps for another sampler must not prevent showing this one
    own = {name: value for name, value in own.items() if name in ("sampler", "steps")}
    samplers = [sampler] if sampler else SAMPLERS.names()
    taken = {name: [_steps_of(table, own, kind, steps) for kind in samplers] for name, table in schedules.items()}
    drawn = draw_figures(_figure_specs(schedules, taken), format, progress)
    rows = [_row(name, table) for name, table in schedules.items()]
    number = len(next(iter(taken.values()))[0].steps)
    values = {
        "title": f"Noise schedule of {model}" if model else f"Noise schedule{'s' if len(schedules) > 1 else ''}",
        "command": " ".join(
            ["lcm visualize schedule"]
            + [
                f"--{option} {value}"
                for option, value in (("model", model), ("schedule", schedule), ("sampler", sampler), ("steps", steps))
                if value
            ]
            + [f"--set {override}" for override in overrides]
        ),
        "facts": [Fact(f"{rows[0].steps}", "timesteps in training"), Fact(f"{number}", "denoising steps")],
        "figures": drawn,
        "rows": rows,
        "taken": taken,
    }
    files = write_report(out, render_page("schedule.html.j2", values), drawn, overwrite=overwrite)
    return {
        "out": str(out),
        "files": files,
        "schedules": [asdict(row) for row in rows],
        "alphas_cumprod": {name: table.alphas_cumprod.tolist() for name, table in schedules.items()},
        "steps": {
            name: {one.sampler.title: [step.timestep for step in one.steps] for one in of} for name, of in taken.items()
        },
        "evaluations": {name: {one.sampler.title: one.evaluations for one in of} for name, of in taken.items()},
    }


def _schedules(
    model: str | None, schedule: str | None, overrides: Sequence[str]
) -> tuple[dict[str, NoiseSchedule], Mapping[str, Any]]:
    """Schedules by name, and the generation options of the model."""
    own: Mapping[str, Any] = {}
    base: dict[str, Any] = {}
    names: Sequence[str] = [schedule] if schedule else SCHEDULES
    if model is not None:
        folder = model_folder(model)
        config, own = read_config(folder), read_generation_config(folder)
        if config.diffusion is None:
            raise UserError(f"{model} is a {config.architecture} model: it denoises nothing and has no schedule")
        base = config.diffusion.model_dump()
        names = [schedule or config.diffusion.schedule]
    settings = [
        load_settings(DiffusionSettings, overrides=overrides, base=base | {"schedule": name}, prefix="diffusion")
        for name in names
    ]
    return {one.schedule: NoiseSchedule(one) for one in settings}, own


def _steps_of(table: NoiseSchedule, own: Mapping[str, Any], sampler: str, steps: int | None) -> SamplerSteps:
    denoising = Denoising(table, GenerationOptions.for_model(own, sampler=sampler, steps=steps))
    found = []
    for number, timestep in enumerate(denoising.timesteps, start=1):
        alpha, sigma = table.alpha_sigma(timestep)
        found.append(Step(number, timestep, alpha, sigma, 2 * math.log(alpha / sigma) if alpha else None))
    return SamplerSteps(denoising.sampler, found, denoising.evaluations)


def _row(name: str, table: NoiseSchedule) -> ScheduleRow:
    values = figures.log_snr_of(table)
    even = (values <= 0).nonzero()[0]
    first, last = (float(value) if math.isfinite(value) else None for value in values[[0, -1]])
    return ScheduleRow(name, table.steps, first, last, int(even[0]) if len(even) else None)


def _figure_specs(
    schedules: Mapping[str, NoiseSchedule], taken: Mapping[str, Sequence[SamplerSteps]]
) -> list[FigureSpec]:
    specs = [
        FigureSpec(
            "noise_schedule",
            "Noise schedule",
            "Signal and noise: a noisy concept is α times the concept plus σ times noise. "
            + " ".join(FORMULAS[name] for name in schedules),
            figures.noise_schedule,
            (schedules,),
        ),
        FigureSpec(
            "log_snr",
            "Log-SNR",
            "How far the concept outweighs the noise: ln(α² / σ²). Below the dashed line there is more noise "
            "than concept. A last timestep that is pure noise lies at minus infinity and is not drawn.",
            figures.log_snr,
            (schedules,),
        ),
    ]
    for name, samplers in taken.items():
        steps = {one.sampler.title: [step.timestep for step in one.steps] for one in samplers}
        caption = "Steps taken: denoising begins at the right and ends at the left."
        for one in samplers:
            caption += f" {one.sampler.title}: {one.sampler.about}, {one.evaluations} network evaluations."
        arguments = (schedules[name], steps)
        specs.append(
            FigureSpec(
                f"sampler_timesteps_{name}", f"Sampler timesteps, {name}", caption, figures.sampler_timesteps, arguments
            )
        )
    for name, table in schedules.items():
        if table.settings.loss_weighting != "none":
            caption = "Clamped signal-to-noise ratio, one on average: the factor of each timestep's error in training."
            specs.append(
                FigureSpec(f"loss_weights_{name}", f"Loss weighting, {name}", caption, figures.loss_weights, (table,))
            )
    return specs
