"""What the owner of a GPU types beside `lcm train`, with a GPU that is pretended: see `pretended_gpu.py`.

Where a tensor of the GPU would meet one of the CPU's, or NumPy, a line fails.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pretended_gpu import ARCHITECTURES, CODECS, PretendedLcm, pretended_lcm

from lexalcm.data.format.dataset import Dataset

TEXT = "We must do more for our schools. Peace is near."
SAME = 2e-2  # of SONAR in half precision, relative to the largest number


@pytest.fixture(scope="module")
def lcm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PretendedLcm]:
    with pretended_lcm(tmp_path_factory.mktemp("work"), codecs=("lsa", "sonar")) as made:
        yield made


def answer(told: str) -> Any:
    """The JSON object that a line has printed, after what it has said on stderr."""
    return json.JSONDecoder().raw_decode(told, told.index("{"))[0]


def texts(tree: Any) -> list[str]:
    """Every text in an answer, in order: what the model has read, written and guessed."""
    if isinstance(tree, str):
        return [tree]
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [text for value in inner for text in texts(value)]


def on_both(lcm: PretendedLcm, *line: object) -> tuple[str, str]:
    """What a line prints with a GPU, and without one."""
    return lcm.well(*line, places=True), lcm.well(*line, gpus=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "options",
    [
        ["-n", 4],
        ["-n", 2, "--reencode"],
        ["--each"],
        ["-n", 2, "--guidance", 1, "--steps", 2, "--chat", "--system", "Be brief."],
    ],
    ids=["text", "reencode", "each", "chat"],
)
def test_what_is_inferred_is_what_the_cpu_infers(lcm: PretendedLcm, architecture: str, options: list[object]) -> None:
    line = ["infer", "--model", f"models/lsa-{architecture}", TEXT, *options, "--json"]
    told, other = (texts(answer(one)) for one in on_both(lcm, *line))
    assert len(told) > 6
    assert told == other


@pytest.mark.parametrize("architecture", ["one-tower", "two-tower"])
def test_samples_beside_each_other(lcm: PretendedLcm, architecture: str) -> None:
    line = ["infer", "--model", f"models/lsa-{architecture}", TEXT, "-n", 2, "--samples", 2, "--json"]
    told, other = (texts(answer(one)) for one in on_both(lcm, *line))
    assert len(told) > 6
    assert told == other


def test_many_documents_in_bf16(lcm: PretendedLcm) -> None:
    prompts = [{"id": f"p{number}", "text": TEXT * (1 + number)} for number in range(3)]
    (lcm.folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    line = ["infer", "--model", "models/lsa-two-tower", "--input", "prompts.jsonl", "--output", "answers.jsonl"]
    lcm.well(*line, "--batch", 2, "-n", 2, "--dtype", "bf16", places=True)
    answers = [json.loads(one) for one in (lcm.folder / "answers.jsonl").read_text().splitlines()]
    assert [one["id"] for one in answers] == ["p0", "p1", "p2"]


def test_sonar_writes_what_a_model_says(lcm: PretendedLcm) -> None:
    line = ["infer", "--model", "models/sonar-two-tower", "We must do more.", "-n", 2, "--max-tokens", 8, "--json"]
    told, other = (texts(answer(one)) for one in on_both(lcm, *line, "--codec-dtype", "fp32"))
    assert len(told) > 6
    assert told == other


def embeddings(lcm: PretendedLcm, name: str) -> np.ndarray:
    split = Dataset.open(lcm.folder / "data" / name).split("train")
    return np.concatenate([split.embeddings(number) for number in range(len(split))]).astype(np.float32)


def test_sonar_embeds_as_on_the_cpu(lcm: PretendedLcm) -> None:
    """The data set of the fixture was made on the GPU, in half precision."""
    options = ["cpu" if word == "cuda" else word for word in CODECS["sonar"]]
    lcm.well("data", "build", "notes.txt", *options, "--out", "data/on-cpu")
    lcm.well(
        "data", "embed", "notes.txt", *CODECS["sonar"], "--codec-dtype", "bf16", "--out", "data/embedded", places=True
    )
    made, other, embedded = (embeddings(lcm, name) for name in ("sonar", "on-cpu", "embedded"))
    largest = np.abs(other).max()
    assert 0 < np.abs(made - other).max() < SAME * largest
    assert 0 < np.abs(embedded - other).max() < 4 * SAME * largest


def test_a_gpu_that_is_not_there_is_refused_in_one_line(lcm: PretendedLcm) -> None:
    options = ["cuda:1" if word == "cuda" else word for word in CODECS["sonar"]]
    result = lcm("data", "build", "notes.txt", *options, "--out", "data/none")
    assert result.code == 2
    assert "the device 'cuda:1' cannot be used" in result.output
    result = lcm("infer", "--model", "models/lsa-base", TEXT, "--device", "cuda:1")
    assert result.code == 2
    assert "the device 'cuda:1' cannot be used" in result.output


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_evaluation_is_that_of_the_cpu(lcm: PretendedLcm, architecture: str) -> None:
    line = ["evaluate", f"models/lsa-{architecture}", "--data", "data/lsa", "--limit", 3, "--resamples", 100, "--json"]
    for options in ([], ["--free", "--prefix", 2, "--sentences", 3]):
        told, other = map(answer, on_both(lcm, *line, *options))
        assert metrics(told) == pytest.approx(metrics(other), rel=1e-3)


def metrics(evaluation: Any) -> list[float]:
    """Every number of an evaluation, but for times."""
    if isinstance(evaluation, dict):
        return [x for key, value in evaluation.items() if "seconds" not in key for x in metrics(value)]
    if isinstance(evaluation, list):
        return [x for value in evaluation for x in metrics(value)]
    return [evaluation] if isinstance(evaluation, (int, float)) and not isinstance(evaluation, bool) else []


def test_every_metric_of_decoded_text(lcm: PretendedLcm) -> None:
    line = ["evaluate", "models/sonar-two-tower", "--data", "data/sonar", "--limit", 1, "--window", 8, "--json"]
    options = ["--metrics", "default,cosine,round_trip_l2,rouge_l,chrf,repetition", "--resamples", 100, "--beam", 1]
    told = answer(lcm.well(*line, *options, places=True))
    assert "round_trip_l2" in json.dumps(told)


def test_verify(lcm: PretendedLcm) -> None:
    told = " ".join(lcm.well("verify", "env", gpus=2, memory=12).split())
    assert "GPU 1 NVIDIA H100 80GB HBM3, 12.0 GiB, 12.0 GiB free" in told
    assert "bf16 supported, used by precision auto" in told
    for codec in ("lsa", "sonar"):
        assert "no problems" in lcm.well("verify", "model", f"models/{codec}-two-tower", places=True)
    line = ["verify", "codec", "data/sonar", "--codec-device", "cuda", "--lang", "French", "--max-tokens", 8]
    assert "no problems" in lcm.well(*line, places=True)


def test_a_generation_is_drawn(lcm: PretendedLcm) -> None:
    line = ["visualize", "generation", TEXT, "--model", "models/lsa-two-tower", "--out", "page"]
    lcm.well(*line, places=True)
    assert (lcm.folder / "page/index.html").stat().st_size > 1000
