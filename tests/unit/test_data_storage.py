import os
from pathlib import Path

import numpy as np
import pytest

from lexalcm.data.format.manifest import ShardRecord
from lexalcm.data.format.storage import LocalShards
from lexalcm.errors import ShardError

SIZE = 10_000


@pytest.fixture
def contents(tmp_path: Path) -> list[bytes]:
    contents = [np.random.default_rng(i).bytes(SIZE) for i in range(5)]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.tar").write_bytes(content)
    return contents


@pytest.fixture
def shards(tmp_path: Path, contents: list[bytes]) -> LocalShards:
    records = [
        ShardRecord(file=f"{i}.tar", documents=1, sentences=1, bytes=len(content), sha256="")
        for i, content in enumerate(contents)
    ]
    return LocalShards(tmp_path, records)


def open_files(folder: Path) -> int:
    """Files of a folder that this process has open."""
    here = Path("/proc/self/fd")
    return sum(str(link.resolve()).startswith(f"{folder}/") for link in here.iterdir())


def test_any_bytes_are_read(shards: LocalShards, contents: list[bytes]) -> None:
    for shard, offset, size in [(0, 0, SIZE), (1, 17, 100), (4, SIZE - 1, 1), (2, SIZE, 0)]:
        found = shards.view(shard, offset, size)
        assert found == contents[shard][offset : offset + size]
        assert found.readonly


@pytest.mark.parametrize(("offset", "size"), [(SIZE - 5, 6), (SIZE, 1), (-1, 5), (10**15, 5)])
def test_places_outside_of_a_whole_file(shards: LocalShards, offset: int, size: int) -> None:
    with pytest.raises(ShardError, match=r"points outside of 2\.tar"):
        shards.view(2, offset, size)


def test_a_file_cut_short_after_it_was_opened_is_named_and_what_is_left_is_read(
    shards: LocalShards, contents: list[bytes], tmp_path: Path
) -> None:
    shards.view(1, 0, SIZE)
    os.truncate(tmp_path / "1.tar", 4000)
    for offset, size in [(3990, 20), (9000, 500)]:
        with pytest.raises(ShardError, match=r"1\.tar is truncated \(4000 bytes, expected 10000\): copy it") as caught:
            shards.view(1, offset, size)
        assert caught.value.shard == "1.tar"
    assert shards.view(1, 3900, 100) == contents[1][3900:4000]
    assert shards.view(0, 9000, 500) == contents[0][9000:9500]


@pytest.mark.parametrize(("size", "what"), [(SIZE + 1, "too long"), (0, "truncated")])
def test_a_file_of_another_size_is_refused_when_it_is_opened(
    shards: LocalShards, tmp_path: Path, size: int, what: str
) -> None:
    os.truncate(tmp_path / "1.tar", size)
    with pytest.raises(ShardError, match=rf"1\.tar is {what} \({size} bytes, expected 10000\)"):
        shards.view(1, 0, 10)


def test_few_files_are_open_at_a_time_and_none_afterwards(
    shards: LocalShards, contents: list[bytes], tmp_path: Path
) -> None:
    shards.most_open = 2
    for turn in range(3):
        for shard, content in enumerate(contents):
            assert shards.view(shard, turn, 10) == content[turn : turn + 10]
            assert open_files(tmp_path) <= 2 * 2  # a map has the file open as well
    del shards._files
    assert open_files(tmp_path) == 0
