"""Layers recomputed, compiled and frozen from outside: the function stays, and so do the names."""

from functools import partial

import pytest
import torch
from tiny_models import CONFIGS, lively_model, packed_rows

from lexalcm.errors import ConfigError
from lexalcm.model import LCM
from lexalcm.objective import create_objective
from lexalcm.train.layers import freeze, is_recomputed, prepare_layers


def loss_and_gradients(
    model: LCM, *, compiled: bool = False, checkpointing: str = "none"
) -> tuple[float, dict[str, torch.Tensor]]:
    """Of one seeded training step, with dropout where the model has it."""
    prepare_layers(model, compiled=compiled, checkpointing=checkpointing)
    model.train()
    torch.manual_seed(5)
    loss = create_objective(model)(**packed_rows([[5, 3], [8]], 8)).sum
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("architecture", list(CONFIGS))
@pytest.mark.parametrize("choice", ["full", "every-2"])
def test_recomputed_layers_draw_the_same_dropout_and_give_the_same_gradients(architecture: str, choice: str) -> None:
    loss, gradients = loss_and_gradients(lively_model(architecture))
    again, recomputed = loss_and_gradients(lively_model(architecture), checkpointing=choice)
    assert again == loss
    assert recomputed.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.equal(recomputed[name], gradient), name


def test_recomputing_saves_what_layers_keep_for_the_backward_pass() -> None:
    def kept(choice: str) -> int:
        model = lively_model("two-tower")
        prepare_layers(model, compiled=False, checkpointing=choice)
        model.train()
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = create_objective(model)(**packed_rows([[40] * 2] * 4, 80)).sum
        assert loss.requires_grad
        return sum(sizes.values())

    assert kept("full") < kept("every-2") < kept("none")
    assert kept("full") < 0.5 * kept("none")


def test_which_layers_are_recomputed() -> None:
    assert [is_recomputed("none", layer) for layer in range(4)] == [False] * 4
    assert [is_recomputed("full", layer) for layer in range(4)] == [True] * 4
    assert [is_recomputed("every-3", layer) for layer in range(7)] == [True, False, False, True, False, False, True]


def test_compiled_layers_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of torch.compile but the generated C++, which takes half a minute and a compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    changes = {"num_layers": 1, "dropout": 0.0}
    loss, gradients = loss_and_gradients(lively_model("base", **changes))
    again, compiled = loss_and_gradients(lively_model("base", **changes), compiled=True)
    assert again == pytest.approx(loss, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-5)


def test_frozen_parameters_are_those_that_a_pattern_names() -> None:
    model = lively_model("two-tower")
    freeze(model, ["contextualizer.*", "denoiser.layers.0.ffn.gate_proj.bias"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        name
        for name, _ in model.named_parameters()
        if name.startswith("contextualizer.") or name == "denoiser.layers.0.ffn.gate_proj.bias"
    }


@pytest.mark.parametrize(
    ("patterns", "complaint"),
    [
        (
            ["encoder.*"],
            r"train\.freeze: encoder\.\* matches no parameter; there are contextualizer\.\*, denoiser",
        ),
        (["*"], "train.freeze leaves no parameter to train"),
    ],
)
def test_a_pattern_that_names_nothing_or_everything_is_an_error(patterns: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        freeze(lively_model("two-tower"), patterns)
