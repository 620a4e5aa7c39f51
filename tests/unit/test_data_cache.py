import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lexalcm.errors import ConfigError
from lexalcm.io.disk_cache import DiskCache

FORK = multiprocessing.get_context("fork")


def on_disk(cache: DiskCache) -> int:
    folders = (cache.root / name for name in ("blocks", "folders", "new"))
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def age(cache: DiskCache, key: str, seconds: float) -> None:
    used = time.time() - seconds
    os.utime(cache._block(key), (used, used))


def test_what_is_stored_is_read_again_also_in_part(tmp_path):
    cache = DiskCache(tmp_path / "deep" / "cache", 1000)
    assert cache.read("ab1", 0, 3) is None
    cache.store("ab1", b"0123456789")
    assert cache.read("ab1", 0, 10) == b"0123456789"
    assert cache.read("ab1", 3, 5) == b"34"
    assert cache.read("ab1", 8, 12) is None  # not so long


def test_the_least_recently_used_goes_first_and_the_limit_holds(tmp_path):
    cache = DiskCache(tmp_path, 1000)
    for number in range(9):
        cache.store(f"aa{number}", bytes(100))
        age(cache, f"aa{number}", 10_000 - number)
    assert cache.read("aa0", 0, 1) == b"\0"  # used again: no longer the oldest
    for number in range(9, 12):
        cache.store(f"aa{number}", bytes(100))
        assert on_disk(cache) <= 1000
    assert cache.read("aa0", 0, 1) == b"\0"
    assert cache.read("aa1", 0, 1) is None
    assert cache.read("aa11", 0, 1) == b"\0"


def test_a_smaller_limit_takes_effect_and_a_lost_count_is_made_again(tmp_path):
    cache = DiskCache(tmp_path, 10_000)
    for number in range(50):
        cache.store(f"aa{number}", bytes(100))
    (tmp_path / "used").write_text("damaged")
    smaller = DiskCache(tmp_path, 1000)
    smaller.store("bb", bytes(100))
    assert on_disk(smaller) <= 1000
    assert smaller.read("bb", 0, 100) == bytes(100)


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    cache = DiskCache(tmp_path, 1000)
    old, new = tmp_path / "new" / "old", tmp_path / "new" / "young"
    for file in (old, new):
        file.write_bytes(bytes(10))
    os.utime(old, (0, 0))
    for number in range(20):
        cache.store(f"aa{number}", bytes(100))
    assert not old.exists()
    assert new.exists()


def test_a_folder_in_use_is_kept_and_one_that_is_not_goes(tmp_path):
    cache = DiskCache(tmp_path, 1000)
    held = cache.hold_folder("first")
    cache.add_to_folder(held.path / "file", lambda goal: goal.write_bytes(bytes(300)))
    let_go = cache.hold_folder("second")
    cache.add_to_folder(let_go.path / "file", lambda goal: goal.write_bytes(bytes(300)))
    del let_go
    for name in ("first", "second"):
        os.utime(tmp_path / "locks" / f"{name}.folder", (1, 1))  # unused for longest
    for number in range(20):
        cache.store(f"aa{number}", bytes(100))
    assert (held.path / "file").read_bytes() == bytes(300)
    assert not (tmp_path / "folders" / "second").exists()
    assert on_disk(cache) <= 1000


def _hammer(root: Path, seed: int) -> None:
    cache = DiskCache(root, 20_000)
    for step in range(150):
        number = (seed * 31 + step * 7) % 60
        key, content = f"{number:02d}", bytes([number]) * 1000
        found = cache.read(key, 0, 1000)
        assert found in (None, content)  # whole or not there
        if found is None:
            cache.store(key, content)


def test_processes_that_write_and_remove_at_once_see_whole_blocks_and_keep_the_limit(tmp_path):
    processes = [FORK.Process(target=_hammer, args=(tmp_path, seed)) for seed in range(4)]
    for process in processes:
        process.start()
    largest = 0
    cache = DiskCache(tmp_path, 20_000)
    while any(process.is_alive() for process in processes):
        largest = max(largest, sum(_sizes(cache.root / "blocks")))
        time.sleep(0.005)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert largest <= 20_000 + 4 * 1000  # a block that each is about to write
    assert on_disk(cache) <= 20_000


def _sizes(folder: Path) -> Iterator[int]:
    for part in folder.iterdir():
        for file in part.iterdir():
            with suppress(FileNotFoundError):
                yield file.stat().st_size


def test_what_two_want_at_once_is_fetched_once(tmp_path):
    cache = DiskCache(tmp_path, 1000)
    fetched = []

    def want() -> None:
        with cache.fetching("ab"):
            if cache.read("ab", 0, 4) is None:
                fetched.append(1)
                time.sleep(0.05)
                cache.store("ab", b"data")

    threads = [threading.Thread(target=want) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1


def test_what_is_larger_than_the_cache_is_said(tmp_path):
    cache = DiskCache(tmp_path, 1000)
    with pytest.raises(ConfigError, match="1,001 are needed at once: raise LEXALCM_CACHE_SIZE"):
        cache.store("aa", bytes(1001))
    held = cache.hold_folder("first")
    with pytest.raises(ConfigError, match="raise LEXALCM_CACHE_SIZE"):
        cache.add_to_folder(held.path / "file", lambda goal: goal.write_bytes(bytes(1001)))
    assert on_disk(cache) == 0


def test_settings_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("LEXALCM_CACHE_SIZE", "2MiB")
    cache = DiskCache.from_environment()
    assert (cache.root, cache.limit) == (tmp_path / "here", 2 * 2**20)
    monkeypatch.setenv("LEXALCM_CACHE_SIZE", "much")
    with pytest.raises(ConfigError, match="LEXALCM_CACHE_SIZE=much"):
        DiskCache.from_environment()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="set LEXALCM_CACHE"):
        DiskCache(tmp_path / "file" / "cache", 1000)
