"""JSON out of files that anybody may have written: whatever is wrong with it is one line that says where.

Python's own reader raises three kinds of errors of the text, one of them without a place, and takes the second of two
equal keys without a word.
"""

import json
import re
import sys
from typing import Any

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|(//[^\n]*|#[^\n]*|/\*.*?\*/)|[\[{]|[\]}]', re.DOTALL)


class JSONError(ValueError):
    """What is wrong, after the line: `line 3: expecting value`."""


def parse_json(text: str | bytes, *, unique_keys: bool = False, comments: bool = False) -> Any:
    """Read JSON text.

    Args:
        text: the text; bytes are UTF-8.
        unique_keys: a key that comes twice in an object is an error.
        comments: there may be comments, `// ...`, `# ...` or `/* ... */`.

    Raises:
        JSONError: it is none, nests too deep, or has a number that is too long or text that is no Unicode.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        if comments:
            text = _TOKEN.sub(lambda match: re.sub(r"[^\n]", " ", match[1]) if match[1] else match[0], text)
        tree = json.loads(text, object_pairs_hook=_object if unique_keys else None)
        if "\\ud" in text or "\\uD" in text:  # half a pair of surrogates, which no file takes
            json.dumps(tree, ensure_ascii=False).encode()
        return tree
    except json.JSONDecodeError as error:
        raise JSONError(f"line {error.lineno}: {error.msg[:1].lower()}{error.msg[1:]}") from error
    except UnicodeDecodeError as error:
        raise JSONError(f"line {_line(error.object, error.start)}: not UTF-8") from error
    except UnicodeEncodeError as error:
        half = re.search(r"\\u[dD][89a-fA-F]", str(text))
        raise JSONError(f"line {_line(str(text), half.start() if half else 0)}: half of a character") from error
    except _TwiceError as error:
        key = json.dumps(error.args[0])
        raise JSONError(f"line {_line(str(text), str(text).rfind(key))}: {key} comes twice") from error
    except RecursionError as error:
        raise JSONError(f"line {_line(str(text), _deepest(str(text)))}: nested too deep") from error
    except ValueError as error:
        digits = re.search(rf"\d{{{sys.get_int_max_str_digits() + 1},}}", str(text))
        raise JSONError(f"line {_line(str(text), digits.start() if digits else 0)}: a number too long") from error


class _TwiceError(Exception):
    """A key comes twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in pairs:
        if key in tree:
            raise _TwiceError(key)
        tree[key] = value
    return tree


def _line(text: str | bytes, place: int) -> int:
    before = text[:place]
    return 1 + (before.count("\n") if isinstance(before, str) else before.count(b"\n"))


def _deepest(text: str) -> int:
    """Where most brackets are open."""
    depth = most = place = 0
    for match in _TOKEN.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > most:
            most, place = depth, match.start()
    return place
