"""`lcm visualize generation`: the denoising trajectories of one concept."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lexalcm.cli import infer_options as o
from lexalcm.cli.codec_options import Codec, codec_choice
from lexalcm.cli.console import progress
from lexalcm.cli.settings_options import FromSettings
from lexalcm.cli.visualize.options import FileFormat, Json, Overwrite, show_result


def generation(
    text: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="At least two sentences; the last is the one to guess.")
    ] = None,
    model: o.Model = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DIR", help="Instead of a text, a document of this data set.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the data set.")] = "validation",
    document: Annotated[str, typer.Option("--document", help="Number of the document in the split, or its id.")] = "0",
    sentence: Annotated[
        int | None,
        typer.Option(
            "--sentence", min=2, help="Sentence of the document to guess.  \\[default: the ninth, or the last]"
        ),
    ] = None,
    lang: o.Lang = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples, each from noise of its own.")] = 4,
    *,
    generation: Annotated[dict[str, Any], FromSettings("lexalcm.generate.options:GenerationOptions", max_sentences=5)],
    seed: o.Seed = 0,
    device: o.ModelDevice = "auto",
    dtype: o.ModelDtype = "auto",
    codec: Codec,
    to: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("reports/generation"),
    file_format: FileFormat = "png",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Show how a sentence is guessed: from noise to a concept.

    Squared L2 and cosine similarity to the sentence that really follows at each
    denoising step, with guidance and without; decoded estimates; and the
    self-similarity of prompt and continuation. What is not given here is the model's own,
    from its generation_config.json.

    \b
    Examples:
      lcm visualize generation "We must do more for our schools. They are the future. We pay too little."
      lcm visualize generation --data data/sample --document 3 --sentence 12
      lcm visualize generation "One. Two. Three." --model runs/base --steps 20 --guidance 2 --samples 8
    """
    from lexalcm.errors import UserError
    from lexalcm.generate.text import TextModel
    from lexalcm.io.atomic import check_output
    from lexalcm.pages.generation_report import document_prompt, report_generation, text_prompt
    from lexalcm.pages.page import PAGE
    from lexalcm.text.languages import find_language

    if bool(text) == (data is not None):
        raise UserError("give a text of at least two sentences, or a data set with --data")
    check_output(to, overwrite=overwrite, marker=PAGE)
    choice = codec_choice(codec)
    writer = TextModel.open(
        model,
        device=device,
        dtype=dtype,
        codec=choice.name,
        codec_options=choice.run,
        progress=progress,
    )
    options = writer.options(**generation)
    if data is not None:
        prompt = document_prompt(writer, data, split, document, sentence, seed)
    else:
        prompt = text_prompt(writer, "\n".join(text or []), options, find_language(lang) if lang else None, seed)
    result = report_generation(
        writer,
        prompt,
        options,
        to,
        samples=samples,
        command="lcm " + shlex.join(sys.argv[1:]),
        format=file_format,
        overwrite=overwrite,
        progress=progress,
    )
    show_result(result, as_json)
