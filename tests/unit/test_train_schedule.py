import math

import pytest

from lexalcm.train.lr_schedule import learning_rate
from lexalcm.train.settings import TrainSettings


def settings(**changes: object) -> TrainSettings:
    return TrainSettings(**{"steps": 110, "warmup_steps": 10, "lr": 2.0, "min_lr_ratio": 0.1, **changes})


def test_the_warm_up_is_a_line_that_reaches_lr_at_its_last_step() -> None:
    assert [learning_rate(step, settings()) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])


@pytest.mark.parametrize(
    ("schedule", "halfway"),
    [("cosine", 2 * (0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)), ("linear", 2 * (0.1 + 0.9 / 2)), ("constant", 2)],
)
def test_the_way_down(schedule: str, halfway: float) -> None:
    assert learning_rate(10, settings(schedule=schedule)) == pytest.approx(2.0)
    assert learning_rate(60, settings(schedule=schedule)) == pytest.approx(halfway)
    end = learning_rate(110, settings(schedule=schedule))
    assert end == pytest.approx(2.0 if schedule == "constant" else 0.2)


def test_warmup_stable_decay_is_constant_and_then_a_line() -> None:
    chosen = settings(schedule="warmup-stable-decay", decay_steps=20)
    assert [learning_rate(step, chosen) for step in (10, 60, 90)] == pytest.approx([2.0] * 3)
    assert learning_rate(100, chosen) == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert learning_rate(110, chosen) == pytest.approx(0.2)
    longer = settings(schedule="warmup-stable-decay", decay_steps=20, steps=200)
    assert learning_rate(89, longer) == learning_rate(89, chosen)


def test_warmup_stable_decay_decays_for_a_tenth_of_the_steps_where_nothing_is_said() -> None:
    chosen = settings(schedule="warmup-stable-decay")
    assert learning_rate(99, chosen) == pytest.approx(2.0)
    assert learning_rate(110 - 5, chosen) == pytest.approx(2 * (0.1 + 0.9 * 5 / 11))


def test_decay_steps_of_another_schedule_are_an_error() -> None:
    with pytest.raises(ValueError, match="belongs to the schedule warmup-stable-decay"):
        settings(decay_steps=20)


def test_a_warm_up_longer_than_the_run_is_allowed() -> None:
    assert learning_rate(4, settings(steps=5, warmup_steps=10)) == pytest.approx(1.0)


def test_no_warm_up_starts_at_lr() -> None:
    assert learning_rate(0, settings(warmup_steps=0)) == 2.0
