"""The options of every command that runs a codec, and how they become settings."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lexalcm.codec.options import CodecOptions

PANEL = "Codec"
"""Of the help: what it calls these options."""

Device = Annotated[
    str | None,
    typer.Option(
        "--codec-device",
        metavar="DEVICE",
        help="Where the codec computes: cpu, cuda, cuda:1.  \\[default: a GPU]",
        rich_help_panel=PANEL,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--codec-dtype",
        metavar="TYPE",
        help="Its numbers: fp32, fp16, bf16; auto is fp16 on a GPU.",
        rich_help_panel=PANEL,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--codec-batch",
        metavar="TOKENS",
        min=1,
        help="Tokens embedded, or decoded with all beams, at once.  \\[default: by device]",
        rich_help_panel=PANEL,
    ),
]
Beam = Annotated[
    int | None,
    typer.Option(
        "--beam",
        min=1,
        help="Beams that the codec decodes with; 1 is greedy.  \\[default: 5]",
        rich_help_panel=PANEL,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=4, help="Longest decoded sentence.  \\[default: 256]", rich_help_panel=PANEL),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(
        "--repetition-penalty",
        min=0.01,
        help="Above 1, tokens are seldom repeated.  \\[default: 1]",
        rich_help_panel=PANEL,
    ),
]


def codec_run_options(
    device: str | None,
    dtype: str,
    batch: int | None,
    *,
    beam: int | None = None,
    max_tokens: int | None = None,
    repetition_penalty: float | None = None,
) -> "CodecOptions":
    """How the codec is to be run.

    Raises:
        ConfigError: an option of the wrong type.
    """
    from lexalcm.codec.options import CodecOptions
    from lexalcm.config import validate

    decoding = {"beam": beam, "max_tokens": max_tokens, "repetition_penalty": repetition_penalty}
    given = {"device": device, "dtype": dtype, "batch": batch}
    chosen = {name: value for name, value in decoding.items() if value is not None}
    return validate(CodecOptions, given | {"decoding": chosen}, prefix="codec")
