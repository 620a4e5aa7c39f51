"""Alerts name the weights that training does not reach or that are not finite, and no others."""

from collections.abc import Mapping

import pytest
import torch

from lexalcm.train.checkpoint.format import TrainState
from lexalcm.train.engines.protocol import Gather
from lexalcm.train.monitor.alerts import WeightWatch, layer_of
from lexalcm.train.monitor.run_monitor import Monitor, NullDisplay

UPDATES = 20
LR = 1e-3


class Weights:
    """As much of an engine as a check needs: weights, one at a time."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        names = ["layers.0.alive.weight", "layers.0.cut_off.weight", "layers.1.gain", "layers.1.alive.weight"]
        sizes = [(30, 20), (30, 20), (30,), (700, 3)]
        tensors = [torch.randn(size, generator=generator) for size in sizes]
        self.tensors: Mapping[str, torch.Tensor] = dict(zip(names, tensors, strict=True))
        self.shapes = {name: tensor.shape for name, tensor in self.tensors.items()}

    def weights(self) -> Mapping[str, Gather]:
        return {name: lambda rank, tensor=tensor: tensor for name, tensor in self.tensors.items()}


class Notes(NullDisplay):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Scalars:
    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.texts: list[str] = []

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.values |= values

    def text(self, step: int, name: str, text: str) -> None:
        self.texts.append(text)

    def close(self) -> None:
        pass


def train(weights: Weights, names: list[str], decay: float = 0.1) -> None:
    """What AdamW does to weights: all decay, those that have a gradient move by the learning rate or less besides."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(UPDATES):
        for name, weight in weights.tensors.items():
            if weight.ndim == 2:
                weight.mul_(1 - LR * decay)
            if name in names:
                weight.add_(LR * torch.randn(weight.shape, generator=generator).clamp(-1, 1))


class WatchedWeights:
    def __init__(self, lr: float = LR) -> None:
        self.weights, self.display, self.writer = Weights(), Notes(), Scalars()
        monitor = Monitor(None, self.display, writers=[self.writer])
        self.watch = WeightWatch(self.weights, monitor, lambda _: lr, None, TrainState())

    def check(self, updates: int = UPDATES) -> list[str]:
        return self.watch.run(TrainState(step=updates, updates=updates)).get("alerts", [])


@pytest.fixture
def watched() -> WatchedWeights:
    return WatchedWeights()


def test_healthy_weights_raise_no_alert(watched: WatchedWeights) -> None:
    train(watched.weights, list(watched.weights.tensors))
    assert watched.check() == []
    assert watched.display.notes == []


def test_weights_that_move_very_slowly_raise_no_alert(watched: WatchedWeights) -> None:
    generator = torch.Generator().manual_seed(1)
    for weight in watched.weights.tensors.values():
        weight.mul_(1 + 1e-6 * torch.randn(weight.shape, generator=generator) - 1e-6)
    assert watched.check() == []


def test_weights_that_only_decay_or_do_not_move_are_named(watched: WatchedWeights) -> None:
    train(watched.weights, ["layers.0.alive.weight", "layers.1.alive.weight"])
    still, decaying = watched.check()
    assert still.startswith("weights not moved in 20 updates: layers.1.gain (")
    assert decaying.startswith("weights moved by weight decay alone in 20 updates: layers.0.cut_off.weight (")
    assert watched.display.notes == [f"step 20: {still}", f"step 20: {decaying}"]
    assert watched.writer.texts == [still, decaying]


def test_a_weight_that_is_not_finite_is_named_at_once(watched: WatchedWeights) -> None:
    watched.weights.tensors["layers.1.alive.weight"][699, 2] = torch.nan
    (alert,) = watched.check(updates=1)
    assert alert.startswith("weights not finite: layers.1.alive.weight (")


def test_an_alert_is_said_again_only_when_it_changes(watched: WatchedWeights) -> None:
    watched.weights.tensors["layers.1.gain"][0] = torch.inf
    assert len(watched.check(updates=1)) == 1
    assert watched.check(updates=2) == []
    watched.weights.tensors["layers.0.alive.weight"][0] = torch.inf
    assert "layers.0.alive.weight, layers.1.gain" in watched.check(updates=3)[0]


def test_a_few_updates_or_a_tiny_learning_rate_prove_nothing(watched: WatchedWeights) -> None:
    assert watched.check(updates=9) == []
    assert WatchedWeights(lr=1e-9).check() == []


def test_layers_have_norms_and_the_size_of_their_updates(watched: WatchedWeights) -> None:
    weight = watched.weights.tensors["layers.0.alive.weight"]
    other = watched.weights.tensors["layers.0.cut_off.weight"]
    before = torch.cat([weight.flatten(), other.flatten()])
    train(watched.weights, list(watched.weights.tensors))
    after = torch.cat([weight.flatten(), other.flatten()])
    watched.check()
    values = watched.writer.values
    assert values["weight_norm/layers.0"] == pytest.approx(float(after.norm()), rel=1e-5)
    ratio = float((after - before).norm() / after.norm()) / UPDATES
    assert values["update_ratio/layers.0"] == pytest.approx(ratio, rel=0.1)  # from 256 numbers of each


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("denoiser.layers.3.ffn.up.weight", "denoiser.layers.3"),
        ("contextualizer.norm.weight", "contextualizer.norm"),
        ("gain", "gain"),
    ],
)
def test_a_parameter_belongs_to_a_layer(name: str, layer: str) -> None:
    assert layer_of(name) == layer
