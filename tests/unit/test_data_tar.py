import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from lexalcm.data.format.finished_shard import FinishedShard
from lexalcm.data.format.shards import ShardWriter, read_shard
from lexalcm.data.format.tar import TarWriter, npy_header, tar_header
from lexalcm.errors import DataError


@pytest.mark.parametrize("name", ["000000-000000.emb.npy", "a", "b" * 99, "é漢.json"])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 123_456_789, 8**11 - 1])
def test_headers_are_those_of_the_standard_library(name: str, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    assert tar_header(name, size) == member.tobuf(tarfile.USTAR_FORMAT)


def test_a_member_that_tar_cannot_hold() -> None:
    with pytest.raises(DataError, match="cut the document"):
        tar_header("a", 8**11)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (12, 1024), (10**7, 1024)])
def test_array_headers_are_those_of_numpy(shape: tuple[int, int], dtype: str) -> None:
    array = np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, (0, 0))
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, np.lib.format.header_data_from_array_1_0(array) | {"fortran_order": False}
    )
    assert npy_header(*shape, dtype) == file.getvalue()


def test_a_tar_says_its_hash_and_its_length(tmp_path: Path) -> None:
    tar = TarWriter(tmp_path / "t.tar")
    tar.add(("a", (b"1" * 300, memoryview(b"1" * 400))), ("b", (b"",)))
    tar.add(("c", (b"2" * 512,)))
    tar.close()
    content = (tmp_path / "t.tar").read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (tar.position, tar.hash.hexdigest())
    with tarfile.open(tmp_path / "t.tar", "r:") as read:
        assert [(m.name, read.extractfile(m).read()) for m in read] == [
            ("a", b"1" * 700),
            ("b", b""),
            ("c", b"2" * 512),
        ]


def test_a_file_that_takes_less_than_it_is_given_gets_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writev = os.writev
    monkeypatch.setattr("os.writev", lambda file, pieces: writev(file, [b"".join(pieces)[:700]]))
    tar = TarWriter(tmp_path / "t.tar")
    tar.add(("a", (b"1" * 300, b"2" * 400)), ("b", (b"3",)))
    tar.close()
    content = (tmp_path / "t.tar").read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (tar.position, tar.hash.hexdigest())
    with tarfile.open(tmp_path / "t.tar", "r:") as read:
        assert [read.extractfile(m).read() for m in read] == [b"1" * 300 + b"2" * 400, b"3"]


def write_shard(folder: Path) -> ShardWriter:
    writer = ShardWriter(folder, "train", "float16", 2**20)
    for i in range(7):
        document = {"id": f"{i}", "lang": ("eng_Latn", "jpn_Jpan")[i % 2], "sentences": ["x"] * (i + 1)}
        writer.add(document, np.full((i + 1, 8), i))
    writer.close()
    return writer


def test_a_shard_can_be_read_again_for_what_was_known_of_it(tmp_path: Path) -> None:
    expected = write_shard(tmp_path).shards[0]
    for found in (read_shard(tmp_path / "train-000000.tar"), FinishedShard.from_json(expected.to_json())):
        assert (found.record, found.languages) == (expected.record, expected.languages)
        for column in ("offset", "n", "lang", "source"):
            np.testing.assert_array_equal(getattr(found, column), getattr(expected, column))
            assert getattr(found, column).dtype == getattr(expected, column).dtype


def test_a_shard_that_is_cut_off_is_not_whole(tmp_path: Path) -> None:
    write_shard(tmp_path)
    shard = tmp_path / "train-000000.tar"
    content = shard.read_bytes()
    for length in range(0, len(content), 200):
        shard.write_bytes(content[:length])
        with pytest.raises(DataError, match="not a whole shard"):
            read_shard(shard)
    shard.write_bytes(content)
    read_shard(shard)
