"""`lcm infer`: continue a text, or guess each of its sentences."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lexalcm.cli.codec_options import Batch, Beam, Device, Dtype, MaxTokens, RepetitionPenalty, codec_run_options
from lexalcm.cli.console import err, out, progress

if TYPE_CHECKING:
    from lexalcm.generate.options import GenerationOptions
    from lexalcm.generate.text import TextModel

Languages = tuple[str, str]
"""Codes of the prompt's language and of the one to write."""


def infer(
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Sentences or paragraphs; - reads stdin.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model or run folder.  \\[default: the newest run's model]")
    ] = None,
    sentences: Annotated[
        int | None, typer.Option("--sentences", "-n", min=1, help="Write at most so many sentences.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Denoising steps of a diffusion model.")] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", min=0, help="Classifier-free guidance scale; 1 is none.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise: same seed, same text.")] = 0,
    lang: Annotated[
        str | None,
        typer.Option("--lang", help="Language of the text: jpn_Jpan, ja, Japanese.  \\[default: seen from its script]"),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Language to write, likewise.  \\[default: that of the text]")
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Instead of continuing, guess every sentence from those before it.")
    ] = False,
    reencode: Annotated[
        bool | None,
        typer.Option(
            "--reencode/--no-reencode", help="Read on from the decoded text, not from the model's own concepts."
        ),
    ] = None,
    codec: Annotated[
        str | None, typer.Option("--codec", help="Another implementation of the model's codec, e.g. sonar-hf.")
    ] = None,
    codec_device: Device = None,
    codec_dtype: Dtype = "auto",
    codec_batch: Batch = None,
    beam: Beam = None,
    max_tokens: MaxTokens = None,
    repetition_penalty: RepetitionPenalty = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Continue a text, sentence by sentence.

    Steps, guidance and length not given here are the model's own, from its
    generation_config.json. The text goes to stdout, everything else to stderr.

    \b
    Examples:
      lcm infer "We must do more for our schools."
      lcm infer "そのころわたくしは、モリーオ市の博物局に勤めて居りました。" -n 5
      lcm infer "銀河ステーション、銀河ステーション。" --lang jpn_Jpan --to eng_Latn
      lcm infer --each "It is a truth universally acknowledged." "A single man must want a wife." "So they say."
      head -20 speech.txt | lcm infer - --guidance 2 --seed 7 --json
    """
    from lexalcm.data.languages import find_language, language_of
    from lexalcm.generate.text import TextModel

    prompt = _read_stdin() if text == ["-"] else "\n".join(text)
    language = find_language(lang) if lang else language_of(prompt)
    written = find_language(to) if to else language
    run_options = codec_run_options(
        codec_device,
        codec_dtype,
        codec_batch,
        beam=beam,
        max_tokens=max_tokens,
        repetition_penalty=repetition_penalty,
    )
    writer = TextModel.open(model, codec=codec, codec_options=run_options, progress=progress)
    options = writer.options(steps=steps, guidance_scale=guidance, max_sentences=sentences, reencode=reencode)
    prompt_sentences = writer.read(prompt, language)
    show = _show_guesses if each else _show_continuation
    show(writer, prompt_sentences, (language, written), options, seed, as_json)


def _read_stdin() -> str:
    from lexalcm.errors import UserError

    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError("standard input is not UTF-8 text: convert it first, e.g. with iconv") from error


def _show_continuation(
    writer: "TextModel", prompt: list[str], languages: Languages, options: "GenerationOptions", seed: int, as_json: bool
) -> None:
    lang, to = languages
    continuation = writer.write(prompt, lang, options, seed, to)
    if as_json:
        written = [{"text": sentence.text, "norm": float(sentence.concept.norm())} for sentence in continuation]
        _print_json(writer, prompt, languages, options, seed, sentences=written, stop=continuation.stop)
        return
    err.print(f"[dim]{_description(writer, options)}, seed {seed}[/]")
    for sentence in continuation:
        out.print(sentence.text, markup=False)
    err.print(f"[dim]stopped: {continuation.stop}[/]")


def _show_guesses(
    writer: "TextModel", prompt: list[str], languages: Languages, options: "GenerationOptions", seed: int, as_json: bool
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    lang, to = languages
    guesses = writer.guess_each(prompt, lang, options, seed, to)
    if as_json:
        _print_json(writer, prompt, languages, options, seed, guesses=[guess.__dict__ for guess in guesses])
        return
    table = Table("", "what follows", "the model's guess", box=box.SIMPLE_HEAD, leading=1)
    table.add_column("squared L2", justify="right")
    table.add_column("cosine", justify="right")
    table.add_row("1", Text(prompt[0]), "", "", "")
    for number, guess in enumerate(guesses, start=2):
        table.add_row(
            str(number), Text(guess.actual), Text(guess.guess), f"{guess.squared_l2:.1f}", f"{guess.cosine:.3f}"
        )
    out.print(table)
    err.print(f"[dim]{_description(writer, options)}, seed {seed}; squared L2 in normalized space[/]")


def _description(writer: "TextModel", options: "GenerationOptions") -> str:
    config = writer.model.config
    name = f"{writer.folder}: {config.preset or config.architecture}"
    if config.diffusion is None:
        return name
    return f"{name}, {options.sampler} in {options.steps} steps, guidance {options.guidance_scale:g}"


def _print_json(
    writer: "TextModel",
    prompt: list[str],
    languages: Languages,
    options: "GenerationOptions",
    seed: int,
    **result: object,
) -> None:
    lang, to = languages
    about = {
        "model": str(writer.folder),
        "lang": lang,
        "to": to,
        "seed": seed,
        "options": options.model_dump(mode="json"),
    }
    out.print_json(json.dumps({**about, "prompt": prompt, **result}), ensure_ascii=False)
