"""Conversations: read from the layouts that they are published in, and written down as concepts.

    {"messages": [{"role": "user", "content": "..."}, ...]}             OpenAI; content may be a list of text parts
    {"conversations": [{"from": "human", "value": "..."}, ...]}         ShareGPT
    {"prompt": "...", "completion": "..."}                              texts, or lists of messages
    {"instruction": "...", "input": "...", "output": "..."}             Alpaca; input may be missing or empty

Any of them may have a field `system` with the text of a system turn that comes first. Alpaca's may have a `history` of
earlier questions and answers, `[["...", "..."], ...]` or messages. Fields that are null or empty count as missing, also
in messages.

A turn becomes the special concept of its role and then its sentences. It ends where the next role's concept stands, or
with the conversation, where training appends end of text. Targets are the sentences of the assistant and the concept
behind the last of them: so a model learns what to say and when to stop. The assistant's own role concept is none, it is
given when a model is asked to answer. A message with `"weight": 0` is read, not learned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lexalcm.errors import DataError
from lexalcm.text.absent import first_present, is_absent

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
_LAYOUTS = (("messages",), ("conversations",), ("prompt", "completion"), ("instruction", "output"))
CHAT_FIELDS = frozenset({"input", "history", "system"}.union(*_LAYOUTS))
"""Fields of a record that hold what is said, in any layout."""

_MESSAGE_FIELDS = {"role", "from", "content", "value", "weight"}
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    role: str
    """One of `ROLES`."""
    text: str
    learned: bool = True
    """Whether it counts as a target, if the assistant says it."""
    unused: tuple[str, ...] = ()
    """Further fields of the message, such as `tool_calls`, which are not read."""


def is_conversation(record: Mapping[str, Any]) -> bool:
    """Whether a record has the fields of a known layout."""
    return _layout(record) is not None


def read_turns(record: Mapping[str, Any], where: str) -> tuple[list[Turn], set[str]]:
    """The turns of a conversation in any known layout, and the fields that they are from.

    Args:
        record: a JSON object or a row of parquet.
        where: file and line, for messages, e.g. `chats.jsonl:3: `.

    Raises:
        DataError: another layout, an unknown role, a weight that is neither 0 nor 1, or content that is not text.
    """
    match _layout(record):
        case [field]:
            turns, used = _messages(record[field], field, where), {field}
        case ["prompt", "completion"]:
            asked, answered = (
                _messages(record[name], name, where)
                if isinstance(record[name], list)
                else [Turn(role, _text(record[name], name, where))]
                for name, role in (("prompt", "user"), ("completion", ASSISTANT))
            )
            turns, used = asked + answered, {"prompt", "completion"}
        case ["instruction", "output"]:
            asked_for = [_text(record.get(name), name, where) for name in ("instruction", "input")]
            question = "\n".join(text for text in asked_for if text.strip())
            turns = _history(record.get("history"), where)
            turns += [Turn("user", question), Turn(ASSISTANT, _text(record["output"], "output", where))]
            used = {"instruction", "input", "output", "history"}
        case _:
            found = ", ".join(record) or "none"
            layouts = "; ".join(" and ".join(fields) for fields in _LAYOUTS)
            raise DataError(f"{where}no conversation in a known layout ({layouts}): its fields are {found}")
    system = first_present(record, "system")
    if isinstance(system, str) and not (turns and turns[0].role == "system"):
        return [Turn("system", system), *turns], used | {"system"}
    return turns, used


def chat_document(
    turns: Sequence[Turn], segmented: Sequence[Sequence[str]], role_sentences: Mapping[str, str]
) -> dict[str, Any] | None:
    """A conversation as a data set keeps it: `sentences` with those of the roles among them, `turns`, `targets`.

    Args:
        turns: in their order; those without a sentence are left out.
        segmented: the sentences of each.
        role_sentences: the sentence of each role's special concept.

    Returns:
        None if no assistant says anything that is to be learned.
    """
    sentences: list[str] = []
    starts: list[list[Any]] = []
    targets: list[list[int]] = []
    for turn, found in zip(turns, segmented, strict=True):
        if not found:
            continue
        if targets and targets[-1][1] == len(sentences):
            targets[-1][1] += 1  # this turn's role ends the answer before it
        starts.append([turn.role, len(sentences)])
        sentences += [role_sentences[turn.role], *found]
        if turn.role == ASSISTANT and turn.learned:
            targets.append([starts[-1][1] + 1, len(sentences)])
    return {"sentences": sentences, "turns": starts, "targets": targets} if targets else None


def _layout(record: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The fields of the layout that a record has: of several, the first one that says something."""
    for is_there in (lambda value: not is_absent(value), lambda value: value is not None):
        for fields in _LAYOUTS:
            if all(is_there(record.get(field)) for field in fields):
                return fields
    return None


def _messages(messages: Any, field: str, where: str) -> list[Turn]:
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise DataError(f"{where}field {field!r} is not a list of messages")
    turns = []
    for number, message in enumerate(messages, start=1):
        name = first_present(message, "role", "from")
        place = f"{where}message {number}: "
        if not isinstance(name, str):
            raise DataError(f"{place}it has no role: write role and content, or from and value")
        role = _ROLE_NAMES.get(name.lower())
        if role is None:
            raise DataError(f"{place}unknown role {name!r}: known are {', '.join(_ROLE_NAMES)}")
        unused = tuple(key for key, value in message.items() if key not in _MESSAGE_FIELDS and not is_absent(value))
        text = _text(first_present(message, "content", "value"), "content", place)
        turns.append(Turn(role, text, _is_learned(message.get("weight"), place), unused))
    return turns


def _history(history: Any, where: str) -> list[Turn]:
    """The turns before an instruction: pairs of a question and its answer, or messages."""
    if is_absent(history):
        return []
    if isinstance(history, list) and isinstance(history[0], Mapping):
        return _messages(history, "history", where)
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise DataError(f"{where}field 'history' is not a list of pairs [question, answer]")
    sides = ("user", ASSISTANT)
    return [
        Turn(role, _text(text, "history", where)) for pair in history for role, text in zip(sides, pair, strict=True)
    ]


def _is_learned(weight: Any, where: str) -> bool:
    if is_absent(weight):
        return True
    if weight not in (0, 1):
        raise DataError(f"{where}weight {weight!r} is neither 0 (read, not learned) nor 1")
    return bool(weight)


def _text(content: Any, field: str, where: str) -> str:
    """The text of a message: none where it only calls a tool."""
    if is_absent(content):
        return ""
    if isinstance(content, list):
        return "\n".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise DataError(f"{where}field {field!r} holds {type(content).__name__}, not text")
    return content


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = (first_present(part, "type") or "text") if isinstance(part, Mapping) else type(part).__name__
    if kind not in _TEXT_PARTS or "text" not in part or not (isinstance(part["text"], str) or is_absent(part["text"])):
        raise DataError(f"{where}a content part of the type {kind!r} cannot be read, only text")
    return part["text"] or ""
