import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from safetensors.numpy import save_file

from lexalcm.codec.special import kept_sentences
from lexalcm.data.build.one_process import build_dataset, build_from_paths
from lexalcm.data.build.settings import BuildSettings
from lexalcm.data.convert import blocks
from lexalcm.data.convert.convert import convert
from lexalcm.data.convert.settings import ConvertSettings
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.sources.corpus import Document
from lexalcm.errors import ConfigError, UserError
from lexalcm.verify.dataset.check import verify_dataset

DIM = 8
RNG = np.random.default_rng(0)
LENGTHS = [3, 1, 5, 2, 4, 6, 2, 3, 7, 1, 2, 3]
VECTORS = [RNG.standard_normal((n, DIM)).astype(np.float32) for n in LENGTHS]
SENTENCES = [[f"Row {row}, sentence {i}." for i in range(n)] for row, n in enumerate(LENGTHS)]

PLAIN = {"dim": DIM, "validation": 0.0, "dtype": "float32"}


def settings(**given: Any) -> ConvertSettings:
    return ConvertSettings(**(PLAIN | given))


def lists_of_lists(vectors: list[Any]) -> pa.Array:
    return pa.array(
        [None if v is None else [list(map(float, row)) for row in v] for v in vectors], pa.list_(pa.list_(pa.float32()))
    )


def lists_of_fixed(vectors: list[Any]) -> pa.Array:
    return pa.array([[list(map(float, row)) for row in v] for v in vectors], pa.list_(pa.list_(pa.float32(), DIM)))


def large_lists_of_doubles(vectors: list[Any]) -> pa.Array:
    kind = pa.large_list(pa.large_list(pa.float64()))
    return pa.array([[list(map(float, row)) for row in v] for v in vectors], kind)


def lists_of_halves(vectors: list[Any]) -> pa.Array:
    flat = pa.array(np.concatenate(vectors).astype(np.float16).reshape(-1))
    offsets = np.cumsum([0, *(len(v) for v in vectors)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.FixedSizeListArray.from_arrays(flat, DIM))


def bytes_of_singles(vectors: list[Any]) -> pa.Array:
    return pa.array([v.astype("<f4").tobytes() for v in vectors], pa.binary())


def bytes_of_halves(vectors: list[Any]) -> pa.Array:
    return pa.array([v.astype("<f2").tobytes() for v in vectors], pa.large_binary())


def bytes_as_views(vectors: list[Any]) -> pa.Array:
    return pa.array([v.astype("<f4").tobytes() for v in vectors], pa.binary_view())


def bytes_as_categories(vectors: list[Any]) -> pa.Array:
    return bytes_of_singles(vectors).dictionary_encode()


def write_parquet(path: Path, embeddings: pa.Array, sentences: list[Any] = SENTENCES, **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = pa.array(sentences, pa.list_(pa.string()))
    table = pa.table({"text_sentences": text, "text_sentences_sonar_emb": embeddings, **columns})
    pq.write_table(table, path, row_group_size=5)
    return path


def left_out(out: Path) -> list[tuple[str, int, str]]:
    lines = (out / "left-out.jsonl").read_text().splitlines()
    return [(line["file"], line["row"], line["reason"]) for line in map(json.loads, lines)]


def everything(dataset: Dataset) -> dict[str, tuple[str, dict[str, Any], np.ndarray]]:
    """Each document by its id: split, what is written about it, numbers."""
    found = {}
    for name in dataset.manifest.splits:
        split = dataset.split(name)
        for i in range(len(split)):
            document = split.document(i)
            found[document["id"]] = (name, document, np.array(split.embeddings(i)))
    return found


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (lists_of_lists, np.float32),
        (lists_of_fixed, np.float32),
        (large_lists_of_doubles, np.float32),
        (lists_of_halves, np.float16),
        (bytes_of_singles, np.float32),
        (bytes_of_halves, np.float16),
        (bytes_as_views, np.float32),
        (bytes_as_categories, np.float32),
    ],
)
def test_every_way_to_keep_vectors_in_parquet(tmp_path: Path, kind: Any, stored: Any) -> None:
    file = write_parquet(tmp_path / "a.parquet", kind(VECTORS))
    result = convert([file], tmp_path / "out", settings())
    assert result.dataset is not None
    assert (result.rows, result.documents, result.left_out) == (12, 12, {})
    assert not (tmp_path / "out" / "left-out.jsonl").exists()
    found = everything(result.dataset)
    for row, (vectors, sentences) in enumerate(zip(VECTORS, SENTENCES, strict=True)):
        split, document, numbers = found[f"a.parquet:{row}"]
        assert split == "train"
        assert document["sentences"] == sentences
        assert document["lang"] == "eng_Latn"
        np.testing.assert_array_equal(numbers, vectors.astype(stored).astype(np.float32))
    assert result.dataset.manifest.codec.name == "sonar"
    assert [f for f in verify_dataset(tmp_path / "out").findings if f.where.endswith((".tar", ".npz"))] == []


def test_bytes_of_one_length(tmp_path: Path) -> None:
    vectors = [np.full((2, DIM), row + 1, np.float32) for row in range(3)]
    column = pa.array([v.tobytes() for v in vectors], pa.binary(2 * DIM * 4))
    file = write_parquet(tmp_path / "a.parquet", column, [["One.", "Two."]] * 3)
    result = convert([file], tmp_path / "out", settings())
    assert result.dataset is not None
    for row, expected in enumerate(vectors):
        np.testing.assert_array_equal(everything(result.dataset)[f"a.parquet:{row}"][2], expected)


CATEGORIES = pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_list(pa.large_string()),
        pa.list_(pa.string_view()),
        pa.list_(CATEGORIES),
        pa.list_view(pa.string_view()),
    ],
    ids=str,
)
def test_every_way_to_keep_text_in_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    offsets = pa.array(np.cumsum([0, *LENGTHS]).astype(np.int32))
    flat = pa.array([sentence for sentences in SENTENCES for sentence in sentences])
    if kind.value_type == CATEGORIES:
        text = pa.ListArray.from_arrays(offsets, flat.dictionary_encode())
    else:
        text = pa.array(SENTENCES, kind)
    table = pa.table({"text_sentences": text, "text_sentences_sonar_emb": lists_of_lists(VECTORS)})
    pq.write_table(table, tmp_path / "a.parquet")
    result = convert([tmp_path / "a.parquet"], tmp_path / "out", settings())
    assert result.dataset is not None
    found = everything(result.dataset)
    assert [found[f"a.parquet:{row}"][1]["sentences"] for row in range(12)] == SENTENCES


def not_utf8(texts: list[bytes]) -> pa.Array:
    """Text as Arrow reads it from files whose writer did not check."""
    binary = pa.array(texts, pa.binary())
    return pa.StringArray.from_buffers(len(binary), *binary.buffers()[1:])


def test_text_that_is_not_utf8_is_left_out_and_said(tmp_path: Path) -> None:
    flat = not_utf8([f"Caf\u00e9 {i}.".encode("latin-1" if i in (4, 15) else "utf-8") for i in range(sum(LENGTHS))])
    text = pa.ListArray.from_arrays(pa.array(np.cumsum([0, *LENGTHS]).astype(np.int32)), flat)
    titles = not_utf8([b"T\xe9"] * 12)
    for number, sentences in enumerate([text, pa.ListArray.from_arrays(text.offsets, flat.cast(pa.string_view()))]):
        table = {"text_sentences": sentences, "text_sentences_sonar_emb": lists_of_lists(VECTORS), "title": titles}
        pq.write_table(pa.table(table), tmp_path / "a.parquet")
        result = convert([tmp_path / "a.parquet"], tmp_path / str(number), settings())
        assert left_out(tmp_path / str(number)) == [
            ("a.parquet", row, "not UTF-8: its sentences have the byte 0xe9") for row in (2, 5)
        ]
        assert result.dataset is not None
        found = everything(result.dataset)
        assert found["a.parquet:0"][1]["sentences"] == ["Caf\u00e9 0.", "Caf\u00e9 1.", "Caf\u00e9 2."]
        assert found["a.parquet:0"][1]["title"] == "T\ufffd"


def test_times_are_kept_as_text_however_fine(tmp_path: Path) -> None:
    columns = {
        "date": pa.array([1_700_000_000_000_000_001] * 12, pa.timestamp("ns")),
        "took": pa.array([5] * 12, pa.duration("ns")),
        "at": pa.array([5] * 12, pa.time64("ns")),
        "far": pa.array([10**17] * 12, pa.timestamp("ms")),
        "deep": pa.array([[{"date": 1_700_000_000_000_000_001, "n": 1}]] * 12).cast(
            pa.list_(pa.struct([("date", pa.timestamp("ns")), ("n", pa.int64())]))
        ),
    }
    file = write_parquet(tmp_path / "a.parquet", lists_of_lists(VECTORS), **columns)
    result = convert([file], tmp_path / "out", settings(metadata=("all",)))
    assert result.dataset is not None
    metadata = everything(result.dataset)["a.parquet:0"][1]["metadata"]
    assert metadata["date"] == "2023-11-14 22:13:20.000000001"
    assert metadata["at"].startswith("00:00:00")
    assert metadata["deep"] == [{"date": "2023-11-14 22:13:20.000000001", "n": 1}]
    assert isinstance(metadata["took"], str)
    assert isinstance(metadata["far"], str)


NAMED = {
    **{"en": "eng_Latn", "English": "eng_Latn", "German": "deu_Latn", "pt_BR": "por_Latn", "zh-TW": "zho_Hant"},
    **{"fra_Latn": "fra_Latn", "ja": "jpn_Jpan", "": "fin_Latn"},
}


@pytest.mark.parametrize("field", ["lang", "language"])
def test_languages_are_named_in_any_way(tmp_path: Path, field: str) -> None:
    given: list[Any] = [*NAMED, None]
    expected = [*NAMED.values(), "fin_Latn"]
    rows = len(given)
    file = write_parquet(tmp_path / "a.parquet", lists_of_lists(VECTORS[:rows]), SENTENCES[:rows], **{field: given})
    members = []
    for row, lang in enumerate(given):
        members.append((f"{row}.npy", npy(VECTORS[row])))
        members.append((f"{row}.json", json.dumps({"sentences": SENTENCES[row], field: lang}).encode()))
    tar = write_tar(tmp_path / "w.tar", members)
    for source, name in ((file, "a.parquet"), (tar, "w.tar")):
        result = convert([source], tmp_path / "out", settings(lang="fin_Latn"), overwrite=True)
        assert result.dataset is not None
        found = everything(result.dataset)
        assert [found[f"{name}:{row}"][1]["lang"] for row in range(rows)] == expected


def test_what_says_nothing_is_not_there(tmp_path: Path) -> None:
    nothing: dict[str, list[Any]] = {
        "id": [None, "", "  ", "d3"] * 3,
        "title": [float("nan")] * 12,
        "split": ["", None, "train"] * 4,
    }
    file = write_parquet(tmp_path / "a.parquet", lists_of_lists(VECTORS), **nothing)
    members = []
    for row in range(12):
        given = {name: values[row] for name, values in nothing.items()} | {"metadata": None, "sentences": None}
        members.append((f"{row}.npy", npy(VECTORS[row])))
        members.append((f"{row}.json", json.dumps(given | {"text_sentences": SENTENCES[row]}).encode()))
    tar = write_tar(tmp_path / "w.tar", members)
    for source, name in ((file, "a.parquet"), (tar, "w.tar")):
        result = convert([source], tmp_path / "out", settings(validation=0.4), overwrite=True)
        assert result.dataset is not None
        documents = [document for _, document, _ in everything(result.dataset).values()]
        assert {document["id"] for document in documents} == {
            "d3" if row % 4 == 3 else f"{name}:{row}" for row in range(12)
        }
        assert all(document["title"] == "" and document["metadata"] == {} for document in documents)
        assert result.dataset.manifest.splits["validation"].documents > 0


def test_plain_webdataset_reads_what_was_converted(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", lists_of_lists(VECTORS))
    convert([file], tmp_path / "out", ConvertSettings(dim=DIM, validation=0.0, shard_size=4096))
    shards = sorted(map(str, (tmp_path / "out").glob("train-*.tar")))
    assert len(shards) > 1
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
    for sample, vectors, sentences in zip(samples, VECTORS, SENTENCES, strict=True):
        np.testing.assert_array_equal(sample["emb.npy"], vectors.astype(np.float16))
        assert sample["json"]["sentences"] == sentences


def test_rows_that_cannot_be_used_are_listed_by_file_row_and_reason(tmp_path: Path) -> None:
    vectors: list[Any] = [v.copy() for v in VECTORS]
    sentences: list[Any] = [list(s) for s in SENTENCES]
    vectors[0][1, 3] = np.nan
    vectors[2][4, 0] = np.inf
    vectors[3][0] = 0
    vectors[4] = vectors[4][:, :7]
    vectors[5] = [*vectors[5][:5], vectors[5][5][:3]]
    vectors[6], sentences[6] = [], []
    sentences[7] = sentences[7][:2]
    vectors[8] = None
    sentences[10] = ["One.", None]
    vectors[11][0] *= 1e5
    file = write_parquet(tmp_path / "in" / "deep" / "b.parquet", lists_of_lists(vectors), sentences)
    result = convert([tmp_path / "in"], tmp_path / "out", settings(dtype="float16", dim=None))
    assert left_out(tmp_path / "out") == [
        ("deep/b.parquet", 0, "NaN: sentence 1"),
        ("deep/b.parquet", 2, "infinity: sentence 4"),
        ("deep/b.parquet", 3, "zero vector: sentence 0"),
        ("deep/b.parquet", 4, "wrong dimension: 7, expected 8"),
        ("deep/b.parquet", 5, "wrong dimension: 3, expected 8"),
        ("deep/b.parquet", 6, "no sentence"),
        ("deep/b.parquet", 7, "embeddings and sentences differ in number: 3 and 2"),
        ("deep/b.parquet", 8, "embeddings and sentences differ in number: 0 and 7"),
        ("deep/b.parquet", 10, "no sentence: one of its sentences is missing"),
        ("deep/b.parquet", 11, "too large for float16: sentence 0"),
    ]
    assert result.documents == 2
    assert result.rows == 12
    assert sum(result.left_out.values()) == 10
    assert result.left_out["wrong dimension"] == 2
    assert any("left out: 10 rows" in note and "left-out.jsonl" in note for note in result.notes())
    assert result.dataset is not None
    assert sorted(everything(result.dataset)) == ["deep/b.parquet:1", "deep/b.parquet:9"]
    np.testing.assert_array_equal(everything(result.dataset)["deep/b.parquet:9"][2], VECTORS[9].astype(np.float16))
    assert file.exists()


def test_the_same_input_gives_the_same_bytes_whatever_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_parquet(tmp_path / "a.parquet", lists_of_lists(VECTORS))
    convert([file], tmp_path / "a", settings())
    monkeypatch.setattr("lexalcm.data.convert.read_parquet._batch_rows", lambda file: 2)
    convert([file], tmp_path / "b", settings())
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_columns_that_are_known_and_columns_to_keep(tmp_path: Path) -> None:
    file = write_parquet(
        tmp_path / "a.parquet",
        lists_of_lists(VECTORS),
        id=[f"doc-{i}" for i in range(12)],
        lang=["eng_Latn", "jpn_Jpan", "qq"] * 4,
        title=["A", None, "C"] * 4,
        split=["train", "validation", "train", "test"] * 3,
        url=[f"https://example.org/{i}" for i in range(12)],
        score=[0.5] * 11 + [float("nan")],
    )
    result = convert([file], tmp_path / "out", settings(metadata=("url", "score")))
    assert result.left_out == {"unknown language": 4, "neither train nor validation": 2}
    assert result.dataset is not None
    found = everything(result.dataset)
    assert {name: split for name, (split, _, _) in found.items()} == {
        "doc-0": "train",
        "doc-1": "validation",
        "doc-4": "train",
        "doc-6": "train",
        "doc-9": "validation",
        "doc-10": "train",
    }
    assert found["doc-1"][1]["lang"] == "jpn_Jpan"
    assert found["doc-1"][1]["title"] == ""
    assert found["doc-0"][1]["metadata"] == {"url": "https://example.org/0", "score": 0.5}


def test_the_layout_of_lexalcm(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "Train" / "a.parquet", lists_of_lists(VECTORS[:8]), SENTENCES[:8])
    write_parquet(tmp_path / "in" / "Val" / "a.parquet", lists_of_lists(VECTORS[8:]), SENTENCES[8:])
    special = tmp_path / "SpecialConcepts"
    special.mkdir()
    end = RNG.standard_normal((1, 1, DIM)).astype(np.float32)
    save_file({"embedding": end}, special / "EndOfText.safetensors")
    result = convert([tmp_path / "in"], tmp_path / "out", settings(validation=0.5), special=special)
    assert result.dataset is not None
    assert {name: split.documents for name, split in result.dataset.manifest.splits.items()} == {
        "train": 8,
        "validation": 4,
    }
    np.testing.assert_array_equal(result.dataset.special_concepts()["end_of_text"], end.reshape(DIM))
    assert result.special_concepts


def ours(tmp_path: Path, hash_codec: type) -> Dataset:
    documents = [
        Document(f"d{i}", ("eng_Latn", "jpn_Jpan")[i % 2], "".join(f"Text {i} part {j}. " for j in range(1 + i % 5)))
        for i in range(30)
    ]
    return build_dataset(documents, tmp_path / "ours", BuildSettings(codec="hash", dtype="float32")).dataset


def test_our_own_in_another_shape(tmp_path: Path, hash_codec: type, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ours(tmp_path, hash_codec)
    monkeypatch.setattr("lexalcm.data.convert.read_dataset.BLOCK_BYTES", 200)
    result = convert(
        [dataset.path],
        tmp_path / "out",
        ConvertSettings(dtype="float16", shard_size=4096, text=False, keep_languages=("eng_Latn",), min_sentences=2),
    )
    assert result.dataset is not None
    assert result.dataset.manifest.codec == dataset.manifest.codec
    assert result.dataset.codec().fingerprint == hash_codec.fingerprint
    assert len(result.dataset.manifest.splits["train"].shards) > 1
    before = {
        name: (split, document, numbers)
        for name, (split, document, numbers) in everything(dataset).items()
        if document["lang"] == "eng_Latn" and len(numbers) >= 2
    }
    after = everything(result.dataset)
    assert sorted(after) == sorted(before)
    assert result.filtered == 30 - len(before)
    for name, (split, document, numbers) in before.items():
        assert after[name][0] == split
        assert "sentences" not in after[name][1]
        assert after[name][1]["title"] == document["title"]
        np.testing.assert_array_equal(after[name][2], numbers.astype(np.float16))
    assert verify_dataset(tmp_path / "out").ok


def test_there_and_back_through_parquet(tmp_path: Path, hash_codec: type) -> None:
    dataset = ours(tmp_path, hash_codec)
    result = convert([dataset.path], tmp_path / "parquet", ConvertSettings(shard_size=2000), to="parquet")
    assert result.dataset is None
    files = sorted((tmp_path / "parquet").glob("*/*.parquet"))
    assert {file.parent.name for file in files} == {"Train", "Val"}
    schema = pq.read_schema(files[0])
    assert schema.field("text_sentences").type == pa.list_(pa.string())
    assert schema.field("text_sentences_sonar_emb").type == pa.list_(pa.list_(pa.float32(), DIM))
    back = convert([tmp_path / "parquet"], tmp_path / "back", ConvertSettings(dtype="float32"))
    assert back.dataset is not None
    assert back.dataset.manifest.codec == dataset.manifest.codec
    before, after = everything(dataset), everything(back.dataset)
    assert list(after) == list(before)
    for name, (split, document, numbers) in before.items():
        assert after[name][0] == split
        assert after[name][1]["sentences"] == document["sentences"]
        assert after[name][1]["lang"] == document["lang"]
        np.testing.assert_array_equal(after[name][2], numbers)
    np.testing.assert_array_equal(
        back.dataset.special_concepts()["end_of_text"], dataset.special_concepts()["end_of_text"]
    )
    assert kept_sentences(back.dataset.path) == kept_sentences(dataset.path)
    assert kept_sentences(dataset.path)["end_of_text"] == "End of text."


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_a_webdataset_of_arrays(tmp_path: Path) -> None:
    members = []
    for row, (vectors, sentences) in enumerate(zip(VECTORS, SENTENCES, strict=True)):
        members.append((f"sub/{row:03d}.npy", npy(vectors)))
        if row % 2:
            members.append((f"sub/{row:03d}.json", json.dumps({"sentences": sentences, "id": f"j{row}"}).encode()))
        else:
            members.append((f"sub/{row:03d}.txt", "\n".join(sentences).encode()))
    members += [("bad/1.npy", b"nothing"), ("bad/2.txt", b"alone"), ("bad/3.npy", npy(np.zeros(4)))]
    members += [("bad/4.npy", npy(VECTORS[0])), ("bad/4.txt", b"only one"), ("bad/5.npy", npy(VECTORS[0][:, :5]))]
    result = convert([write_tar(tmp_path / "w.tar", members)], tmp_path / "out", settings(dim=None))
    assert [(row, reason.split(":")[0]) for _, row, reason in left_out(tmp_path / "out")] == [
        (12, "not an array"),
        (13, "no array"),
        (14, "not an array of vectors"),
        (15, "embeddings and sentences differ in number"),
        (16, "wrong dimension"),
    ]
    assert result.dataset is not None
    found = everything(result.dataset)
    for row, (vectors, sentences) in enumerate(zip(VECTORS, SENTENCES, strict=True)):
        _, document, numbers = found[f"j{row}" if row % 2 else f"w.tar:sub/{row:03d}"]
        assert document["sentences"] == sentences
        np.testing.assert_array_equal(numbers, vectors)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_tar_that_is_cut_anywhere_is_an_error(tmp_path: Path, compressed: bool) -> None:
    members = []
    for row in range(3):
        members += [(f"{row}.npy", npy(VECTORS[row])), (f"{row}.txt", "\n".join(SENTENCES[row]).encode())]
    whole = write_tar(tmp_path / "w.tar", members).read_bytes()
    end = max(i for i, byte in enumerate(whole) if byte) // 512 * 512 + 512  # where the blocks of zeros begin
    tar = tmp_path / ("w.tar.gz" if compressed else "w.tar")
    for length in range(1, end + 512, 128):
        tar.write_bytes(gzip.compress(whole[:length]) if compressed else whole[:length])
        with pytest.raises(UserError, match=r"w\.tar.* is not a whole tar"):
            convert([tar], tmp_path / "out", settings())
    for length in (end + 512, end + 1024):  # some write one block
        tar.write_bytes(gzip.compress(whole[:length]) if compressed else whole[:length])
        result = convert([tar], tmp_path / "out", settings(), overwrite=True)
        assert result.documents == 3


def test_a_tar_with_rubbish_within_is_an_error(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "w.tar", [("0.npy", npy(VECTORS[0])), ("0.txt", b"One.\nTwo.\nThree.")])
    content = tar.read_bytes()
    second = content.index(b"0.txt")
    tar.write_bytes(content[:second] + b"x" * 512 + content[second + 512 :])
    with pytest.raises(UserError, match="is not a whole tar"):
        convert([tar], tmp_path / "out", settings())


@pytest.mark.parametrize(
    "content",
    [
        b'{"id": "\\ud800", "sentences": ["One.", "Two.", "Three."]}',
        b'{"sentences": ["\\udfff", "Two.", "Three."]}',
        b'{"metadata": ' + b"[" * 100_000,
        b'{"id": ' + b"9" * 5000 + b', "sentences": ["One.", "Two.", "Three."]}',
        b'{"sentences": ["One.", "Two.", "Three."], "lang": "Klingon"}',
        b"\xff",
        b"[]",
    ],
    ids=["half an id", "half a sentence", "deep", "long number", "language", "bytes", "no object"],
)
def test_json_that_cannot_be_used_is_left_out(tmp_path: Path, content: bytes) -> None:
    members = [("0.npy", npy(VECTORS[0])), ("0.json", content)]
    members += [("1.npy", npy(VECTORS[2])), ("1.txt", "\n".join(SENTENCES[2]).encode())]
    result = convert([write_tar(tmp_path / "w.tar", members)], tmp_path / "out", settings())
    assert result.left_out == {"unusable text": 1}
    assert result.dataset is not None
    assert list(everything(result.dataset)) == ["w.tar:1"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folders = tmp_path / "tars", tmp_path / "parquet"
    for folder in folders:
        folder.mkdir()
    members = [("caf\udce9.npy", npy(VECTORS[0])), ("caf\udce9.txt", "\n".join(SENTENCES[0]).encode())]
    members += [("1.npy", npy(VECTORS[1])), ("1.txt", b"One.\nToo many.")]
    write_tar(folders[0] / "caf\udce9.tar", members)
    write_parquet(tmp_path / "a.parquet", lists_of_lists(VECTORS)).rename(folders[1] / "caf\udce9.parquet")
    for folder, first in zip(folders, ("caf?.tar:caf?", "caf?.parquet:0"), strict=True):
        result = convert(list(folder.iterdir()), tmp_path / "out", settings(), overwrite=True)
        assert result.dataset is not None
        np.testing.assert_array_equal(everything(result.dataset)[first][2], VECTORS[0])
        again = convert([folder], tmp_path / "again", settings(), overwrite=True)
        assert again.documents == result.documents


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", lists_of_lists(VECTORS), url=["x"] * 12)
    table = pq.read_table(file)
    for column, given in (("id", {}), ("url", {"metadata": ("url",)})):
        pq.write_table(table.append_column(column, [["y"] * 12]).append_column("id", [["z"] * 12]), file)
        with pytest.raises(UserError, match=f"has the column '{column}' more than once"):
            convert([file], tmp_path / "out", settings(**given))


def test_our_shards_alone_are_a_webdataset(tmp_path: Path, hash_codec: type) -> None:
    dataset = ours(tmp_path, hash_codec)
    result = convert([dataset.path / "train-000000.tar"], tmp_path / "out", settings(codec=str(dataset.path), dim=None))
    assert result.dataset is not None
    assert result.dataset.manifest.codec == dataset.manifest.codec
    before = {name: numbers for name, (split, _, numbers) in everything(dataset).items() if split == "train"}
    after = everything(result.dataset)
    assert sorted(after) == sorted(before)
    assert all(np.array_equal(after[name][2], numbers) for name, numbers in before.items())


PAIRS: list[dict[str, Any]] = [
    {"id": "plain", "text": "No pair. It comes first.", "kind": "note", "score": 0.5},
    {"id": "a", "source": "One here. Two here. Three.", "target": "Short.", "kind": "summary"},
    {"id": "b", "source": ["Is it?", "Say!"], "target": ["It is.", "Yes."]},
]
CHATS: list[dict[str, Any]] = [
    {
        "id": "long",
        "kind": "weather",
        "messages": [
            {"role": "system", "content": "Be brief. Be kind."},
            {"role": "user", "content": "Will it rain?"},
            {"role": "assistant", "content": "Yes. Take a coat."},
            {"role": "user", "content": "Thanks!"},
            {"role": "assistant", "content": "Gladly."},
        ],
    },
    {"id": "short", "prompt": "One and one?", "completion": "Two."},
]


@pytest.fixture(params=["pairs", "chats"])
def marked(request: pytest.FixtureRequest, tmp_path: Path, hash_codec: type) -> Dataset:
    records = PAIRS if request.param == "pairs" else CHATS
    file = tmp_path / "marked.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    build = BuildSettings(codec="hash", validation=0, dtype="float32")
    return build_from_paths([file], tmp_path / "marked", build, chat=request.param == "chats").dataset


def assert_same_documents_and_index(before: Dataset, after: Dataset) -> None:
    documents, others = everything(before), everything(after)
    assert list(documents) == list(others)
    for name, (split, document, numbers) in documents.items():
        assert others[name][0] == split
        assert list(others[name][1].items()) == list(document.items())
        np.testing.assert_array_equal(others[name][2], numbers)
    columns = np.load(before.path / "train.index.npz")
    others_columns = np.load(after.path / "train.index.npz")
    assert {"source", "targets"} & set(columns.files)
    assert set(columns.files) == set(others_columns.files)
    for name in columns.files:
        np.testing.assert_array_equal(columns[name], others_columns[name])
    assert verify_dataset(after.path).ok


@pytest.mark.parametrize("block_bytes", [1, blocks.BLOCK_BYTES])
def test_marks_go_there_and_back_through_parquet(
    marked: Dataset, tmp_path: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lexalcm.data.convert.read_dataset.BLOCK_BYTES", block_bytes)
    convert([marked.path], tmp_path / "parquet", ConvertSettings(), to="parquet")
    has = [set(pq.read_schema(file).names) for file in sorted((tmp_path / "parquet").glob("*/*.parquet"))]
    if "source" in marked.columns("train", ["source"]):
        assert ["source" in names for names in has] == ([False, True] if block_bytes == 1 else [True])
        assert not {"turns", "targets"} & set.union(*has)
    else:
        assert all({"turns", "targets"} <= names and "source" not in names for names in has)
    back = convert([tmp_path / "parquet"], tmp_path / "back", ConvertSettings(dtype="float32"))
    assert back.dataset is not None
    assert back.left_out == {}
    assert_same_documents_and_index(marked, back.dataset)


def test_annotations_are_kept_of_our_shards_alone(marked: Dataset, tmp_path: Path) -> None:
    codec = str(marked.path)
    tar = marked.path / "train-000000.tar"
    result = convert([tar], tmp_path / "out", settings(codec=codec, dim=None))
    assert result.dataset is not None
    assert_same_documents_and_index(marked, result.dataset)


def test_no_text_keeps_the_annotations(marked: Dataset, tmp_path: Path) -> None:
    convert([marked.path], tmp_path / "parquet", ConvertSettings(text=False), to="parquet")
    back = convert([tmp_path / "parquet"], tmp_path / "back", ConvertSettings(text=False)).dataset
    assert back is not None
    for name, (_, document, _) in everything(marked).items():
        expected = {key: value for key, value in document.items() if key != "sentences"}
        assert everything(back)[name][1] == expected


def test_impossible_marks_are_left_out(tmp_path: Path) -> None:
    turns: list[str | None] = [None] * 12
    targets: list[str | None] = [None] * 12
    turns[1], turns[2], turns[3] = "[", '[["user", 5]]', '[["nobody", 0]]'
    targets[4], targets[5], targets[6], targets[7] = "[[0, 9]]", "[[2, 2]]", "{}", "[[1, 3], [2, 3]]"
    turns[8], targets[8] = '[["user", 0], ["assistant", 2]]', "[[3, 7]]"
    sources = [9, *([None] * 8), 1, -1, 3]
    annotations: dict[str, Any] = {"source": pa.array(sources, pa.int64()), "turns": turns, "targets": targets}
    annotations["metadata"] = [None] * 9 + ['{"a": NaN}', None, '{"b": "\\ud800"}']
    file = write_parquet(tmp_path / "a.parquet", lists_of_lists(VECTORS), **annotations)
    pq.write_table(pq.read_table(file).replace_schema_metadata({"lexalcm": "0"}), file)  # as our own writer says it
    result = convert([file], tmp_path / "out", settings())
    bad = [0, 1, 2, 3, 4, 5, 6, 7, 10]
    assert [(row, reason.split(":")[0]) for _, row, reason in left_out(tmp_path / "out")] == [
        *((row, "impossible annotations") for row in bad),
        (11, "impossible metadata"),
    ]
    assert result.dataset is not None
    found = everything(result.dataset)
    assert found["a.parquet:8"][1]["turns"] == [["user", 0], ["assistant", 2]]
    assert found["a.parquet:8"][1]["targets"] == [[3, 7]]
    assert found["a.parquet:9"][1]["source"] == 1
    assert found["a.parquet:9"][1]["metadata"] == {"a": None}
    assert "turns" not in found["a.parquet:9"][1]
    members = []
    for place, source in enumerate((4, 3)):  # named as our own shards name them
        content = json.dumps({"sentences": SENTENCES[0], "source": source}).encode()
        members += [(f"000000-{place:06d}.emb.npy", npy(VECTORS[0])), (f"000000-{place:06d}.json", content)]
    convert([write_tar(tmp_path / "w.tar", members)], tmp_path / "tar", settings())
    assert left_out(tmp_path / "tar") == [("w.tar", 0, "impossible annotations: source 4 of 3 sentences")]


@pytest.mark.parametrize("name", ["7", "000000-000000.vec", "part/000000-000000.emb"])
def test_a_source_in_the_json_of_others_is_no_annotation(tmp_path: Path, name: str) -> None:
    content = json.dumps({"sentences": SENTENCES[0], "source": 2, "targets": [[0, 9]]}).encode()
    members = [(f"{name}.npy", npy(VECTORS[0])), (f"{name.split('.')[0]}.json", content)]
    result = convert([write_tar(tmp_path / "w.tar", members)], tmp_path / "out", settings())
    assert result.dataset is not None
    [(_, document, _)] = everything(result.dataset).values()
    assert not {"source", "targets"} & set(document)
    assert "source" not in result.dataset.columns("train", ["source"])


def test_columns_of_others_that_only_have_the_names_of_ours(tmp_path: Path) -> None:
    file = write_parquet(
        tmp_path / "a.parquet",
        lists_of_lists(VECTORS),
        source=[1] * 12,
        turns=["[]"] * 12,
        metadata=['{"a": 1}', "text", None, "{"] * 3,
    )
    texts = ('{"a": 1}', "text", None, "{")
    for given, expected in [
        ((), [{}] * 4),
        (("all",), [{"source": 1, "turns": "[]", "metadata": text} for text in texts]),
        (("metadata",), [{"metadata": text} for text in texts]),
    ]:
        result = convert([file], tmp_path / "out", settings(metadata=given), overwrite=True)
        assert result.dataset is not None
        found = everything(result.dataset)
        assert [found[f"a.parquet:{row}"][1]["metadata"] for row in range(4)] == expected
        assert all(not {"source", "turns", "targets"} & set(document) for _, document, _ in found.values())


def test_what_is_not_read_of_a_folder_is_said(
    tmp_path: Path, hash_codec: type, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = ours(tmp_path, hash_codec)
    convert([dataset.path], tmp_path / "in", ConvertSettings(), to="parquet")
    convert([tmp_path / "in"], tmp_path / "out", ConvertSettings())
    assert caplog.messages == []  # all of it is what a conversion wrote
    for name in ("README.md", "Train/more.csv"):
        (tmp_path / "in" / name).write_text("x")
    convert([tmp_path / "in"], tmp_path / "out", ConvertSettings(), overwrite=True)
    assert caplog.messages == [f"{tmp_path / 'in'}: 2 files are not read: README.md, Train/more.csv"]
    for other in (tmp_path / "in" / "README.md", tmp_path / "out" / "codec"):
        with pytest.raises(UserError, match=r"(README\.md|codec) holds neither a data set"):
            convert([tmp_path / "in", other], tmp_path / "more", ConvertSettings())


def test_names_in_capitals(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "A.PARQUET", lists_of_lists(VECTORS))
    for given in (tmp_path / "in", tmp_path / "in" / "A.PARQUET"):
        assert convert([given], tmp_path / "out", settings(), overwrite=True).documents == 12


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path: Path) -> None:
    good = write_parquet(tmp_path / "good.parquet", lists_of_lists(VECTORS))
    zero = write_parquet(tmp_path / "zero.parquet", lists_of_lists([v * 0 for v in VECTORS]))
    (tmp_path / "broken.parquet").write_bytes(good.read_bytes()[:-20])
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.tar").write_bytes(b"\0" * 100 + b"x" * 412)
    before = sorted(tmp_path.iterdir())
    for paths, given, message in [
        ([good], {"text_column": "text"}, "has no column 'text': choose with --text-column"),
        ([good], {"embedding_column": "text_sentences"}, "not lists of vectors or bytes"),
        ([good], {"text_column": "text_sentences_sonar_emb"}, "not lists of text"),
        ([good], {"metadata": ("urls",)}, "has no column 'urls'"),
        ([good], {"codec": "sonnar"}, "did you mean sonar"),
        ([good], {"lang": "en"}, "write eng_Latn"),
        ([good], {"min_sentences": 9}, "no usable row among 12"),
        ([good], {"min_sentences": 9, "max_sentences": 3}, "no document has such a length"),
        ([good], {"validation": 0.99999999}, "no document is left for training"),
        ([zero], {}, "12 zero vector"),
        ([tmp_path / "broken.parquet"], {}, "is not a readable parquet file"),
        ([tmp_path / "none"], {}, "no such file or folder"),
        ([tmp_path / "empty"], {}, "holds neither a data set"),
        ([tmp_path / "cut.tar"], {}, "is not a whole tar"),
        ([good, tmp_path / "cut.tar"], {}, "one after the other"),
    ]:
        with pytest.raises(UserError, match=message):
            convert(paths, tmp_path / "out", settings(**given))
        assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(ConfigError, match="max-sentences"):
        convert([good], tmp_path / "out", settings(min_sentences=9, max_sentences=3))


def test_bytes_do_not_say_their_dimension(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", bytes_of_singles(VECTORS))
    with pytest.raises(UserError, match="give --dim"):
        convert([file], tmp_path / "out", settings(dim=None, codec="lsa"))


@pytest.mark.parametrize("batch_rows", [1, 4096])
@pytest.mark.parametrize("kind", [bytes_of_singles, bytes_of_halves])
def test_bytes_without_text_are_told_by_the_sentences(
    tmp_path: Path, kind: Any, batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lexalcm.data.convert.read_parquet._batch_rows", lambda file: batch_rows)
    even = [v[: len(v) // 2 * 2] for v in VECTORS if len(v) > 1]
    sentences = [s[: len(s) // 2 * 2] for s in SENTENCES if len(s) > 1]
    file = write_parquet(tmp_path / "a.parquet", kind(even), sentences)
    result = convert([file], tmp_path / "out", settings(text=False))
    assert result.dataset is not None
    found = everything(result.dataset)
    stored = np.float32 if kind is bytes_of_singles else np.float16
    for row, vectors in enumerate(even):
        _, document, numbers = found[f"a.parquet:{row}"]
        assert "sentences" not in document
        np.testing.assert_array_equal(numbers, vectors.astype(stored).astype(np.float32))


EVEN = [vectors[: len(vectors) // 2 * 2] for vectors in VECTORS if len(vectors) > 1]
"""Of these, the float16 bytes of any row could be half as many vectors of float32."""


@pytest.mark.parametrize(
    ("numbers", "scale"),
    [(VECTORS, 1.0), (EVEN, 1.0), (EVEN, 0.007), (EVEN, 60.0), ([np.round(v * 3) for v in EVEN], 1.0)],
    ids=["odd counts", "even counts", "small", "large", "whole numbers"],
)
def test_bytes_without_sentences_are_told_by_their_sizes_or_their_numbers(
    tmp_path: Path, numbers: list[np.ndarray], scale: float
) -> None:
    rounded = [(vectors * scale).astype(np.float16).astype(np.float32) for vectors in numbers]
    whole = [(vectors * scale).astype(np.float32) for vectors in numbers]
    for name, kind, given in [
        ("singles", bytes_of_singles, whole),
        ("rounded singles", bytes_of_singles, rounded),
        ("halves", bytes_of_halves, rounded),
    ]:
        check_without_sentences(tmp_path / name, kind, given)


def check_without_sentences(folder: Path, kind: Any, vectors: list[np.ndarray]) -> None:
    """Vectors that are as stored come out as they are."""
    folder.mkdir()
    pq.write_table(pa.table({"text_sentences_sonar_emb": kind(vectors)}), folder / "a.parquet")
    result = convert([folder / "a.parquet"], folder / "out", settings(text=False))
    assert result.dataset is not None
    found = everything(result.dataset)
    assert len(found) == len(vectors)
    for row, expected in enumerate(vectors):
        np.testing.assert_array_equal(found[f"a.parquet:{row}"][2], expected)


def test_bytes_that_turn_out_to_be_of_another_type_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "late.parquet"
    blank = np.zeros((2, DIM), np.float32)  # tells nothing
    pq.write_table(pa.table({"text_sentences_sonar_emb": bytes_of_halves([blank, VECTORS[0]])}), file)
    monkeypatch.setattr("lexalcm.data.convert.read_parquet._batch_rows", lambda file: 1)
    with pytest.raises(UserError, match="float32 and then like float16"):
        convert([file], tmp_path / "late", settings(text=False))


def test_what_is_read_ahead_comes_in_order_and_errors_too() -> None:
    assert list(blocks.read_ahead(range(100))) == list(range(100))

    def failing() -> Any:
        yield 1
        raise ValueError("broken")

    items = blocks.read_ahead(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)
