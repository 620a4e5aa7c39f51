"""`lcm verify`: is a data set, a model or the machine in order?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from lexalcm.cli.codec_options import CodecRun, codec_run_options
from lexalcm.cli.console import err, out, print_json, progress
from lexalcm.cli.settings_options import SettingsCommand

app = typer.Typer(
    help="Check a data set, a model or the machine.\n\nExit code 0: no problems; 1: problems; 2: nothing to check.",
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")]


@app.command()
def data(
    path: Annotated[
        str, typer.Argument(metavar="DIR", help="Data set: a folder, or an address such as s3://bucket/set.")
    ] = "data/sample",
    quick: Annotated[
        bool, typer.Option("--quick", help="Read a sample of up to 1,000 documents of each split, without hashes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a data set: files, hashes, index, numbers, texts, codec.

    Reads all of it once, or with --quick a sample in seconds. Exit code 1 when
    there are errors; warnings alone leave it at 0.

    \b
    Examples:
      lcm verify data
      lcm verify data data/wiki --quick
      lcm verify data s3://bucket/wiki --json
    """
    from lexalcm.data.format.manifest import MANIFEST_FILE, read_manifest
    from lexalcm.io.remote import is_remote, local_path
    from lexalcm.verify.dataset.check import verify_dataset

    if not is_remote(path) and not (local_path(path) / MANIFEST_FILE).exists():
        read_manifest(local_path(path))  # raises an error: not a data set
    with progress("checking", "documents") as report:
        found = verify_dataset(path, report, quick=quick)
    tables = [found.decoded_table()] if found.decoded else []
    if found.findings:
        tables.append(found.table())
    read = f"{path}: {found.documents:,} documents with {found.concepts:,} concepts read"
    _finish(found.ok, found.to_json() if as_json else None, tables, f"{read}, a sample" if quick else read)


@app.command()
def model(
    path: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Model or run folder, hub id.  \\[default: newest of runs/*/model]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a model: files, weights, normalizer, codec, and a prediction.

    Exit code 1 when there are problems.

    \b
    Examples:
      lcm verify model                  # the newest run's model
      lcm verify model models/base
      lcm verify model runs/base --json
    """
    from lexalcm.model.storage.folder import model_folder
    from lexalcm.verify.checks import checks_table, passed
    from lexalcm.verify.model import verify_model

    found = verify_model(model_folder(path))
    tables = [checks_table(found.checks, found.model)]
    if found.parameters:
        tables.append(found.parameter_table())
    _finish(passed(found.checks), found.to_json() if as_json else None, tables, found.model)


@app.command(cls=SettingsCommand)
def codec(
    codec_run: CodecRun,
    path: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Data set or model folder whose codec to check.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--codec", help="Codec to check.  \\[default: the folder's, else sonar]")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--codec-option", metavar="NAME=VALUE", help="Option of the codec. May be repeated."),
    ] = None,
    langs: Annotated[
        list[str] | None,
        typer.Option("--lang", help="Language to try, by code or name. May be repeated.  \\[default: nine of them]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a codec: sentences to embeddings, back, and there again.

    Shows what each sentence was decoded to, how near that is, how fast it went,
    and which implementation, device and number type did it. Exit code 1 when
    numbers are not finite or a sentence comes back empty.

    \b
    Examples:
      lcm verify codec                                  # SONAR, in nine languages
      lcm verify codec data/sample
      lcm verify codec --codec sonar-hf --lang Welsh --lang Thai --codec-dtype bf16
    """
    from lexalcm.text.languages import find_language
    from lexalcm.verify.codec import verify_codec
    from lexalcm.verify.open_codec import open_codec

    languages = [find_language(lang) for lang in langs or ()]
    shown, opened = open_codec(path, name, options or (), codec_run_options(codec_run), progress)
    found = verify_codec(opened, shown, languages)
    _finish(found.ok, found.to_json() if as_json else None, [found.table(), found.lines()], shown)


@app.command()
def env(as_json: AsJson = False) -> None:
    """Check the machine: PyTorch, GPUs, memory, disk, packages, codecs.

    What is not fine has a line of advice. A note limits what can be done
    here; a problem must be fixed, and makes the exit code 1.

    \b
    Examples:
      lcm verify env
      lcm verify env --json
    """
    from dataclasses import asdict

    from lexalcm.verify.checks import checks_table, passed
    from lexalcm.verify.env import verify_env

    checks = verify_env(Path())
    ok = passed(checks)
    as_tree = {"ok": ok, "checks": [asdict(check) for check in checks]}
    _finish(ok, as_tree if as_json else None, [checks_table(checks, "This machine")], "this machine")


def _finish(ok: bool, as_tree: Mapping[str, Any] | None, tables: Sequence[RenderableType], subject: str) -> None:
    if as_tree is not None:
        print_json(as_tree)
    else:
        for table in tables:
            out.print(table)
        err.print(f"{subject}: {'no problems' if ok else 'problems found, see above'}")
    raise typer.Exit(0 if ok else 1)
