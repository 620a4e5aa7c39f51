"""`lcm visualize model`: what a model is made of."""

from pathlib import Path
from typing import Annotated

import typer

from lexalcm.cli.console import progress
from lexalcm.cli.visualize.options import FileFormat, Json, Overwrite, show_result


def model(
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model or run folder, hub id, or a preset of `lcm bootstrap --list`.")
    ] = "models/base",
    dim: Annotated[
        int | None, typer.Option("--dim", min=1, help="Embedding dimension, of a preset.  \\[default: 1024, SONAR's]")
    ] = None,
    to: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("reports/model"),
    file_format: FileFormat = "png",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Show what a model is made of: architecture, parameters, training memory.

    No weights are loaded or made, so that the largest preset takes no longer
    than the smallest.

    \b
    Examples:
      lcm visualize model                           # models/base -> reports/model
      lcm visualize model two-tower-7b --out reports/7b
      lcm visualize model runs/base --format svg --overwrite
    """
    from lexalcm.pages.model_report import report_model

    show_result(report_model(name, to, dim=dim, format=file_format, overwrite=overwrite, progress=progress), as_json)
