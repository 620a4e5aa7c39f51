"""A free-running evaluation holds one batch, however many documents there are; the benchmark says how much that is."""

import json
import subprocess
import sys


def test_memory_does_not_grow_with_the_documents() -> None:
    command = [sys.executable, "-m", "tools.bench_evaluate", "--documents", "60", "--batch", "64"]
    printed = subprocess.run([*command, "--preset", "base-tiny"], capture_output=True, text=True, check=True).stdout
    found = json.loads(printed.splitlines()[-1])
    assert found["sentences_written"] == 60 * 10
    assert 0 <= found["few_mb"] <= found["peak_mb"] < 2000
    assert found["peak_mb"] - found["few_mb"] < 40  # ten times the documents; what allocators leave aside differs
