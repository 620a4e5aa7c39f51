"""Parts of the models that have a second way to compute the same: masks, norms, linear layers, dropout."""

import pytest
import torch
from tiny_models import lively_model, packed_rows
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from lexalcm.model.layers import masks
from lexalcm.model.layers.attention import mix_values
from lexalcm.model.layers.dropout import Dropout
from lexalcm.model.layers.linear import Linear
from lexalcm.model.layers.norm import ModulatedRMSNorm, RMSNorm
from lexalcm.model.two_tower.denoiser import SelfProjection, shift_contexts
from lexalcm.objective import create_objective

DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, -1], [0, 1, 1, 1, 1, 1]])
DROPPED = torch.tensor([[False, True, False, False, True, False], [False, False, True, False, False, True]])


def sees(mask: masks.Mask, row: int) -> list[list[bool]]:
    assert isinstance(mask, torch.Tensor)
    return mask[row, 0].tolist()


def test_causal_mask_by_hand() -> None:
    mask = masks.causal_mask(DOCUMENTS, "sdpa")
    assert sees(mask, 0)[2] == [True, True, True, False, False, False]
    assert sees(mask, 0)[4] == [False, False, False, True, True, False]
    assert sees(mask, 1)[3] == [False, True, True, True, False, False]


def test_clean_and_noisy_concepts_by_hand() -> None:
    mask = masks.clean_noisy_mask(DOCUMENTS, DROPPED, "sdpa")
    clean, noisy = sees(mask, 0)[:6], sees(mask, 0)[6:]
    assert clean == [row + [False] * 6 for row in sees(masks.causal_mask(DOCUMENTS, "sdpa"), 0)]
    assert noisy[2] == [True, True, False, False, False, False, False, False, True, False, False, False]
    assert noisy[1] == [False] * 6 + [False, True, False, False, False, False]  # dropped: itself alone
    assert noisy[3] == [False] * 6 + [False, False, False, True, False, False]  # a document's first


@pytest.fixture
def flex_in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention as torch computes it without a compiler: the same masks, no fused kernel."""
    monkeypatch.setattr(masks, "_compiled", lambda: (flex_attention, create_block_mask))


MASKS = {
    "causal": lambda kernel: masks.causal_mask(DOCUMENTS, kernel),
    "clean and noisy": lambda kernel: masks.clean_noisy_mask(DOCUMENTS, DROPPED, kernel),
    "noisy beside clean": lambda kernel: masks.noisy_beside_clean_mask(DOCUMENTS, 2, kernel),
}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", MASKS)
def test_flex_attention_sees_what_sdpa_sees(name: str, flex_in_small_steps: None) -> None:
    dense, blocks = MASKS[name]("sdpa"), MASKS[name]("flex")
    assert isinstance(dense, torch.Tensor)
    assert not isinstance(blocks, torch.Tensor)
    _, _, queries, keys = dense.shape
    q, k, v = (torch.randn(2, 3, length, 16) for length in (queries, keys, keys))
    torch.testing.assert_close(mix_values(q, k, v, blocks), mix_values(q, k, v, dense), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("architecture", ["base", "one-tower", "two-tower"])
@torch.no_grad()  # FlexAttention has no gradient on a CPU
def test_a_model_computes_the_same_with_both_kernels(architecture: str, flex_in_small_steps: None) -> None:
    rows = packed_rows([[3, 5, 2], [1, 4]], 12)
    losses = []
    for kernel in ("sdpa", "flex"):
        model = lively_model(architecture)
        model.config = model.config.model_copy(update={"attention": kernel})
        torch.manual_seed(0)
        losses.append(create_objective(model)(**rows).per_target)
    torch.testing.assert_close(losses[1], losses[0])


def test_shifted_contexts_begin_with_the_zero_vector_in_every_document() -> None:
    contexts = torch.arange(1.0, 13.0).view(2, 6, 1)
    assert shift_contexts(contexts, DOCUMENTS)[:, :, 0].tolist() == [[0, 1, 2, 0, 4, 0], [0, 0, 8, 9, 10, 11]]


def test_the_norms_gradient_is_that_of_torch() -> None:
    norm = RMSNorm(8, 1e-5)
    torch.nn.init.uniform_(norm.weight)
    x, gradient = torch.randn(3, 5, 8, requires_grad=True), torch.randn(3, 5, 8)
    ours = norm(x)
    theirs = torch.nn.functional.rms_norm(x, (8,), norm.weight, 1e-5)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, (x, norm.weight), gradient),
        torch.autograd.grad(theirs, (x, norm.weight), gradient),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_modulated_norm_is_norm_then_scale_and_shift_of_each_timestep() -> None:
    norm = ModulatedRMSNorm(8, 1e-5)
    torch.nn.init.uniform_(norm.weight)
    timesteps = torch.randint(4, (3, 5))
    inputs = [torch.randn(3, 5, 8), torch.randn(4, 8), torch.randn(4, 8)]
    x, scale, shift = (tensor.requires_grad_() for tensor in inputs)
    ours = norm(x, timesteps, scale, shift)
    theirs = torch.nn.functional.rms_norm(x, (8,), norm.weight, 1e-5) * scale[timesteps] + shift[timesteps]
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(norm(x, timesteps, scale, shift), theirs)
    gradient, wanted = torch.randn(3, 5, 8), (x, norm.weight, scale, shift)
    for a, b in zip(
        torch.autograd.grad(ours, wanted, gradient), torch.autograd.grad(theirs, wanted, gradient), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (0, 6), (2, 5, 6), (300, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_and_its_gradients_are_those_of_torch(shape: tuple[int, ...], bias: bool) -> None:
    layer = Linear(6, 4, bias=bias)
    x = torch.randn(shape, requires_grad=True)
    gradient, wanted = torch.randn(*shape[:-1], 4), (x, *layer.parameters())
    ours, theirs = layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, wanted, gradient), torch.autograd.grad(theirs, wanted, gradient), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_frozen_linear_layer_still_passes_gradients_on() -> None:
    layer = Linear(6, 4).requires_grad_(False)
    x = torch.randn(3, 6, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(3, 6))
    assert layer.weight.grad is None
    assert layer.bias.grad is None


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(401, 251), (3,)])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    dropout = Dropout(p)
    x = torch.ones(shape, requires_grad=True)
    y = dropout(x)
    kept = y != 0
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)), rtol=1e-4, atol=0)
    if x.numel() > 1000:
        assert kept.float().mean() == pytest.approx(1 - p, abs=0.005)
        assert y.mean().item() == pytest.approx(1, abs=0.01)
        bits = kept.flatten().float() - kept.float().mean()
        assert (bits[:-1] * bits[1:]).mean().abs() < 0.005  # the numbers of one draw are independent
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, y.detach())
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize("positions", [7, 8, 40])
def test_self_projection_is_both_projections(positions: int) -> None:
    """From twice the width on as one product."""
    projection = SelfProjection(4)
    torch.nn.init.uniform_(projection.value_bias)
    x = torch.randn(1, positions, 4, requires_grad=True)
    values = x @ projection.value_weight.T + projection.value_bias
    expected = values @ projection.output_weight.T + projection.output_bias
    torch.testing.assert_close(projection(x), expected)
    names = list(dict(projection.named_parameters()))
    ours = torch.autograd.grad(projection(x).square().sum(), list(projection.parameters()))
    theirs = torch.autograd.grad(expected.square().sum(), list(projection.parameters()))
    for name, a, b in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
