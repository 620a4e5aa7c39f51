"""A conversation: what the user types is a turn, and so is what the model answers; both become one context."""

import json
from typing import Any

from torch import Tensor

from lexalcm.codec.special import SPECIAL_CONCEPTS
from lexalcm.generate.continuation import embed
from lexalcm.generate.sessions.session import Session, SessionSentence
from lexalcm.generate.text import TextModel
from lexalcm.text.chat import ASSISTANT


class ChatSession(Session):
    """A conversation and the options.

    Args:
        writer: model and codec.
        changes: as for `Session`, and so are further options.
        system: the system turn before the conversation, again after `/reset`; none: nothing.
    """

    chat = True

    def __init__(self, writer: TextModel, changes: dict[str, Any], *, system: str | None = None, **given: Any) -> None:
        super().__init__(writer, changes, **given)
        self.system = system
        self._roles = writer.roles

    def _turn(self, sentences: tuple[str, ...], concepts: Tensor, lang: str) -> list[SessionSentence]:
        turns: list[SessionSentence] = []
        if not self.sentences and self.system:
            given = self.writer.prompt(self.system, self.options, lang=lang)
            [concepts_of] = embed(self.writer.codec, [(given.sentences, lang)])
            turns += [self._head("system"), *super()._turn(given.sentences, concepts_of, lang)]
        return [*turns, self._head("user"), *super()._turn(sentences, concepts, lang), self._head(ASSISTANT)]

    def _head(self, role: str) -> SessionSentence:
        return SessionSentence(SPECIAL_CONCEPTS[role], False, self._roles.concepts[role], role)

    def _as_json(self, about: dict[str, Any]) -> str:
        """On one line, with `messages`, which `--chat --input` and `lcm data build --chat` read: a sentence a line."""
        turns: list[tuple[str, list[str]]] = []
        for one in self.sentences:
            if one.opens is not None:
                turns.append((one.opens, []))
            else:
                turns[-1][1].append(one.text)
        messages = [{"role": role, "content": "\n".join(texts)} for role, texts in turns if texts]
        return json.dumps({"messages": messages, **about}, ensure_ascii=False)
