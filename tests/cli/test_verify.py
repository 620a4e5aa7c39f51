import functools
import http.server
import json
import shutil
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from lexalcm.data.build.one_process import build_dataset
from lexalcm.data.sources.corpus import Document

TEXT = "The sun rises over the hills. A river runs through the town. Nobody saw the boat return. "


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A real data set: text, codec and special concepts."""
    out = tmp_path_factory.mktemp("data") / "built"
    words = ["apples", "boats", "clouds", "doors", "engines", "forests", "gardens", "harbours", "islands", "jewels"]
    documents = [
        Document(
            id=f"d{i}",
            lang="eng_Latn",
            text="".join(
                f"Some {word} were seen on day {i + j}. "
                for j, word in enumerate(np.random.default_rng(i).permutation(words))
            )
            + TEXT,
        )
        for i in range(12)
    ]
    build_dataset(documents, out)
    return out


@contextmanager
def served(folder):
    """A web server of the standard library, which honours no ranges."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_a_whole_data_set_passes(lcm, built):
    result = lcm("verify", "data", built)
    assert result.code == 0
    assert "no problems" in result.err


def test_a_damaged_shard_is_a_problem(lcm, built, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(built, folder)
    shard = folder / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 255
    shard.write_bytes(content)
    result = lcm("verify", "data", folder, "--json")
    found = json.loads(result.out)
    assert result.code == 1
    assert not found["ok"]
    assert any("train-000000.tar" in finding["where"] for finding in found["findings"])
    assert lcm("verify", "data", folder).code == 1


def test_a_quick_check_and_a_check_of_a_remote_data_set(lcm, built, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp", reason="reading http:// needs the extra http")
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path / "cache"))
    with served(built) as address:
        for path in (built, address):
            result = lcm("verify", "data", path, "--quick", "--json")
            found = json.loads(result.out)
            assert (result.code, found["ok"], found["quick"]) == (0, True, True)
            assert found["documents"] == 12
            assert all(one["cosine"] > 0.99 for one in found["decoded"])
        assert "no problems" in lcm("verify", "data", address).err
        assert lcm("data", "info", address).out == lcm("data", "info", built).out.replace(str(built), address)
    (tmp_path / "empty").mkdir()
    with served(tmp_path / "empty") as address:
        result = lcm("verify", "data", address)
        assert (result.code, result.err) == (
            2,
            f"lcm: no data set at {address}: {address}/dataset.json does not exist\n",
        )


def test_a_missing_data_set_or_model_is_wrong_usage(lcm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for arguments in (("data", "nowhere"), ("data", "empty"), ("model", "nowhere"), ("model",), ("codec", "nowhere")):
        result = lcm("verify", *arguments)
        assert result.code == 2
        assert result.err.count("\n") == 1
        assert result.err.startswith("lcm: no ")


def test_a_new_model_passes_and_a_broken_one_does_not(lcm, built, tmp_path):
    model = tmp_path / "model"
    sizes = ["width=64", "num_heads=2", "ffn_dim=32", "num_layers=1", "context_layers=1"]
    settings = [part for size in sizes for part in ("--set", f"model.{size}")]
    made = lcm("bootstrap", "--data", built, "--out", model, *settings)
    assert made.code == 0, made.err
    result = lcm("verify", "model", model)
    assert result.code == 0, result.out
    assert "denoiser" in result.out
    (model / "special_concepts.safetensors").unlink()
    result = lcm("verify", "model", model, "--json")
    assert result.code == 1
    assert not json.loads(result.out)["ok"]


def test_env_describes_this_machine(lcm):
    result = lcm("verify", "env")
    assert result.code == 0
    assert "PyTorch" in result.out
    found = json.loads(lcm("verify", "env", "--json").out)
    assert found["ok"]
    assert {"name", "status", "value", "advice"} == set(found["checks"][0])
