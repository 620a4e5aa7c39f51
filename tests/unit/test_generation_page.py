"""The Python of docs/generation.md runs, and says what the page says."""

import doctest
import re
from pathlib import Path

import pytest
from text_model_folder import make_text_model

PAGE = Path(__file__).parents[2] / "docs" / "generation.md"


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_text_model(tmp_path / "runs/base/model")
    monkeypatch.chdir(tmp_path)
    examples = "\n".join(
        re.findall(r"^```pycon\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    )
    test = doctest.DocTestParser().get_doctest(examples, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) >= 12
    said: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert results.failed == 0, "".join(said)
