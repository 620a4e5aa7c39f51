"""A metric of another package, the documentation's example, from its installation to every form of a report."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_workspace import make_text_dataset

DOCS = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def evaluate(lcm, install, tmp_path, monkeypatch):
    """`lcm evaluate` of a model with the metric's package installed; `evaluate.dataset` is what it is evaluated on."""
    install("norm_ratio", "metrics", norm_ratio="NORM_RATIO")
    monkeypatch.chdir(tmp_path)
    dataset = make_text_dataset(tmp_path / "data")
    assert lcm("bootstrap", "--preset", "base-tiny", "--data", "data", "--out", "model").code == 0

    def evaluate(*arguments):
        return lcm("evaluate", "model", "--data", "data", "--resamples", 100, *arguments)

    evaluate.dataset = dataset
    return evaluate


def test_every_form_of_a_report_has_it(evaluate):
    result = evaluate("--metrics", "norm_ratio", "-o", "r.json", "-o", "r.md", "-o", "r.html")
    assert result.code == 0, result.err
    definition = "L2 norm of the prediction, divided by that of the true concept"
    assert "norm ratio" in result.out
    assert definition in Path("r.md").read_text()
    assert f"<b>norm ratio</b> (closest to the truth is best): {definition}" in Path("r.html").read_text()
    tree = json.loads(Path("r.json").read_text())
    assert tree["metrics"]["norm_ratio"]["title"] == "norm ratio"
    assert tree["rows"][0]["scores"]["all"].keys() == {"norm_ratio"}
    scores = {row["name"]: row["scores"]["all"]["norm_ratio"]["value"] for row in tree["rows"]}

    split = evaluate.dataset.split("validation")
    documents = [np.asarray(split.embeddings(number), np.float64) for number in range(len(split))]
    norms = [[sum(concept**2) ** 0.5 for concept in document] for document in documents]
    repeated = sum(sum(document[:-1]) for document in norms) / sum(sum(document[1:]) for document in norms)
    assert scores["repeat the last concept"] == pytest.approx(repeated, rel=1e-5)
    assert scores["the true concepts"] == pytest.approx(1)


def test_it_belongs_to_the_groups_that_it_names(evaluate):
    for group, expected in (("embedding", True), ("all", False), ("default", False)):
        result = evaluate("--metrics", group, "--limit", 2, "--json")
        assert result.code == 0, result.err
        assert ("norm_ratio" in json.loads(result.out)["metrics"]) is expected


def test_a_misspelt_name_is_answered_with_it(evaluate):
    result = evaluate("--metrics", "norm_ration")
    assert (result.code, result.err) == (2, "lcm: unknown metric 'norm_ration': did you mean norm_ratio?\n")


def test_the_list_of_metrics_has_it_with_its_package(lcm, install):
    assert "norm_ratio" not in lcm("evaluate", "--list-metrics").out
    install("norm_ratio", "metrics", norm_ratio="NORM_RATIO")
    result = lcm("evaluate", "--list-metrics")
    assert result.code == 0
    text = " ".join(result.out.split())
    assert "norm_ratio" in text
    assert "squared_l2" in text
    assert "package norm_ratio" in text


def test_the_documentation_shows_the_example():
    example = (Path(__file__).parents[1] / "extensions" / "norm_ratio.py").read_text(encoding="utf-8")
    assert f"```python\n{example}```" in DOCS.read_text(encoding="utf-8")
