import filecmp
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lexalcm.data.build.embed import make_job
from lexalcm.data.build.one_process import build_from_paths
from lexalcm.data.build.ray import embed_on_ray
from lexalcm.data.build.settings import BuildSettings
from lexalcm.errors import UserError

SETTINGS = BuildSettings(codec_options={"dim": 8, "max_features": 500}, shard_size=16384, dtype="float32")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(3):
        lines = [
            json.dumps({"text": " ".join(f"The {number}th boat has {i * j} sails." for j in range(6))})
            for i in range(60)
        ]
        (folder / f"{number}.jsonl").write_text("\n".join(lines))
    return folder


def test_an_address_without_a_cluster_is_noticed_at_once(texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1 "):
        embed_on_ray(make_job([texts], tmp_path / "out", SETTINGS), "127.0.0.1:1")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def test_a_cluster_makes_the_same_bytes(cluster: None, texts: Path, tmp_path: Path) -> None:
    expected = build_from_paths([texts], tmp_path / "expected", SETTINGS).dataset
    assert len(expected.manifest.splits["train"].shards) > 2
    result = embed_on_ray(make_job([texts], tmp_path / "out", SETTINGS), "local", workers=2)
    assert result.built is not None
    assert result.own == result.units
    names = sorted(str(file.relative_to(expected.path)) for file in expected.path.rglob("*") if file.is_file())
    assert filecmp.cmpfiles(tmp_path / "out", expected.path, names, shallow=False) == (names, [], [])
    again = embed_on_ray(make_job([texts], tmp_path / "out", SETTINGS), "local")
    assert again.built is not None
    assert not again.built.made


def test_mistakes_on_a_cluster_are_one_line(cluster: None, texts: Path, tmp_path: Path) -> None:
    (texts / "2.jsonl").write_text('{"txt": "Hello."}')
    with pytest.raises(UserError, match=r"2\.jsonl:1: no field 'text'"):
        embed_on_ray(make_job([texts], tmp_path / "out", SETTINGS), "local", workers=2)
