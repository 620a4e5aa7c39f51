"""docs/evaluation.md: its Python runs and prints what it says, and its table has the metrics that there are."""

import re
from pathlib import Path

import pytest
from evaluation_workspace import make_text_dataset, make_text_model

from lexalcm.evaluate.metrics.text_similarity import rouge_l
from lexalcm.generate.text import TextModel
from lexalcm.registries import METRICS

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_python_of_the_page_prints_the_models_rouge_l(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_text_dataset(tmp_path / "data" / "sample")
    make_text_model(tmp_path / "runs/base/model", dataset)
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    printed = float(capsys.readouterr().out)

    writer, split, scores = TextModel.open("runs/base"), dataset.split("validation"), []
    for number in range(len(split)):  # fewer than 20: all of them
        document = split.document(number)
        prompt = writer.prompt(document["sentences"], writer.options(), lang=document["lang"])
        scores += [rouge_l(guess.guess, guess.actual) for guess in writer.guess_each(prompt, writer.options())]
    assert printed == pytest.approx(sum(scores) / len(scores))


def test_the_table_has_every_metric_of_data_sets_and_the_text_those_of_tasks() -> None:
    page = PAGE.read_text(encoding="utf-8")
    of_data = [name for name in METRICS.names() if METRICS.load(name).compute]
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", page, re.MULTILINE)
    assert [name for name, _ in rows] == of_data
    for name, better in rows:
        assert (better if better in ("higher", "lower") else None) == METRICS.load(name).better, name
    tasks = page[page.index("## Tasks") :].lower()
    for name in METRICS.names():
        if name not in of_data:
            assert f"**{METRICS.load(name).title.lower()}**" in tasks
