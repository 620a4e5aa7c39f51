"""The options of `lcm infer`, in the panels of its help."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lexalcm.cli.settings_options import FromSettings

_WHAT = "What to read and write"
_SAMPLING = "How to sample"
_OUT = "How to show it"
_FILES = "Many documents"
_PLACE = "Where to compute"

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Model folder, run folder or hub id (name/model).  \\[default: the newest run's model]",
    ),
]
Lang = Annotated[
    str | None,
    typer.Option(
        "--lang",
        metavar="LANG",
        help="Language of the text: jpn_Jpan, ja, Japanese.  \\[default: seen from its script, where that is safe]",
        rich_help_panel=_WHAT,
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="LANG",
        help="Language to write, likewise.  \\[default: that of the text]",
        rich_help_panel=_WHAT,
    ),
]
Each = Annotated[
    bool,
    typer.Option(
        "--each", help="Instead of continuing, guess every sentence from those before it.", rich_help_panel=_WHAT
    ),
]
Interactive = Annotated[
    bool, typer.Option("--interactive", "-i", help="Write by turns; /help shows the commands.", rich_help_panel=_WHAT)
]
Chat = Annotated[
    bool, typer.Option("--chat", help="The text is a user's turn: answer as the assistant.", rich_help_panel=_WHAT)
]
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="With --chat: what the assistant is told.", rich_help_panel=_WHAT),
]
Samples = Annotated[
    int,
    typer.Option(
        "--samples", min=1, help="Alternatives, with the seed and those above it.", rich_help_panel=_WHAT, metavar="N"
    ),
]
Generation = Annotated[dict[str, Any], FromSettings("lexalcm.generate.options:GenerationOptions")]

Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        max=2**63 - 1,
        help="Seed of the noise: same seed, same text.",
        rich_help_panel=_SAMPLING,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, with each embedding's statistics.", rich_help_panel=_OUT)
]
SaveEmbeddings = Annotated[
    Path | None,
    typer.Option(
        "--save-embeddings",
        metavar="FILE",
        help="Keep the written concepts: FILE.npy or FILE.safetensors.",
        rich_help_panel=_OUT,
    ),
]

InputFile = Annotated[
    str | None,
    typer.Option(
        "--input", metavar="FILE", help="FILE.jsonl or FILE.txt, a document a line; - is stdin.", rich_help_panel=_FILES
    ),
]
OutputFile = Annotated[
    str,
    typer.Option(
        "--output",
        metavar="FILE",
        help="JSON lines; typed again after an interruption, the line goes on.  - is stdout.",
        rich_help_panel=_FILES,
    ),
]
BatchDocuments = Annotated[
    int, typer.Option("--batch", metavar="N", min=1, help="Documents continued together.", rich_help_panel=_FILES)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Begin the output anew.", rich_help_panel=_FILES)]

ModelDevice = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Of the model: auto (a GPU if there is one), cpu, cuda, cuda:1.",
        rich_help_panel=_PLACE,
    ),
]
ModelDtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="TYPE",
        help="Its numbers: fp32, bf16; auto is as its weights are saved.",
        rich_help_panel=_PLACE,
    ),
]
