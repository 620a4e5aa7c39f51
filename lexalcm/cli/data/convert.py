"""`lcm data convert`."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from lexalcm.cli.console import err, out, print_json, progress
from lexalcm.cli.data.options import AsJson, Overwrite, ShardSize


class Target(str, Enum):
    """What to write."""

    DATASET = "dataset"
    PARQUET = "parquet"


def convert(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Parquet of sentences and embeddings (a file, a folder, or one with Train/ and Val/), "
            "a WebDataset of .npy, or a data set folder.",
        ),
    ],
    to_folder: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    to: Annotated[Target, typer.Option("--to", help="A data set, or parquet in Train/ and Val/.")] = Target.DATASET,
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            help="Codec that made the embeddings: its name, or the folder of a data set or a model made with the "
            "same one.  \\[default: sonar]",
        ),
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", help="Fingerprint of a codec given by its name, if known.")
    ] = None,
    special: Annotated[
        Path | None,
        typer.Option("--special", help="Folder with special concepts: of a data set, a model, or LexaLCM's."),
    ] = None,
    dim: Annotated[int | None, typer.Option("--dim", help="Embedding dimension.  \\[default: as found]")] = None,
    text_column: Annotated[
        str, typer.Option("--text-column", help="Column with the lists of sentences.")
    ] = "text_sentences",
    embedding_column: Annotated[
        str, typer.Option("--embedding-column", help="Column with their embeddings.")
    ] = "text_sentences_sonar_emb",
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="COLUMN", help="Further column to keep, or all. May be repeated."),
    ] = None,
    member: Annotated[
        str | None, typer.Option("--member", help="Ending of a WebDataset's arrays, e.g. emb.npy.")
    ] = None,
    lang: Annotated[str, typer.Option("--lang", help="Language of documents without one.")] = "eng_Latn",
    validation: Annotated[
        float, typer.Option("--validation", help="Share held out where the source has no split.")
    ] = 0.1,
    keep_lang: Annotated[
        list[str] | None, typer.Option("--keep-lang", help="Keep documents of this language only. May be repeated.")
    ] = None,
    min_sentences: Annotated[int, typer.Option("--min-sentences", help="Drop shorter documents.")] = 1,
    max_sentences: Annotated[int | None, typer.Option("--max-sentences", help="Drop longer documents.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="Stored number type: float16 or float32.  \\[default: as it is, else float16]"),
    ] = None,
    shard_size: ShardSize = "256MiB",
    no_text: Annotated[bool, typer.Option("--no-text", help="Leave the sentences out.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a data set of embeddings that others made, or another shape of a
    data set.

    Rows that cannot be used (a wrong dimension, NaN, infinity, a zero vector, no
    sentence) are left out, counted, and listed with file, row (from 0) and
    reason in left-out.jsonl in the new folder.

    \b
    Examples:
      lcm data convert prepared/ --out data/wiki        # parquet of Meta's preparation pipeline
      lcm data convert LexaLCM/Datasets/wiki --special LexaLCM/SpecialConcepts --out data/wiki
      lcm data convert data/wiki --dtype float32 --keep-lang eng_Latn --out data/english
      lcm data convert tars/ --no-text --codec data/wiki --out data/more
      lcm data convert data/wiki --to parquet --out wiki-parquet
    """
    from lexalcm.config import validate
    from lexalcm.data.convert.convert import convert as work
    from lexalcm.data.convert.settings import ConvertSettings
    from lexalcm.data.info import describe
    from lexalcm.io.sizes import parse_size
    from lexalcm.text.languages import find_language

    given: dict[str, Any] = {
        "codec": codec,
        "fingerprint": fingerprint,
        "dim": dim,
        "text_column": text_column,
        "embedding_column": embedding_column,
        "metadata": tuple(metadata or ()),
        "member": member,
        "lang": find_language(lang),
        "validation": validation,
        "dtype": dtype,
        "text": not no_text,
        "shard_size": parse_size(shard_size),
        "keep_languages": tuple(find_language(kept) for kept in keep_lang or ()),
        "min_sentences": min_sentences,
        "max_sentences": max_sentences,
    }
    settings = validate(ConvertSettings, {name: value for name, value in given.items() if value is not None})
    result = work(paths, to_folder, settings, to=to.value, special=special, overwrite=overwrite, progress=progress)
    if as_json:
        summary = {} if result.dataset is None else describe(result.dataset).to_json()
        print_json(summary | result.to_json())
    elif result.dataset is not None:
        summary_shown = describe(result.dataset)
        out.print(summary_shown.table())
        out.print(summary_shown.lines())
    else:
        out.print(f"{result.out}: {result.documents:,} documents")
    for note in result.notes():
        err.print(note)
