"""What DDP leaves behind: nothing that holds the process group, or the group's end could wait for ever."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from allocated_memory import batch
from test_memory_plan import SMALL, settings

from lexalcm.distributed.world import World, joined
from lexalcm.errors import MissingExtraError
from lexalcm.model.create import create_model
from lexalcm.objective import create_objective
from lexalcm.train.engines import ddp, single
from lexalcm.train.engines.ddp import DDPEngine
from lexalcm.train.engines.protocol import Setup

CPU = torch.device("cpu")


@pytest.fixture
def reducers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Weak references to what holds the group, of every replica that is made, in a group of one process."""
    made: list[Any] = []

    class Recorded(ddp.DistributedDataParallel):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(weakref.ref(self.reducer))

    monkeypatch.setattr(ddp, "DistributedDataParallel", Recorded)
    gc.disable()  # what goes away does so by itself
    with joined(World(), process_group=True, timeout=60):
        yield made
        gc.enable()


def start() -> DDPEngine:
    return DDPEngine(create_objective(create_model(SMALL["base"], 0)), settings().train, CPU, Setup("fp32", "ddp"))


def test_an_error_out_of_a_step_does_not_keep_the_group(reducers: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start()
    engine.accumulate(batch(2), 1.0, last=True)
    monkeypatch.setattr(engine._model, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as raised:
        engine.accumulate(batch(2), 1.0, last=True)
    assert reducers[0]() is not None
    engine.close()
    assert reducers[0]() is None
    assert raised.traceback  # which still holds the frames of the step


def test_an_engine_that_cannot_start_does_not_keep_the_group(
    reducers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_extra(*_: Any) -> None:
        raise MissingExtraError("bitsandbytes")

    monkeypatch.setattr(single, "make_optimizers", no_extra)
    with pytest.raises(MissingExtraError) as raised:
        start()
    assert [reducer() for reducer in reducers] == [None]
    assert raised.traceback
