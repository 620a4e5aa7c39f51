"""A text written by turns: what the user types and what the model makes of it become one context.

The commands of `lcm infer --interactive` are here too; printing, and what Ctrl-C does, is the command line's.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lexalcm.errors import ConfigError, UserError
from lexalcm.generate.continuation import WrittenSentence, embed
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.prompts.prompt import Prompt, check_languages, check_seed
from lexalcm.generate.text import TextModel
from lexalcm.io.atomic import check_output_file, write_text
from lexalcm.option import option_fields
from lexalcm.text.languages import find_language

HELP = """\
/set NAME VALUE   change an option: steps, guidance, max-sentences, seed, lang, to, ...; VALUE - goes back
/options          show the options
/reset            forget the text so far
/save FILE        keep the text: FILE.txt, or FILE.json with who wrote what (a conversation as messages)
/help             show this
/quit             end, as Ctrl-D does
An empty line lets the model write on. Ctrl-C stops the sentence that is being made."""


@dataclass(frozen=True)
class SessionSentence:
    """A sentence of the text so far."""

    text: str
    by_model: bool
    concept: Tensor  # as the model reads it, [D]
    opens: str | None = None  # in a conversation, of what stands for a role: whose turn begins


class Session:
    """The text so far and the options.

    Args:
        writer: model and codec.
        changes: of the model's own generation options; None changes nothing.
        seed: of the noise of every turn.
        lang: of what is typed; none: seen from its script.
        to: the language to write; none: that of what was typed last.
    """

    chat = False
    """Whether the model answers instead of continuing."""

    def __init__(
        self,
        writer: TextModel,
        changes: dict[str, Any],
        *,
        seed: int = 0,
        lang: str | None = None,
        to: str | None = None,
    ) -> None:
        self.writer = writer
        self.changes = changes
        self.seed = seed
        self.lang = lang
        self.to = to
        self.sentences: list[SessionSentence] = []
        self._last_to: str | None = None
        writer.options(**changes)

    @property
    def options(self) -> GenerationOptions:
        """The options of the next turn."""
        return self.writer.options(**self.changes)

    def say(self, text: str) -> Iterator[WrittenSentence]:
        """Add a text and let the model continue; an empty one adds nothing. What is made becomes part of the text.

        Raises:
            UserError: nothing to continue, or too long a text.
            CodecError: a language that the codec does not have.
        """
        options = self.options
        if text.strip():
            typed = self.writer.prompt(text, options, lang=self.lang, to=self.to)
            self._check_length(len(self.sentences) + len(typed.sentences), options)
            [concepts] = embed(self.writer.codec, [(typed.sentences, typed.lang)])
            self.sentences += self._turn(typed.sentences, concepts, typed.lang)
            self._last_to = typed.to
        elif not self.sentences:
            raise UserError("there is no text to continue: type a sentence")
        to = self.to or self._last_to or ""
        context = torch.stack([one.concept for one in self.sentences])
        prompt = Prompt(tuple(one.text for one in self.sentences), to, to, self.seed, context, answers=self.chat)
        self._check_length(len(self.sentences), options)
        check_languages(self.writer.codec, prompt)
        return self._keep(self.writer.write(prompt, options))

    def _turn(self, sentences: tuple[str, ...], concepts: Tensor, lang: str) -> list[SessionSentence]:
        """What is added to the text where the user has typed sentences of a language, with these concepts."""
        return [SessionSentence(text, False, concept) for text, concept in zip(sentences, concepts, strict=True)]

    def _keep(self, sentences: Iterator[WrittenSentence]) -> Iterator[WrittenSentence]:
        for sentence in sentences:
            self.sentences.append(SessionSentence(sentence.text, True, sentence.context))
            yield sentence

    def _check_length(self, sentences: int, options: GenerationOptions) -> None:
        if sentences > options.max_prompt:
            raise UserError(
                f"the text would have {sentences:,} sentences, more than max_prompt={options.max_prompt}: "
                "forget it with /reset, or allow more with /set max-prompt"
            )

    def command(self, line: str) -> str:
        """Obey a line that begins with a slash, and say what was done.

        Raises:
            UserError: an unknown command, or one that cannot be obeyed.
        """
        name, _, rest = line.partition(" ")
        match name:
            case "/help":
                return HELP
            case "/reset":
                self.sentences.clear()
                return "forgotten: the next line begins a new text"
            case "/options":
                shown = {"seed": self.seed, "lang": self.lang or "as seen", "to": self.to or "as typed"}
                return "  ".join(f"{key} {value}" for key, value in {**self.options.model_dump(), **shown}.items())
            case "/set":
                return self.set(*rest.split(maxsplit=1))
            case "/save":
                return self.save(rest.strip())
        raise UserError(f"unknown command {name}: /help shows what there is")

    def set(self, name: str = "", value: str = "") -> str:
        """Change an option by its name on the command line or in the model's generation config.

        Raises:
            UserError: no such option, or a value that it cannot have; nothing is changed then.
        """
        field = name.lstrip("-").replace("-", "_")
        if not field or not value:
            raise UserError("say what to set: /set steps 20")
        given = None if value == "-" else value
        if field == "seed":
            self.seed = 0 if given is None else check_seed(_parsed(given))
        elif field in ("lang", "to"):
            setattr(self, field, find_language(given) if given else None)
        else:
            option = next((one for one in option_fields(GenerationOptions) if field in one.names), None)
            if option is None:
                raise ConfigError(f"no option {name}: /options shows what there is")
            changed = {**self.changes, option.path[-1]: None if given is None else _parsed(given)}
            self.writer.options(**changed)
            self.changes = changed
        return f"{name} is {'as it was at first' if given is None else value}"

    def save(self, path: str) -> str:
        """Write the text so far.

        Raises:
            UserError: no file named, no text yet, or the file cannot be written.
        """
        if not path:
            raise UserError("say where to: /save FILE")
        if not self.sentences:
            raise UserError("there is no text to save yet")
        file = Path(path).expanduser()
        check_output_file(file)
        if file.suffix == ".json":
            options = self.options.model_dump(mode="json")
            about = {"model": str(self.writer.folder), "seed": self.seed, "options": options}
            write_text(file, self._as_json(about) + "\n")
        else:
            write_text(file, "".join(f"{one.text}\n" for one in self.sentences))
        return f"wrote {file}: {sum(one.opens is None for one in self.sentences)} sentences"

    def _as_json(self, about: dict[str, Any]) -> str:
        """The text so far and what it was made with."""
        sentences = [{"text": one.text, "by": "model" if one.by_model else "user"} for one in self.sentences]
        return json.dumps({**about, "sentences": sentences}, indent=2, ensure_ascii=False)


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
