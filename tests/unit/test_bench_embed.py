"""The benchmark of embedding, at a small size: both ways compute the same, and the text is as padded as is said."""

import argparse

import pytest

pytest.importorskip("transformers", reason="the extra hf is not installed")
pytest.importorskip("sentencepiece", reason="the extra hf is not installed")

from sonar_reference import LANGUAGES, REFERENCE

from lexalcm.codec.sonar_checkpoint import SonarSizes
from lexalcm.codec.sonar_tokenizer import SonarTokenizer
from tools import bench_embed


def test_both_ways_give_the_same_embeddings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = SonarTokenizer(REFERENCE / "sentencepiece.model", LANGUAGES)
    monkeypatch.setattr(bench_embed, "SIZES", SonarSizes(vocab_size=1007, dim=64, ffn_dim=128, layers=2))
    monkeypatch.setattr(bench_embed, "HEADS", 4)
    monkeypatch.setattr(bench_embed, "find_tokenizer", lambda *_: (tokenizer, "the reference's"))
    arguments = argparse.Namespace(device="cpu", dtype="fp32", sentences=128, batch=None, layers=2)
    result = bench_embed.run(arguments)
    assert result["sentences"] == 128
    assert result["largest_difference"] < 1e-5
    assert result["sentences_per_second"] > 0
    assert "padding in file order" in capsys.readouterr().out
