"""The benchmark of embedding, at a small size: both ways compute the same, and the text is as padded as is said."""

import argparse

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="the extra hf is not installed")
pytest.importorskip("sentencepiece", reason="the extra hf is not installed")

from sonar_reference import LANGUAGES, REFERENCE

from lexalcm.codec.sonar.checkpoint import SonarSizes
from lexalcm.codec.sonar.encoder import FIRST_WINDOW, SonarEncoder
from lexalcm.codec.sonar.token_rows import token_batches
from lexalcm.codec.sonar.tokenizer import SonarTokenizer
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
    assert result["smallest_cosine"] > 0.999999
    assert result["sentences_per_second"] > 0
    assert "padding in file order" in capsys.readouterr().out


def test_on_a_gpu_the_time_between_batches_is_what_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With events of a GPU that takes 1 ms for each batch."""

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None: ...

        def elapsed_time(self, end: "Event") -> float:
            assert end is not self
            return 1.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    tokenizer = SonarTokenizer(REFERENCE / "sentencepiece.model", LANGUAGES)
    sizes = SonarSizes(vocab_size=1007, dim=64, ffn_dim=128, layers=2)
    module = bench_embed.random_encoder(sizes, torch.device("cpu"), torch.float32)
    encoder = SonarEncoder(module, tokenizer, max_tokens=64, batch_tokens=400)
    blocks = bench_embed.spread([block for block in bench_embed.text_blocks() if block[0] == "eng_Latn"], 30)
    plain = encoder.packed
    embeddings, wall, _, seconds = bench_embed.measure_on_gpu(encoder, blocks, compiled=False)
    assert encoder.packed is plain
    np.testing.assert_array_equal(embeddings, bench_embed.embed(encoder, blocks))
    lengths = np.minimum(bench_embed.token_counts(encoder, blocks), 64).ravel()
    assert len(lengths) <= FIRST_WINDOW
    batches = len(token_batches(np.zeros(lengths.sum(), np.int32), lengths, 400))
    assert batches > 1
    assert seconds["pass_seconds"] == pytest.approx(wall, abs=1e-4)
    assert seconds["gpu_waited_seconds"] == pytest.approx(wall - batches / 1000, abs=1e-4)
    # Query, key, value, output: 64 x 64 each; two of 64 x 128.
    assert bench_embed.linear_weights(module) == 2 * (4 * 64 * 64 + 2 * 64 * 128)
