import gzip
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lexalcm.data.sources.corpus import Document, find_sources, read_documents
from lexalcm.errors import DataError, UserError
from lexalcm.text.languages import check_language, iso_code


def read(*paths: Path | str, **options: Any) -> list[Document]:
    return list(read_documents(find_sources(paths), **options))


def test_blank_lines_divide_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf\r\nOne.\r\nMore.\r\n \r\n\r\nTwo.")
    assert [(d.id, d.text, d.lang) for d in read(tmp_path / "a.txt")] == [
        ("a.txt#0", "One.\r\nMore.\r\n", "eng_Latn"),
        ("a.txt#1", "Two.", "eng_Latn"),
    ]
    [whole] = read(tmp_path / "a.txt", documents="file", lang="deu_Latn")
    assert (whole.id, whole.lang) == ("a.txt", "deu_Latn")
    assert whole.text.split() == ["One.", "More.", "Two."]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_json_lines(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"id": 7, "title": "T", "lang": "jpn_Jpan", "body": "はい。", "year": 1934, "tags": ["a"], "score": None},
        {"body": "Text."},
    ]
    data = "\n\n".join(json.dumps(row) for row in rows).encode()
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(data))
    assert read(path, text_field="body", lang="fra_Latn") == [
        Document("7", "jpn_Jpan", "はい。", "T", {"year": 1934}),
        Document(f"{path.name}:3", "fra_Latn", "Text."),
    ]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".ndjson", ".json", ".JSON"])
def test_json_by_any_name_in_any_layout(tmp_path: Path, kind: str, packed: str) -> None:
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[packed]
    rows = [{"text": "One.", "year": 1}, {"text": "Two."}]
    name = f"a{kind}{packed}"
    for content in ("\n".join(map(json.dumps, rows)), json.dumps(rows), json.dumps(rows, indent=2)):
        (tmp_path / name).write_bytes(compress(content.encode()))
        for path in (tmp_path, tmp_path / name):
            assert read(path) == [
                Document(f"{name}:1", "eng_Latn", "One.", "", {"year": 1}),
                Document(f"{name}:2", "eng_Latn", "Two."),
            ]


def test_zstandard_frames_one_after_another(tmp_path: Path) -> None:
    compress = zstandard.ZstdCompressor().compress
    (tmp_path / "a.txt.zst").write_bytes(compress(b"One.\n\nTw") + compress(b"o.\n"))
    assert [d.text for d in read(tmp_path / "a.txt.zst")] == ["One.\n", "Two.\n"]


def test_parquet(tmp_path: Path) -> None:
    table = pyarrow.table({"text": ["One.", "Two."], "id": ["x", None], "lang": ["deu_Latn", None], "n": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path) == [
        Document("x", "deu_Latn", "One.", "", {"n": 1}),
        Document("a.parquet:2", "eng_Latn", "Two.", "", {"n": 2}),
    ]


def not_utf8(texts: list[bytes]) -> pyarrow.Array:
    """Text as Arrow reads it from files whose writer did not check."""
    binary = pyarrow.array(texts, pyarrow.binary())
    return pyarrow.StringArray.from_buffers(len(binary), *binary.buffers()[1:])


def test_parquet_columns_that_nobody_asked_for_are_not_read(tmp_path: Path) -> None:
    deep = pyarrow.list_(pyarrow.struct([("at", pyarrow.timestamp("ns"))]))
    table = pyarrow.table(
        {
            "text": ["One.", "Two."],
            "date": pyarrow.array([1_700_000_000_000_000_001] * 2, pyarrow.timestamp("ns")),
            "took": pyarrow.array([5, 5], pyarrow.duration("ns")),
            "deep": pyarrow.array([[{"at": 1}], None]).cast(deep),
            "vectors": pyarrow.array([[1.0, 2.0], [3.0]]),
            "a.b": ["x", "y"],
            "half": pyarrow.array(np.array([1, 2], np.float16)),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    metadata = pyarrow.parquet.read_metadata(tmp_path / "a.parquet").row_group(0)
    for i in range(metadata.num_columns):
        column = metadata.column(i)
        if column.path_in_schema.partition(".")[0] in {"date", "took", "deep", "vectors"}:
            start = column.dictionary_page_offset or column.data_page_offset
            content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    (tmp_path / "a.parquet").write_bytes(content)  # whoever reads these columns fails
    assert [(document.text, document.metadata) for document in read(tmp_path)] == [
        ("One.", {"a.b": "x", "half": 1.0}),
        ("Two.", {"a.b": "y", "half": 2.0}),
    ]


def test_parquet_about_documents_may_be_of_any_type(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "text": pyarrow.array(["One."], pyarrow.string_view()),
            "id": pyarrow.array([1_700_000_000_000_000_001], pyarrow.timestamp("ns")),
            "title": pyarrow.array(["T"]).dictionary_encode(),
            "lang": pyarrow.array(["fr"]).dictionary_encode(),
            "topic": pyarrow.array(["sea"]).dictionary_encode(),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    [document] = read(tmp_path)
    assert document == Document("2023-11-14 22:13:20.000000001", "fra_Latn", "One.", "T", {"topic": "sea"})


@pytest.mark.parametrize("view", [False, True])
def test_parquet_that_is_not_utf8(tmp_path: Path, view: bool) -> None:
    good, bad = not_utf8([b"One.", b"Two."]), not_utf8([b"x", b"caf\xe9"])
    if view:
        bad = bad.cast(pyarrow.string_view())
    pyarrow.parquet.write_table(pyarrow.table({"text": good, "url": bad, "title": bad}), tmp_path / "a.parquet")
    first, second = read(tmp_path)
    assert (first.title, first.metadata) == ("x", {"url": "x"})
    assert (second.title, second.metadata) == ("caf\ufffd", {"url": "caf\ufffd"})
    lists = pyarrow.ListArray.from_arrays(pyarrow.array([0, 1, 2], pyarrow.int32()), bad)
    for text in (bad, lists):
        pyarrow.parquet.write_table(pyarrow.table({"text": text, "url": good}), tmp_path / "a.parquet")
        with pytest.raises(DataError, match=r"a\.parquet: row 2: field 'text' is not UTF-8 \(byte 0xe9\)"):
            read(tmp_path)


def test_a_folder_is_read_recursively_and_sorted(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b/c.TXT", ".hidden/x.txt", "notes.md", "a/.y.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("Text.")
    assert [d.id for d in read(tmp_path)] == ["a/b/c.TXT#0", "a/z.txt#0", "b.txt#0"]


def test_what_is_not_read_of_a_folder_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("LICENSE.txt", "deep/readme.txt.gz", "notes.md", ".hidden", "b.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        UserError, match=r"holds no text to read: .*; 4 files are not read: LICENSE.txt, b.csv, deep/"
    ) as error:
        find_sources([tmp_path / "LICENSE.txt", tmp_path])
    assert "\n" not in str(error.value)
    (tmp_path / "dataset_info.json").write_text(json.dumps({"description": "of all"}, indent=2))
    (tmp_path / "empty.json").write_bytes(b"")
    (tmp_path / "list.json").write_text('["text"]')
    (tmp_path / "a.json").write_text('{"text": "One."}')
    (tmp_path / "license_to_kill.txt").write_text("Two.")
    assert [document.text for document in read(tmp_path)] == ["One.", "Two."]
    assert caplog.messages == [
        f"{tmp_path}: 7 files are not read: "
        "LICENSE.txt, b.csv, dataset_info.json, deep/readme.txt.gz, empty.json, list.json, notes.md"
    ]
    (tmp_path / "LICENSE.txt").write_text("Ours.")
    assert [document.text for document in read(tmp_path / "LICENSE.txt")] == ["Ours."]


def test_json_in_a_folder_is_read_if_it_holds_what_is_asked_for(tmp_path: Path) -> None:
    contents: dict[str, Any] = {
        "text": [{"text": "x"}],
        "body": [{"body": "x"}],
        "pair": {"source": "x", "target": "y"},
        "chat": [{"prompt": "x", "completion": "y"}],
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    given: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["pair.json", "text.json"]),
        ({"text_field": "body"}, ["body.json", "pair.json"]),
        ({"chat": True}, ["chat.json"]),
    ]
    for options, names in given:
        assert [source.name for source in find_sources([tmp_path], **options)] == names
    for name in ("text", "pair", "chat"):
        (tmp_path / f"{name}.json").unlink()
    with pytest.raises(DataError, match=r"body\.json: item 1: no field 'text': choose one with --text-field: body"):
        read(tmp_path)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"One.\n\nTwo.\n")))
    assert [(d.id, d.text) for d in read("-")] == [("stdin#0", "One.\n"), ("stdin#1", "Two.\n")]


def test_lone_surrogates_of_json_do_not_reach_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(r'{"id": "\ud800", "text": "a \udfff b", "note": "\ud8ff"}')
    [document] = read(tmp_path / "a.jsonl")
    json.dumps([document.id, document.text, document.metadata], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt is empty"),
        ("a.txt", b"one\ntw\xe9\n", "a.txt:2: not UTF-8 (byte 0xe9)"),
        ("a.txt", "text".encode("utf-16"), "a.txt:1: not UTF-8"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": oh}\n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", b'["ok"]\n', "a.jsonl: item 1: expected a JSON object"),
        ("a.jsonl", b'{"txt": "ok", "id": 1}\n', "a.jsonl:1: no field 'text': choose one with --text-field"),
        ("a.jsonl", b'{"text": null}\n', "a.jsonl:1: field 'text' holds NoneType, not text"),
        (
            "a.jsonl",
            b'{"text": "ok", "lang": "Japonese"}\n',
            "a.jsonl:1: unknown language 'Japonese': did you mean jpn_Jpan (Japanese)",
        ),
        (
            "a.jsonl",
            b'{"text": "ok", "lang": "qq"}\n',
            "a.jsonl:1: unknown language 'qq': write it like eng_Latn, en or English",
        ),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "ok"}\n' * 99, mtime=0)[:-9],
            "a.jsonl.gz is not a whole compressed file",
        ),
        ("a.jsonl.gz", b"no gzip at all", "cannot read"),
        ("a.txt.zst", zstandard.ZstdCompressor().compress(bytes(range(250)) * 9)[:-4], "not a whole compressed file"),
        ("a.txt.zst", b"no zstandard at all", "not a whole compressed file"),
        ("a.parquet", b"PAR1 or not", "a.parquet is not a readable parquet file"),
        ("a.docx", b"x", "cannot tell what"),
    ],
)  # fmt: skip
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_documents_language_is_named_in_any_way(tmp_path: Path) -> None:
    given = {"ja": "jpn_Jpan", "French": "fra_Latn", "DEU": "deu_Latn", "pt-BR": "por_Latn", "xyz_Latn": "xyz_Latn"}
    given |= {"ger": "deu_Latn", "fre": "fra_Latn", "cmn-Hant": "zho_Hant", "zh_CN": "zho_Hans"}
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": "ok", "lang": lang}) for lang in given))
    assert [document.lang for document in read(tmp_path / "a.jsonl")] == list(given.values())


def test_missing_paths_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        find_sources([tmp_path / "none.txt"])
    with pytest.raises(UserError, match="holds no text to read"):
        find_sources([tmp_path])


@pytest.mark.parametrize(("given", "meant"), [("en", "eng_Latn"), ("ja-JP", "jpn_Jpan"), ("DE", "deu_Latn")])
def test_other_language_codes_are_answered_with_the_right_one(given: str, meant: str) -> None:
    with pytest.raises(DataError, match=f"write {meant}"):
        check_language(given)


@pytest.mark.parametrize("given", ["", "eng", "eng_latn", "english", "Eng_Latn", "eng_Latn\n"])
def test_malformed_language_codes(given: str) -> None:
    with pytest.raises(DataError, match="is not a SONAR code"):
        check_language(given)


@pytest.mark.parametrize(
    ("code", "iso"), [("eng_Latn", "en"), ("ary_Arab", "ar"), ("zho_Hant", "zh"), ("ceb_Latn", "ceb")]
)
def test_iso_codes(code: str, iso: str) -> None:
    assert iso_code(check_language(code)) == iso


NOTHING = st.sampled_from([None, float("nan"), "", " \n", [], {}])
"""Values that say nothing."""


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "title", "lang", "language", "source"), NOTHING)))
def test_what_says_nothing_is_not_there(tmp_path_factory: pytest.TempPathFactory, rest: dict[str, Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "nothing.jsonl"
    file.write_text(json.dumps(rest | {"text": "Text."}))
    [document] = read(file, lang="deu_Latn")
    assert (document.id, document.lang, document.title) == ("nothing.jsonl:1", "deu_Latn", "")
    assert (document.text, document.source) == ("Text.", None)
    file.write_text(json.dumps({"text": None} | rest | {"source": "One.", "target": "Two."}))
    [pair] = read(file)
    assert pair.source is not None
    assert (pair.source.text, pair.text) == ("One.", "Two.")


@pytest.mark.parametrize(
    ("fields", "lang"),
    [
        ({"language": "de", "language_script": "Latn"}, "deu_Latn"),
        ({"language": "deu", "language_script": "Latn"}, "deu_Latn"),
        ({"language": "zh", "language_script": "Hant"}, "zho_Hant"),
        ({"language": "ko", "language_script": "Kore"}, "kor_Hang"),
        ({"language": "German", "lang": ""}, "deu_Latn"),
        ({"language": "German", "lang": None}, "deu_Latn"),
        ({"language": "German", "lang": "fr"}, "fra_Latn"),
    ],
)
def test_a_field_language_is_read_where_there_is_no_lang(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], lang: str
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "ok", **fields}))
    [document] = read(tmp_path / "a.jsonl")
    assert document.lang == lang
    assert document.metadata["language"] == fields["language"]  # as before it was read
    assert caplog.messages == []


def test_a_language_that_is_not_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows: list[dict[str, Any]] = [
        {"language": "Python"},
        {"language": "Python"},
        {"lang_code": "de"},
        {"Lang": "French"},
        {"locale": "en-GB", "slang": "none", "language_score": 0.9},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": "ok"} | row) for row in rows))
    assert {document.lang for document in read(tmp_path / "a.jsonl")} == {"eng_Latn"}
    assert caplog.messages == ["not read as a language: name it lang: language (2), lang_code (1), Lang (1)"]


def test_a_folder_that_may_not_be_looked_into_is_not_an_empty_one(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "open.txt").write_text("The river is wide.")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=f"^cannot read {tmp_path}/closed: Permission denied$"):
        find_sources([tmp_path])


def test_a_name_that_is_not_utf8_is_read_and_shown_as_text(tmp_path: Path) -> None:
    name = os.fsdecode("本.txt".encode("shift_jis"))
    (tmp_path / name).write_text("One.\n\nTwo.\n")
    for path in (tmp_path, tmp_path / name):
        found = list(read_documents(find_sources([path])))
        assert [document.id for document in found] == ["?{.txt#0", "?{.txt#1"]
        assert [document.text for document in found] == ["One.\n", "Two.\n"]
