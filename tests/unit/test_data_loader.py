import os
import pickle
import shutil
from collections import Counter
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lexalcm.codec.base import CodecRecord
from lexalcm.data.batches.batch import Batch
from lexalcm.data.batches.loader import TrainingBatches, ValidationBatches
from lexalcm.data.batches.mixture import Mixture
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.manifest import Manifest, write_manifest
from lexalcm.data.format.shards import ShardWriter
from lexalcm.data.normalizer.fit import NormalizerSettings
from lexalcm.data.settings import DataSettings, SetSettings
from lexalcm.errors import CodecError, ConfigError, DataError, ShardError

END = np.array([-1, -1, -1], np.float32)
START = np.array([-2, -2, -2], np.float32)
LENGTHS = [5, 1, 12, 2, 7, 30, 3, 9, 4, 8, 21, 6, 2, 11]


def write_dataset(
    folder: Path,
    splits: dict[str, list[int]],
    *,
    mark: int = 1,
    sources: list[int] | None = None,
    targets: list[list[list[int]]] | None = None,
    langs: list[str] | None = None,
    fingerprint: str = "none",
) -> Dataset:
    """Documents whose concepts are (document + 1, place + 1, mark), so that each says where it belongs."""
    folder.mkdir(exist_ok=True)
    records = {}
    for name, lengths in splits.items():
        writer = ShardWriter(folder, name, "float16", 9000)  # some documents a shard
        for i, n in enumerate(lengths):
            vectors = np.stack([np.full(n, i + 1), np.arange(1, n + 1), np.full(n, mark)], axis=1)
            document = {"id": f"{i}", "lang": langs[i] if langs else "eng_Latn", "title": "", "sentences": ["x"] * n}
            marks = ({"source": sources[i]} if sources else {}) | ({"targets": targets[i]} if targets else {})
            writer.add(document | marks, vectors)
        records[name] = writer.close()
    codec = CodecRecord(name="hash", dim=3, fingerprint=fingerprint)
    write_manifest(folder, Manifest(codec=codec, dtype="float16", normalizer=NormalizerSettings(), splits=records))
    save_file({"end_of_text": END, "start_of_text": START}, folder / "special_concepts.safetensors")
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("numbered"), {"train": LENGTHS, "validation": LENGTHS[::-1]})


def settings(**changes: Any) -> DataSettings:
    return DataSettings(**{"row_length": 16, "micro_batch": 2, "global_batch": 4} | changes)


def training(dataset: Dataset, given: DataSettings, seed: int = 0) -> TrainingBatches:
    return TrainingBatches(Mixture([dataset], given), given, seed)


def validation(dataset: Dataset, given: DataSettings) -> ValidationBatches:
    return ValidationBatches(Mixture([dataset], given), given)


def mixed(*sets: SetSettings, **changes: Any) -> TrainingBatches:
    given = settings(sets=sets, **changes)
    return TrainingBatches(Mixture.open(given), given, 0)


def epoch_of(batches: TrainingBatches, epoch: int = 0) -> list[Batch]:
    steps = batches.steps_per_epoch
    return list(batches.iterate(epoch * steps, (epoch + 1) * steps))


def vectors_at(batches: list[Batch], where: str) -> Counter[tuple[float, ...]]:
    """The vectors at a mask's places, and how often."""
    return Counter(tuple(v) for batch in batches for v in batch.embeddings[getattr(batch, where)].tolist())


def same(a: Batch, b: Batch) -> bool:
    tensors = zip(a.tensors().values(), b.tensors().values(), strict=True)
    return a.number == b.number and all(torch.equal(x, y) for x, y in tensors)


@pytest.mark.parametrize("end_of_text", [True, False])
def test_every_position_of_a_batch(dataset: Dataset, end_of_text: bool) -> None:
    batches = training(dataset, settings(end_of_text=end_of_text), 0)
    for number in range(2 * batches.steps_per_epoch * 4):
        batch = batches.micro_batch(number)
        assert batch.number == number
        assert batch.embeddings.shape == (2, 16, 3)
        assert batch.embeddings.dtype == torch.float16
        assert batch.to("cpu").embeddings.dtype == torch.float32
        assert batch.documents.dtype == batch.positions.dtype == torch.int64
        for row in range(2):
            documents = batch.documents[row].tolist()
            used = 16 - documents.count(-1)
            assert used > 0
            assert documents == sorted(documents[:used]) + [-1] * (16 - used)
            assert set(documents[:used]) == set(range(max(documents) + 1))
            assert not batch.embeddings[row, used:].any()
            assert not batch.targets[row, used:].any()
            for place in range(max(documents) + 1):
                inside = batch.documents[row] == place
                n = int(inside.sum())
                vectors = batch.embeddings[row, inside]
                assert batch.positions[row, inside].tolist() == list(range(n))
                assert batch.targets[row, inside].tolist() == [False] + [True] * (n - 1)
                document, first = int(vectors[0, 0]) - 1, int(vectors[0, 1])
                expected = [(document + 1, first + i, 1) for i in range(n)]
                if end_of_text and first + n - 1 == LENGTHS[document] + 1:
                    expected[-1] = tuple(END)
                assert vectors.tolist() == [list(map(float, vector)) for vector in expected]
                assert first + n - 1 <= LENGTHS[document] + end_of_text


def test_an_epoch_reads_every_concept_of_documents_with_a_next_sentence(dataset: Dataset) -> None:
    batches = training(dataset, settings(micro_batch=1, global_batch=1), 0)
    seen = []
    for batch in batches.iterate(0, batches.steps_per_epoch):
        seen += batch.embeddings[batch.targets].tolist()
    expected = [[i + 1, place, 1] for i, n in enumerate(LENGTHS) if n > 1 for place in range(2, n + 1)]
    expected += [END.tolist()] * sum(n > 1 for n in LENGTHS)
    assert sorted(seen) == sorted(expected)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_world_size_reads_the_same_batches_from_any_step(
    dataset: Dataset, world_size: int, num_workers: int
) -> None:
    undisturbed = training(dataset, settings(), 1)
    first, last = 3, 9  # crosses epochs
    assert undisturbed.steps_per_epoch < 6
    batches = training(dataset, settings(num_workers=num_workers), 1)
    ranks = [list(batches.iterate(first, last, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for step in range(first, last):
        together = [ranks[k % world_size][((step - first) * 4 + k) // world_size] for k in range(4)]
        assert all(same(undisturbed.micro_batch(step * 4 + k), together[k]) for k in range(4))
        assert undisturbed.targets_in_step(step) == sum(int(batch.targets.sum()) for batch in together)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("lost", [ConnectionResetError, EOFError])
def test_a_loader_process_that_loses_its_connection_as_it_is_killed_is_said_to_be_killed(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, lost: type[Exception]
) -> None:
    def lose(batches: Any) -> None:
        (process,) = batches._workers
        Timer(0.1, process.kill).start()  # the system has closed its connections, and comes to its end afterwards
        raise lost

    arriving = training(dataset, settings(num_workers=1)).iterate(0, 3)
    next(arriving)
    monkeypatch.setattr(torch.utils.data.dataloader._MultiProcessingDataLoaderIter, "_get_data", lose)
    with pytest.raises(RuntimeError, match="killed by signal: Killed"):
        next(arriving)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_resume_at_every_step_of_an_epoch(dataset: Dataset, world_size: int) -> None:
    """Ended at any step and resumed by any other number of ranks, a run reads what an undisturbed one reads."""
    given = settings(micro_batch=1)
    undisturbed = training(dataset, given, 2)
    steps = undisturbed.steps_per_epoch + 2
    whole = list(undisturbed.iterate(0, steps))
    for step in range(steps):
        for world_after in (1, 2, 4):
            resumed = training(dataset, given, 2)
            before = [list(resumed.iterate(0, step, rank=r, world_size=world_size)) for r in range(world_size)]
            after = [list(resumed.iterate(step, steps, rank=r, world_size=world_after)) for r in range(world_after)]
            read = sorted((b for rank in before + after for b in rank), key=lambda batch: batch.number)
            assert len(read) == len(whole)
            assert all(same(a, b) for a, b in zip(whole, read, strict=True))


def test_resume_of_a_weighted_mixture_with_pairs_by_another_number_of_ranks(tmp_path: Path) -> None:
    """Whatever ranks stop at whatever step and go on, passes over the sets and their order are as undisturbed."""
    lengths, sources = [6, 9, 30, 4, 12, 5, 7], [2, 8, 20, 4, 3, 1, 5]
    write_dataset(tmp_path / "a", {"train": LENGTHS})
    write_dataset(tmp_path / "b", {"train": lengths}, mark=2, sources=sources)
    sets = (
        SetSettings(path=str(tmp_path / "a"), weight=1, prefix=("start_of_text",)),
        SetSettings(path=str(tmp_path / "b"), weight=2.5, pairs=True, max_length=14),
    )
    undisturbed = mixed(*sets)
    steps = 2 * undisturbed.steps_per_epoch + 2
    whole = list(undisturbed.iterate(0, steps))
    seen = vectors_at(whole, "targets")
    assert {mark for *_, mark in seen} == {1, 2, END[2]}
    assert all(place > sources[int(document) - 1] for document, place, mark in seen if mark == 2)
    for step in range(steps + 1):
        for world_size, world_after in ((1, 2), (2, 4), (4, 1), (2, 1), (1, 4), (4, 2)):
            before = [list(mixed(*sets).iterate(0, step, rank=r, world_size=world_size)) for r in range(world_size)]
            resumed = [mixed(*sets) for _ in range(world_after)]  # as many new processes
            after = [
                list(batches.iterate(step, steps, rank=r, world_size=world_after)) for r, batches in enumerate(resumed)
            ]
            read = sorted((b for rank in before + after for b in rank), key=lambda batch: batch.number)
            assert len(read) == len(whole)
            assert all(same(a, b) for a, b in zip(whole, read, strict=True))
            for at in range(step, steps):
                together = read[at * 4 : (at + 1) * 4]
                assert resumed[0].targets_in_step(at) == sum(int(batch.targets.sum()) for batch in together)


def test_reading_leaves_the_default_generator_alone(dataset: Dataset) -> None:
    before = torch.get_rng_state()
    list(training(dataset, settings(), 0).iterate(0, 2))
    list(validation(dataset, settings()).iterate())
    assert torch.equal(torch.get_rng_state(), before)


def test_training_goes_on_without_end(dataset: Dataset) -> None:
    batches = training(dataset, settings(), 0)
    endless = batches.iterate()
    assert [next(endless).number for _ in range(50)] == list(range(50))


def test_a_world_size_that_does_not_divide_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="make it a multiple of 3"):
        training(dataset, settings(), 0).iterate(world_size=3)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_reads_every_document_once_whatever_the_world_size(dataset: Dataset, world_size: int) -> None:
    batches = validation(dataset, settings())
    ranks = [list(batches.iterate(rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    everything = sorted((batch for rank in ranks for batch in rank), key=lambda batch: batch.number)
    assert [batch.number for batch in everything] == list(range(len(everything)))
    assert all(batch.embeddings.shape == (2, 16, 3) for batch in everything)
    assert all(same(a, b) for a, b in zip(validation(dataset, settings()).iterate(), everything, strict=False))
    seen = [vector for batch in everything for vector in batch.embeddings[batch.targets].tolist()]
    lengths = LENGTHS[::-1]
    expected = [[i + 1, place, 1] for i, n in enumerate(lengths) if n > 1 for place in range(2, n + 1)]
    expected += [END.tolist()] * sum(n > 1 for n in lengths)
    assert sorted(seen) == sorted(expected)
    assert batches.targets == len(expected)


def test_a_data_set_smaller_than_a_step_trains(tmp_path: Path) -> None:
    batches = training(write_dataset(tmp_path, {"train": [1, 3]}), settings())
    assert batches.steps_per_epoch == 1
    assert batches.targets_in_step(0) == 8 * 3  # one row of three targets, repeated in the 2 x 4 rows of a step
    assert all(batch.targets.any(dim=1).all() for batch in batches.iterate(0, 3))


def test_a_data_set_without_targets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to predict"):
        training(write_dataset(tmp_path, {"train": [1, 1]}), settings())


def test_a_split_can_be_sent_to_another_process(dataset: Dataset) -> None:
    split = dataset.split("train")
    expected = split.embeddings(5).copy()
    sent = pickle.dumps(split)
    assert len(sent) < 10_000
    np.testing.assert_array_equal(pickle.loads(sent).embeddings(5), expected)


def test_moving_a_batch_keeps_its_number(dataset: Dataset) -> None:
    batch = training(dataset, settings(), 0).micro_batch(5)
    moved = batch.to("cpu")
    assert moved.number == 5
    assert all(torch.equal(x, y) for x, y in zip(moved.tensors().values(), batch.tensors().values(), strict=True))
    assert batch.tensors().keys() == {"embeddings", "documents", "positions", "targets"}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Data sets of 40 documents of 5 and of 10 of 20, marked 1 and 2."""
    paths = tmp_path / "a", tmp_path / "b"
    write_dataset(paths[0], {"train": [5] * 40, "validation": [5]})
    write_dataset(paths[1], {"train": [20] * 10, "validation": [20]}, mark=2)
    return paths


def test_without_weights_every_document_of_every_set_comes_once(two: tuple[Path, Path]) -> None:
    batches = mixed(*(SetSettings(path=str(path)) for path in two), micro_batch=1, global_batch=1)
    seen = vectors_at(epoch_of(batches), "targets")
    expected = Counter(
        {(d + 1, c, m): 1 for m, count, n in ((1, 40, 5), (2, 10, 20)) for d in range(count) for c in range(2, n + 1)}
    )
    expected[tuple(END)] = 50
    assert seen == expected


def test_weights_decide_how_much_of_each_set_an_epoch_reads(two: tuple[Path, Path]) -> None:
    weighted = [SetSettings(path=str(path), weight=weight) for path, weight in zip(two, (3, 1), strict=True)]
    batches = mixed(*weighted, micro_batch=1, global_batch=1, end_of_text=False)
    marks = Counter(mark for batch in epoch_of(batches) for *_, mark in batch.embeddings[batch.documents >= 0].tolist())
    assert marks[1] + marks[2] == pytest.approx(400, rel=0.1)
    assert marks[1] / (marks[1] + marks[2]) == pytest.approx(0.75, abs=0.05)


def test_each_set_has_its_own_special_concepts_and_longest_window(two: tuple[Path, Path]) -> None:
    batches = mixed(
        SetSettings(path=str(two[0]), prefix=("start_of_text",), suffix=()),
        SetSettings(path=str(two[1]), max_length=8),
        micro_batch=1,
        global_batch=1,
    )
    for batch in epoch_of(batches):
        for place in range(int(batch.documents.max()) + 1):
            inside = (batch.documents == place) & (batch.documents >= 0)
            vectors = batch.embeddings[inside].tolist()
            assert batch.targets[inside].tolist() == [False] + [True] * (len(vectors) - 1)
            if vectors[-1][2] == 1:  # of the first set
                document = vectors[-1][0]
                whole = [START.tolist()] + [[document, c, 1] for c in range(1, 6)]
                assert any(vectors == whole[i : i + len(vectors)] for i in range(6))  # a row may take a piece
            else:
                assert len(vectors) <= 8


def test_a_sentence_is_embedded_once_and_kept_beside_the_data_set(
    two: tuple[Path, Path], hash_codec: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def encode(self: Any, sentences: list[str], lang: str) -> np.ndarray:
        calls.append((sentences, lang))
        return np.tile(np.array([[9, 8, 7]], np.float32), (len(sentences), 1))

    monkeypatch.setattr(hash_codec, "encode", encode)
    (two[0] / "codec").mkdir()
    (two[0] / "codec/hash.txt").write_text("hash")
    one = SetSettings(path=str(two[0]), suffix=("That is all.", "end_of_text"))
    for _ in range(2):
        seen = vectors_at(epoch_of(mixed(one, micro_batch=1, global_batch=1)), "targets")
        assert seen[(9, 8, 7)] == seen[tuple(END)] == 40
    assert calls == [(["That is all."], "eng_Latn")]
    assert "embedding 1 sentences with the codec hash, once" in caplog.text
    with pytest.raises(ConfigError, match="did you mean end_of_text"):
        mixed(SetSettings(path=str(two[0]), suffix=("end_of_txt",)))


def test_a_data_set_that_cannot_be_written_keeps_sentences_in_the_users_cache(
    two: tuple[Path, Path], hash_codec: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_codec, "encode", lambda self, sentences, lang: np.full((len(sentences), 3), 9, np.float32))
    (two[0] / "codec").mkdir()
    (two[0] / "codec/hash.txt").write_text("hash")
    (two[0] / "concepts.safetensors").mkdir()  # root may write anywhere, but not a file over a folder
    mixed(SetSettings(path=str(two[0]), suffix=("The end.",)))
    assert (tmp_path / "cache/concepts/none.safetensors").is_file()


def test_languages_are_chosen_by(tmp_path: Path) -> None:
    langs = ["eng_Latn", "jpn_Jpan"] * 7
    dataset = write_dataset(tmp_path / "a", {"train": LENGTHS, "validation": [3]}, langs=langs)
    one = SetSettings(path=str(tmp_path / "a"), languages=("jpn_Jpan",))
    batches = mixed(one, micro_batch=1, global_batch=1, end_of_text=False)
    seen = vectors_at(epoch_of(batches), "targets")
    assert seen == Counter({(i + 1, c, 1): 1 for i in range(1, 14, 2) for c in range(2, LENGTHS[i] + 1)})
    given = settings(sets=(one,))
    assert ValidationBatches.of(Mixture([dataset], given), given) is None  # it has English alone
    with pytest.raises(ConfigError, match=r"has no documents in deu_Latn: it has eng_Latn, jpn_Jpan"):
        mixed(SetSettings(path=str(tmp_path / "a"), languages=("deu_Latn",)))


def test_of_pairs_only_the_target_counts(tmp_path: Path) -> None:
    lengths, sources = [6, 9, 30, 4, 12], [2, 8, 20, 4, 3]
    write_dataset(tmp_path / "a", {"train": lengths}, sources=sources)
    one = SetSettings(path=str(tmp_path / "a"), pairs=True)
    seen = vectors_at(epoch_of(mixed(one, micro_batch=1, global_batch=1, end_of_text=False)), "targets")
    expected = {
        (i + 1, c, 1): 1 for i, (n, s) in enumerate(zip(lengths, sources, strict=True)) for c in range(s + 1, n + 1)
    }
    assert seen == Counter(expected)  # document 3 has no target and is not read
    everything = SetSettings(path=str(tmp_path / "a"), pairs=False)
    seen = vectors_at(epoch_of(mixed(everything, micro_batch=1, global_batch=1, end_of_text=False)), "targets")
    assert seen == Counter({(i + 1, c, 1): 1 for i, n in enumerate(lengths) for c in range(2, n + 1)})


def test_pairs_are_asked_for_where_there_are_none(two: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="has no pairs"):
        mixed(SetSettings(path=str(two[0]), pairs=True))


def test_the_data_sets_of_a_mixture_have_one_codec(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", {"train": LENGTHS})
    write_dataset(tmp_path / "b", {"train": LENGTHS}, fingerprint="other")
    with pytest.raises(
        CodecError, match=r"/a \(hash none, 3 dimensions\) and .*/b \(hash other, 3 dimensions\) have diff"
    ):
        mixed(SetSettings(path=str(tmp_path / "a")), SetSettings(path=str(tmp_path / "b")))


def test_validation_of_a_mixture_reads_every_document_once(two: tuple[Path, Path]) -> None:
    given = settings(sets=tuple(SetSettings(path=str(p), weight=w) for p, w in zip(two, (9, 1), strict=True)))
    batches = ValidationBatches(Mixture.open(given), given)
    assert batches.targets == 5 + 20
    assert vectors_at(list(batches.iterate()), "targets").total() == 25


def damage(folder: Path, kind: str) -> str:
    """Damage one shard of several; returns its name."""
    shard, other = folder / "train-000001.tar", folder / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    if kind == "missing":
        shard.unlink()
    elif kind == "truncated":
        shard.write_bytes(content[:-512])
    elif kind == "swapped":
        content[:] = other.read_bytes().ljust(len(content), b"\0")[: len(content)]
        shard.write_bytes(content)
    else:
        content[first_read(folder)[1]] ^= 1
        shard.write_bytes(content)
    return shard.name


def first_read(folder: Path) -> tuple[int, int]:
    """The first document of the second shard that a training reads, and where its numbers begin."""
    with np.load(folder / "train.index.npz") as index:
        document = int(np.flatnonzero((index["shard"] == 1) & (index["n"] > 1))[0])
        return document, int(index["offset"][document])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["missing", "truncated", "swapped", "flipped", "flipped, all hashed"])
def test_a_bad_shard_is_an_error_or_is_skipped_and_counted(tmp_path: Path, kind: str, num_workers: int) -> None:
    dataset = write_dataset(tmp_path / "a", {"train": LENGTHS})
    per_shard = [shard.documents for shard in dataset.manifest.splits["train"].shards]
    lost = set(range(per_shard[0], per_shard[0] + per_shard[1]))
    if kind == "flipped":  # its checksum tells which document
        lost = {first_read(tmp_path / "a")[0]}
    usable = {i for i in lost if LENGTHS[i] > 1}
    one = SetSettings(path=str(tmp_path / "a"))
    hashes = kind == "flipped, all hashed"
    options = {"micro_batch": 1, "global_batch": 1, "num_workers": num_workers, "check_hashes": hashes}
    whole = epoch_of(mixed(one, **options))
    name = damage(tmp_path / "a", kind)
    with pytest.raises(ShardError, match=name) as caught:
        epoch_of(mixed(one, **options))
    assert "\n" not in str(caught.value)

    batches = epoch_of(mixed(one, on_bad_shard="skip", **options))
    assert vectors_at(batches, "targets") == Counter(
        {v: n for v, n in vectors_at(whole, "targets").items() if v[0] - 1 not in lost and v != tuple(END)}
        | {tuple(END): sum(n > 1 for n in LENGTHS) - len(usable)}
    )
    assert sum(batch.missing_targets for batch in batches) == sum(LENGTHS[i] for i in usable)
    assert sum(batch.skipped for batch in batches) == len(usable)
    for a, b in zip(whole, batches, strict=True):
        kept = b.documents >= 0
        assert torch.equal(a.embeddings[kept], b.embeddings[kept])
        assert torch.equal(a.positions[kept], b.positions[kept])
        assert not b.embeddings[~kept].any()


@pytest.mark.parametrize("kind", ["text", "prefixed", "pairs", "conversations"])
def test_a_skipped_document_counts_once_into_however_many_windows_it_is_cut(tmp_path: Path, kind: str) -> None:
    sources = [n // 2 if i % 2 else max(0, n - 1) for i, n in enumerate(LENGTHS)]
    spans = [[[n // 3, n // 3 + 1], [n - 1, n]] if n > 20 else [[n - 1, n]] for n in LENGTHS]
    given = {"pairs": {"sources": sources}, "conversations": {"targets": spans}}.get(kind, {})
    dataset = write_dataset(tmp_path / "a", {"train": LENGTHS}, **given)
    for shard in dataset.manifest.splits["train"].shards:
        (tmp_path / "a" / shard.file).unlink()
    one = SetSettings(path=str(tmp_path / "a"), prefix=("start_of_text",) if kind == "prefixed" else ())
    batches = mixed(one, micro_batch=1, global_batch=1, on_bad_shard="skip")
    with_targets = {"text": 13, "prefixed": 14, "pairs": 13, "conversations": 13}[kind]
    windows = sum(len(batches.plan.micro_batch_windows(batch.number).document) for batch in epoch_of(batches))
    assert windows > with_targets
    assert sum(batch.skipped for batch in epoch_of(batches)) == with_targets


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_shard_cut_short_while_it_is_read_is_an_error_or_is_skipped(tmp_path: Path, num_workers: int) -> None:
    dataset = write_dataset(tmp_path / "a", {"train": LENGTHS})
    record = dataset.manifest.splits["train"].shards[1]
    shard = tmp_path / "a" / record.file
    whole = shard.read_bytes()
    for on_bad_shard in ("error", "skip"):
        shard.write_bytes(whole)
        batches = mixed(
            SetSettings(path=str(tmp_path / "a")),
            micro_batch=1,
            global_batch=1,
            num_workers=num_workers,
            on_bad_shard=on_bad_shard,
        )
        steps = batches.steps_per_epoch
        endless = batches.iterate()
        before = [next(endless) for _ in range(steps)]  # all shards are open, all documents compared
        assert sum(batch.skipped for batch in before) == 0
        os.truncate(shard, 0)
        if on_bad_shard == "error":
            with pytest.raises(ShardError, match=rf"{record.file} is truncated \(0 bytes, expected {record.bytes}\)"):
                [next(endless) for _ in range(2 * steps)]  # a loader process has read ahead
        else:
            after = [next(endless) for _ in range(2 * steps)][steps:]
            lost = range(len(LENGTHS))[slice(*np.cumsum([shard.documents for shard in shards_of(dataset)])[:2])]
            assert sum(batch.skipped for batch in after) == sum(LENGTHS[i] > 1 for i in lost)


def shards_of(dataset: Dataset) -> list[Any]:
    return dataset.manifest.splits["train"].shards


def test_a_set_without_checksums_is_hashed_instead(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", {"train": LENGTHS})
    with np.load(tmp_path / "a/train.index.npz") as index:
        arrays = {name: array for name, array in index.items() if name != "crc32"}
    np.savez(tmp_path / "a/train.index.npz", **arrays)
    options = {"micro_batch": 1, "global_batch": 1}
    epoch_of(mixed(SetSettings(path=str(tmp_path / "a")), **options))
    name = damage(tmp_path / "a", "flipped")
    with pytest.raises(ShardError, match=name):
        epoch_of(mixed(SetSettings(path=str(tmp_path / "a")), **options))


def test_a_mended_shard_is_read_again_at_its_old_places(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", {"train": LENGTHS})
    shutil.copytree(tmp_path / "a", tmp_path / "whole")
    damage(tmp_path / "a", "missing")
    options = {"micro_batch": 1, "global_batch": 1, "on_bad_shard": "skip"}
    holey = epoch_of(mixed(SetSettings(path=str(tmp_path / "a")), **options))
    whole = epoch_of(mixed(SetSettings(path=str(tmp_path / "whole")), **options))
    assert sum(batch.skipped for batch in holey) > 0
    for a, b in zip(whole, holey, strict=True):
        assert torch.equal(torch.where(b.documents >= 0, a.documents, -1), b.documents)
