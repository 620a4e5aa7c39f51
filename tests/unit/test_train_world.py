import pytest

from lexalcm.errors import ConfigError
from lexalcm.train.world import find_world, first_node


def place(environment: dict[str, str]) -> tuple[int, int, int]:
    world = find_world(environment)
    return world.rank, world.local_rank, world.size


def test_a_process_started_by_itself_is_a_world_of_one() -> None:
    assert place({}) == (0, 0, 1)


def test_torchrun_and_deepspeed_say_where_a_process_stands() -> None:
    assert place({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}) == (5, 1, 8)


def test_srun_says_it_in_its_own_words() -> None:
    step = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4"}
    assert place(step) == (3, 1, 4)


def test_a_batch_script_that_calls_no_srun_is_a_world_of_one() -> None:
    assert place({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}) == (0, 0, 1)


@pytest.mark.parametrize(
    "environment", [{"RANK": "0"}, {"WORLD_SIZE": "2"}, {"RANK": "x", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}]
)
def test_half_a_launcher_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"launcher|torchrun"):
        find_world(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu7", "gpu7"),
        ("gpu[003-007,012]", "gpu003"),
        ("gpu3,login1", "gpu3"),
        ("rack2-gpu[1,4],x", "rack2-gpu1"),
        ("r[1-2]n[08-09]", "r1n08"),
    ],
)
def test_the_first_machine_of_a_slurm_node_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first
