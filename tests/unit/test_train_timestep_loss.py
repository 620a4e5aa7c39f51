"""The loss by bucket of timesteps, against counting position by position."""

import math

import pytest
import torch
from tiny_models import lively_model, packed_rows

from lexalcm.objective import create_objective
from lexalcm.train.monitor.timestep_loss import TimestepBuckets, means


@pytest.mark.parametrize(
    ("timesteps", "names"),
    [
        (100, ["00-09", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70-79", "80-89", "90-99"]),
        (25, ["00-02", "03-04", "05-07", "08-09", "10-12", "13-14", "15-17", "18-19", "20-22", "23-24"]),
        (3, ["0-0", "1-1", "2-2"]),
    ],
)
def test_buckets_have_the_names_of_their_timesteps(timesteps: int, names: list[str]) -> None:
    assert TimestepBuckets(timesteps).names == names


@pytest.mark.parametrize("timesteps", [100, 25, 3])
def test_each_target_is_counted_in_the_bucket_that_names_its_timestep(timesteps: int) -> None:
    model = lively_model("two-tower")
    model.schedule.steps = timesteps
    torch.manual_seed(0)
    rows = packed_rows([[5, 3], [7]], row_length=9)
    loss = create_objective(model)(**rows)
    buckets = TimestepBuckets(timesteps)
    sums, counts = buckets.add_up(loss, rows["targets"]).tolist()
    expected = {name: [0.0, 0] for name in buckets.names}
    for row in range(2):
        for place in range(9):
            if rows["targets"][row, place]:
                timestep = int(loss.timesteps[row, place])
                (name,) = (one for one in expected if int(one.split("-")[0]) <= timestep <= int(one.split("-")[1]))
                expected[name][0] += float(loss.per_target[row, place])
                expected[name][1] += 1
    assert sums == pytest.approx([total for total, _ in expected.values()])
    assert counts == [count for _, count in expected.values()]
    assert sum(sums) == pytest.approx(float(loss.sum.detach()))


def test_a_bucket_without_targets_has_no_mean() -> None:
    first, second = means([6.0, 0.0], [2, 0])
    assert first == 3
    assert math.isnan(second)
