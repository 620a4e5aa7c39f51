"""The packed encoder is the same function as Transformers' own forward pass, whatever attention and batches it has."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

pytest.importorskip("transformers", reason="the extra hf is not installed")

from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

from lexalcm.codec.sonar.checkpoint import SonarSizes, expected_shapes
from lexalcm.codec.sonar.encoder import FIRST_WINDOW, WINDOWS_AHEAD, SonarEncoder
from lexalcm.codec.sonar.model import build_encoder
from lexalcm.codec.sonar.packed import FlashBatch, PackedEncoder, add_and_norm
from lexalcm.codec.sonar.token_rows import token_batches

SIZES = SonarSizes(vocab_size=100, dim=32, ffn_dim=64, layers=3)
HEADS = 2
POSITIONS = 40
CPU = torch.device("cpu")


def random_module(layers: int = SIZES.layers) -> M2M100Encoder:
    generator = torch.Generator().manual_seed(0)
    sizes = SonarSizes(SIZES.vocab_size, SIZES.dim, SIZES.ffn_dim, layers)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.2 for name, shape in expected_shapes(sizes, "encoder").items()
    }
    return build_encoder(sizes, HEADS, POSITIONS, tensors)


def random_sentences(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(4, SIZES.vocab_size, size=rng.integers(2, POSITIONS)).astype(np.int32) for _ in range(count)]


@torch.inference_mode()
def one_by_one(module: M2M100Encoder, sentences: list[np.ndarray]) -> np.ndarray:
    """As Transformers computes them."""
    states = [module(torch.from_numpy(tokens.astype(np.int64))[None]).last_hidden_state[0] for tokens in sentences]
    return np.stack([state.float().mean(0).numpy() for state in states])


def packed(encoder: PackedEncoder, sentences: list[np.ndarray], max_tokens: int) -> np.ndarray:
    found = np.empty((len(sentences), SIZES.dim), np.float32)
    lengths = np.array([len(tokens) for tokens in sentences])
    for batch in token_batches(np.concatenate(sentences), lengths, max_tokens):
        found[batch.places] = encoder(encoder.prepare(batch)).numpy()
    return found


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("max_tokens", [1, 100, 10_000])
def test_it_is_transformers_forward_pass(layers: int, max_tokens: int) -> None:
    sentences = random_sentences(30)
    expected = one_by_one(random_module(layers), sentences)
    module = random_module(layers)
    np.testing.assert_allclose(packed(PackedEncoder(module), sentences, max_tokens), expected, atol=2e-6)
    np.testing.assert_allclose(one_by_one(module, sentences), expected, atol=2e-6)  # the module is as good as before


def test_attention_by_a_kernel_for_several_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is taken by plain softmax of one sentence after another."""

    def varlen_attn(
        query: Tensor, key: Tensor, value: Tensor, starts: Tensor, key_starts: Tensor, longest: int, longest_key: int
    ) -> Tensor:
        assert starts.dtype == key_starts.dtype == torch.int32
        assert longest == longest_key == int(starts.diff().max())
        mixed = []
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            q, k, v = (part[start:end].transpose(0, 1) for part in (query, key, value))
            mixed.append((torch.softmax(q @ k.transpose(1, 2) / query.shape[2] ** 0.5, -1) @ v).transpose(0, 1))
        return torch.cat(mixed)

    kernel = ModuleType("torch.nn.attention.varlen")
    kernel.varlen_attn = varlen_attn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, kernel.__name__, kernel)
    monkeypatch.setattr(PackedEncoder, "flash", True)
    sentences = random_sentences(30)
    module = random_module()
    encoder = PackedEncoder(module)
    (batch,) = token_batches(np.concatenate(sentences), np.array([len(tokens) for tokens in sentences]), 10_000)
    assert isinstance(encoder.prepare(batch), FlashBatch)
    np.testing.assert_allclose(packed(encoder, sentences, 100), one_by_one(module, sentences), atol=2e-6)


def test_any_number_of_tokens_is_compiled_twice() -> None:
    """For the first number, and for all others; weights of one width are no reason."""
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(add_and_norm, backend="eager")
    for seed, tokens in enumerate([7, 20, 33, 2, 1024]):
        generator = torch.Generator().manual_seed(seed)
        states, update = (torch.randn(tokens, 8, generator=generator) for _ in range(2))
        weight, bias = (torch.randn(8, generator=generator) for _ in range(2))
        found, normed = compiled(states, update, weight, bias, 1e-5)
        total = states + update
        torch.testing.assert_close(found, total)
        centred = total - total.mean(1, keepdim=True)
        torch.testing.assert_close(
            normed, centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * weight + bias
        )
    assert counters["stats"]["unique_graphs"] == 2


def test_float16_is_bounded_where_it_would_be_infinite() -> None:
    states = torch.full((1, 4), 60000.0, dtype=torch.float16) * torch.tensor([1, -1, 1, 0])
    found, normed = add_and_norm(states.half(), states.half(), torch.ones(4).half(), torch.zeros(4).half(), 1e-5)
    assert found.tolist() == [[64512.0, -64512.0, 64512.0, 0.0]]  # 64504 in float16
    assert normed.isfinite().all()


class Numbers:
    """A tokenizer of sentences that are numbers; the language is the first token."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def encode_flat(self, sentences: list[str], lang: str) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(len(sentences))
        tokens = [[int(lang), *map(int, sentence.split()), 3] for sentence in sentences]
        return np.concatenate(tokens).astype(np.int32), np.array(list(map(len, tokens)))


def test_a_stream_gives_each_request_its_own_and_in_order() -> None:
    module = random_module()
    rng = np.random.default_rng(1)
    requests = [
        ([" ".join(map(str, rng.integers(4, 99, rng.integers(1, 60)))) for _ in range(count)], lang)
        for count, lang in ((3, "50"), (1, "51"), (40, "50"), (7, "52"))
    ]
    encoder = SonarEncoder(module, Numbers(), max_tokens=POSITIONS, batch_tokens=100)  # type: ignore[arg-type]
    found = list(encoder.stream(iter(requests), window=16))
    cut = 0
    for (sentences, lang), embeddings in zip(requests, found, strict=True):
        tokens = [np.array([int(lang), *map(int, sentence.split()), 3]) for sentence in sentences]
        cut += sum(len(sequence) > POSITIONS for sequence in tokens)
        expected = one_by_one(module, [sequence[:POSITIONS] for sequence in tokens])
        np.testing.assert_allclose(embeddings, expected, atol=2e-6)
    assert encoder.cut == cut > 0


def test_the_first_window_is_small_and_no_more_is_read_than_is_needed_ahead() -> None:
    tokenizer = Numbers()
    encoder = SonarEncoder(random_module(0), tokenizer, max_tokens=POSITIONS)  # type: ignore[arg-type]
    read = 0

    def requests() -> object:
        nonlocal read
        for _ in range(60):
            read += 1
            yield ["7 8"] * 2000, "50"

    stream = encoder.stream(requests())  # type: ignore[arg-type]
    next(stream)
    assert tokenizer.asked[:2] == [FIRST_WINDOW, 2000 - FIRST_WINDOW] or sorted(tokenizer.asked[:2])[1] == FIRST_WINDOW
    assert 2 * read <= 2 + WINDOWS_AHEAD + 1  # of two windows each; the first is answered
    stream.close()
