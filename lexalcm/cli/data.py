"""`lcm data`: from text to a data set folder, and what is in one."""

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lexalcm.cli.console import err, out, progress

if TYPE_CHECKING:
    from lexalcm.data.build import BuildResult

app = typer.Typer(help="Turn text into data sets of sentence embeddings.", no_args_is_help=True)

DEFAULT = Path("data/sample")


class TextDocuments(str, Enum):
    """What a document is in a text file."""

    BLANK_LINE = "blank-line"
    FILE = "file"


Codec = Annotated[str, typer.Option("--codec", help="Codec that embeds the sentences.")]
CodecOptions = Annotated[
    list[str] | None,
    typer.Option("--codec-option", metavar="NAME=VALUE", help="Option of the codec, e.g. dim=128. May be repeated."),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Seed of the codec's fit and of the normalizer's sample.  \\[default: 0]"),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the data set if there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Dir = Annotated[Path, typer.Argument(metavar="[DIR]", help="Data set folder.")]


@app.callback()
def _group() -> None:
    """Turn text into data sets of sentence embeddings."""


@app.command()
def sample(
    to: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to make.  \\[default: data/sample]")] = None,
    codec: Codec = "lsa",
    codec_option: CodecOptions = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a data set of the packaged text: real documents in English and
    Japanese, no download.

    State of the Union addresses, Pride and Prejudice and two novels by Miyazawa
    Kenji, all in the public domain; every tenth document or so is held out for
    validation. If data/sample already is that data set, nothing is done.

    \b
    Examples:
      lcm data sample
      lcm data sample --codec-option dim=128 --out data/small-vectors
    """
    from lexalcm.config import load_settings
    from lexalcm.data.build_settings import BuildSettings
    from lexalcm.data.sample import build_sample

    base = {"codec": codec, "seed": seed}
    overrides = [f"codec_options.{option}" for option in codec_option or []]
    settings = load_settings(BuildSettings, overrides=overrides, base=base)
    result = build_sample(to, settings, overwrite=overwrite, progress=progress)
    _show(result, as_json)


@app.command()
def build(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Text: .txt, .jsonl (both also .gz, .zst), .parquet, folders of such, or - for standard input.",
        ),
    ],
    to: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    text_field: Annotated[
        str, typer.Option("--text-field", help="Field of JSON lines, column of parquet, that holds the text.")
    ] = "text",
    lang: Annotated[
        str, typer.Option("--lang", help="Language of documents without a field `lang`, as SONAR writes it.")
    ] = "eng_Latn",
    documents: Annotated[
        TextDocuments, typer.Option("--documents", help="A document of a text file: between blank lines, or all of it.")
    ] = TextDocuments.BLANK_LINE,
    join_lines: Annotated[
        bool, typer.Option("--join-lines", help="Line ends are spaces, only blank lines end paragraphs: wrapped text.")
    ] = False,
    max_chars: Annotated[int, typer.Option("--max-chars", help="Cut sentences longer than this.")] = 250,
    codec: Codec = "lsa",
    codec_option: CodecOptions = None,
    validation: Annotated[
        float, typer.Option("--validation", help="Share of documents held out, chosen by a hash of their ids.")
    ] = 0.1,
    shard_size: Annotated[str, typer.Option("--shard-size", help="Largest shard, e.g. 64MiB or 1GB.")] = "256MiB",
    dtype: Annotated[str, typer.Option("--dtype", help="Stored numbers: float16 or float32.")] = "float16",
    seed: Seed = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a data set of your own text.

    Text is split into sentences, each sentence is embedded by the codec, and
    the embeddings are written to shards that training reads. A JSON line or
    parquet row is a document; its `id`, `title` and `lang` are used if it has
    them.

    \b
    Examples:
      lcm data build notes.txt --out data/notes             # blank lines divide documents
      lcm data build books/ --documents file --join-lines --out data/books
      lcm data build wiki.jsonl.zst --text-field body --lang deu_Latn --out data/wiki
      cat *.txt | lcm data build - --out data/mine
    """
    from lexalcm.config import load_settings
    from lexalcm.data.build import build_from_paths
    from lexalcm.data.build_settings import BuildSettings
    from lexalcm.data.shards import parse_size

    base = {
        "codec": codec,
        "max_chars": max_chars,
        "join_lines": join_lines,
        "validation": validation,
        "shard_size": parse_size(shard_size),
        "dtype": dtype,
        "seed": seed,
    }
    overrides = [f"codec_options.{option}" for option in codec_option or []]
    result = build_from_paths(
        paths,
        to,
        load_settings(BuildSettings, overrides=overrides, base=base),
        lang=lang,
        text_field=text_field,
        documents=documents.value,
        overwrite=overwrite,
        progress=progress,
    )
    _show(result, as_json)


@app.command()
def normalize(
    path: Dir = DEFAULT,
    method: Annotated[
        str, typer.Option("--method", help="robust (median and quantiles) or standard (mean and deviation).")
    ] = "robust",
    quantiles: Annotated[tuple[float, float], typer.Option("--quantiles", help="Where robust measures the spread.")] = (
        0.25,
        0.75,
    ),
    clip_probability: Annotated[
        float | None, typer.Option("--clip", help="Clip this share of numbers off at either end, e.g. 0.001.")
    ] = None,
    max_concepts: Annotated[
        int, typer.Option("--max-concepts", help="Fit on a uniform sample of so many concepts if there are more.")
    ] = 1_000_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the sample.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit the normalizer of a data set again, on its training split.

    `lcm data build` has done so already, with the defaults. Models made before
    keep the normalizer they have.

    \b
    Examples:
      lcm data normalize data/wiki --clip 0.001
      lcm data normalize data/wiki --quantiles 0.0025 0.0075    # what the published code computes
    """
    from lexalcm.config import validate
    from lexalcm.data.build import refit_normalizer
    from lexalcm.data.normalize import NormalizerSettings

    given = {
        "method": method,
        "quantiles": quantiles,
        "clip_probability": clip_probability,
        "max_concepts": max_concepts,
        "seed": seed,
    }
    with err.status("fitting the normalizer"):
        stats = refit_normalizer(path, validate(NormalizerSettings, given))
    if as_json:
        out.print(json.dumps({name: values.tolist() for name, values in stats.items()}))
        return
    scale = stats["scale"]
    out.print(f"{path}: {len(scale)} dimensions, scale {scale.min():.4g} to {scale.max():.4g}", markup=False)


@app.command()
def info(
    path: Dir = DEFAULT,
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
    from lexalcm.config import DataSettings, load_settings
    from lexalcm.data.dataset import Dataset
    from lexalcm.data.info import describe

    settings = load_settings(DataSettings, overrides=overrides or (), prefix="data")
    summary = describe(Dataset.open(path), settings if plan or overrides else None)
    if as_json:
        out.print(json.dumps(summary.to_json(), indent=2), markup=False)
        return
    out.print(summary.table())
    out.print(summary.lines(), markup=False)


def _show(result: "BuildResult", as_json: bool) -> None:
    from lexalcm.data.info import describe

    if as_json:
        out.print(json.dumps(result.to_json(), indent=2), markup=False)
    else:
        summary = describe(result.dataset)
        out.print(summary.table())
        out.print(summary.lines(), markup=False)
    for note in result.notes():
        err.print(note, markup=False)
