"""`lcm visualize schedule`: noise schedules and the steps of samplers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lexalcm.cli.console import progress
from lexalcm.cli.visualize.options import FileFormat, Json, Overwrite, show_result
from lexalcm.registries import SAMPLERS


def schedule(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model or run folder whose schedule to show, instead of all by name."),
    ] = None,
    name: Annotated[
        Literal["cosine", "quadratic", "sigmoid"] | None,
        typer.Option("--schedule", help="Show one schedule.  \\[default: the model's, or all three]"),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler", metavar="NAME", help=f"Mark the steps of one: {', '.join(SAMPLERS.names())}.  \\[default: all]"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Denoising steps to mark.  \\[default: the model's, or 12]")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting, e.g. diffusion.steps=200. May be repeated.")
    ] = None,
    to: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("reports/schedule"),
    file_format: FileFormat = "png",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Show noise schedules: coefficients, log-SNR, sampler timesteps.

    \b
    Examples:
      lcm visualize schedule                        # cosine, quadratic, sigmoid -> reports/schedule
      lcm visualize schedule --model runs/base
      lcm visualize schedule --sampler ddim --steps 40 --overwrite
      lcm visualize schedule --schedule sigmoid --set diffusion.sigmoid_alpha=3.5 --out reports/steep
    """
    from lexalcm.pages.schedule_report import report_schedule

    result = report_schedule(
        to,
        model=model,
        schedule=name,
        overrides=overrides or (),
        sampler=sampler,
        steps=steps,
        format=file_format,
        overwrite=overwrite,
        progress=progress,
    )
    show_result(result, as_json)
