"""Files that are nearly right: what is in them is replaced, left out, doubled or cut."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

HOSTILE: list[Any] = [
    None,
    True,
    "",
    " ",
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "nan",
    "1",
    "１",
    "\ud800",
    "\x00",
    "\x1b]0;title\x07",
    "\u202ecod",
    "𠮷",
    "[bold]",
    "x" * 5000,
    "../x",
    "/etc/passwd",
    "a/b",
    ".",
    "auto",
    "none",
    [],
    [[]],
    {},
    {"": {}},
    [None, "a", 1],
]
"""Values that programs trip over."""

DEEP = "@deep"
"""Stands for a hundred thousand brackets, which no JSON writer can write."""

PIECES = [
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\n",
    b"\r",
    b'"',
    b"{",
    b"}",
    b"[" * 5000,
    b"\\ud800",
    b"\x1b[2J",
    b"-",
]


def trees(tree: Any) -> st.SearchStrategy[Any]:
    """A JSON tree with one to three of its values, or their keys, changed."""

    @st.composite
    def changed(draw: st.DrawFn) -> Any:
        result = copy.deepcopy(tree)
        for _ in range(draw(st.integers(1, 3))):
            places = list(_places(result))
            if not places:
                break
            parent, key = places[draw(st.integers(0, len(places) - 1))]
            what = draw(st.sampled_from(["replace", "replace", "drop", "rename", "swap", "deep"]))
            if what == "replace":
                parent[key] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
            elif what == "drop":
                del parent[key]
            elif what == "rename" and isinstance(parent, dict):
                parent[draw(st.sampled_from(["x", "", f"{key}s", "\x1b[31m"]))] = parent.pop(key)
            elif what == "deep":
                parent[key] = DEEP
            else:
                other, other_key = places[draw(st.integers(0, len(places) - 1))]
                if other_key in other if isinstance(other, dict) else other_key < len(other):
                    parent[key] = copy.deepcopy(other[other_key])
        return result

    return changed()


def json_bytes(tree: Any) -> bytes:
    """A tree as JSON, which may hold what JSON has not: NaN, halves of characters, a hundred thousand brackets."""
    text = json.dumps(tree, ensure_ascii=True)
    return text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000).encode()


def changed_bytes(data: bytes) -> st.SearchStrategy[bytes]:
    """A file cut, with bytes changed, put in or taken out."""

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        result = bytearray(data)
        for _ in range(draw(st.integers(1, 4))):
            place = draw(st.integers(0, len(result)))
            what = draw(st.sampled_from(["flip", "insert", "cut", "remove", "double"]))
            length = draw(st.sampled_from([1, 2, 8, 100, 512]))
            if what == "flip" and place < len(result):
                result[place] ^= draw(st.integers(1, 255))
            elif what == "insert":
                result[place:place] = draw(st.sampled_from(PIECES))
            elif what == "cut":
                del result[place:]
            elif what == "remove":
                del result[place : place + length]
            else:
                result[place:place] = result[place : place + length]
        return bytes(result)

    return changed()


def lines(rows: list[Any]) -> st.SearchStrategy[bytes]:
    """JSON lines of which some are changed, as a whole or within."""
    texts = st.tuples(*(st.one_of(st.just(json_bytes(row)), trees(row).map(json_bytes)) for row in rows))
    joined = texts.map(lambda parts: b"\n".join(parts) + b"\n")
    return st.one_of(joined, joined.flatmap(changed_bytes))


def _places(tree: Any) -> Any:
    """Every (container, key) of a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)
