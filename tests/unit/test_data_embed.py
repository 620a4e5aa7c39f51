import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lexalcm.codec.base import Request
from lexalcm.codec.lsa.codec import LsaCodec
from lexalcm.data.build.embed import EmbedJob, embed, make_job
from lexalcm.data.build.one_process import build_from_paths
from lexalcm.data.build.settings import BuildSettings
from lexalcm.data.build.tasks import Task
from lexalcm.data.build.units import Unit
from lexalcm.data.build.workspace import Workspace
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.shards import ShardFile
from lexalcm.errors import CodecError, DataError, UserError

SETTINGS = BuildSettings(codec="hash", shard_size=8192, validation=0.2)
fork = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _installed(hash_codec: type) -> None:
    """Every test here may use the codec `hash`; forked workers inherit it."""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Three files of documents of one to six sentences."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(3):
        lines = [
            json.dumps(
                {"id": f"{number}-{i}", "text": " ".join(f"Part {j} of {number}-{i}." for j in range(1 + i % 6))}
            )
            for i in range(40)
        ]
        (folder / f"{number}.jsonl").write_text("\n".join(lines))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def assert_same(folder: Path, expected: Path) -> None:
    """Every file, byte for byte, and no file more."""
    found, wanted = contents(folder), contents(expected)
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.fixture
def undisturbed(texts: Path, tmp_path: Path) -> Path:
    """What one process makes of the texts in one go."""
    return build_from_paths([texts], tmp_path / "undisturbed", SETTINGS).dataset.path


@pytest.mark.parametrize("tasks", [1, 2, 5, 100])
def test_any_number_of_workers_makes_the_same_bytes(texts: Path, tmp_path: Path, undisturbed: Path, tasks: int) -> None:
    job = make_job([texts], tmp_path / "out", SETTINGS)
    results = [embed(job, Task(i, tasks)) for i in random.Random(tasks).sample(range(tasks), tasks)]
    finished = [result for result in results if result.built is not None]
    assert finished[0].built is not None
    assert finished[0].built.made
    assert sum(result.own for result in results) == finished[0].units
    assert_same(tmp_path / "out", undisturbed)


def test_a_finished_unit_is_not_made_again(
    texts: Path, tmp_path: Path, hash_codec: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job([texts], tmp_path / "out", SETTINGS)
    embed(job, Task(0, 2))
    encoded: list[str] = []
    encode = hash_codec.encode

    def counted(self: object, sentences: list[str], lang: str) -> np.ndarray:
        encoded.extend(sentences)
        return encode(self, sentences, lang)

    monkeypatch.setattr(hash_codec, "encode", counted)
    result = embed(job)
    assert result.built is not None
    assert 0 < result.own < result.units
    sentences = sum(record.sentences for record in result.built.dataset.manifest.splits.values())
    assert 0 < len(encoded) < 0.6 * sentences
    encoded.clear()
    again = embed(job)
    assert again.built is not None
    assert not again.built.made
    assert encoded == []


def test_a_shard_that_was_lost_or_cut_off_is_made_again(texts: Path, tmp_path: Path, undisturbed: Path) -> None:
    job = make_job([texts], tmp_path / "out", SETTINGS)
    embed(job, Task(0, 2))
    shards = sorted((tmp_path / "out").glob("*.tar"))
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:1000])
    (tmp_path / "out" / "unfinished" / "shards" / f"{shards[2].name}.json").unlink()
    embed(job)
    assert_same(tmp_path / "out", undisturbed)


def test_tools_that_a_killed_worker_left_are_put_away(texts: Path, tmp_path: Path, undisturbed: Path) -> None:
    job = make_job([texts], tmp_path / "out", SETTINGS)
    embed(job)
    job.workspace.begin(job.request())
    (tmp_path / "out" / "unfinished" / "segmented" / "000000.jsonl").touch()
    assert embed(job).built is not None
    assert_same(tmp_path / "out", undisturbed)


def test_an_input_that_goes_away_is_named(texts: Path, tmp_path: Path) -> None:
    job = make_job([texts], tmp_path / "out", SETTINGS)
    (texts / "1.jsonl").unlink()
    with pytest.raises(UserError, match=r"1\.jsonl was removed"):
        embed(job)


def test_what_is_there_is_kept_where_two_workers_make_the_same_unit(texts: Path, tmp_path: Path) -> None:
    """Also where their codecs differ in the last digit: the record then is that of the shard that stayed."""
    job = make_job([texts], tmp_path / "out", SETTINGS)
    embed(job, Task(0, 100))
    first = tmp_path / "out" / "train-000000.tar"
    kept = first.read_bytes()
    workspace = job.workspace
    (workspace.folder / "shards" / "train-000000.tar.json").unlink()
    embed(job)
    assert first.read_bytes() == kept
    Dataset.open(tmp_path / "out")


def test_another_request_for_the_same_folder_is_an_error(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    embed(make_job([texts], out, SETTINGS), Task(0, 2))
    with pytest.raises(DataError, match="is unfinished"):
        Dataset.open(out)
    for other in (
        make_job([texts], out, SETTINGS.model_copy(update={"dtype": "float32"})),
        make_job([texts / "0.jsonl"], out, SETTINGS),
        make_job([texts], out, SETTINGS, lang="deu_Latn"),
    ):
        with pytest.raises(UserError, match="was begun with"):
            embed(other)
    (texts / "0.jsonl").write_text('{"text": "Changed."}')
    with pytest.raises(UserError, match="was begun with sources"):
        embed(make_job([texts], out, SETTINGS))


def test_a_folder_with_another_data_set_is_an_error(texts: Path, tmp_path: Path, undisturbed: Path) -> None:
    with pytest.raises(UserError, match="holds another data set already"):
        embed(make_job([texts], undisturbed, SETTINGS.model_copy(update={"dtype": "float32"})))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").touch()
    with pytest.raises(UserError, match="choose another output"):
        make_job([texts], tmp_path / "home", SETTINGS)
    with pytest.raises(UserError, match="read only once"):
        make_job(["-"], tmp_path / "new", SETTINGS)
    with pytest.raises(CodecError, match="did you mean hash"):
        make_job([texts], tmp_path / "new", SETTINGS.model_copy(update={"codec": "hush"}))


def test_the_codec_of_another_data_set(texts: Path, tmp_path: Path) -> None:
    text = [texts / "0.jsonl"]
    options = {"codec": "lsa", "codec_options": {"dim": 8}, "validation": 0.0}
    base = build_from_paths(text, tmp_path / "base", BuildSettings(**options)).dataset
    settings = BuildSettings(codec=str(base.path), validation=0.0)
    result = embed(make_job([texts], tmp_path / "out", settings))
    assert result.built is not None
    dataset = result.built.dataset
    assert dataset.manifest.codec == base.manifest.codec
    assert dataset.codec().fingerprint == base.manifest.codec.fingerprint
    np.testing.assert_array_equal(dataset.split().embeddings(1), base.split().embeddings(1))
    np.testing.assert_array_equal(dataset.special_concepts()["end_of_text"], base.special_concepts()["end_of_text"])


def test_text_that_comes_in_sentences_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"s": ["no capital. two stops.", " ", "x " * 300]}) + "\n" + json.dumps({"s": ["Second.", "Third."]})
    )
    job = make_job([tmp_path / "in.jsonl"], tmp_path / "out", SETTINGS, text_field="s")
    embed(job)
    documents = [
        split.document(i)["sentences"]
        for split in map(Dataset.open(tmp_path / "out").split, Dataset.open(tmp_path / "out").manifest.splits)
        for i in range(len(split))
    ]
    assert sorted(documents) == [["Second.", "Third."], ["no capital. two stops.", "x " * 300]]


def test_a_group_is_written_while_the_next_is_embedded(
    texts: Path, tmp_path: Path, undisturbed: Path, hash_codec: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first group's first document waits, in its writing, for the second group's embedding to begin."""
    began, encode, add = [], hash_codec.encode, ShardFile.add
    second = threading.Event()

    def encode_and_tell(self, sentences: list[str], lang: str) -> np.ndarray:
        if len(sentences) >= 20:  # not the special concepts, nor what is left at a unit's end
            began.append(len(sentences))
        if len(began) == 2:
            second.set()
        return encode(self, sentences, lang)

    def add_after_the_next_began(self, *arguments: object) -> None:
        assert second.wait(30)
        add(self, *arguments)

    settings = SETTINGS.model_copy(update={"shard_size": 2**20})
    expected = build_from_paths([texts], tmp_path / "one", settings).dataset.path
    monkeypatch.setattr(hash_codec, "sentences_at_once", 20, raising=False)
    monkeypatch.setattr(hash_codec, "encode", encode_and_tell)
    monkeypatch.setattr(ShardFile, "add", add_after_the_next_began)
    job = make_job([texts], tmp_path / "two", settings)
    embed(job)
    assert_same(tmp_path / "two", expected)
    assert len(began) > 10
    assert max(began) < 20 + 6  # whole documents


def stream_ahead(requests_ahead: int, asked: list[Request]) -> object:
    """A method `encode_stream` that has read so many further requests when it gives the embeddings of one."""

    def encode_stream(self, requests: Iterable[Request]) -> Iterator[np.ndarray]:
        read: deque[Request] = deque()
        for request in requests:
            asked.append(request)
            read.append(request)
            if len(read) > requests_ahead:
                yield self.encode(*read.popleft())
        while read:
            yield self.encode(*read.popleft())

    return encode_stream


def two_languages(texts: Path) -> None:
    """Makes every third document Japanese."""
    for file in texts.glob("*.jsonl"):
        documents = [json.loads(line) for line in file.read_text().splitlines()]
        lines = [
            json.dumps({**document, "lang": "jpn_Jpan"} if i % 3 else document) for i, document in enumerate(documents)
        ]
        file.write_text("\n".join(lines))


@pytest.mark.parametrize("codec", ["hash", "lsa"])
def test_a_codec_that_reads_ahead_makes_the_bytes_that_sentence_by_sentence_gives(
    texts: Path, tmp_path: Path, hash_codec: type, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    two_languages(texts)
    made = {"hash": hash_codec, "lsa": LsaCodec}[codec]
    settings = SETTINGS.model_copy(update={"codec": codec, "codec_options": {"dim": 8} if codec == "lsa" else {}})
    dataset = build_from_paths([texts], tmp_path / "plain", settings).dataset
    assert len(list(dataset.path.glob("*.tar"))) > 2
    opened = dataset.codec()
    for name in dataset.manifest.splits:
        split = dataset.split(name)
        for i in range(len(split)):
            document = split.document(i)
            one_by_one = [opened.encode([sentence], document["lang"])[0] for sentence in document["sentences"]]
            np.testing.assert_array_equal(split.embeddings(i), np.stack(one_by_one).astype(np.float16))
    asked: list[Request] = []
    monkeypatch.setattr(made, "encode_stream", stream_ahead(3, asked), raising=False)
    job = make_job([texts], tmp_path / "one", settings)
    embed(job)
    assert_same(job.out, dataset.path)
    sentences = sum(record.sentences for record in dataset.manifest.splits.values())
    assert sum(len(request[0]) for request in asked) == sentences
    monkeypatch.setattr(made, "encode_stream", stream_ahead(1000, asked))
    job = make_job([texts], tmp_path / "shared", settings)
    embed(job, Task(1, 3))
    embed(job)
    assert_same(job.out, dataset.path)
    assert sum(len(request[0]) for request in asked) == 2 * sentences


def test_a_unit_is_finished_while_the_next_is_embedded(
    texts: Path, tmp_path: Path, undisturbed: Path, hash_codec: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first unit's end waits for sentences of the third to be asked for."""
    asked: list[Request] = []
    third = threading.Event()
    encode, close = hash_codec.encode, ShardFile.close

    def encode_and_tell(self, sentences: list[str], lang: str) -> np.ndarray:
        if len(asked) > 2:  # a unit here is one request
            third.set()
        return encode(self, sentences, lang)

    def close_after_the_third_began(self, name: str) -> object:
        assert third.wait(30)
        return close(self, name)

    monkeypatch.setattr(hash_codec, "encode_stream", stream_ahead(0, asked), raising=False)
    monkeypatch.setattr(hash_codec, "encode", encode_and_tell)
    monkeypatch.setattr(ShardFile, "close", close_after_the_third_began)
    embed(make_job([texts], tmp_path / "out", SETTINGS))
    assert_same(tmp_path / "out", undisturbed)


@pytest.mark.parametrize("given", [0, 1])
def test_a_stream_that_ends_too_early_is_an_error(
    texts: Path, tmp_path: Path, hash_codec: type, monkeypatch: pytest.MonkeyPatch, given: int
) -> None:
    def encode_stream(self, requests: Iterator[Request]) -> Iterator[np.ndarray]:
        for _ in range(given):
            yield self.encode(*next(requests))

    monkeypatch.setattr(hash_codec, "encode_stream", encode_stream, raising=False)
    with pytest.raises(CodecError, match="ended before it had answered all requests"):
        build_from_paths([texts], tmp_path / "out", SETTINGS)


def test_numbers_that_cannot_be_stored_are_said_where_they_are_written(
    texts: Path, tmp_path: Path, hash_codec: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_codec, "encode", lambda self, sentences, lang: np.full((len(sentences), 8), 1e9))
    with pytest.raises(DataError, match=r"document \d-\d+: an embedding is not finite in float16"):
        build_from_paths([texts], tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_without_text_all_but_the_sentences_is_stored(texts: Path, tmp_path: Path, undisturbed: Path) -> None:
    settings = SETTINGS.model_copy(update={"text": False})
    dataset = build_from_paths([texts], tmp_path / "out", settings).dataset
    with_text = Dataset.open(undisturbed)
    assert not dataset.manifest.text
    for name in with_text.manifest.splits:
        split, original = dataset.split(name), with_text.split(name)
        for i in range(len(original)):
            np.testing.assert_array_equal(split.embeddings(i), original.embeddings(i))
            expected = original.document(i)
            del expected["sentences"]
            assert split.document(i) == expected


def run_worker(job: EmbedJob, task: Task) -> None:
    embed(job, task)
    os._exit(0)


def start_worker(job: EmbedJob, task: Task) -> multiprocessing.Process:
    worker = fork.Process(target=run_worker, args=(job, task))
    worker.start()
    return worker


def test_fifty_kills_leave_no_trace(
    texts: Path, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, killed at random moments and started again, 50 times, over as many data sets as that takes."""
    is_done = Workspace.is_done

    def slowly(self: Workspace, unit: Unit) -> bool:
        time.sleep(0.001)
        return is_done(self, unit)

    monkeypatch.setattr(Workspace, "is_done", slowly)  # so that kills fall into all stages
    chance = random.Random(0)
    kills = rounds = 0
    found_after_kills: set[str] = set()
    while kills < 50:
        job = make_job([texts], tmp_path / f"out-{rounds}", SETTINGS)
        workers = [start_worker(job, Task(i, 2)) for i in range(2)]
        while kills < 50 and not (job.out / "dataset.json").exists():
            time.sleep(chance.uniform(0, 0.06))
            i = chance.randrange(2)
            if workers[i].is_alive():
                os.kill(workers[i].pid or 0, signal.SIGKILL)
                kills += 1
            workers[i].join()
            found_after_kills |= {name for _, folders, files in os.walk(job.out) for name in (*folders, *files)}
            workers[i] = start_worker(job, Task(i, 2))
        for worker in workers:
            worker.join()
        assert embed(job).built is not None
        assert_same(job.out, undisturbed)
        rounds += 1
    assert {"request.json", "000000.jsonl", "codec", "plan.json", "train-000000.tar"} <= found_after_kills
    assert any(name.endswith(".tmp") for name in found_after_kills)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of that size, where the system lets us mount one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # the data set's maps may still be open


def test_a_full_disk_keeps_the_finished_shards(texts: Path, tmp_path: Path, undisturbed: Path) -> None:
    with small_disk(tmp_path / "disk", "1m"):
        out = tmp_path / "disk" / "out"
        ballast = tmp_path / "disk" / "ballast"
        ballast.write_bytes(bytes(900_000))
        job = make_job([texts], out, SETTINGS)
        with pytest.raises(UserError, match=r"No space left on device; finished shards stay"):
            embed(job)
        shards = {file.name: file.read_bytes() for file in out.glob("*.tar")}
        assert len(shards) > 1
        assert all(content == (undisturbed / name).read_bytes() for name, content in shards.items())
        assert list(out.rglob("*.tmp")) == []
        ballast.unlink()
        result = embed(job)
        assert result.own <= result.units - len(shards)
        assert_same(out, undisturbed)
