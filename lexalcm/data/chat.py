"""Conversations: read from the layouts that they are published in, and written down as concepts.

    {"messages": [{"role": "user", "content": "..."}, ...]}             OpenAI; content may be a list of text parts
    {"conversations": [{"from": "human", "value": "..."}, ...]}         ShareGPT
    {"prompt": "...", "completion": "..."}                              texts, or lists of messages
    {"instruction": "...", "input": "...", "output": "..."}             Alpaca; input may be missing or empty

Any of them may have a field `system` with the text of a system turn that comes first.

A turn becomes the special concept of its role and then its sentences. It ends where the next role's concept stands, or
with the conversation, where training appends end of text. Targets are the sentences of the assistant and the concept
behind the last of them: so a model learns what to say and when to stop. The assistant's own role concept is none, it is
given when a model is asked to answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lexalcm.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
"""Names of special concepts, each of which opens turns."""

ASSISTANT = "assistant"

_ROLE_NAMES = {role: role for role in ROLES} | {
    "developer": "system",
    "function": "tool",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
_LAYOUTS = ("messages", "conversations", "prompt and completion", "instruction and output")
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    role: str
    """One of `ROLES`."""
    text: str


def read_turns(record: Mapping[str, Any], where: str) -> tuple[list[Turn], set[str]]:
    """The turns of a conversation in any known layout, and the fields that they are from.

    Args:
        record: a JSON object or a row of parquet.
        where: file and line, for messages, e.g. `chats.jsonl:3: `.

    Raises:
        DataError: another layout, an unknown role, or content that is no text.
    """
    fields = {name for name, value in record.items() if value is not None}
    if "messages" in fields:
        turns, used = _messages(record["messages"], "messages", where), {"messages"}
    elif "conversations" in fields:
        turns, used = _messages(record["conversations"], "conversations", where), {"conversations"}
    elif {"prompt", "completion"} <= fields:
        asked, answered = (
            _messages(record[name], name, where)
            if isinstance(record[name], list)
            else [Turn(role, _text(record[name], name, where))]
            for name, role in (("prompt", "user"), ("completion", ASSISTANT))
        )
        turns, used = asked + answered, {"prompt", "completion"}
    elif {"instruction", "output"} <= fields:
        asked_for = [_text(record.get(name), name, where) for name in ("instruction", "input")]
        question = "\n".join(text for text in asked_for if text.strip())
        turns = [Turn("user", question), Turn(ASSISTANT, _text(record["output"], "output", where))]
        used = {"instruction", "input", "output"}
    else:
        found = ", ".join(record) or "none"
        raise DataError(f"{where}no conversation in a known layout ({'; '.join(_LAYOUTS)}): its fields are {found}")
    if isinstance(record.get("system"), str) and not (turns and turns[0].role == "system"):
        return [Turn("system", record["system"]), *turns], used | {"system"}
    return turns, used


def chat_document(
    turns: Sequence[Turn], said: Sequence[Sequence[str]], role_sentences: Mapping[str, str]
) -> dict[str, Any] | None:
    """A conversation as a data set keeps it: `sentences` with those of the roles among them, `turns`, `targets`.

    Args:
        turns: in their order; those without a sentence are left out.
        said: the sentences of each.
        role_sentences: the sentence of each role's special concept.

    Returns:
        None if no assistant says anything: there would be nothing to learn.
    """
    sentences: list[str] = []
    starts: list[list[Any]] = []
    targets: list[list[int]] = []
    for turn, spoken in zip(turns, said, strict=True):
        if not spoken:
            continue
        if starts and starts[-1][0] == ASSISTANT:
            targets[-1][1] += 1  # this turn's role ends the answer before it
        starts.append([turn.role, len(sentences)])
        sentences += [role_sentences[turn.role], *spoken]
        if turn.role == ASSISTANT:
            targets.append([starts[-1][1] + 1, len(sentences)])
    return {"sentences": sentences, "turns": starts, "targets": targets} if targets else None


def _messages(messages: Any, field: str, where: str) -> list[Turn]:
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise DataError(f"{where}field {field!r} is no list of messages")
    turns = []
    for number, message in enumerate(messages, start=1):
        name = message.get("role", message.get("from"))
        place = f"{where}message {number}: "
        if not isinstance(name, str):
            raise DataError(f"{place}it has no role: write role and content, or from and value")
        role = _ROLE_NAMES.get(name.lower())
        if role is None:
            raise DataError(f"{place}unknown role {name!r}: known are {', '.join(_ROLE_NAMES)}")
        turns.append(Turn(role, _text(message.get("content", message.get("value")), "content", place)))
    return turns


def _text(content: Any, field: str, where: str) -> str:
    """The text of a message: none where it only calls a tool."""
    if content is None:
        return ""
    if isinstance(content, list):
        return "\n".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise DataError(f"{where}field {field!r} holds {type(content).__name__}, not text")
    return content


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
        raise DataError(f"{where}a content part of the type {kind!r} cannot be read, only text")
    return str(part["text"])
