import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope="module")
def dataset(make_dataset):
    generator = np.random.default_rng(0)
    return make_dataset({"train": [("eng_Latn", generator.normal(size=(9, 4))) for _ in range(5)]})


def test_report_is_written_and_listed(lcm, dataset, tmp_path):
    out = tmp_path / "report"
    result = lcm("visualize", "data", dataset.path, "--out", out)
    assert result.code == 0
    assert sorted(result.out.split()) == sorted(str(path) for path in out.iterdir())
    assert f"open {out / 'index.html'}" in " ".join(result.err.split())
    again = lcm("visualize", "data", dataset.path, "--out", out)
    assert (again.code, again.out) == (2, "")
    assert "--overwrite" in again.err
    found = json.loads(lcm("visualize", "data", dataset.path, "--out", out, "--overwrite", "--json").out)
    assert found["sample"]["sentences"] == 45


def test_parquet_of_another_pipeline_is_shown(lcm, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(20, 3, 4))
    columns = {"text_sentences": [["a b", "c", "d"]] * 20, "text_sentences_sonar_emb": vectors.tolist()}
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "data" / "part.parquet")
    result = lcm("visualize", "data", tmp_path / "data", "--out", tmp_path / "out", "--batch", 3, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["sample"] == {"sentences": 60, "documents": 20, "seed": 0}


def test_mistakes_are_one_line_with_exit_code_two(lcm, dataset, tmp_path):
    for arguments, message in (
        (["nowhere"], "no data set in nowhere"),
        ([dataset.path, "--split", "test"], "has no split 'test'"),
    ):
        result = lcm("visualize", "data", *arguments, "--out", tmp_path / "out")
        assert result.code == 2
        assert message in result.err
        assert result.err.count("\n") == 1
        assert not (tmp_path / "out").exists()
