"""Processes that torchrun starts share the documents of an evaluation; the report is that of one process."""

import json
import os
import subprocess
import sys

from evaluation_workspace import make_text_dataset, make_text_model


def test_two_processes_write_the_report_of_one(tmp_path):
    dataset = make_text_dataset(tmp_path / "data")
    make_text_model(tmp_path / "model", dataset)
    options = ["model", "--data", "data", "--metrics", "embedding", "--batch", "20", "--resamples", "100"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for processes in ("1", "2"):
        lcm = [*command, processes, "-m", "lexalcm", "evaluate", *options, "--out", f"report-{processes}.json"]
        result = subprocess.run(
            lcm, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("contrastive accuracy: ") == 3  # one process speaks
    one, two = (json.loads((tmp_path / f"report-{processes}.json").read_text()) for processes in "12")
    assert one == two
    assert one["dataset"]["batches"] > 2
    assert not (tmp_path / "report-2.json.unfinished").exists()
