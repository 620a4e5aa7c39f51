"""The options of `lcm infer`, in the panels of its help."""

from pathlib import Path
from typing import Annotated

import typer

from lexalcm.registries import SAMPLERS

_WHAT = "What to read and write"
_STOP = "When to stop"
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
MaxPrompt = Annotated[
    int | None,
    typer.Option(
        "--max-prompt",
        metavar="N",
        min=1,
        help="A prompt of more sentences is taken for a mistake.  \\[default: 256]",
        rich_help_panel=_WHAT,
    ),
]

MaxSentences = Annotated[
    int | None,
    typer.Option(
        "--max-sentences",
        "--sentences",
        "-n",
        metavar="N",
        min=1,
        help="Write at most so many sentences.",
        rich_help_panel=_STOP,
    ),
]
StopSimilarity = Annotated[
    float | None,
    typer.Option(
        "--stop-similarity",
        metavar="X",
        min=-1,
        max=1,
        help="End at a concept so near (cosine) to end of text; 1: never.",
        rich_help_panel=_STOP,
    ),
]
StopRepetition = Annotated[
    float | None,
    typer.Option(
        "--stop-repetition",
        metavar="X",
        min=-1,
        max=1,
        help="End at a concept so near (cosine) to an earlier one; 1: never.",
        rich_help_panel=_STOP,
    ),
]

Sampler = Annotated[
    str | None,
    typer.Option("--sampler", metavar="NAME", help=f"One of {', '.join(SAMPLERS.names())}.", rich_help_panel=_SAMPLING),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps", metavar="N", min=1, help="Denoising steps of a diffusion model.", rich_help_panel=_SAMPLING
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance", metavar="X", min=0, help="Classifier-free guidance scale; 1 is none.", rich_help_panel=_SAMPLING
    ),
]
GuidanceRescale = Annotated[
    float | None,
    typer.Option(
        "--guidance-rescale",
        metavar="X",
        min=0,
        max=1,
        help="How far guided noise gets the spread of the unguided.",
        rich_help_panel=_SAMPLING,
    ),
]
NoiseScale = Annotated[
    float | None,
    typer.Option(
        "--noise-scale",
        metavar="X",
        help="Size of the starting noise; smaller is nearer to the average.",
        rich_help_panel=_SAMPLING,
    ),
]
Eta = Annotated[
    float | None,
    typer.Option(
        "--eta",
        metavar="X",
        min=0,
        max=1,
        help="Share of fresh noise at each step, of a sampler that adds some, as ddim does.",
        rich_help_panel=_SAMPLING,
    ),
]
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
Reencode = Annotated[
    bool | None,
    typer.Option(
        "--reencode/--no-reencode",
        help="Read on from the decoded text, not from the model's own concepts.",
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
CodecName = Annotated[
    str | None,
    typer.Option(
        "--codec", help="Another implementation of the model's codec, e.g. sonar-hf.", rich_help_panel="Codec"
    ),
]
