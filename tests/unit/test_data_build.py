import filecmp
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset
from safetensors.numpy import load_file

from lexalcm.codec.special import SPECIAL_CONCEPTS
from lexalcm.data.build.one_process import build_dataset, build_from_paths
from lexalcm.data.build.settings import BuildSettings
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.sources.corpus import Document
from lexalcm.errors import CodecError, DataError, UserError

SETTINGS = BuildSettings(codec="hash", shard_size=4096, validation=0.3)


@pytest.fixture(autouse=True)
def _installed(hash_codec: type) -> None:
    """Every test here may use the codec `hash`."""


def documents(count: int = 12) -> Iterator[Document]:
    for i in range(count):
        lang, stop = (("eng_Latn", ". "), ("jpn_Jpan", "。"))[i % 2]
        text = stop.join(f"Document {i} says {word}" for word in ("hello", "more", "again", "farewell")[: 2 + i % 3])
        yield Document(f"doc-{i}", lang, text + stop, f"Title {i}", {"year": 1900 + i})


def test_plain_webdataset_reads_what_the_dataset_reads(tmp_path: Path, hash_codec: type) -> None:
    dataset = build_dataset(documents(), tmp_path / "d", SETTINGS).dataset
    assert set(dataset.manifest.splits) == {"train", "validation"}
    seen = []
    for name, record in dataset.manifest.splits.items():
        split = dataset.split(name)
        shards = [str(dataset.path / shard.file) for shard in record.shards]
        assert name != "train" or len(shards) > 1
        samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
        assert len(samples) == len(split) == record.documents
        for i, sample in enumerate(samples):
            np.testing.assert_array_equal(sample["emb.npy"], split.embeddings(i))
            assert sample["emb.npy"].dtype == np.float16
            assert sample["json"] == split.document(i)
            assert split.lengths[i] == len(sample["json"]["sentences"])
            expected = np.stack([hash_codec.vector(sentence) for sentence in sample["json"]["sentences"]])
            np.testing.assert_array_equal(split.embeddings(i), expected.astype(np.float16))
            seen.append(sample["json"]["id"])
        assert len({sample["__key__"] for sample in samples}) == len(samples)
    assert sorted(seen) == sorted(document.id for document in documents())


def test_documents_carry_their_fields(tmp_path: Path) -> None:
    split = build_dataset(documents(), tmp_path / "d", SETTINGS).dataset.split("train")
    originals = {document.id: document for document in documents()}
    for i in range(len(split)):
        written, original = split.document(i), originals[split.document(i)["id"]]
        assert (written["lang"], written["title"]) == (original.lang, original.title)
        assert written["metadata"] == original.metadata
        assert " ".join(written["sentences"]).split() == original.text.replace("。", "。 ").split()


def test_the_manifest_tells_the_truth(tmp_path: Path) -> None:
    dataset = build_dataset(documents(), tmp_path / "d", SETTINGS).dataset
    for name, record in dataset.manifest.splits.items():
        split = dataset.split(name)
        assert record.sentences == split.lengths.sum()
        assert sum(count.documents for count in record.languages.values()) == len(split)
        for shard in record.shards:
            content = (dataset.path / shard.file).read_bytes()
            assert shard.bytes == len(content)
            assert shard.sha256 == hashlib.sha256(content).hexdigest()
            assert shard.bytes <= 4096 + 1024 or shard.documents == 1
    assert dataset.manifest.codec.name == "hash"
    assert sorted(path.name for path in dataset.path.iterdir() if path.suffix == ".jsonl") == []


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    build_dataset(documents(), tmp_path / "a", SETTINGS)
    time.sleep(2.1)  # archives count time in steps of up to two seconds
    build_dataset(documents(), tmp_path / "b", SETTINGS)
    names = sorted(str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(names) > 6
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False) == (names, [], [])


def test_the_codec_is_fitted_on_training_documents_only(tmp_path: Path, hash_codec: type) -> None:
    settings = SETTINGS.model_copy(update={"seed": 5, "codec_options": {"size": 3}})
    split = build_dataset(documents(), tmp_path / "d", settings).dataset.split("train")
    expected = [(split.document(i)["lang"], split.document(i)["sentences"]) for i in range(len(split))]
    assert hash_codec.last_fit == expected


def test_special_concepts_and_codec_come_along(tmp_path: Path, hash_codec: type) -> None:
    dataset = build_dataset(documents(), tmp_path / "d", SETTINGS).dataset
    special = dataset.special_concepts()
    assert set(special) == set(SPECIAL_CONCEPTS)
    np.testing.assert_array_equal(special["end_of_text"], hash_codec.vector("End of text."))
    assert dataset.codec().fingerprint == hash_codec.fingerprint


def test_the_normalizer_is_that_of_the_training_split(tmp_path: Path) -> None:
    dataset = build_dataset(documents(), tmp_path / "d", SETTINGS).dataset
    split = dataset.split("train")
    concepts = np.concatenate([split.embeddings(i) for i in range(len(split))]).astype(np.float64)
    low, median, high = np.percentile(concepts, [25, 50, 75], axis=0)
    np.testing.assert_allclose(dataset.normalizer()["center"], median, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dataset.normalizer()["scale"], 0.7413 * (high - low), rtol=1e-4)


def test_a_document_stays_on_its_side_when_the_corpus_grows(tmp_path: Path) -> None:
    def held_out(count: int) -> set[str]:
        dataset = build_dataset(documents(count), tmp_path / "d", SETTINGS, overwrite=True).dataset
        split = dataset.split("validation")
        return {split.document(i)["id"] for i in range(len(split))}

    assert held_out(12) <= held_out(24)
    expected = {
        f"doc-{i}" for i in range(24) if int(hashlib.sha256(f"doc-{i}".encode()).hexdigest()[:16], 16) < 0.3 * 2**64
    }
    assert held_out(24) == expected


def test_a_single_document_is_for_training(tmp_path: Path) -> None:
    result = build_dataset(documents(1), tmp_path / "d", SETTINGS)
    assert list(result.dataset.manifest.splits) == ["train"]
    assert any("no validation split" in note for note in result.notes())
    with pytest.raises(DataError, match="no split 'validation': it has train"):
        result.dataset.split("validation")


def test_documents_without_sentences_are_counted(tmp_path: Path) -> None:
    blank = [Document("blank", "eng_Latn", " \n"), Document("dots", "eng_Latn", "...")]
    result = build_dataset([*documents(), *blank], tmp_path / "d", SETTINGS)
    assert result.documents_without_sentences == 2
    assert any("2 documents without a sentence" in note for note in result.notes())


def test_float32_keeps_every_digit(tmp_path: Path, hash_codec: type) -> None:
    dataset = build_dataset(documents(), tmp_path / "d", SETTINGS.model_copy(update={"dtype": "float32"})).dataset
    split = dataset.split("train")
    np.testing.assert_array_equal(split.embeddings(0)[0], hash_codec.vector(split.document(0)["sentences"][0]))


def build_into(folder: Path, text: str = "One two. Three four. Five six. Seven eight.", **settings: object) -> None:
    build_dataset(
        [Document("a", "eng_Latn", text), Document("b", "eng_Latn", text + " Nine.")],
        folder,
        SETTINGS.model_copy(update=settings),
    )


def test_nothing_is_left_when_building_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hash_codec: type) -> None:
    monkeypatch.setattr(hash_codec, "encode", lambda self, sentences, lang: np.full((len(sentences), 8), np.nan))
    with pytest.raises(DataError, match="not finite in float16"):
        build_into(tmp_path / "d")
    monkeypatch.setattr(hash_codec, "encode", lambda self, sentences, lang: np.zeros((len(sentences), 9)))
    with pytest.raises(CodecError, match="array"):
        build_into(tmp_path / "d")
    with pytest.raises(CodecError, match="unknown codec 'hush': did you mean hash"):
        build_into(tmp_path / "d", codec="hush")
    with pytest.raises(DataError, match="no sentence"):
        build_dataset([Document("a", "eng_Latn", "...")], tmp_path / "d", SETTINGS)
    with pytest.raises(CodecError, match=r"does not know the language deu_Latn: the nearest are eng_Latn \(English\)"):
        build_dataset([Document("a", "deu_Latn", "Eins. Zwei.")], tmp_path / "d", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lexalcm.data.format.tar.TarWriter.add", full)
    with pytest.raises(UserError, match=r"cannot write the data set .*: No space left on device") as caught:
        build_into(tmp_path / "d")
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_only_a_data_set_is_overwritten(tmp_path: Path) -> None:
    build_into(tmp_path / "d")
    with pytest.raises(UserError, match="--overwrite"):
        build_into(tmp_path / "d")
    again = [Document("new", "eng_Latn", "One. Two. Three. Four.")]
    dataset = build_dataset(again, tmp_path / "d", SETTINGS, overwrite=True).dataset
    assert dataset.split("train").document(0)["id"] == "new"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").touch()
    with pytest.raises(UserError, match="does not replace such a folder"):
        build_dataset(again, tmp_path / "home", SETTINGS, overwrite=True)
    assert (tmp_path / "home" / "precious").exists()


def test_a_missing_or_truncated_shard_is_noticed_at_once(tmp_path: Path) -> None:
    build_dataset(documents(), tmp_path / "d", SETTINGS)
    shard = tmp_path / "d" / "train-000001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(DataError, match=re.escape(f"{shard} is truncated")):
        Dataset.open(tmp_path / "d")
    shard.unlink()
    with pytest.raises(DataError, match=re.escape(f"{shard} is missing")):
        Dataset.open(tmp_path / "d")


def test_foreign_and_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Dataset.open(tmp_path / "none")
    with pytest.raises(DataError, match=r"has no dataset\.json"):
        Dataset.open(tmp_path)
    build_into(tmp_path / "d")
    manifest = tmp_path / "d" / "dataset.json"
    tree = json.loads(manifest.read_text())
    for version, advice in (
        (2, "upgrade lexalcm"),
        (0, "build the data set again"),
        (None, "build the data set again"),
    ):
        manifest.write_text(json.dumps(tree | {"format_version": version}))
        with pytest.raises(DataError, match=advice):
            Dataset.open(tmp_path / "d")
    manifest.write_text(json.dumps(tree)[:-9])
    with pytest.raises(DataError, match="damaged"):
        Dataset.open(tmp_path / "d")
    manifest.write_text(json.dumps(tree))
    (tmp_path / "d" / "train.index.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"train\.index\.npz is damaged"):
        Dataset.open(tmp_path / "d").split()


def test_building_from_paths_notes_where_the_text_came_from(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One two. Three four.\n\nFive six. Seven eight. Nine.")
    dataset = build_from_paths([tmp_path / "a.txt"], tmp_path / "d", SETTINGS).dataset
    assert dataset.manifest.build["source"] == {"files": ["a.txt"], "count": 1}
    assert load_file(dataset.path / "normalizer.safetensors").keys() == {"center", "scale"}
