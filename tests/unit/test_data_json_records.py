import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexalcm.data.sources.json_records import json_records
from lexalcm.errors import DataError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=6)


def read(content: bytes) -> list[tuple[int, str, dict[str, Any]]]:
    return list(json_records(io.BytesIO(content), "a.json"))


@settings(deadline=None)
@given(OBJECTS, st.booleans(), st.sampled_from([None, 1]), st.sampled_from(["", "\ufeff", " \n\r\n"]))
def test_an_array_gives_its_items(
    records: list[dict[str, Any]], ascii_only: bool, indent: int | None, start: str
) -> None:
    content = start + json.dumps(records, ensure_ascii=ascii_only, indent=indent)
    found = read(content.encode("utf-8", "surrogatepass"))
    assert [record for _, _, record in found] == records
    assert [number for number, _, _ in found] == list(range(1, len(records) + 1))


@settings(deadline=None)
@given(OBJECTS)
def test_lines_give_their_objects(records: list[dict[str, Any]]) -> None:
    lines = "".join(f"\n{json.dumps(record)}\n" for record in records)
    assert read(lines.encode()) == [(2 * i + 2, f"a.json:{2 * i + 2}: ", record) for i, record in enumerate(records)]


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(), VALUES, min_size=1, max_size=4), max_size=4))
def test_objects_over_many_lines_come_one_after_another(records: list[dict[str, Any]]) -> None:
    content = "\n".join(json.dumps(record, indent=2) for record in records)
    assert [record for _, _, record in read(content.encode())] == records


@pytest.mark.parametrize(
    "content", ['{ "a": 1,\n"b": 2}', '{"a":\n 1, "b": 2}', '{\n"a": 1, "b": 2}', '{"a": 1, "b": 2}']
)
def test_an_object_may_be_broken_anywhere(content: str) -> None:
    assert [record for _, _, record in read(content.encode())] == [{"a": 1, "b": 2}]


def test_a_line_may_be_longer_than_what_is_read_at_a_time() -> None:
    lines = [json.dumps({"text": "," * size}) for size in range(65_500, 65_560)]
    assert [len(record["text"]) for _, _, record in read("\n".join(lines).encode())] == list(range(65_500, 65_560))


@settings(deadline=None)
@given(st.lists(st.text(max_size=60_000), min_size=1, max_size=3))
def test_items_may_be_longer_than_what_is_read_at_a_time(texts: list[str]) -> None:
    records = [{"text": f"\u00e9{text}" * 3} for text in texts]
    content = json.dumps(records, ensure_ascii=False).encode("utf-8", "replace")
    assert [record for _, _, record in read(content)] == json.loads(content)


@settings(deadline=None)
@given(OBJECTS.filter(bool), st.data())
def test_an_array_that_is_cut_is_never_whole(records: list[dict[str, Any]], data: st.DataObject) -> None:
    content = json.dumps(records).encode()
    with pytest.raises(DataError, match=r"^a\.json: item \d+: not valid JSON \("):
        read(content[: data.draw(st.integers(1, len(content) - 1))])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"a": 1}, 7]', "a.json: item 2: expected a JSON object"),
        (b'[{"a": 1}, {"b": oh}]', "a.json: item 2: not valid JSON (Expecting value)"),
        (b'[{"a": 1} {"b": 1}]', "a.json: item 2: not valid JSON (Expecting ',' or ']')"),
        (b'[{"a": 1}] {"b": 1}', "a.json: item 2: not valid JSON (the array has ended, and something follows)"),
        (b'[\n{"a": "x"},\n{"a": "\xe9"}]', "a.json:3: not UTF-8 (byte 0xe9)"),
        (b'{"a": 1}\n[]\n', "a.json:2: expected a JSON object"),
        (b'{\n "a": 1,\n}', "a.json: item 1: not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a.json:1: not valid JSON (Exceeds the limit"),
        (b'[{"a": ' + b"9" * 5000 + b"}]", "a.json: item 1: not valid JSON (Exceeds the limit"),
        (b"[" * 100_000, "a.json: item 1: not valid JSON"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(content: bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        read(content)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
