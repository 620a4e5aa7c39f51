"""`lcm data info`."""

from typing import Annotated

import typer

from lexalcm.cli.console import out, print_json
from lexalcm.cli.data.options import AsJson


def info(
    path: Annotated[
        str, typer.Argument(metavar="DIR", help="Data set: a folder, or an address such as s3://bucket/set.")
    ] = "data/sample",
    plan: Annotated[bool, typer.Option("--plan", help="Also show how a training would read it.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Setting of that training, e.g. data.row_length=64."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a data set holds.

    \b
    Examples:
      lcm data info
      lcm data info data/wiki --plan --set data.row_length=256 --set data.global_batch=32
    """
    from lexalcm.config import load_settings
    from lexalcm.data.format.dataset import Dataset
    from lexalcm.data.info import describe
    from lexalcm.data.settings import DataSettings

    settings = load_settings(DataSettings, overrides=overrides or (), prefix="data")
    summary = describe(Dataset.open(path), settings if plan or overrides else None)
    if as_json:
        print_json(summary.to_json())
        return
    out.print(summary.table())
    out.print(summary.lines())
