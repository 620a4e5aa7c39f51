"""`lcm train` on a data set of which one shard is bad: an error by default, skipped and counted when asked for."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from training_workspace import DIM, STEPS, make_workspace

from lexalcm.cli import training_display
from lexalcm.data.batches.loader import TrainingBatches
from lexalcm.data.batches.mixture import Mixture
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.settings import DataSettings

SENTENCES = 6
ROW = SENTENCES + 1  # a document with its end of text, so that each has a row of its own
ROWS_A_STEP = 4
CUT_AFTER = 3  # steps
BAD = "train-000001.tar"
SKIP = ["--set", "data.on_bad_shard=skip"]

Lcm = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Any]) -> Path:
    """The workspace with its data in several shards, whose documents fill an epoch of `STEPS` steps."""
    folder = make_workspace(tmp_path_factory.mktemp("made"), make_dataset)
    rng = np.random.default_rng(0)
    documents = [("eng_Latn", rng.normal(size=(SENTENCES, DIM))) for _ in range(STEPS * ROWS_A_STEP)]
    sharded = make_dataset({"train": documents, "validation": documents[:3]}, shard_size=12_000)
    shutil.rmtree(folder / "data")
    shutil.copytree(sharded.path, folder / "data")
    save_file({"end_of_text": np.ones(DIM, np.float32)}, folder / "data" / "special_concepts.safetensors")
    return folder


@pytest.fixture
def train(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lcm: Lcm) -> Lcm:
    """Runs `lcm train` in a fresh copy of the workspace."""
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return lambda *options: lcm("train", "--config", "config.yaml", "--set", f"data.row_length={ROW}", *options)


def places() -> tuple[np.ndarray, np.ndarray]:
    """Of the documents of the bad shard: their numbers, and where their embeddings begin."""
    with np.load("data/train.index.npz") as index:
        documents = np.flatnonzero(index["shard"] == 1)
        return documents, index["offset"][documents]


def last_line() -> dict[str, Any]:
    return json.loads(Path("runs/base/metrics.jsonl").read_text().splitlines()[-1])


def flip(place: int) -> None:
    content = bytearray(Path("data", BAD).read_bytes())
    content[place] ^= 1
    Path("data", BAD).write_bytes(content)


@pytest.mark.parametrize("kind", ["missing", "truncated"])
def test_a_shard_that_is_not_there_in_full_length(train: Lcm, kind: str) -> None:
    lost = len(places()[0])
    assert 1 < lost < STEPS * ROWS_A_STEP / 2
    if kind == "missing":
        Path("data", BAD).unlink()
    else:
        os.truncate(Path("data", BAD), 5000)
    code, out, err = train()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert f"the shard data/{BAD} is {kind}" in err
    assert not Path("runs").exists()

    code, out, err = train(*SKIP)
    assert code == 0
    assert f"skipping documents: the shard data/{BAD} is {kind}" in err
    read = STEPS * ROWS_A_STEP - lost
    assert f"{STEPS} steps, {read * ROW} concepts in " in err
    assert f", {lost} documents skipped (bad shards: lcm verify data)" in err
    assert last_line()["skipped_documents"] == lost
    assert np.isfinite(last_line()["loss"])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_flipped_bit_is_found_while_training_and_the_run_goes_on_with_skip(train: Lcm, num_workers: int) -> None:
    flip(int(places()[1][1]))
    workers = ["--set", f"data.num_workers={num_workers}"]
    code, out, err = train(*workers)
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("lcm: ")
    assert f"data/{BAD} is damaged at document 000001-000001 (checksum): run `lcm verify data data`" in last
    assert "Traceback" not in err

    code, out, err = train(*workers, *SKIP)
    assert code == 0
    assert ", 1 documents skipped (bad shards: lcm verify data)" in err
    assert last_line()["skipped_documents"] == 1


def test_the_count_stands_in_json_too(train: Lcm) -> None:
    Path("data", BAD).unlink()
    result = train("--json", *SKIP)
    assert result.code == 0
    assert json.loads(result.out)["skipped_documents"] == len(places()[0])


@pytest.mark.parametrize("on_bad_shard", ["error", "skip"])
def test_a_shard_cut_short_while_a_training_reads_it(
    train: Lcm, on_bad_shard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents before the cut are still read, those behind it are lost from then on."""
    documents, offsets = places()
    cut = int(offsets[len(offsets) // 2]) + 1
    size = Path("data", BAD).stat().st_size

    class Cutting(training_display.LineDisplay):
        def advance(self, metrics: Any) -> None:
            if metrics["step"] == CUT_AFTER:
                os.truncate(Path("data", BAD), cut)

    monkeypatch.setattr(training_display, "LineDisplay", Cutting)
    given = DataSettings(path="data", row_length=ROW, micro_batch=2, global_batch=2)
    plan = TrainingBatches(Mixture([Dataset.open("data")], given), given, seed=0).plan
    read = np.concatenate([plan.micro_batch_windows(number).document for number in range(STEPS * 2)])
    before, after = np.split(read, [CUT_AFTER * ROWS_A_STEP])
    assert np.isin(before, documents).any()  # so that the shard is open
    lost = int(np.isin(after, documents[offsets + SENTENCES * DIM * 4 > cut]).sum())
    assert 0 < lost < np.isin(after, documents).sum()
    code, _, err = train("--set", f"data.on_bad_shard={on_bad_shard}")
    if on_bad_shard == "error":
        assert code == 2
        assert f"the shard data/{BAD} is truncated ({cut} bytes, expected {size}): copy it" in err.splitlines()[-1]
    else:
        assert code == 0
        assert last_line()["skipped_documents"] == lost
