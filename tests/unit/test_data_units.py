from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexalcm.data.build.segmented_store import Part, SegmentedStore, document_position
from lexalcm.data.build.units import WorkUnits, cut_units, divide, read_unit
from lexalcm.data.format.shards import ShardWriter, document_json
from lexalcm.data.sources.corpus import Document


def part(lengths: list[int], positions: list[float], text_bytes: list[int] | None = None, dropped: int = 0) -> Part:
    return Part(
        start=np.arange(len(lengths) + 1),
        text_bytes=np.array(text_bytes or [50] * len(lengths), np.int64),
        n=np.array(lengths, np.int32),
        position=np.array(positions, np.float64),
        dropped=dropped,
    )


def in_parts(values: list, cut: int) -> list[list]:
    return [values[start : start + cut] for start in range(0, len(values), cut)]


def held_out(work: WorkUnits, positions: list[float]) -> list[bool]:
    return work.division.held_out(0, np.array(positions)).tolist()


def test_positions_are_spread_evenly() -> None:
    positions = np.sort([document_position(f"{i}") for i in range(10_000)])
    assert np.abs(positions - np.arange(10_000) / 10_000).max() < 0.02  # Kolmogorov-Smirnov, p < 0.001 at 0.0195


@pytest.mark.parametrize("documents_a_part", [1, 2, 4])
@pytest.mark.parametrize(
    ("lengths", "share", "expected"),
    [
        ([5, 5, 5, 5], 0.5, [True, False, False, True]),
        ([5, 5, 5, 5], 0.1, [True, False, False, False]),
        ([5, 5, 5, 5], 0.99, [True, True, False, True]),
        ([5, 5, 5, 5], 0, [False, False, False, False]),
        ([1, 5, 5, 1], 0.1, [False, True, False, False]),
        ([1, 5, 1, 1], 0.5, [False, False, False, False]),
        ([5], 0.5, [False]),
    ],
)
def test_both_sides_get_something_to_predict(
    lengths: list[int], share: float, expected: list[bool], documents_a_part: int
) -> None:
    positions = [0.2, 0.6, 0.9, 0.3][: len(lengths)]
    parts = [
        part(some_lengths, some_positions)
        for some_lengths, some_positions in zip(
            in_parts(lengths, documents_a_part), in_parts(positions, documents_a_part), strict=True
        )
    ]
    assert held_out(divide(parts, share), positions) == expected


def test_documents_without_a_sentence_are_counted_over_all_parts() -> None:
    work = divide([part([3], [0.5], dropped=2), part([], [], dropped=1), part([2], [0.7])], 0.1)
    assert work.dropped == 3
    assert work.parts == [1, 0, 1]


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.tuples(st.integers(1, 40), st.integers(20, 3000)), min_size=1, max_size=40),
    documents_a_part=st.integers(1, 50),
    shard_size=st.integers(1000, 20_000),
    share=st.sampled_from([0.0, 0.3]),
)
def test_units_are_the_shards_that_a_writer_makes(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[tuple[int, int]],
    documents_a_part: int,
    shard_size: int,
    share: float,
) -> None:
    """A unit is known before anything is embedded; what it will hold is what a writer puts into a shard."""
    records = [
        {"id": f"{i}", "lang": "eng_Latn", "title": "", "sentences": ["x" * (chars // n)] * n, "metadata": {}}
        for i, (n, chars) in enumerate(documents)
    ]
    positions = [document_position(record["id"]) for record in records]
    text_bytes = [len(document_json(record)) for record in records]
    columns = ([n for n, _ in documents], positions, text_bytes)
    parts = [part(*some) for some in zip(*(in_parts(column, documents_a_part) for column in columns), strict=True)]
    work = cut_units(divide(parts, share), parts, 8, "float16", shard_size)
    folder = tmp_path_factory.mktemp("shards")
    for split in ("train", "validation"):
        writer = ShardWriter(folder, split, "float16", shard_size)
        chosen = [i for i, out in enumerate(held_out(work, positions)) if out == (split == "validation")]
        for i in chosen:
            writer.add(records[i], np.zeros((documents[i][0], 8)))
        writer.close()
        units = [unit for unit in work.units if unit.split == split]
        assert [(unit.shard, unit.documents, unit.sentences) for unit in units] == [
            (shard.record.file, shard.record.documents, shard.record.sentences) for shard in writer.shards
        ]
        firsts = np.cumsum([0, *(unit.documents for unit in units)])[:-1]
        assert [unit.first for unit in units] == [chosen[first] for first in firsts]


def test_a_unit_reads_its_documents_across_parts(tmp_path: Path) -> None:
    store = SegmentedStore(tmp_path)
    names = [f"doc-{i}" for i in range(30)]
    for number, some in enumerate((names[:11], [], names[11:12], names[12:])):
        store.write(number, [Document(name, "eng_Latn", f"One {name}. Two. Three.") for name in some])
    parts = [store.part(number) for number in range(4)]
    work = cut_units(divide(parts, 0.3), parts, 8, "float16", 8192)
    seen = {unit.shard: [document["id"] for document in read_unit(work, unit, store)] for unit in work.units}
    assert len(seen) > 3
    out = held_out(work, list(map(document_position, names)))
    expected_out = [name for name, is_out in zip(names, out, strict=True) if is_out]
    assert [name for shard, ids in seen.items() if shard.startswith("validation") for name in ids] == expected_out
    assert sorted(name for ids in seen.values() for name in ids) == sorted(names)
    assert all(len(seen[unit.shard]) == unit.documents for unit in work.units)
