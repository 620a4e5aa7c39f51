import json
import multiprocessing
import pickle
import shutil
import socket
import sys

import numpy as np
import pytest
from remote_servers import serve
from torch.utils.data import DataLoader

from lexalcm.data.build.one_process import BuildSettings, build_dataset
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.remote_metadata import RemoteMetadata
from lexalcm.data.sources.corpus import Document
from lexalcm.errors import ConfigError, DataError, MissingExtraError, RemoteError, ShardError
from lexalcm.io import remote
from lexalcm.io.disk_cache import DiskCache
from lexalcm.verify.dataset.check import verify_dataset

pytest.importorskip("aiohttp", reason="reading https:// needs the extra http")

DIM = 16


@pytest.fixture(autouse=True)
def small_cache(tmp_path, monkeypatch):
    """A cache of its own for each test, in small blocks; no long pauses between attempts."""
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LEXALCM_CACHE_SIZE", "1MiB")
    monkeypatch.setenv("LEXALCM_CACHE_BLOCK", "4KiB")
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def local(make_dataset):
    generator = np.random.default_rng(0)
    documents = [("eng_Latn", generator.normal(size=(n, DIM))) for n in generator.integers(1, 120, size=60)]
    return make_dataset({"train": documents, "validation": documents[:5]}, shard_size=40_000)


@pytest.fixture
def server(local, tmp_path):
    shutil.copytree(local.path, tmp_path / "served" / "set")
    with serve(tmp_path / "served") as server:
        yield server


def same(one: Dataset, other: Dataset) -> None:
    """Every document of two data sets agrees."""
    assert one.manifest == other.manifest
    for name in one.manifest.splits:
        ours, theirs = one.split(name), other.split(name)
        assert len(ours) == len(theirs)
        for i in range(len(ours)):
            np.testing.assert_array_equal(ours.embeddings(i), theirs.embeddings(i))
            assert ours.document(i) == theirs.document(i)


def test_a_web_address_reads_like_the_folder(local, server):
    there = Dataset.open(f"{server.address}/set")
    same(there, local)
    for name, values in local.normalizer().items():
        np.testing.assert_array_equal(there.normalizer()[name], values)
    assert not there.split("train").embeddings(3).flags.writeable
    assert len(local.manifest.splits["train"].shards) > 3


def test_blocks_are_fetched_once_and_kept_for_the_next_time(local, server):
    address = f"{server.address}/set"
    same(Dataset.open(address), local)
    size = sum(split.bytes for split in local.manifest.splits.values())
    shards = server.asked_for(".tar")
    assert len(shards) == len(set(shards))
    assert len(shards) <= size / 4096 + 2 * len(local.manifest.splits["train"].shards)
    before = server.sent
    same(Dataset.open(address), local)
    assert server.asked_for(".tar") == shards
    assert server.sent - before == (local.path / "dataset.json").stat().st_size  # looked at anew each time


def test_a_block_that_the_disk_has_damaged_is_fetched_again(local, server, small_cache):
    address = f"{server.address}/set"
    same(Dataset.open(address), local)
    with np.load(local.path / "train.index.npz") as index:
        document, place = 7, int(index["offset"][7])
    [kept] = [
        file
        for file in (small_cache / "blocks").rglob(f"*-{place // 4096:06d}")
        if file.read_bytes()[place % 4096 :][:8] == local.split("train").embeddings(document).tobytes()[:8]
    ]
    content = bytearray(kept.read_bytes())
    content[place % 4096] ^= 1
    kept.write_bytes(content)
    before = len(server.asked_for(".tar"))
    found = Dataset.open(address).split("train").embeddings(document)
    np.testing.assert_array_equal(found, local.split("train").embeddings(document))
    assert len(server.asked_for(".tar")) == before + 1


def test_a_document_costs_its_blocks_not_its_shard(local, server):
    split = Dataset.open(f"{server.address}/set").split("train")
    before = server.sent
    document = int(np.argmax(split.lengths < 10))
    split.embeddings(document)
    assert server.sent - before <= 2 * 4096


def test_prefetched_documents_are_not_asked_for_again(local, server):
    split = Dataset.open(f"{server.address}/set").split("train")
    split.prefetch(range(20))
    asked = len(server.asked_for(".tar"))
    for i in range(1, 20):
        split.embeddings(i)
    assert len(server.asked_for(".tar")) <= asked + 1


def test_the_cache_stays_within_its_size_and_reading_goes_on(local, server, small_cache, monkeypatch):
    monkeypatch.setenv("LEXALCM_CACHE_SIZE", "80KiB")
    there = Dataset.open(f"{server.address}/set")
    same(there, local)
    blocks = sum(file.stat().st_size for file in (small_cache / "blocks").rglob("*") if file.is_file())
    assert 0 < blocks <= 80 * 1024
    monkeypatch.setenv("LEXALCM_CACHE_SIZE", "5KiB")
    with pytest.raises(ConfigError, match="LEXALCM_CACHE_SIZE at least 16 times LEXALCM_CACHE_BLOCK"):
        Dataset.open(f"{server.address}/set").split("train")


def test_a_changed_set_at_the_same_address_never_mixes(local, server, make_dataset):
    address = f"{server.address}/set"
    same(Dataset.open(address), local)
    # The same layout to the byte, other numbers.
    other = make_dataset(
        {
            name: [("eng_Latn", -np.array(local.split(name).embeddings(i))) for i in range(len(local.split(name)))]
            for name in ("train", "validation")
        },
        shard_size=40_000,
    )
    shutil.rmtree(server.folder / "set")
    shutil.copytree(other.path, server.folder / "set")
    same(Dataset.open(address), other)


def test_a_server_without_ranges_is_read_whole_once(local, server):
    server.ranges = False
    same(Dataset.open(f"{server.address}/set"), local)
    asked = server.asked_for(".tar")
    assert len(asked) == sum(len(split.shards) for split in local.manifest.splits.values())


def test_a_server_that_fails_now_and_then_is_asked_again(local, server):
    server.failures = 3
    there = Dataset.open(f"{server.address}/set")
    server.failures = 2
    np.testing.assert_array_equal(there.split("train").embeddings(0), local.split("train").embeddings(0))


def test_a_server_that_keeps_failing_is_one_clear_line(server):
    server.failures = 10**6
    with pytest.raises(RemoteError, match=r"cannot read .*/set/dataset.json \(asked 5 times\): 503") as failed:
        Dataset.open(f"{server.address}/set")
    assert "\n" not in str(failed.value)


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/set"
    with pytest.raises(RemoteError, match="cannot read"):
        Dataset.open(address)


def test_wrong_addresses_are_said_at_once(server):
    with pytest.raises(DataError, match=r"no data set at .*/nowhere: .*dataset.json does not exist"):
        Dataset.open(f"{server.address}/nowhere")
    server.status["/set/dataset.json"] = 403
    with pytest.raises(DataError, match="no permission"):
        Dataset.open(f"{server.address}/set")
    with pytest.raises(DataError, match="nonsense"):
        Dataset.open("nonsense://bucket/set")


def test_missing_truncated_and_swapped_shards_are_named(server):
    address = f"{server.address}/set"
    folder = server.folder / "set"
    split = Dataset.open(address).split("train")
    with np.load(folder / "train.index.npz") as index:
        first = np.searchsorted(index["shard"], range(4)).tolist()
    (folder / "train-000000.tar").unlink()
    whole = (folder / "train-000001.tar").read_bytes()
    (folder / "train-000001.tar").write_bytes(whole[:1000])
    shutil.copy(folder / "train-000003.tar", folder / "train-000002.tar")
    for shard, message in ((0, "does not exist"), (1, "not what the manifest says"), (2, "another shard")):
        with pytest.raises(ShardError, match=message) as failed:
            split.embeddings(first[shard])
        assert failed.value.shard == f"train-00000{shard}.tar"
        assert f"train-00000{shard}.tar" in str(failed.value)
        assert pickle.loads(pickle.dumps(failed.value)).shard == failed.value.shard
    split.embeddings(first[3])  # the others are read


def test_loader_processes_read_it(local, server):
    split = Dataset.open(f"{server.address}/set").split("train")
    split.embeddings(0)  # the parent has a connection open
    handed_over = pickle.loads(pickle.dumps(split))
    loader = DataLoader(range(len(split)), batch_size=None, num_workers=2, collate_fn=_Reader(handed_over))
    expected = local.split("train")
    for i, found in enumerate(loader):
        np.testing.assert_array_equal(found, expected.embeddings(i))


class _Reader:
    def __init__(self, split):
        self.split = split

    def __call__(self, i):
        return np.array(self.split.embeddings(int(i)))


def _read_all(address: str, done) -> None:
    split = Dataset.open(address).split("train")
    done.put(sum(float(split.embeddings(i).sum()) for i in range(len(split))))


def test_ranks_of_a_machine_share_what_was_fetched(local, server):
    context = multiprocessing.get_context("fork")
    done = context.Queue()
    ranks = [context.Process(target=_read_all, args=(f"{server.address}/set", done)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    expected = sum(float(local.split("train").embeddings(i).sum()) for i in range(len(local.split("train"))))
    assert [done.get(timeout=60) for _ in ranks] == pytest.approx([expected] * 4)
    for rank in ranks:
        rank.join()
    shards = server.asked_for(".tar")
    assert len(shards) == len(set(shards))
    assert len(server.asked_for("train.index.npz")) == 1


def test_an_embedded_codec_comes_with_it(tmp_path):
    text = "The sun rises over the hills. A river runs through the town. Nobody saw the boat return. "
    words = ["apples", "boats", "clouds", "doors", "engines", "forests", "gardens", "islands", "jewels"]
    documents = [
        Document(id=f"{i}", lang="eng_Latn", text=text + f"Some {word} were seen on day {i}. " * 3)
        for i, word in enumerate(words)
    ]
    local = build_dataset(documents, tmp_path / "served" / "built", BuildSettings()).dataset
    with serve(tmp_path / "served") as server:
        there = Dataset.open(f"{server.address}/built")
        assert there.codec().fingerprint == local.codec().fingerprint
        assert set(there.special_concepts()) == set(local.special_concepts())
        assert (there.path / "codec").is_dir()


def test_errors_name_the_address_not_the_cache(server):
    (server.folder / "set" / "normalizer.safetensors").unlink()
    manifest = server.folder / "set" / "dataset.json"
    there = Dataset.open(f"{server.address}/set")
    with pytest.raises(DataError, match=f"{server.address}/set has no normalizer"):
        there.normalizer()
    tree = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(tree | {"format_version": 99}))
    with pytest.raises(DataError, match=f"{server.address}/set has data format version 99"):
        Dataset.open(f"{server.address}/set")


def errors(report) -> list[tuple[str, str]]:
    """What verify found beside the sidecar files that the small data set lacks."""
    return [
        (finding.where, finding.what)
        for finding in report.findings
        if finding.severity == "error" and finding.where.startswith(("train", "validation"))
    ]


@pytest.mark.parametrize("ranges", [True, False])
def test_verify_reads_what_lies_at_the_address_not_what_is_cached(local, server, monkeypatch, ranges):
    monkeypatch.setenv("LEXALCM_CACHE_SIZE", "8MiB")
    monkeypatch.setattr(remote.RemoteFile, "PIECE", 8192)
    server.ranges = ranges
    address = f"{server.address}/set"
    same(Dataset.open(address), local)
    report = verify_dataset(address)
    assert errors(report) == []
    assert report.documents == 65
    folder = server.folder / "set"
    flipped = bytearray((folder / "train-000000.tar").read_bytes())
    flipped[3000] ^= 1
    (folder / "train-000000.tar").write_bytes(flipped)
    (folder / "train-000001.tar").write_bytes((folder / "train-000001.tar").read_bytes()[:5000])
    (folder / "train-000002.tar").unlink()
    shutil.copy(folder / "train-000004.tar", folder / "train-000003.tar")
    found = errors(verify_dataset(address))
    for shard, what in (
        (0, "SHA-256"),
        (1, "5000 bytes, the manifest says"),
        (2, "does not exist"),
        (3, "found where"),
    ):
        assert any(where.startswith(f"train-00000{shard}.tar") and what in said for where, said in found), shard
    assert not any(where.startswith("train-000005") for where, _ in found)


def test_a_quick_check_of_a_remote_set_names_missing_and_truncated_shards(server, make_dataset, monkeypatch):
    monkeypatch.setenv("LEXALCM_CACHE_SIZE", "64MiB")
    generator = np.random.default_rng(0)
    documents = [("eng_Latn", generator.normal(size=(20, DIM))) for _ in range(1500)]
    large = make_dataset({"train": documents}, shard_size=2**20)
    folder = server.folder / "large"
    shutil.copytree(large.path, folder)
    (folder / "train-000001.tar").unlink()
    (folder / "train-000002.tar").write_bytes((folder / "train-000002.tar").read_bytes()[:-2000])
    report = verify_dataset(f"{server.address}/large", quick=True)
    found = [where for where, _ in errors(report)]
    assert set(found) == {"train-000001.tar", "train-000002.tar"}
    assert found.count("train-000001.tar") == 1
    assert report.documents > 500


def test_file_systems_that_are_not_asynchronous_read_ranges_too(local, monkeypatch):
    """As `hf://` is; this one is in memory. Its codec does not say what its files are called, so they are listed."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.put(str(local.path), "/sets/one", recursive=True)
    system.pipe("/sets/one/codec/deep/file", b"content")
    monkeypatch.delattr("lexalcm.codec.lsa.codec.LsaCodec.files")
    there = Dataset.open("memory://sets/one")
    same(there, local)
    assert (there.path / "codec" / "deep" / "file").read_bytes() == b"content"
    with pytest.raises(DataError, match="no data set at memory://sets/two"):
        Dataset.open("memory://sets/two")


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match=r"s3:// .*lexalcm\[s3\]"):
        Dataset.open("s3://bucket/set")


def test_local_addresses_are_folders(local):
    same(Dataset.open(f"file://{local.path}"), local)
    assert Dataset.open(local.path).address == str(local.path)


@pytest.fixture(scope="module")
def bucket(local):
    """A data set in the stand-in for S3."""
    pytest.importorskip("s3fs", reason="reading s3:// needs the extra s3")
    server = pytest.importorskip("moto.server", reason="the stand-in for S3 needs moto").ThreadedMotoServer
    boto3 = pytest.importorskip("boto3")
    running = server(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    secrets = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in (secrets | {"AWS_ENDPOINT_URL": endpoint}).items():
            environment.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for file in local.path.rglob("*"):
            if file.is_file():
                client.upload_file(str(file), "bucket", f"sets/one/{file.relative_to(local.path)}")
        yield "s3://bucket/sets/one"
    running.stop()


def test_s3_reads_like_the_folder(local, bucket):
    same(Dataset.open(bucket), local)
    with pytest.raises(DataError, match="no data set at s3://bucket/sets/two"):
        Dataset.open("s3://bucket/sets/two")
    with pytest.raises(DataError, match="no data set at s3://no-such-bucket/set"):
        Dataset.open("s3://no-such-bucket/set")


def test_s3_in_loader_processes(local, bucket):
    split = Dataset.open(bucket).split("train")
    split.embeddings(0)
    loader = DataLoader(range(len(split)), batch_size=None, num_workers=2, collate_fn=_Reader(split))
    for i, found in enumerate(loader):
        np.testing.assert_array_equal(found, local.split("train").embeddings(i))


def test_a_split_of_an_address_cannot_choose_where_it_is_kept(local, server, tmp_path):
    served = tmp_path / "served" / "set"
    shutil.copy(served / "train.index.npz", tmp_path / "served" / "evil.index.npz")
    tree = json.loads((served / "dataset.json").read_text())
    tree["splits"]["../evil"] = tree["splits"]["train"]
    (served / "dataset.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"set/dataset\.json is damaged: a split is called '\.\./evil'"):
        verify_dataset(f"{server.address}/set")
    assert list((tmp_path / "cache").rglob("*.npz")) == []


def test_a_listing_of_an_address_cannot_choose_where_its_files_are_kept(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path / "cache", 1 << 20)
    monkeypatch.setattr(remote.RemoteFolder, "read", lambda *_: b"{}")
    monkeypatch.setattr(remote.RemoteFolder, "names", lambda *_: ["../../evil"])
    monkeypatch.setattr(remote.RemoteFolder, "download", lambda _self, _name, goal: goal.write_bytes(b"evil"))
    remote_metadata = RemoteMetadata(remote.RemoteFolder("memory://set"), cache)
    with pytest.raises(DataError, match=r"'\.\./\.\./evil' is not the name of a file"):
        remote_metadata.fetch_folder("codec")
    assert list(tmp_path.rglob("evil")) == []
