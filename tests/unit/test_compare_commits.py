"""Comparing what two commits compute: the comparison itself, and the ways to fail."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tools.compare_commits import compare, difference, texts

ROOT = Path(__file__).parents[2]


def test_differences_are_relative_to_the_largest_number() -> None:
    assert difference(np.array([1.0, -4.0]), np.array([1.5, -4.0])) == 0.5 / 4
    assert difference(np.zeros(3), np.zeros(3)) == 0
    assert difference(np.float64(0), np.float64(2)) == 1
    assert difference(np.zeros(0), np.zeros(0)) == 0
    assert difference(np.zeros(3), np.zeros(4)) == float("inf")
    assert difference(np.array([np.nan, 1.0]), np.array([np.nan, 1.0])) == 0
    assert difference(np.array([np.nan, 1.0]), np.array([2.0, 1.0])) == float("inf")


def test_what_passes(capsys: pytest.CaptureFixture[str]) -> None:
    before = {"a, loss:step 1": np.float64(2), "a, loss:step 2": np.float64(4), "a, weights:x": np.ones(3)}
    assert compare(before, dict(before), 0.0)["passed"]
    after = before | {"a, loss:step 2": np.float64(5)}
    line = compare(before, after, 0.1)
    assert (line["largest"], line["passed"]) == (0.2, False)
    assert compare(before, after, 0.2)["passed"]
    assert ["a,", "loss", "2.0e-01", "step", "2"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_biases_of_keys_fail_only_where_all_must_be_equal() -> None:
    name = "a, trained weights, biases of keys:attention.k_proj.bias"
    before = {name: np.ones(2), "a, loss:step 1": np.float64(1)}
    after = before | {name: -np.ones(2)}
    assert compare(before, after, 1e-6)["passed"]
    assert not compare(before, after, 0.0)["passed"]


def test_names_that_one_commit_alone_has_fail(capsys: pytest.CaptureFixture[str]) -> None:
    line = compare({"a:x": np.ones(1), "a:y": np.ones(1)}, {"a:x": np.ones(1), "a:z": np.ones(1)}, 1.0)
    assert (line["only_before"], line["only_after"], line["passed"]) == (1, 1, False)
    printed = capsys.readouterr().out
    assert "only before: a:y" in printed
    assert "only after: a:z" in printed


def test_nothing_in_common_does_not_pass() -> None:
    assert not compare({}, {}, 1.0)["passed"]


def test_documents_are_all_different() -> None:
    assert len(set(texts())) == len(texts()) > 40


def test_a_commit_that_is_not_there_is_one_line() -> None:
    command = [sys.executable, "-m", "tools.compare_commits", "no-such-commit", "HEAD"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "no-such-commit" in result.stderr
