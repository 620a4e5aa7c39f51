"""YAML out of files and from the command line: whatever is wrong with it is one line that says where.

PyYAML raises anything on text that looks like a number or a date and is none, takes the second of two equal keys
without a word, and gives trees that hold themselves.
"""

from collections.abc import Iterable
from typing import Any

import yaml


class YAMLTextError(ValueError):
    """What is wrong, after the line: `line 3: could not find expected ':'`."""


def parse_yaml(text: str | bytes) -> Any:
    """Read YAML text, of plain values only.

    Raises:
        YAMLTextError: it is none, nests too deep, holds itself, a key twice, or a value that is not of its kind.
    """
    try:
        tree = yaml.load(text, Loader=_Loader)
        _check_ends(tree, set(), [])
        return tree
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f"line {mark.line + 1}: "
        raise YAMLTextError(f"{where}{error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise YAMLTextError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise YAMLTextError("nested too deep") from error


class _Loader(yaml.SafeLoader):
    """The safe loader, with an error of its own for what no constructor can make anything of."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, AttributeError, LookupError, TypeError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(None, None, f"this is no {kind}", node.start_mark) from error

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in keys:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} comes twice", key.start_mark)
                keys.add(key.value)
        return node


def _check_ends(tree: Any, whole: set[int], above: list[int]) -> None:
    """Raise `YAMLTextError` where a tree holds itself; `whole` are the parts that are known not to."""
    if not isinstance(tree, dict | list | set | tuple) or id(tree) in whole:
        return
    if id(tree) in above:
        raise YAMLTextError("it holds itself")
    parts: Iterable[Any] = [*tree, *tree.values()] if isinstance(tree, dict) else tree
    for part in parts:
        _check_ends(part, whole, [*above, id(tree)])
    whole.add(id(tree))
