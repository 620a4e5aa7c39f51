"""A codec of another package, the documentation's example, from its installation to the decoded text."""

import importlib
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs" / "codecs.md"
TEXT = "The sun rises over the hills. A river runs through the town. Nobody came.\n\nIt rained. We left.\n\n"


class SentenceTransformer:
    """sentence-transformers' class without a model: a sentence's direction follows from its letters."""

    def __init__(self, model_name_or_path: str) -> None:
        self.seed = len(model_name_or_path)

    def encode(
        self, inputs: list[str], *, show_progress_bar: bool | None = None, normalize_embeddings: bool = False
    ) -> np.ndarray:
        letters = np.random.default_rng(self.seed).standard_normal((256, 24)).astype(np.float32)
        vectors = np.stack([np.mean([letters[ord(c) % 256] for c in text], axis=0) for text in inputs])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example, installed: a module and the metadata that pip writes."""
    site = tmp_path / "site"
    about = site / "lcm_sbert-1.0.dist-info"
    about.mkdir(parents=True)
    [example] = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (site / "lcm_sbert.py").write_text(example, encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lcm-sbert\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[lexalcm.codecs]\nsbert = lcm_sbert:SbertCodec\n")
    monkeypatch.syspath_prepend(site)
    stand_in = types.SimpleNamespace(SentenceTransformer=SentenceTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", stand_in)
    monkeypatch.delitem(sys.modules, "lcm_sbert", raising=False)
    importlib.invalidate_caches()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT * 8)
    return site


def test_the_example_is_found_builds_and_decodes(lcm, plugin):
    assert "sbert" in lcm("verify", "env").out
    built = lcm("data", "build", "text.txt", "--out", "d", "--codec", "sbert", "--codec-option", "model=mine")
    assert built.code == 0, built.err
    assert json.loads((Path("d") / "dataset.json").read_text())["codec"]["options"] == {"model": "mine"}
    assert lcm("verify", "data", "d").code == 0
    assert lcm("bootstrap", "--data", "d", "--out", "m").code == 0
    assert json.loads(Path("m/generation_config.json").read_text())["reencode"] is True  # it answers from a bank
    written = lcm("infer", "The sun rises over the hills.", "-m", "m", "-n", 2, "--steps", 2, "--json")
    assert written.code == 0, written.err
    known = set(re.findall(r"[A-Z][^.]*\.", TEXT))
    assert {sentence["text"] for sentence in json.loads(written.out)["sentences"]} <= known
    again = lcm("data", "build", "text.txt", "--out", "e", "--codec", "d")
    assert again.code == 0, again.err


def test_the_example_refuses_other_weights(lcm, plugin, monkeypatch):
    assert lcm("data", "build", "text.txt", "--out", "d", "--codec", "sbert", "--codec-option", "model=mine").code == 0
    monkeypatch.setattr(SentenceTransformer, "__init__", lambda self, name: setattr(self, "seed", 99))
    refused = lcm("data", "build", "text.txt", "--out", "e", "--codec", "d")
    assert refused.code == 2
    assert "mine has other weights" in refused.err


def test_it_is_gone_with_its_package(lcm, plugin, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(plugin)])
    result = lcm("data", "build", "text.txt", "--out", "d", "--codec", "sbert")
    assert result.code == 2
    assert "unknown codec 'sbert'" in result.err
