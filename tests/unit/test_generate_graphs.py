"""Generation as a GPU does it, in static buffers and by CUDA graphs: the concepts are the same.

Without a GPU a tape stands in for graphs: it records every operation on tensors, and plays them again on the memory
where they were, with the numbers that they had.
"""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import CONFIGS, DIM, lively_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lexalcm.diffusion.schedule import Prediction
from lexalcm.generate import autoregressive, predictor, static_buffers
from lexalcm.generate.autoregressive import KeepRows, generate, generate_from_noise
from lexalcm.generate.denoising import Denoising
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import StaticPredictor, prepare
from lexalcm.model import LCM, DiffusionLCM
from lexalcm.model.predictor import ConceptPredictor

ARCHITECTURES = list(CONFIGS)
OPTIONS = {
    "ddim": GenerationOptions(sampler="ddim", steps=5, guidance_scale=2.0),
    "unguided": GenerationOptions(sampler="ddim", steps=5, guidance_scale=1.0),
    "eta": GenerationOptions(sampler="ddim", steps=5, eta=0.5, clip_x0=2.0),
    "dpm-solver++": GenerationOptions(steps=5, dynamic_threshold=0.9),
}
LENGTHS = [2, 5, 1]
needs_gpu = pytest.mark.gpu


class Tape(TorchDispatchMode):
    """Records operations; `play` does them again, their results written where they were."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = {one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        assert made or "copy" in str(func) or "_assert" in str(func), f"{func} looks at the device's numbers"
        self._steps.append((func, args, kwargs, [one for one in made if one.untyped_storage().data_ptr() not in given]))
        return result

    def play(self) -> None:
        for func, args, kwargs, new in self._steps:
            result = func(*args, **kwargs)
            again = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
            for kept, computed in zip(new, again[: len(new)], strict=True):
                kept.copy_(computed)


class Tapes:
    """In the place of `CudaGraphs`; counts what it does."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.captured = 0
        self.replayed = 0

    def __call__(self, work: Callable[[], object]) -> Callable[[], object]:
        tape = Tape()
        with tape:
            work()
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            tape.play()

        return replay


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> Tapes:
    made = Tapes()
    monkeypatch.setattr(predictor, "CudaGraphs", lambda _device: made)
    return made


def prompts_of(lengths: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, DIM, generator=generator) for length in lengths]


def all_of(prepared: ConceptPredictor, lengths: list[int], concepts: int) -> Tensor:
    return torch.stack(list(generate(prepared, prompts_of(lengths), list(range(len(lengths))), concepts)))


def close(actual: Tensor, expected: Tensor) -> None:
    """But for rounding: all slots are added up, in another order, and the matrices are multiplied in another one."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("lengths", [[3], LENGTHS], ids=["alone", "batch"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_replay_makes_the_concepts_of_the_other_way(
    architecture: str, options: GenerationOptions, lengths: list[int], tapes: Tapes
) -> None:
    """Twice: the second time from the buffers that the first has left."""
    model = lively_model(architecture)
    expected = all_of(prepare(model, options), lengths, 4)
    graphs = prepare(model, options, graphs=True)
    close(all_of(graphs, lengths, 4), expected)
    close(all_of(graphs, lengths, 4), expected)
    assert (tapes.captured, tapes.replayed) == (1, 3 + 4)


@pytest.mark.parametrize("architecture", ["one-tower", "two-tower"])
def test_a_sampler_that_asks_between_its_steps_is_captured_too(architecture: str, tapes: Tapes, midpoint: str) -> None:
    model = lively_model(architecture)
    assert isinstance(model, DiffusionLCM)
    options = GenerationOptions(sampler=midpoint, steps=4, eta=0.5)
    assert Denoising(model.schedule, options).draws == 4  # where it begins, and between steps
    expected = all_of(prepare(model, options), LENGTHS, 4)
    told: list[tuple[int, int]] = []
    graphs = prepare(model, options, observe=lambda *step: told.append(step[:2]), graphs=True)
    close(all_of(graphs, LENGTHS, 4), expected)
    assert (tapes.captured, tapes.replayed) == (1, 3)
    assert told == [(step, 4) for step in range(1, 5)] * 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_replay_is_the_work_to_the_last_digit(architecture: str, tapes: Tapes) -> None:
    model = lively_model(architecture)
    graphs = prepare(model, OPTIONS["eta"], graphs=True)
    replayed = [all_of(graphs, LENGTHS, 4) for _ in range(2)]
    assert tapes.replayed == 7
    assert torch.equal(*replayed)  # the first concept of the first ones was not replayed


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_that_leave_and_grow_change_nothing(
    architecture: str, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine texts, of which first seven stay, then two, then one, while they grow beyond their buffers' slots."""
    monkeypatch.setattr(autoregressive, "EXPECTED", 1)
    monkeypatch.setattr(static_buffers, "FEWEST_SLOTS", 4)
    model = lively_model(architecture)
    made: list[list[Tensor]] = []
    for prepared in (prepare(model, OPTIONS["eta"]), prepare(model, OPTIONS["eta"], graphs=True)):
        stream = generate(prepared, prompts_of([1, 4, 2, 6, 3, 2, 1, 5, 2]), list(range(9)), 14)
        one = [next(stream)]
        for number in range(1, 14):
            staying = {2: [0, 1, 2, 3, 5, 7, 8], 4: [1, 5], 8: [1]}.get(number)
            if staying is None:
                one.append(next(stream))
            else:
                one.append(stream.send(KeepRows(torch.tensor(staying), one[-1][staying])))
        made.append(one)
    for expected, found in zip(*made, strict=True):
        close(found, expected)
    assert tapes.captured >= 3


def test_buffers_have_powers_of_two_and_are_used_again(tapes: Tapes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_buffers, "KEPT", 2)
    graphs = prepare(lively_model("two-tower"), OPTIONS["ddim"], graphs=True)
    assert isinstance(graphs, StaticPredictor)
    for lengths in ([3] * 5, [30], [31], [2] * 7):
        all_of(graphs, lengths, 1)
    kept = graphs._pool._free
    assert [(one.rows, one.slots) for one in kept] == [(1, 64), (8, 32)]
    assert kept[1].can_be_captured  # the seven texts found the place that the five had left, and did not capture it
    all_of(graphs, [2] * 6, 2)
    assert tapes.captured == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_by_turns_do_not_meet(architecture: str, tapes: Tapes) -> None:
    model = lively_model(architecture)
    graphs = prepare(model, OPTIONS["ddim"], graphs=True)
    expected = [all_of(prepare(model, OPTIONS["ddim"]), lengths, 4) for lengths in ([3, 1], [2, 6])]
    streams = [generate(graphs, prompts_of(lengths), [0, 1], 4) for lengths in ([3, 1], [2, 6])]
    by_turns = [[next(stream) for stream in streams] for _ in range(4)]
    for number in range(2):
        close(torch.stack([made[number] for made in by_turns]), expected[number])
    assert tapes.captured == 2


def test_what_buffers_held_before_is_forgotten(tapes: Tapes) -> None:
    """Also NaN, which a mask would not hide: zero times NaN is NaN."""
    graphs = prepare(lively_model("two-tower"), OPTIONS["ddim"], graphs=True)
    assert isinstance(graphs, StaticPredictor)
    expected = all_of(graphs, LENGTHS, 3)
    with torch.inference_mode():
        for layer in graphs._pool._free[-1].inputs.cache:
            layer.keys.fill_(torch.nan)
            layer.values.fill_(torch.nan)
    assert torch.equal(all_of(graphs, LENGTHS, 3), expected)


@pytest.mark.parametrize("architecture", ["one-tower", "two-tower"])
def test_an_observer_sees_each_step(architecture: str, tapes: Tapes) -> None:
    model = lively_model(architecture)
    seen: dict[bool, list[tuple[int, int, Prediction]]] = {False: [], True: []}
    for graphs in (False, True):
        prepared = prepare(
            model,
            OPTIONS["ddim"],
            observe=lambda *step, graphs=graphs: seen[graphs].append(step),
            graphs=graphs,
        )
        all_of(prepared, LENGTHS, 3)
    assert [step for *step, _ in seen[True]] == [step for *step, _ in seen[False]] == [[n, 5] for n in range(1, 6)] * 3
    for (*_, found), (*_, expected) in zip(seen[True], seen[False], strict=True):
        close(torch.stack(found), torch.stack(expected))
    assert tapes.replayed == 2


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_draws_of_noise_are_known_before(options: GenerationOptions) -> None:
    model = lively_model("two-tower")
    assert isinstance(model, DiffusionLCM)
    drawn: list[int] = []

    def draw() -> Tensor:
        drawn.append(1)
        return torch.zeros(1, 1, DIM)

    next(generate_from_noise(prepare(model, options), prompts_of([2]), draw, 1))
    assert len(drawn) == Denoising(model.schedule, options).draws


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_where_nothing_can_be_captured_one_line_says_so(architecture: str, caplog: pytest.LogCaptureFixture) -> None:
    """On a CPU, for example."""
    model = lively_model(architecture)
    with caplog.at_level(logging.INFO):
        slow = prepare(model, OPTIONS["eta"], graphs=True)
        found = all_of(slow, LENGTHS, 4)
        again = all_of(slow, LENGTHS, 4)
    close(found, all_of(prepare(model, OPTIONS["eta"]), LENGTHS, 4))
    assert torch.equal(found, again)
    [line] = caplog.messages
    assert "no CUDA graphs" in line
    assert "the model is on cpu" in line


def test_other_errors_are_not_taken_for_a_failed_capture(monkeypatch: pytest.MonkeyPatch, tapes: Tapes) -> None:
    def broken(_buffers: static_buffers.StaticBuffers) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(static_buffers.StaticBuffers, "work", broken)
    with pytest.raises(RuntimeError, match="broken"):
        all_of(prepare(lively_model("base"), OPTIONS["ddim"], graphs=True), [2], 1)
    assert tapes.captured == 0


def test_where_memory_lacks_waiting_buffers_are_given_up(tapes: Tapes, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = prepare(lively_model("base"), OPTIONS["ddim"], graphs=True)
    assert isinstance(graphs, StaticPredictor)
    all_of(graphs, [1], 1)
    work = graphs._pool.next_concept
    new_cache = work.new_cache

    def with_little_memory(rows: int, slots: int) -> Any:
        if graphs._pool._free:
            raise torch.OutOfMemoryError("out of memory")
        return new_cache(rows, slots)

    monkeypatch.setattr(work, "new_cache", with_little_memory)
    assert all_of(graphs, [1, 1], 1).isfinite().all()
    assert [one.rows for one in graphs._pool._free] == [2]


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[3], LENGTHS, [1, 29, 5, 3, 30, 2, 8, 31]], ids=["1", "3", "8"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_graphs_on_a_gpu(architecture: str, options: GenerationOptions, lengths: list[int], dtype: torch.dtype) -> None:
    """The same kernels whether a graph starts them or Python does: equal to the last digit, in either type.

    In float32 also those of the CPU's way, but for rounding.
    """
    model: LCM = lively_model(architecture)
    expected = all_of(prepare(model, options), lengths, 5)
    model = model.to("cuda", dtype)
    graphs, eager = prepare(model, options), prepare(model, options, graphs=False)
    assert isinstance(graphs, StaticPredictor)
    one_by_one = all_of(eager, lengths, 5)
    for _ in range(2):
        assert torch.equal(all_of(graphs, lengths, 5), one_by_one)
    assert graphs._pool._capture is not None  # it did not fall back
    if dtype == torch.float32:
        torch.testing.assert_close(one_by_one.cpu(), expected, rtol=1e-3, atol=1e-3)
