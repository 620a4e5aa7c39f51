"""`lcm data embed` and `lcm data convert` as they are typed, and the script that submits an array."""

import filecmp
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lexalcm.data.format.dataset import Dataset

OPTIONS = ["--codec-option=dim=8", "--codec-option=max_features=500", "--shard-size", "8KiB", "--dtype", "float32"]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts").mkdir()
    for number in range(2):
        lines = [" ".join(f"Ship {i * j} left port {number}." for j in range(5)) for i in range(20)]
        (tmp_path / "texts" / f"{number}.txt").write_text("\n\n".join(lines))
    return "texts"


def assert_same(folder, expected):
    names = sorted(str(path.relative_to(expected)) for path in Path(expected).rglob("*") if path.is_file())
    found = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
    assert found == names
    assert filecmp.cmpfiles(folder, expected, names, shallow=False) == (names, [], [])


def one_line(result, *parts):
    """Exit code 2 and one line on stderr with all of the parts."""
    assert result.code == 2, result
    assert result.err.count("\n") == 1, result.err
    assert all(part in result.err for part in parts), result.err


def test_two_tasks_make_what_one_build_makes(lcm, texts):
    assert lcm("data", "build", texts, "--out", "expected", *OPTIONS).code == 0
    first = lcm("data", "embed", texts, "--out", "out", "--task", "1/2", "--json", *OPTIONS)
    assert first.code == 0
    state = json.loads(first.out)
    assert state["finished"] is False
    assert 0 < state["done"] == state["own"] < state["units"]
    assert "the last task to end finishes the data set" in first.err
    one_line(lcm("data", "info", "out"), "out is unfinished: run the same `lcm data embed` again")
    second = lcm("data", "embed", texts, "--out", "out", "--task", "0/2", "--json", *OPTIONS)
    assert json.loads(second.out)["finished"] is True
    assert_same("out", "expected")
    again = lcm("data", "embed", texts, "--out", "out", *OPTIONS)
    assert again.code == 0
    assert "nothing to do" in again.err


def test_the_array_script_takes_its_share_from_slurm(lcm, texts, tmp_path):
    assert lcm("data", "build", texts, "--out", "expected", *OPTIONS).code == 0
    script = Path(__file__).parents[2] / "launch" / "embed_array.sbatch"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for number in (4, 5):
        array = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "2"}
        ran = subprocess.run(
            ["bash", script, texts, "--out", "out", *OPTIONS],
            env=os.environ | array | {"PATH": path, "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "1"},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
    assert_same("out", "expected")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "2/2"], "tasks are counted from 0"),
        (["--task", "one"], "write it as I/N"),
        (["--task", "0/2", "--ray", "local"], "omit one"),
        (["--codec", "lsb"], "did you mean lsa?"),
        (["--codec", "./nowhere"], "no such folder"),
        (["--codec", "texts"], "neither a data set nor a model"),
        (["--dtype", "int8"], "dtype"),
    ],
)
def test_shares_and_codecs_that_are_none(lcm, texts, tmp_path, options, message):
    one_line(lcm("data", "embed", texts, "--out", "out", *options), message)
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_standard_input_is_for_build(lcm):
    one_line(lcm("data", "embed", "-", "--out", "out"), "lcm data build")


def test_parquet_becomes_a_data_set_and_what_is_left_out_is_said(lcm):
    rng = np.random.default_rng(0)
    vectors = [rng.standard_normal((3, 4)).tolist() for _ in range(30)]
    vectors[4][1] = [0.0] * 4
    vectors[7][2] = [0.0] * 3
    table = {"text_sentences": [["One.", "Two.", "Three."]] * 30, "text_sentences_sonar_emb": vectors}
    pq.write_table(pa.table(table), "in.parquet")
    result = lcm("data", "convert", "in.parquet", "--out", "out", "--validation", "0.2")
    assert result.code == 0
    assert "left out: 2 rows (1 wrong dimension, 1 zero vector): see out/left-out.jsonl" in result.err
    assert "no special concepts" in result.err
    assert "codec sonar" in result.out
    assert sum(split.documents for split in Dataset.open("out").manifest.splits.values()) == 28
    one_line(lcm("data", "convert", "in.parquet", "--out", "out"), "--overwrite")
    one_line(lcm("data", "convert", "in.parquet", "--out", "new", "--text-column", "body"), "choose with --text-column")
    one_line(lcm("data", "convert", "nowhere", "--out", "new"), "no such file or folder: nowhere")
    one_line(lcm("data", "convert", "in.parquet", "--out", "new", "--dtype", "int8"), "dtype")
    back = lcm("data", "convert", "out", "--to", "parquet", "--out", "back", "--json")
    assert json.loads(back.out)["documents"] == 28
    assert pq.read_table("back/Train").num_rows + pq.read_table("back/Val").num_rows == 28
    assert lcm("data", "convert", "out", "--to", "parquet", "--out", "back", "--overwrite").code == 0


@pytest.mark.parametrize("command", ["embed", "convert"])
def test_every_command_has_examples(lcm, command):
    result = lcm("data", command, "--help")
    assert result.code == 0
    assert f"lcm data {command}" in result.out.split("Examples:")[1]
