"""`lcm infer`: continue a text, many documents, or take turns; or guess each sentence of a text."""

import sys
from typing import Annotated

import typer

from lexalcm.cli import infer_options as o
from lexalcm.cli.codec_options import Codec, codec_choice
from lexalcm.cli.console import err, progress
from lexalcm.cli.denoising_line import DenoisingLine


def infer(
    text: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Sentences or paragraphs; - reads stdin.")
    ] = None,
    model: o.Model = None,
    lang: o.Lang = None,
    to: o.To = None,
    samples: o.Samples = 1,
    each: o.Each = False,
    interactive: o.Interactive = False,
    chat: o.Chat = False,
    system: o.System = None,
    *,
    generation: o.Generation,
    seed: o.Seed = 0,
    as_json: o.Json = False,
    save_embeddings: o.SaveEmbeddings = None,
    input_file: o.InputFile = None,
    output: o.OutputFile = "-",
    batch: o.BatchDocuments = 32,
    overwrite: o.Overwrite = False,
    device: o.ModelDevice = "auto",
    dtype: o.ModelDtype = "auto",
    codec: Codec,
) -> None:
    """Continue a text, sentence by sentence.

    What is not given here (steps, guidance, length, ...) is the model's own,
    from its generation_config.json. The text goes to stdout, everything else
    to stderr.

    \b
    Examples:
      lcm infer "We must do more for our schools."
      lcm infer "そのころわたくしは、モリーオ市の博物局に勤めて居りました。" -n 5
      lcm infer "銀河ステーション、銀河ステーション。" --lang jpn_Jpan --to eng_Latn
      lcm infer "Peace is near." --samples 3 --steps 20
      lcm infer --each "It is a truth universally acknowledged." "A single man must want a wife." "So they say."
      head -20 speech.txt | lcm infer - --guidance 2 --seed 7 --json
      lcm infer --interactive
      lcm infer --model runs/chats --chat "What do you think of schools?" --system "Be brief."
      lcm infer --input prompts.jsonl --output answers.jsonl --batch 64
    """
    from lexalcm.errors import UserError
    from lexalcm.generate.text import TextModel
    from lexalcm.text.chat import Turn
    from lexalcm.text.languages import find_language

    mode = _mode(text, input_file, output, interactive=interactive, each=each)
    if (each and chat) or (system is not None and not chat):
        raise UserError("--each and --chat exclude each other: omit one" if chat else "--system needs --chat: add it")
    _reject_unused(mode, samples=samples > 1, json=as_json, save_embeddings=save_embeddings, overwrite=overwrite)
    if save_embeddings is not None:
        from lexalcm.generate.batch.embedding_file import check_embedding_file

        check_embedding_file(save_embeddings, samples)
    lang, to = (find_language(given) if given else None for given in (lang, to))
    choice = codec_choice(codec)
    given_text = _read_stdin() if text == ["-"] else "\n".join(text or [])
    line = DenoisingLine()
    writer = TextModel.open(
        model,
        device=device,
        dtype=dtype,
        codec=choice.name,
        codec_options=choice.run,
        progress=progress,
        on_step=None if mode == "--input" else line.step,
    )
    if writer.note:
        err.print(f"note: {writer.note}")
    options = writer.options(**generation)
    writer.check_samples(samples)

    if mode == "--interactive":
        from lexalcm.cli.infer_interactive import converse
        from lexalcm.generate.sessions.session import Session

        if chat:
            from lexalcm.generate.sessions.chat_session import ChatSession

            session: Session = ChatSession(writer, generation, system=system, seed=seed, lang=lang, to=to)
        else:
            session = Session(writer, generation, seed=seed, lang=lang, to=to)
        converse(session, line, given_text)
        return
    if input_file is not None:
        from lexalcm.cli.infer_files import infer_documents
        from lexalcm.generate.batch.jobs import Job
        from lexalcm.generate.prompts.documents import Defaults

        defaults = Defaults(lang, to, seed, options.max_prompt, chat, system)
        job = Job(options, choice.run, defaults, batch=batch, samples=samples)
        infer_documents(writer, input_file, output, job, overwrite=overwrite)
        return
    from lexalcm.cli.infer_show import show_continuation, show_guesses, show_samples

    if chat:
        turns = [*([Turn("system", system)] if system else []), Turn("user", given_text)]
        prompt = writer.chat_prompt(turns, options, lang=lang, to=to, seed=seed)
    else:
        prompt = writer.prompt(given_text, options, lang=lang, to=to, seed=seed)
    if each:
        show_guesses(writer, prompt, options, line, as_json=as_json)
    elif samples > 1:
        show_samples(writer, prompt, options, line, samples, as_json=as_json, embeddings=save_embeddings)
    else:
        show_continuation(writer, prompt, options, line, as_json=as_json, embeddings=save_embeddings)


def _mode(text: list[str] | None, input_file: str | None, output: str, *, interactive: bool, each: bool) -> str:
    """The mode that is asked for."""
    from lexalcm.errors import UserError

    asked = {"--interactive": interactive, "--input": input_file is not None, "--each": each}
    modes = [name for name, wanted in asked.items() if wanted]
    if len(modes) > 1:
        raise UserError(f"{modes[0]} and {modes[1]} exclude each other: omit one")
    if output != "-" and input_file is None:
        raise UserError("--output needs --input: to save the output of a single prompt, redirect it with >")
    if text and input_file is not None:
        raise UserError("give a text or --input, not both")
    if not text and modes not in (["--interactive"], ["--input"]):
        raise UserError("nothing to continue: give a text, - for standard input, --input FILE or --interactive")
    return modes[0] if modes else "text"


def _reject_unused(mode: str, **given: object) -> None:
    """Make sure that no option of another mode is given."""
    from lexalcm.errors import UserError

    unused = {
        "text": {"overwrite"},
        "--each": {"overwrite", "samples", "save_embeddings"},
        "--input": {"save_embeddings"},
        "--interactive": {"overwrite", "samples", "save_embeddings", "json"},
    }
    for name in unused[mode]:
        if given[name]:
            where = "with one prompt" if mode == "text" else f"with {mode}"
            raise UserError(f"--{name.replace('_', '-')} has no effect {where}: omit it")


def _read_stdin() -> str:
    from lexalcm.errors import UserError

    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError("standard input is not UTF-8 text: convert it first, e.g. with iconv") from error
