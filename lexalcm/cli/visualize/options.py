"""Options of all `lcm visualize` commands, and how they print what was written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lexalcm.cli.console import err, out, print_json

FileFormat = Annotated[
    Literal["png", "svg"], typer.Option("--format", help="Format of the pictures, in their files and on the page.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")]
Json = Annotated[bool, typer.Option("--json", help="Print the files and the numbers as JSON.")]


def show_result(result: Mapping[str, Any], as_json: bool) -> None:
    """Print which files a report wrote, or all that it found as JSON."""
    if as_json:
        print_json(result)
        return
    folder = Path(result["out"])
    for name in result["files"]:
        out.print(str(folder / name))
    err.print(f"open {folder / 'index.html'} in a browser")
