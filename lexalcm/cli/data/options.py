"""Options of several `lcm data` commands, and how a new data set is printed."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lexalcm.cli.console import err, out, print_json

if TYPE_CHECKING:
    from lexalcm.data.build.one_process import BuildResult
    from lexalcm.data.build.settings import BuildSettings

DEFAULT = Path("data/sample")


class TextDocuments(str, Enum):
    """What a document is in a text file."""

    BLANK_LINE = "blank-line"
    FILE = "file"


Codec = Annotated[
    str, typer.Option("--codec", help="Codec that embeds the sentences, or the folder of a data set that has one.")
]
CodecOptions = Annotated[
    list[str] | None,
    typer.Option("--codec-option", metavar="NAME=VALUE", help="Option of the codec, e.g. dim=128. May be repeated."),
]
Chat = Annotated[
    bool, typer.Option("--chat", help="Every record is a conversation: messages, ShareGPT, prompt/completion, Alpaca.")
]
Special = Annotated[
    list[str] | None,
    typer.Option("--special", metavar="NAME=SENTENCE", help="A special concept of your own. May be repeated."),
]
TextField = Annotated[
    str,
    typer.Option(
        "--text-field", help="Field of JSON lines, column of parquet, that holds the text or a list of sentences."
    ),
]
Lang = Annotated[
    str, typer.Option("--lang", help="Language of documents without a field `lang`: jpn_Jpan, ja, Japanese.")
]
Documents = Annotated[
    TextDocuments, typer.Option("--documents", help="A document of a text file: between blank lines, or all of it.")
]
JoinLines = Annotated[
    bool, typer.Option("--join-lines", help="Line ends are spaces, only blank lines end paragraphs: wrapped text.")
]
Segmenter = Annotated[
    str, typer.Option("--segmenter", help="Sentence segmenter: sentencex, sat, spacy, or newline (a line each).")
]
SegmenterOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--segmenter-option",
        metavar="NAME=VALUE",
        help="Option of the segmenter, e.g. threshold=0.02. May be repeated.",
    ),
]
MaxChars = Annotated[int, typer.Option("--max-chars", help="Cut sentences longer than this.")]
MinChars = Annotated[int, typer.Option("--min-chars", help="Join sentences shorter than this with a neighbour.")]
Validation = Annotated[
    float, typer.Option("--validation", help="Share of documents held out, chosen by a hash of their ids.")
]
ShardSize = Annotated[str, typer.Option("--shard-size", help="Largest shard, e.g. 64MiB or 1GB.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Stored number type: float16 or float32.")]
NoText = Annotated[bool, typer.Option("--no-text", help="Store the embeddings without their sentences.")]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Seed of the codec's fit and of the normalizer's sample.  \\[default: 0]"),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the data set if there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Dir = Annotated[Path, typer.Argument(metavar="[DIR]", help="Data set folder.")]


def build_settings(
    codec_option: list[str] | None,
    segmenter_option: list[str] | None = None,
    *,
    shard_size: str,
    special: list[str] | None = None,
    **given: Any,
) -> "BuildSettings":
    """The settings of a data set from what the options gave.

    Raises:
        ConfigError: an option of the wrong form or type.
    """
    from lexalcm.codec.special import parse_special
    from lexalcm.config import load_settings
    from lexalcm.data.build.settings import BuildSettings
    from lexalcm.io.sizes import parse_size

    overrides = [f"codec_options.{option}" for option in codec_option or []]
    overrides += [f"segmenter_options.{option}" for option in segmenter_option or []]
    base = given | {"shard_size": parse_size(shard_size), "special": parse_special(special or ())}
    return load_settings(BuildSettings, overrides=overrides, base=base)


def show_built(result: "BuildResult", as_json: bool, tree: dict[str, Any] | None = None) -> None:
    """Print what is in a new data set, and on stderr what someone who built it should know."""
    from lexalcm.data.info import describe

    if as_json:
        print_json(tree or result.to_json())
    else:
        summary = describe(result.dataset)
        out.print(summary.table())
        out.print(summary.lines())
    for note in result.notes():
        err.print(note)
