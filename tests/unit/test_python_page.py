"""The Python of docs/python.md runs from top to bottom, and what it makes is what it says."""

import re
from pathlib import Path

import pytest
import torch
from evaluation_workspace import make_text_dataset, make_text_model
from huggingface_hub import HfApi

from lexalcm.model import LCM
from lexalcm.verify.model import verify_model

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_text_dataset(tmp_path / "data" / "sample")
    make_text_model(tmp_path / "models" / "base", dataset, "two-tower", steps=2)
    monkeypatch.chdir(tmp_path)
    pushed = {}

    def upload(self: HfApi, *, repo_id: str, folder_path: str, **_: object) -> None:
        pushed[repo_id] = {file.name for file in Path(folder_path).rglob("*") if file.is_file()}

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: type("Repository", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    before = LCM.from_pretrained("models/base").state_dict()

    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)

    printed = capsys.readouterr().out
    assert "28 documents; eng_Latn" in printed
    assert re.search(r"^step 10: [\d.]+$", printed, re.MULTILINE)
    assert re.search(r"^validation: [\d.]+$", printed, re.MULTILINE)
    after = LCM.from_pretrained("models/mine").state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)  # it has learned something
    assert verify_model(Path("models/mine")).checks[-1].name == "prediction"  # complete: nothing before it is wrong
    assert pushed["your-name/your-model"] >= {
        "config.json",
        "model.safetensors",
        "README.md",
        "special_concepts.safetensors",
    }
