"""How `lcm infer` prints the output of one prompt: sentences as they come, alternatives side by side, guesses, JSON."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lexalcm.cli.console import err, out, print_json
from lexalcm.cli.denoising_line import DenoisingLine

if TYPE_CHECKING:
    from lexalcm.generate.continuation import WrittenSentence
    from lexalcm.generate.options import GenerationOptions
    from lexalcm.generate.prompts.prompt import Prompt
    from lexalcm.generate.text import TextModel

NARROWEST_COLUMN = 24
"""Alternatives are printed below one another if each would get fewer characters."""


def show_continuation(
    writer: "TextModel",
    prompt: "Prompt",
    options: "GenerationOptions",
    line: DenoisingLine,
    *,
    as_json: bool,
    embeddings: Path | None,
) -> None:
    """Print each sentence as it comes, or all as one JSON object."""
    from lexalcm.generate.batch.embedding_file import save_embeddings
    from lexalcm.generate.batch.sentence_report import text_report

    continuation = writer.write(prompt, options)
    if not as_json:
        err.print(f"{description(writer, options)}, seed {prompt.seed}", style="dim")
    written = []
    with line:
        for sentence in continuation:
            written.append(sentence)
            line.clear(len(written) + 1)
            if not as_json:
                out.print(sentence.text)
    if as_json:
        _print_json(
            writer, prompt, options, seed=prompt.seed, **text_report(written, continuation.embedded, continuation.stop)
        )
    else:
        err.print(f"stopped: {continuation.stop}", style="dim")
    if embeddings is not None:
        save_embeddings(embeddings, continuation.embedded, [written])
        err.print(f"wrote {embeddings}", style="dim")


def show_samples(
    writer: "TextModel",
    prompt: "Prompt",
    options: "GenerationOptions",
    line: DenoisingLine,
    samples: int,
    *,
    as_json: bool,
    embeddings: Path | None,
) -> None:
    """Print alternatives: side by side in a terminal that is wide enough, else below one another."""
    from lexalcm.generate.batch.embedding_file import save_embeddings
    from lexalcm.generate.batch.sentence_report import text_report

    seeds = range(prompt.seed, prompt.seed + samples)
    texts = writer.write_all([prompt.with_seed(seed) for seed in seeds], options)
    if not as_json:
        err.print(f"{description(writer, options)}, seeds {seeds[0]} to {seeds[-1]}", style="dim")
    written: list[list[WrittenSentence]] = [[] for _ in seeds]
    with line:
        for number, sentences in enumerate(texts, start=2):
            line.clear(number)
            for sample, sentence in sentences:
                written[sample].append(sentence)
    if as_json:
        reports = [text_report(text, texts.embedded[0], stop) for text, stop in zip(written, texts.stops, strict=True)]
        answers = [{"seed": seed, **report} for seed, report in zip(seeds, reports, strict=True)]
        _print_json(writer, prompt, options, samples=answers)
    else:
        _print_side_by_side(written, seeds, texts.stops)
    if embeddings is not None:
        save_embeddings(embeddings, texts.embedded[0], written)
        err.print(f"wrote {embeddings}", style="dim")


def _print_side_by_side(
    written: "Sequence[Sequence[WrittenSentence]]", seeds: Sequence[int], stops: Sequence[str | None]
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if out.is_terminal and out.width // len(seeds) >= NARROWEST_COLUMN:
        table = Table(box=box.SIMPLE_HEAD, leading=1, expand=True)
        for seed, stop in zip(seeds, stops, strict=True):
            table.add_column(f"seed {seed}", footer=Text(f"stopped: {stop}", style="dim"), ratio=1, overflow="fold")
        table.show_footer = True
        for row in zip_longest(*written):
            table.add_row(*(Text(sentence.text if sentence else "") for sentence in row))
        out.print(table, soft_wrap=False)
        return
    for place, (seed, text) in enumerate(zip(seeds, written, strict=True)):
        out.print(f"{'' if not place else chr(10)}[seed {seed}]")
        for sentence in text:
            out.print(sentence.text)


def show_guesses(
    writer: "TextModel", prompt: "Prompt", options: "GenerationOptions", line: DenoisingLine, *, as_json: bool
) -> None:
    """Print the model's guess of every sentence beside the actual one."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    with line:
        guesses = writer.guess_each(prompt, options)
    if as_json:
        _print_json(writer, prompt, options, seed=prompt.seed, guesses=[guess.__dict__ for guess in guesses])
        return
    table = Table("", box=box.SIMPLE_HEAD, leading=1)
    for name in ("actual sentence", "model's guess"):
        table.add_column(name, overflow="fold")  # where there are no spaces, break anywhere
    table.add_column("squared L2", justify="right")
    table.add_column("cosine", justify="right")
    table.add_row("1", Text(prompt.sentences[0]), "", "", "")
    for number, guess in enumerate(guesses, start=2):
        table.add_row(
            str(number), Text(guess.actual), Text(guess.guess), f"{guess.squared_l2:.1f}", f"{guess.cosine:.3f}"
        )
    out.print(table, soft_wrap=False)
    err.print(f"{description(writer, options)}, seed {prompt.seed}; squared L2 in normalized space", style="dim")


def description(writer: "TextModel", options: "GenerationOptions") -> str:
    """Which model, and how it generates."""
    config = writer.model.config
    name = f"{writer.folder}: {config.preset or config.architecture}"
    if config.diffusion is None:
        return name
    return f"{name}, {options.sampler} in {options.steps} steps, guidance {options.guidance_scale:g}"


def _print_json(writer: "TextModel", prompt: "Prompt", options: "GenerationOptions", **result: Any) -> None:
    from lexalcm.generate.batch.sentence_report import SPACE

    about = {
        "model": str(writer.folder),
        "lang": prompt.lang,
        "to": prompt.to,
        "options": options.model_dump(mode="json"),
        "space": SPACE,
        "prompt": prompt.sentences,
    }
    print_json({**about, **result})
