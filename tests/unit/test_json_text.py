import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexalcm.json_text import JSONError, parse_json

TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)


@given(TREES, st.booleans(), st.booleans())
def test_json_is_read_as_it_was_written(tree, escaped: bool, strict: bool) -> None:
    text = json.dumps(tree, ensure_ascii=escaped, indent=1)
    assert parse_json(text, unique_keys=strict, comments=strict) == tree
    assert parse_json(text.encode()) == tree


@given(st.text() | st.binary())
def test_any_text_is_json_or_an_error_with_a_line(text: str | bytes) -> None:
    try:
        parse_json(text, unique_keys=True, comments=True)
    except JSONError as error:
        found = str(error)
    else:
        return
    assert re.match(r"line \d+: .", found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n" + "[" * 100_000, "line 2: nested too deep"),
        ('{"[[": 1,\n"a":' * 100_000, "line 100000: nested too deep"),
        ("[1,\n2,\n" + "1" * 5000 + "]", "line 3: a number too long"),
        ('{"a":\n"\\ud83d"}', "line 2: half of a character"),
        ('["\\uDE00"]', "line 1: half of a character"),
        ('["\\ud83d\\ude00",\n1,]', "line 2: illegal trailing comma"),
        (b"[\n\n\xff]", "line 3: not UTF-8"),
        ("", "line 1: expecting value"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str | bytes, says: str) -> None:
    if says.endswith("comma"):
        says = says.split(":")[0]  # Python's own words for it change
    with pytest.raises(JSONError, match=f"^{says}"):
        parse_json(text)


def test_keys_that_come_twice() -> None:
    text = '{"a": 1,\n"b": {"c": 1, "a": 2},\n"a": 3}'
    assert parse_json(text)["a"] == 3
    with pytest.raises(JSONError, match=r'^line 3: "a" comes twice$'):
        parse_json(text, unique_keys=True)


def test_comments_are_for_those_who_allow_them() -> None:
    text = '{ // one\n"a//": "# no /* */", # two\n/* three\n*/ "b": [1]}'
    assert parse_json(text, comments=True) == {"a//": "# no /* */", "b": [1]}
    with pytest.raises(JSONError, match=r"^line 1: "):
        parse_json(text)
    with pytest.raises(JSONError, match=r"^line 4: "):
        parse_json(text.replace("[1]", "[1"), comments=True)
