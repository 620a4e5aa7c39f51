"""The annotations of a document in files of other layouts: `source` of a pair, `turns` and `targets` of a conversation.

Fields of other data sets may have these names too: a field of another type is not an annotation and is ignored. One of
the right type with an impossible value is an error, so that no document loses its annotations silently.
"""

from collections.abc import Callable, Mapping
from typing import Any

from lexalcm.text.chat import ROLES

ANNOTATION_TYPES: dict[str, type] = {"source": int, "turns": list, "targets": list}
"""Their names and types, in the order in which a document has them."""


def read_annotations_of(given: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The annotations among the fields of a document of `n` sentences.

    Raises:
        ValueError: annotations that such a document cannot have.
    """
    annotations = {name: given[name] for name, kind in ANNOTATION_TYPES.items() if type(given.get(name)) is kind}
    for name, value in annotations.items():
        if not _IS_POSSIBLE[name](value, n):
            raise ValueError(f"{name} {str(value)[:60]} of {n} sentences")
    return annotations


def _is_source(value: int, n: int) -> bool:
    return 0 <= value <= n


def _is_turns(value: list[Any], n: int) -> bool:
    before = -1
    for turn in value:
        if not (isinstance(turn, list) and len(turn) == 2 and turn[0] in ROLES and type(turn[1]) is int):
            return False
        if not before < turn[1] < n:
            return False
        before = turn[1]
    return True


def _is_targets(value: list[Any], n: int) -> bool:
    before = 0
    for span in value:
        if not (isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span)):
            return False
        if not before <= span[0] < span[1] <= n:
            return False
        before = span[1]
    return True


_IS_POSSIBLE: dict[str, Callable[[Any, int], bool]] = {"source": _is_source, "turns": _is_turns, "targets": _is_targets}
