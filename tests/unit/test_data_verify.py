import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lexalcm.data.build.one_process import build_dataset
from lexalcm.data.build.settings import BuildSettings
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.shards import ShardWriter
from lexalcm.data.sources.corpus import Document
from lexalcm.errors import DataError
from lexalcm.verify.dataset.check import verify_dataset
from lexalcm.verify.dataset.report import DataVerification


@pytest.fixture
def folder(tmp_path: Path, hash_codec: type) -> Path:
    documents = [Document(f"{i}", "eng_Latn", f"Number {i}. " * (2 + i % 4) + f"End {i}.") for i in range(30)]
    settings = BuildSettings(codec="hash", shard_size=8192)
    return build_dataset(documents, tmp_path / "d", settings).dataset.path


def errors(found: DataVerification) -> list[tuple[str, str]]:
    return [(finding.where, finding.what) for finding in found.findings if finding.severity == "error"]


def warnings(found: DataVerification) -> list[tuple[str, str]]:
    return [(finding.where, finding.what) for finding in found.findings if finding.severity == "warning"]


def rewrite(folder: Path, change: Callable[[int, dict, np.ndarray], tuple[dict, np.ndarray]]) -> None:
    """Write the training split anew, index and manifest agreeing, with changed documents."""
    dataset = Dataset.open(folder)
    split = dataset.split("train")
    writer = ShardWriter(folder, "train", dataset.manifest.dtype, 8192)
    contents = [(split.document(i), np.array(split.embeddings(i))) for i in range(len(split))]
    for i, (document, embeddings) in enumerate(contents):
        writer.add(*change(i, document, embeddings))
    edit_manifest(folder, lambda tree: tree["splits"].update(train=writer.close().model_dump()))


def edit_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    tree = json.loads((folder / "dataset.json").read_text())
    change(tree)
    (folder / "dataset.json").write_text(json.dumps(tree))


def test_a_fresh_data_set_is_well(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = verify_dataset(folder, lambda done, total: calls.append((done, total)))
    assert report.ok
    assert report.findings == []
    splits = Dataset.open(folder).manifest.splits.values()
    assert report.documents == sum(split.documents for split in splits) == 30
    assert report.concepts == sum(split.sentences for split in splits)
    assert calls[-1] == (30, 30)


def test_a_flipped_bit_is_found(folder: Path) -> None:
    shard = folder / "train-000001.tar"
    content = bytearray(shard.read_bytes())
    content[900] ^= 1
    shard.write_bytes(content)
    assert ("train-000001.tar", "content has changed since it was built (SHA-256)") in errors(verify_dataset(folder))


def test_a_missing_shard_is_found(folder: Path) -> None:
    (folder / "train-000001.tar").unlink()
    [(where, what)] = errors(verify_dataset(folder))
    assert where == "train-000001.tar"
    assert "missing" in what


def test_a_shard_truncated_anywhere_is_found_and_survived(folder: Path) -> None:
    shard = folder / "train-000000.tar"
    content = shard.read_bytes()
    for size in [0, 1, 100, 511, 512, 513, 700, 1000, len(content) // 2, len(content) - 1500, len(content) - 1]:
        shard.write_bytes(content[:size])
        report = verify_dataset(folder)
        assert not report.ok
        assert any(where.startswith("train-000000.tar") and "truncated" in what for where, what in errors(report))
    assert verify_dataset(folder).documents > 10  # the other shards are still read


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_never_crashes(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for file in folder.rglob("*"):
        if file.is_file() and rng.random() < 0.4:
            content = bytearray(file.read_bytes())
            for place in rng.integers(0, len(content), 20):
                content[place] = rng.integers(0, 256)
            file.write_bytes(content)
    verify_dataset(folder)


def test_a_shard_swapped_for_another_is_found(folder: Path) -> None:
    shutil.copy(folder / "train-000002.tar", folder / "train-000001.tar")
    found = errors(verify_dataset(folder))
    assert any(where.startswith("train-000001.tar 000002-000000") for where, _ in found)


def test_bad_numbers_are_named_by_document(folder: Path) -> None:
    def spoil(i: int, document: dict, embeddings: np.ndarray) -> tuple[dict, np.ndarray]:
        if i == 1:
            embeddings[2] = 0
        return document, embeddings

    rewrite(folder, spoil)
    shard = folder / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    first_number = int(np.load(folder / "train.index.npz")["offset"][0])
    content[first_number : first_number + 2] = np.float16(np.nan).tobytes()
    shard.write_bytes(content)
    found = errors(verify_dataset(folder))
    assert ("train-000000.tar 000000-000001", "zero vector in 1 of its embeddings, at sentence 2") in found
    assert ("train-000000.tar 000000-000000", "NaN or infinity in 1 of its embeddings, at sentence 0") in found


def test_sentences_and_embeddings_must_agree(folder: Path) -> None:
    def lose(i: int, document: dict, embeddings: np.ndarray) -> tuple[dict, np.ndarray]:
        return (document | {"sentences": document["sentences"][1:]}, embeddings) if i == 0 else (document, embeddings)

    rewrite(folder, lose)
    [(where, what)] = errors(verify_dataset(folder))
    assert where == "train-000000.tar 000000-000000"
    assert what == "2 sentences for 3 embeddings"


def test_documents_that_are_there_twice_are_a_warning(folder: Path) -> None:
    first: list = []

    def repeat(i: int, document: dict, embeddings: np.ndarray) -> tuple[dict, np.ndarray]:
        first.append((document, embeddings))
        return first[0] if i == 5 else (document, embeddings)

    rewrite(folder, repeat)
    report = verify_dataset(folder)
    assert report.ok
    assert [what for _, what in warnings(report)] == ["the same text as train-000000.tar 000000-000000"]


def test_index_dimension_and_counts(folder: Path) -> None:
    index = dict(np.load(folder / "train.index.npz"))
    index["offset"][4] += 16
    np.savez(folder / "train.index.npz", **index)
    assert [what for _, what in errors(verify_dataset(folder))] == ["not where the index says, or of another length"]
    edit_manifest(folder, lambda tree: tree["codec"].update(dim=9))
    assert any("8 dimensions, expected 9" in what for _, what in errors(verify_dataset(folder)))


def test_manifest_that_counts_wrong(folder: Path) -> None:
    edit_manifest(folder, lambda tree: tree["splits"]["train"]["shards"][0].update(documents=99))
    found = errors(verify_dataset(folder))
    assert {where for where, _ in found} == {"train.index.npz", "train-000000.tar"}
    assert all("the manifest says 99" in what for _, what in found)


def test_numbers_of_sidecar_files(folder: Path) -> None:
    edit_manifest(folder, lambda tree: tree.pop("companions"))
    special = load_file(folder / "special_concepts.safetensors")
    special["pad"][:] = np.nan
    del special["user"]
    save_file(special, folder / "special_concepts.safetensors")
    save_file({"center": np.zeros(8, np.float32), "scale": np.zeros(8, np.float32)}, folder / "normalizer.safetensors")
    shutil.rmtree(folder / "codec")
    (folder / "train-000099.tar").touch()
    report = verify_dataset(folder)
    assert set(errors(report)) == {
        ("special_concepts.safetensors", "pad is not 8 finite numbers"),
        ("special_concepts.safetensors", "user is missing"),
        ("normalizer.safetensors", "a scale is not positive"),
    }
    assert {where for where, _ in warnings(report)} == {"codec", "train-000099.tar"}


def test_a_codec_that_embeds_otherwise_is_an_error(folder: Path, hash_codec: type, monkeypatch) -> None:
    report = verify_dataset(folder)
    assert [one.cosine for one in report.decoded] == pytest.approx([1] * 8, abs=1e-3)
    vector = hash_codec.vector
    monkeypatch.setattr(hash_codec, "vector", staticmethod(lambda sentence: vector(sentence + "!")))
    found = errors(verify_dataset(folder))
    assert len(found) == 8
    assert all("the codec's embedding differs" in what and where.startswith("train-") for where, what in found)


def test_a_codec_that_fails_is_an_error_and_the_rest_is_still_checked(
    folder: Path, hash_codec: type, monkeypatch
) -> None:
    def fail(*arguments: object) -> list[str]:
        raise RuntimeError("out of ink")

    monkeypatch.setattr(hash_codec, "decode", fail)
    report = verify_dataset(folder)
    assert report.documents == 30
    [(where, what)] = errors(report)
    assert where == "codec"
    assert "out of ink" in what


@pytest.mark.parametrize("factor", [0.02, 50.0])
def test_a_norm_far_from_all_others_is_a_warning_that_names_the_sentence(make_dataset, factor: float) -> None:
    generator = np.random.default_rng(0)
    documents = [("eng_Latn", generator.normal(size=(10, 64)) * generator.uniform(0.8, 1.2)) for _ in range(40)]
    documents[7][1][4] *= factor
    report = verify_dataset(make_dataset({"train": documents}).path)
    [(where, what)] = [found for found in warnings(report) if "norm" in found[1]]
    assert where == "train-000000.tar 000000-000007"
    assert "at sentence 4" in what
    stored = np.linalg.norm(documents[7][1][4])
    assert float(what.split()[1]) == pytest.approx(stored, rel=0.01)


def test_vectors_of_one_length_have_no_outliers(make_dataset) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 10, 8))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    report = verify_dataset(make_dataset({"train": [("eng_Latn", document) for document in vectors]}).path)
    assert not [what for _, what in warnings(report) if "norm" in what]


def test_the_index_knows_languages_and_pairs_as_the_tars_do(make_dataset) -> None:
    generator = np.random.default_rng(0)
    documents = [(lang, generator.normal(size=(5, 8))) for lang in ("eng_Latn", "jpn_Jpan") * 10]
    folder = make_dataset({"train": documents}).path
    index = dict(np.load(folder / "train.index.npz"))
    index["lang"][[3, 4]] = index["lang"][[4, 3]]  # the counts stay right
    np.savez(folder / "train.index.npz", **index)
    found = errors(verify_dataset(folder))
    assert ("train-000000.tar 000000-000003", "its lang is 'jpn_Jpan', the index says 'eng_Latn'") in found
    assert ("train-000000.tar 000000-000004", "its lang is 'eng_Latn', the index says 'jpn_Jpan'") in found
    index["lang"][:] = 0
    np.savez(folder / "train.index.npz", **index)
    found = errors(verify_dataset(folder))
    assert ("train.index.npz", "numbers of documents per language differ from the manifest's") in found


def test_an_index_that_points_outside_is_found_before_anything_is_read(folder: Path) -> None:
    index = dict(np.load(folder / "train.index.npz"))
    index["offset"][2] = 10**12
    np.savez(folder / "train.index.npz", **index)
    for quick in (False, True):
        found = errors(verify_dataset(folder, quick=quick))
        assert ("train.index.npz", "1 documents lie outside their shards, the first is 2") in found
    index["shard"] = index["shard"][::-1].copy()
    np.savez(folder / "train.index.npz", **index)
    assert ("train.index.npz", "its documents are not in the order of their shards") in errors(verify_dataset(folder))


def test_documents_without_text_are_told_apart_by_their_numbers(make_dataset, tmp_path: Path) -> None:
    folder = make_dataset({"train": [("eng_Latn", np.ones((2, 4)) * i) for i in range(1, 5)]}).path
    dataset = Dataset.open(folder)
    split = dataset.split("train")
    writer = ShardWriter(folder, "train", dataset.manifest.dtype, 2**20, text=False)
    contents = [(split.document(i), np.array(split.embeddings(i))) for i in (0, 1, 2, 1)]
    for document, embeddings in contents:
        writer.add(document, embeddings)
    edit_manifest(folder, lambda tree: tree.update(text=False))
    edit_manifest(folder, lambda tree: tree["splits"].update(train=writer.close().model_dump()))
    same = [found for found in warnings(verify_dataset(folder)) if "same" in found[1]]
    assert same == [("train-000000.tar 000000-000003", "the same numbers as train-000000.tar 000000-000001")]


def test_quick_reads_a_sample_and_finds_what_is_everywhere(folder: Path, make_dataset) -> None:
    report = verify_dataset(folder, quick=True)
    assert report.findings == []
    assert report.documents == 30  # fewer than a sample holds
    generator = np.random.default_rng(0)
    large = make_dataset(
        {"train": [("eng_Latn", generator.normal(size=(1, 4))) for _ in range(3000)]}, shard_size=2**24
    ).path
    calls: list[tuple[int, int]] = []
    report = verify_dataset(large, lambda done, total: calls.append((done, total)), quick=True)
    assert report.documents == 1000
    assert calls[-1] == (1000, 1000)
    shard = large / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    for offset in np.load(large / "train.index.npz")["offset"][::10]:
        content[offset : offset + 4] = np.float32(np.nan).tobytes()
    shard.write_bytes(content)
    found = errors(verify_dataset(large, quick=True))
    assert sum("NaN" in what for _, what in found) == 100  # every tenth of a thousand


def test_quick_finds_missing_truncated_and_swapped_shards(folder: Path) -> None:
    shards = sorted(folder.glob("train-*.tar"))
    assert len(shards) >= 4
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-600])
    shutil.copy(shards[3], shards[2])
    found = errors(verify_dataset(folder, quick=True))
    for shard, what in ((0, "missing"), (1, "truncated"), (2, "another shard")):
        assert any(where.startswith(shards[shard].name) and what in said for where, said in found), shard


def test_of_many_findings_the_first_thousand_are_listed_and_the_rest_counted(make_dataset) -> None:
    folder = make_dataset(
        {"train": [("eng_Latn", np.ones((1, 4)) * (i + 1)) for i in range(1500)]}, shard_size=2**24
    ).path
    shard = folder / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    for offset in np.load(folder / "train.index.npz")["offset"]:
        content[offset : offset + 4] = np.float32(np.inf).tobytes()
    shard.write_bytes(content)
    report = verify_dataset(folder)
    assert len(errors(report)) == 1000
    infinite = sum("infinity" in what for _, what in errors(report))
    assert infinite + report.to_json()["left_out"]["error"] >= 1500


def test_a_codec_folder_of_another_codec_is_an_error(folder: Path) -> None:
    (folder / "codec" / "hash.txt").unlink()
    assert [where for where, _ in errors(verify_dataset(folder))] == ["codec"]


def test_no_data_set(tmp_path: Path) -> None:
    report = verify_dataset(tmp_path)
    assert not report.ok
    assert report.to_json()["findings"][0]["where"] == "dataset.json"


def test_numbers_that_are_not_those_of_their_checksum_are_named(folder: Path) -> None:
    with np.load(folder / "train.index.npz") as index:
        arrays = dict(index)
    arrays["crc32"][0] ^= 1
    np.savez(folder / "train.index.npz", **arrays)
    for quick in (False, True):
        [(where, what)] = errors(verify_dataset(folder, quick=quick))
        assert where == "train-000000.tar 000000-000000"
        assert what.startswith("its crc32 is")


@pytest.mark.parametrize("name", ["../../../x", "/tmp/x", "a/b", "..", "", "x\0"])
def test_names_that_lead_out_of_the_data_set_are_found(folder: Path, name: str) -> None:
    whole = (folder / "dataset.json").read_text()
    edit_manifest(folder, lambda tree: tree["splits"].update({name: tree["splits"]["train"]}))
    assert errors(verify_dataset(folder)) == [
        ("dataset.json", f"{folder}/dataset.json is damaged: a split is called {name!r}")
    ]
    (folder / "dataset.json").write_text(whole)
    edit_manifest(folder, lambda tree: tree["splits"]["train"]["shards"][0].update(file=name))
    assert errors(verify_dataset(folder)) == [
        ("dataset.json", f"{folder}/dataset.json is damaged: a shard is called {name!r}")
    ]


OTHER_INDICES = {
    "halves": ("offset", lambda column: column + 0.5),
    "nan": ("offset", lambda column: np.full(len(column), np.nan)),
    "text": ("offset", lambda column: column.astype(str)),
    "two-dimensional": ("offset", lambda column: column[:, None]),
    "one number": ("offset", lambda column: np.array(5)),
    "complex": ("n", lambda column: column.astype(complex)),
    "dates": ("n", lambda column: column.astype("datetime64[s]")),
    "negative": ("n", lambda column: -column),
    "whole numbers of no end": ("offset", lambda column: np.full(len(column), 2**64 - 1, np.uint64)),
    "bits": ("shard", lambda column: column.astype(bool)),
    "shorter": ("crc32", lambda column: column[1:]),
    "no language": ("lang", lambda column: column.astype(np.int64) - 5),
    "unknown language": ("lang", lambda column: column + 9),
    "numbered languages": ("languages", lambda column: np.arange(len(column))),
    "records": ("shard", lambda column: column.astype([("a", "<i4")])),
}


@pytest.mark.parametrize("kind", OTHER_INDICES)
def test_an_index_of_another_type_is_damaged(folder: Path, kind: str) -> None:
    file = folder / "train.index.npz"
    arrays = dict(np.load(file))
    name, change = OTHER_INDICES[kind]
    arrays[name] = change(arrays[name])
    np.savez(file, **arrays)
    assert ("train.index.npz", f"{file} is damaged: build the data set again") in errors(verify_dataset(folder))
    with pytest.raises(DataError, match=r"train.index.npz is damaged: build the data set again"):
        Dataset.open(folder).split("train")


def test_an_index_of_wider_numbers_is_the_same(folder: Path) -> None:
    file = folder / "train.index.npz"
    np.savez(file, **{name: x if x.dtype.kind == "U" else x.astype(np.uint64) for name, x in np.load(file).items()})
    assert verify_dataset(folder).findings == []
    assert Dataset.open(folder).split("train").lengths.dtype == np.int32


@pytest.mark.parametrize("beyond", [99, 1])
def test_an_index_of_shards_that_are_not_there(folder: Path, beyond: int) -> None:
    file = folder / "train.index.npz"
    arrays = dict(np.load(file))
    arrays["shard"] += beyond
    np.savez(file, **arrays)
    assert ("train.index.npz", "documents in shards that the manifest does not list") in errors(verify_dataset(folder))
    with pytest.raises(DataError, match="does not fit its manifest"):
        Dataset.open(folder).split("train")


def test_an_offset_at_the_end_of_all_numbers_is_outside(folder: Path) -> None:
    file = folder / "train.index.npz"
    arrays = dict(np.load(file))
    arrays["offset"][:] = 2**63 - 1
    np.savez(file, **arrays)
    assert any("documents lie outside their shards" in what for _, what in errors(verify_dataset(folder)))


def test_a_file_that_is_no_archive_is_no_index(folder: Path) -> None:
    with (folder / "train.index.npz").open("wb") as file:
        np.save(file, np.arange(5))
    [(_, what)] = [found for found in errors(verify_dataset(folder)) if found[0] == "train.index.npz"]
    assert what.endswith("train.index.npz is damaged: build the data set again")


@pytest.mark.parametrize("name", ["documents", "sentences", "bytes"])
def test_a_manifest_of_counts_that_cannot_be(folder: Path, name: str) -> None:
    edit_manifest(folder, lambda tree: tree["splits"]["train"]["shards"][0].update({name: 10**30}))
    [(where, what)] = errors(verify_dataset(folder))
    assert where == "dataset.json"
    assert f"splits.train.shards.0.{name}: expected" in what


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format_version": ' + "1" * 5000 + "}", '{"a": "\\ud83d"}', "<html>"]
)
def test_a_manifest_that_is_no_json_is_found(folder: Path, text: str) -> None:
    (folder / "dataset.json").write_text(text)
    [(where, what)] = errors(verify_dataset(folder))
    assert where == "dataset.json"
    assert "dataset.json is damaged (not valid JSON, line 1: " in what
