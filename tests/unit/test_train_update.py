"""An update of the plain engine: clipped within the optimizer, left out where a gradient is not finite, one wait."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from allocated_memory import DIM, batch
from torch.utils._python_dispatch import TorchDispatchMode

from lexalcm.model.config import ModelConfig
from lexalcm.model.create import create_model
from lexalcm.objective import create_objective
from lexalcm.train.engines.protocol import Gather, Setup
from lexalcm.train.engines.single import SingleEngine
from lexalcm.train.settings import TrainSettings

CPU = torch.device("cpu")
MODEL = ModelConfig(architecture="base", dim=DIM, width=32, num_heads=2, ffn_dim=48, num_layers=2, dropout=0.0)
LR = 1e-2


def engine_of(**settings: Any) -> SingleEngine:
    return SingleEngine(
        create_objective(create_model(MODEL, 0)), TrainSettings(**settings), CPU, Setup("fp32", "single")
    )


def in_plain_pytorch(clip_norm: float, steps: int) -> dict[str, torch.Tensor]:
    """The weights after some steps, clipped and updated by torch's own functions, none of them fused."""
    model = create_model(MODEL, 0).train()
    objective = create_objective(model)
    named = dict(model.named_parameters())
    groups = [
        {"params": [p for p in named.values() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in named.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), eps=1e-8, fused=False, foreach=False)
    for step in range(steps):
        torch.manual_seed(step)
        (objective(**batch(3).tensors()).sum * 0.01).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        adamw.step()
        adamw.zero_grad()
    return {name: parameter.detach() for name, parameter in named.items()}


def gathered(tensors: Mapping[str, Gather]) -> list[torch.Tensor]:
    return [gather(0) for gather in tensors.values()]


@pytest.mark.parametrize("clip_norm", [0.05, 1e6])
def test_an_update_is_that_of_plain_pytorch(clip_norm: float) -> None:
    engine = engine_of(clip_norm=clip_norm)
    for step in range(3):
        torch.manual_seed(step)
        engine.accumulate(batch(3), 0.01, last=True)
        update = engine.update(LR)
        assert update.applied
        assert (update.grad_norm > clip_norm) == (clip_norm < 1)
    for (name, expected), weight in zip(
        in_plain_pytorch(clip_norm, 3).items(), gathered(engine.weights()), strict=True
    ):
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_gradient_that_is_not_finite_changes_nothing(optimizer: str) -> None:
    """One optimizer skips by itself, the other is not asked."""
    engine, other = engine_of(optimizer=optimizer), engine_of(optimizer=optimizer)
    torch.manual_seed(0)
    engine.accumulate(batch(3), float("inf"), last=True)
    update = engine.update(LR)
    assert not update.applied
    assert not update.grad_norm < float("inf")
    assert set(update.grad_norms) == set(engine.shapes)
    for one in (engine, other):
        torch.manual_seed(1)
        one.accumulate(batch(3), 0.01, last=True)
        assert one.update(LR).applied
    assert all(map(torch.equal, gathered(engine.weights()), gathered(other.weights())))
    assert all(map(torch.equal, gathered(engine.state()), gathered(other.state())))


class Reads(TorchDispatchMode):
    """Counts numbers that are read out of tensors, each of which would wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_reads_one_number() -> None:
    engine = engine_of()
    with Reads() as reads:
        engine.accumulate(batch(3), 0.01, last=False)
        engine.accumulate(batch(3), 0.01, last=True)
        assert reads.count == 0
        engine.update(LR)
    assert reads.count == 1
