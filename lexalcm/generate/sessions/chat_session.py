"""A conversation: what the user types is a turn, and so is what the model answers; both become one context."""

import json
from typing import Any

from torch import Tensor

from lexalcm.codec.special import SPECIAL_CONCEPTS
from lexalcm.generate.continuation import embed
from lexalcm.generate.sessions.session import Said, Session
from lexalcm.generate.text import TextModel
from lexalcm.text.chat import ASSISTANT


class ChatSession(Session):
    """A conversation and the options.

    Args:
        writer: model and codec.
        changes: as for `Session`, and so are further options.
        system: what the assistant is told before the conversation, again after `/reset`; none: nothing.
    """

    chat = True

    def __init__(self, writer: TextModel, changes: dict[str, Any], *, system: str | None = None, **given: Any) -> None:
        super().__init__(writer, changes, **given)
        self.system = system
        self._roles = writer.roles

    def _turn(self, sentences: tuple[str, ...], concepts: Tensor, lang: str) -> list[Said]:
        turns: list[Said] = []
        if not self.said and self.system:
            told = self.writer.prompt(self.system, self.options, lang=lang)
            [concepts_of] = embed(self.writer.codec, [(told.sentences, lang)])
            turns += [self._head("system"), *super()._turn(told.sentences, concepts_of, lang)]
        return [*turns, self._head("user"), *super()._turn(sentences, concepts, lang), self._head(ASSISTANT)]

    def _head(self, role: str) -> Said:
        return Said(SPECIAL_CONCEPTS[role], False, self._roles.concepts[role], role)

    def _as_json(self, about: dict[str, Any]) -> str:
        """On one line, with `messages`, which `--chat --input` and `lcm data build --chat` read: a sentence a line."""
        spoken: list[tuple[str, list[str]]] = []
        for one in self.said:
            if one.opens is not None:
                spoken.append((one.opens, []))
            else:
                spoken[-1][1].append(one.text)
        messages = [{"role": role, "content": "\n".join(texts)} for role, texts in spoken if texts]
        return json.dumps({"messages": messages, **about}, ensure_ascii=False)
