"""`lcm visualize data`: what a data set holds."""

from pathlib import Path
from typing import Annotated

import typer

from lexalcm.cli.console import progress
from lexalcm.cli.visualize.options import FileFormat, Json, Overwrite, show_result


def data(
    path: Annotated[
        str, typer.Argument(metavar="DIR", help="Data set (a folder, or an address), or parquet of embedded text.")
    ] = "data/sample",
    to: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("reports/data"),
    split: Annotated[str, typer.Option("--split", help="Split to show.")] = "train",
    sample: Annotated[
        int, typer.Option("--sample", min=2, help="Sentences to measure on, whole documents drawn at random.")
    ] = 20_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the sample.")] = 0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Documents to read at a time.")] = 256,
    file_format: FileFormat = "png",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Show what a data set holds: lengths, norms, PCA, similarities.

    Writes PNG or SVG files and index.html, one self-contained page:
    open it in a browser, or send it to somebody. Works on data sets of
    any size by sampling whole documents, and on parquet with the columns
    text_sentences and text_sentences_sonar_emb: a file, a folder of them, or
    one with Train/ and Val/.

    \b
    Examples:
      lcm visualize data                  # data/sample -> reports/data
      lcm visualize data data/wiki --split validation --out reports/wiki
      lcm visualize data s3://bucket/wiki --sample 100000 --overwrite
      lcm visualize data embedded/        # of parquet files
    """
    from lexalcm.pages.data_report import report_data

    result = report_data(
        path,
        to,
        split=split,
        sentences=sample,
        seed=seed,
        batch=batch,
        format=file_format,
        overwrite=overwrite,
        progress=progress,
    )
    show_result(result, as_json)
