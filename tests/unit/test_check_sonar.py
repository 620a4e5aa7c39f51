"""sonar-space's numbers, on copies of its reference folders."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

pytest.importorskip("transformers", reason="the extra hf is not installed")
pytest.importorskip("sentencepiece", reason="the extra hf is not installed")

from sonar_reference import RARE, REFERENCE

from tools.check_sonar import Check, check_sonar

PARTS = {"tokens": 4, "embeddings": 4, "logits": 1, "greedy text": 2, "text of beam 5": 2}


@pytest.fixture(scope="module", params=[REFERENCE, RARE], ids=["reference", "rare"])
def checks(request: pytest.FixtureRequest) -> list[Check]:
    return list(check_sonar(request.param))


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEXALCM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("part", PARTS)
def test_computes_what_sonar_space_computes(checks: list[Check], part: str) -> None:
    of_part = [check for check in checks if check.name.startswith(part)]
    assert len(of_part) == PARTS[part]
    assert [check for check in of_part if not check.passed] == []


def test_beams_find_the_very_texts(checks: list[Check]) -> None:
    """More than is asked for: the search is the same, so that its results are."""
    assert {check.note for check in checks if check.name.startswith("text of beam")} == {"all texts are equal"}


def run_tool(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.check_sonar", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REFERENCE.parents[2], check=False)


def test_tool_fails_on_other_numbers_and_names_them(tmp_path: Path) -> None:
    folder = shutil.copytree(REFERENCE, tmp_path / "reference")
    tensors = load_file(folder / "expected.safetensors")
    tensors["embeddings_fra_Latn"][2, 3] += np.float32(2e-5)
    save_file(tensors, folder / "expected.safetensors")
    expected = json.loads((folder / "expected.json").read_bytes())
    expected["decoded"]["eng_Latn_beam1"][1] += "."
    expected["decoded"]["eng_Latn_beam5"][0] = "relley"
    (folder / "expected.json").write_text(json.dumps(expected))
    result = run_tool(folder)
    assert result.returncode == 1
    summary = json.loads(result.stdout.splitlines()[-1])
    named = {"embeddings, fra_Latn", "embeddings, one by one, fra_Latn", "greedy text, eng_Latn"}
    assert named <= set(summary["failed"]) <= named | {"text of beam 5, eng_Latn"}


def test_another_text_passes_if_ours_is_as_probable(tmp_path: Path) -> None:
    """An improbable text in the reference is no failure of ours; beams only promise a good text."""
    folder = shutil.copytree(REFERENCE, tmp_path / "reference")
    expected = json.loads((folder / "expected.json").read_bytes())
    expected["decoded"] = {"eng_Latn_beam5": expected["decoded"]["eng_Latn_beam1"]}
    (folder / "expected.json").write_text(json.dumps(expected))
    (check,) = [check for check in check_sonar(folder) if check.name.startswith("text")]
    assert check.passed
    assert "differ" in check.note


@pytest.mark.parametrize("probabilities", [[np.nan, -1.0], [-1.0, np.nan], [np.nan, np.nan]])
@pytest.mark.parametrize("place", [0, 4])
def test_a_probability_that_is_no_number_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probabilities: list[float], place: int
) -> None:
    """Of either text, the first or the last that differs."""
    folder = shutil.copytree(REFERENCE, tmp_path / "reference")
    expected = json.loads((folder / "expected.json").read_bytes())
    texts = expected["decoded"]["eng_Latn_beam5"]
    expected["decoded"] = {"eng_Latn_beam5": [f"{text} Otherwise." for text in texts]}
    (folder / "expected.json").write_text(json.dumps(expected))
    said = iter([probabilities if number == place else [-2.0, -1.0] for number in range(len(texts))])
    pair: list[float] = []

    def log_probability(*_: object) -> float:
        pair[:] = pair or next(said)
        return pair.pop(0)

    monkeypatch.setattr("lexalcm.codec.sonar.decoder.SonarDecoder.log_probability", log_probability)
    (check,) = [check for check in check_sonar(folder) if check.name.startswith("text")]
    assert (check.passed, check.note) == (False, "5 of 5 texts differ")


@pytest.mark.parametrize("name", ["embeddings_fra_Latn", "logits"])
def test_numbers_that_are_none_fail(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(REFERENCE, tmp_path / "reference")
    tensors = load_file(folder / "expected.safetensors")
    tensors[name][(0,) * tensors[name].ndim] = np.nan
    save_file(tensors, folder / "expected.safetensors")
    failed = {check.name for check in check_sonar(folder) if not check.passed}
    assert (
        failed
        == {
            "embeddings_fra_Latn": {"embeddings, fra_Latn", "embeddings, one by one, fra_Latn"},
            "logits": {"logits, 0"},
        }[name]
    )


def test_tool_says_what_is_missing(tmp_path: Path) -> None:
    result = run_tool(tmp_path)
    assert result.returncode == 2
    assert "expected.json" in result.stderr
    assert "Traceback" not in result.stderr
