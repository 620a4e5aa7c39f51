"""The options of `lcm infer`, in the panels of its help."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lexalcm.cli.settings_options import FromSettings

IN_OUT = "Input and output"
SAMPLING = "Sampling"
OUTPUT_FORMAT = "Output format"
FILES = "Files"
DEVICE = "Device"

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
        help="Language of the text: jpn_Jpan, ja, Japanese.  \\[default: detected from its script, where possible]",
        rich_help_panel=IN_OUT,
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="LANG",
        help="Language of the output, in the same forms.  \\[default: that of the text]",
        rich_help_panel=IN_OUT,
    ),
]
Each = Annotated[
    bool,
    typer.Option(
        "--each", help="Instead of continuing, guess every sentence from those before it.", rich_help_panel=IN_OUT
    ),
]
Interactive = Annotated[
    bool,
    typer.Option("--interactive", "-i", help="Take turns with the model; see /help.", rich_help_panel=IN_OUT),
]
Chat = Annotated[
    bool,
    typer.Option("--chat", help="The text is a user's turn: answer as the assistant.", rich_help_panel=IN_OUT),
]
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="With --chat: the system turn.", rich_help_panel=IN_OUT),
]
Samples = Annotated[
    int,
    typer.Option(
        "--samples",
        min=1,
        help="Alternatives, with this seed and those after it.",
        rich_help_panel=IN_OUT,
        metavar="N",
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
        rich_help_panel=SAMPLING,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, with each embedding's statistics.", rich_help_panel=OUTPUT_FORMAT)
]
SaveEmbeddings = Annotated[
    Path | None,
    typer.Option(
        "--save-embeddings",
        metavar="FILE",
        help="Keep the written concepts: FILE.npy or FILE.safetensors.",
        rich_help_panel=OUTPUT_FORMAT,
    ),
]

InputFile = Annotated[
    str | None,
    typer.Option(
        "--input", metavar="FILE", help="FILE.jsonl or FILE.txt, a document a line; - is stdin.", rich_help_panel=FILES
    ),
]
OutputFile = Annotated[
    str,
    typer.Option(
        "--output",
        metavar="FILE",
        help="JSON lines; after an interruption the same command resumes.  - is stdout.",
        rich_help_panel=FILES,
    ),
]
BatchDocuments = Annotated[
    int, typer.Option("--batch", metavar="N", min=1, help="Documents continued together.", rich_help_panel=FILES)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output instead of continuing it.", rich_help_panel=FILES)
]

ModelDevice = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Device of the model: auto (a GPU if there is one), cpu, cuda, cuda:1.",
        rich_help_panel=DEVICE,
    ),
]
ModelDtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="TYPE",
        help="Number type of the model: fp32, bf16; auto is that of the saved weights.",
        rich_help_panel=DEVICE,
    ),
]
