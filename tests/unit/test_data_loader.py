import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lexalcm.config import CodecRecord, DataSettings
from lexalcm.data.dataset import Dataset
from lexalcm.data.loader import Batch, TrainingBatches, ValidationBatches
from lexalcm.data.manifest import Manifest, write_manifest
from lexalcm.data.normalize import NormalizerSettings
from lexalcm.data.shards import ShardWriter
from lexalcm.errors import ConfigError, DataError

END = np.array([-1, -1, -1], np.float32)
LENGTHS = [5, 1, 12, 2, 7, 30, 3, 9, 4, 8, 21, 6, 2, 11]


def write_dataset(folder: Path, splits: dict[str, list[int]]) -> Dataset:
    """Documents whose concepts are (document + 1, place + 1, 1), so that each says where it belongs."""
    records = {}
    for name, lengths in splits.items():
        writer = ShardWriter(folder, name, "float16", 3000)
        for i, n in enumerate(lengths):
            vectors = np.stack([np.full(n, i + 1), np.arange(1, n + 1), np.ones(n)], axis=1)
            writer.add({"id": f"{i}", "lang": "eng_Latn", "title": "", "sentences": ["x"] * n}, vectors)
        records[name] = writer.close()
    codec = CodecRecord(name="none", dim=3, fingerprint="none")
    write_manifest(folder, Manifest(codec=codec, dtype="float16", normalizer=NormalizerSettings(), splits=records))
    save_file({"end_of_text": END}, folder / "special_concepts.safetensors")
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("numbered"), {"train": LENGTHS, "validation": LENGTHS[::-1]})


def settings(**changes: int | bool) -> DataSettings:
    return DataSettings(**{"row_length": 16, "micro_batch": 2, "global_batch": 4} | changes)


def same(a: Batch, b: Batch) -> bool:
    tensors = zip(a.model_inputs().values(), b.model_inputs().values(), strict=True)
    return a.number == b.number and all(torch.equal(x, y) for x, y in tensors)


@pytest.mark.parametrize("end_of_text", [True, False])
def test_every_position_of_a_batch(dataset: Dataset, end_of_text: bool) -> None:
    batches = TrainingBatches(dataset, settings(end_of_text=end_of_text), seed=0)
    for number in range(2 * batches.steps_per_epoch * 4):
        batch = batches.micro_batch(number)
        assert batch.number == number
        assert batch.embeddings.shape == (2, 16, 3)
        assert batch.embeddings.dtype == torch.float32
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
    batches = TrainingBatches(dataset, settings(micro_batch=1, global_batch=1), seed=0)
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
    undisturbed = TrainingBatches(dataset, settings(), seed=1)
    first, last = 3, 9  # crosses epochs
    assert undisturbed.steps_per_epoch < 6
    batches = TrainingBatches(dataset, settings(num_workers=num_workers), seed=1)
    ranks = [list(batches.iterate(first, last, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for step in range(first, last):
        together = [ranks[k % world_size][((step - first) * 4 + k) // world_size] for k in range(4)]
        assert all(same(undisturbed.micro_batch(step * 4 + k), together[k]) for k in range(4))
        assert undisturbed.targets_in_step(step) == sum(int(batch.targets.sum()) for batch in together)


def test_resume_at_every_step_of_an_epoch(dataset: Dataset) -> None:
    batches = TrainingBatches(dataset, settings(global_batch=1), seed=2)
    steps = batches.steps_per_epoch + 2
    undisturbed = list(batches.iterate(0, steps))
    for step in range(steps):
        resumed = TrainingBatches(dataset, settings(global_batch=1), seed=2)
        rest = list(resumed.iterate(step, steps))
        assert len(rest) == steps - step
        assert all(same(a, b) for a, b in zip(undisturbed[step:], rest, strict=True))


def test_reading_leaves_the_default_generator_alone(dataset: Dataset) -> None:
    before = torch.get_rng_state()
    list(TrainingBatches(dataset, settings(), seed=0).iterate(0, 2))
    list(ValidationBatches(dataset, settings()).iterate())
    assert torch.equal(torch.get_rng_state(), before)


def test_training_goes_on_without_end(dataset: Dataset) -> None:
    batches = TrainingBatches(dataset, settings(), seed=0)
    endless = batches.iterate()
    assert [next(endless).number for _ in range(50)] == list(range(50))


def test_a_world_size_that_does_not_divide_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="make it a multiple of 3"):
        TrainingBatches(dataset, settings(), seed=0).iterate(world_size=3)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_reads_every_document_once_whatever_the_world_size(dataset: Dataset, world_size: int) -> None:
    batches = ValidationBatches(dataset, settings())
    ranks = [list(batches.iterate(rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    everything = sorted((batch for rank in ranks for batch in rank), key=lambda batch: batch.number)
    assert [batch.number for batch in everything] == list(range(len(everything)))
    assert all(batch.embeddings.shape == (2, 16, 3) for batch in everything)
    assert all(same(a, b) for a, b in zip(ValidationBatches(dataset, settings()).iterate(), everything, strict=False))
    seen = [vector for batch in everything for vector in batch.embeddings[batch.targets].tolist()]
    lengths = LENGTHS[::-1]
    expected = [[i + 1, place, 1] for i, n in enumerate(lengths) if n > 1 for place in range(2, n + 1)]
    expected += [END.tolist()] * sum(n > 1 for n in lengths)
    assert sorted(seen) == sorted(expected)
    assert batches.targets == len(expected)


def test_a_data_set_smaller_than_a_step_trains(tmp_path: Path) -> None:
    batches = TrainingBatches(write_dataset(tmp_path, {"train": [1, 3]}), settings(), seed=0)
    assert batches.steps_per_epoch == 1
    assert batches.targets_in_step(0) == 8 * 3  # one row of three targets, repeated in the 2 x 4 rows of a step
    assert all(batch.targets.any(dim=1).all() for batch in batches.iterate(0, 3))


def test_a_data_set_without_targets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to predict"):
        TrainingBatches(write_dataset(tmp_path, {"train": [1, 1]}), settings(), seed=0)


def test_a_split_can_be_sent_to_another_process(dataset: Dataset) -> None:
    split = dataset.split("train")
    expected = split.embeddings(5).copy()
    sent = pickle.dumps(split)
    assert len(sent) < 10_000
    np.testing.assert_array_equal(pickle.loads(sent).embeddings(5), expected)


def test_moving_a_batch_keeps_its_number(dataset: Dataset) -> None:
    batch = TrainingBatches(dataset, settings(), seed=0).micro_batch(5)
    assert same(batch.to("cpu"), batch)
    assert batch.model_inputs().keys() == {"embeddings", "documents", "positions", "targets"}
