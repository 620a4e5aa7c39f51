import pytest

from lexalcm.data.build.tasks import Task, choose_task
from lexalcm.errors import ConfigError


def test_shares_are_disjoint_and_complete() -> None:
    units = list(range(23))
    shares = [choose_task(f"{i}/5", {}).share(units) for i in range(5)]
    assert sorted(unit for share in shares for unit in share) == units
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_help_for_others_comes_after_the_own_share() -> None:
    assert list(Task(1, 3).from_own_on(range(8))) == [1, 4, 7, 2, 5, 0, 3, 6]


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (None, {}, Task(0, 1)),
        ("3/8", {"RANK": "1", "WORLD_SIZE": "2"}, Task(3, 8)),
        (None, {"RANK": "1", "WORLD_SIZE": "2"}, Task(1, 2)),
        (
            None,
            {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "8"},
            Task(3, 8),
        ),
        (
            None,
            {
                "SLURM_ARRAY_TASK_ID": "14",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_COUNT": "8",
                "SLURM_ARRAY_TASK_STEP": "2",
                "RANK": "0",
                "WORLD_SIZE": "1",
            },
            Task(7, 8),
        ),
        (
            None,
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_COUNT": "2",
                "RANK": "3",
                "WORLD_SIZE": "4",
            },
            Task(7, 8),
        ),
    ],
)
def test_the_share_is_what_the_launcher_says(text: str | None, environment: dict[str, str], expected: Task) -> None:
    assert choose_task(text, environment) == expected


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("8/8", {}, "counted from 0"),
        ("3", {}, "write it as I/N"),
        ("-1/8", {}, "write it as I/N"),
        ("0/0", {}, "no task 0 of 0"),
        (None, {"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x'"),
        (None, {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "1"}, "SLURM_ARRAY_TASK_COUNT=''"),
        (
            None,  # --array=1,9
            {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "2"},
            "plain range",
        ),
    ],
)
def test_shares_that_are_none(text: str | None, environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_task(text, environment)
