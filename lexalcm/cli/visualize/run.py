"""`lcm visualize run`: how training went, or goes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lexalcm.cli.console import err, out, progress
from lexalcm.cli.visualize.options import FileFormat, Json, Overwrite, show_result

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer

    from lexalcm.pages.style import Format


def run(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Folders of runs.  \\[default: the newest run]")
    ] = None,
    to: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("reports/run"),
    by_time: Annotated[bool, typer.Option("--by-time", help="Draw over training time instead of steps.")] = False,
    live: Annotated[
        bool,
        typer.Option("--live", help="Instead of writing files, serve a page that follows the runs."),
    ] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of --live; 0 takes a free one.")] = 8765,
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between updates of the live page.")] = 5.0,
    file_format: FileFormat = "png",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Show how a training went: losses, learning rate, gradient norm, throughput.

    Several runs are drawn over one another, and the settings in which they
    differ are listed. A run may still be writing; --live serves a page on
    this machine that follows it until Ctrl-C. From another machine:
    ssh -L 8765:localhost:8765 HOST.

    \b
    Examples:
      lcm visualize run                             # the newest run -> reports/run
      lcm visualize run runs/a runs/b --out reports/compared --by-time
      lcm visualize run runs/base --live            # http://localhost:8765/
      lcm visualize run runs/base --format svg --overwrite
    """
    from lexalcm.errors import UserError
    from lexalcm.pages.run_metrics import newest_run
    from lexalcm.pages.run_report import report_runs

    chosen = runs or [str(newest_run(Path("runs")))]
    if live:
        if as_json:
            raise UserError("--live serves a page and prints no numbers: omit --json")
        _serve(chosen, port, by_time, every, file_format)
        return
    show_result(
        report_runs(chosen, to, by_time=by_time, format=file_format, overwrite=overwrite, progress=progress), as_json
    )


def _serve(runs: list[str], port: int, by_time: bool, every: float, file_format: "Format") -> None:
    from lexalcm.pages.run_live import serve_runs

    def print_address(_: "ThreadingHTTPServer", address: str) -> None:
        out.print(address)
        err.print("the page follows the runs; Ctrl-C stops it")

    try:
        serve_runs(runs, port=port, by_time=by_time, format=file_format, seconds=every, ready=print_address)
    except KeyboardInterrupt:
        err.print("stopped")
