import pytest
import torch

from lexalcm.distributed.world import World, find_world, first_node, joined
from lexalcm.errors import ConfigError, TrainingError

STEP = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4"}


def place(environment: dict[str, str]) -> tuple[int, int, int]:
    world = find_world(environment)
    return world.rank, world.local_rank, world.size


def test_a_process_started_by_itself_is_a_world_of_one() -> None:
    assert place({}) == (0, 0, 1)


def test_torchrun_and_deepspeed_say_where_a_process_stands() -> None:
    assert place({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}) == (5, 1, 8)


def test_srun_says_it_in_its_own_words() -> None:
    assert place(STEP) == (3, 1, 4)


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, 4),
        ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_SIZE": "4"}, 4),
        ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, None),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, 2),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "4"}, 4),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "3,1"}, None),
    ],
)
def test_launchers_say_how_many_processes_a_machine_has(words: dict[str, str], size: int | None) -> None:
    assert find_world(words).local_size == size


@pytest.mark.parametrize("local_rank", [0, 1])
def test_more_processes_than_gpus_are_a_mistake_that_every_process_sees(
    monkeypatch: pytest.MonkeyPatch, local_rank: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 processes were started on this machine, and 1 GPU is visible"):
        assert World(local_rank, local_rank, 2, local_size=2).device


def test_processes_that_do_not_find_each_other_say_where_they_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "9")  # nobody listens there
    world = World(1, 1, 2)
    meeting = joined(world, process_group=True, timeout=1)
    with pytest.raises(TrainingError, match=r"process 1 of 2 could not join the others at 127\.0\.0\.1:9 .*IFNAME"):
        meeting.__enter__()


def test_a_batch_script_that_calls_no_srun_is_a_world_of_one() -> None:
    assert place({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}) == (0, 0, 1)


@pytest.mark.parametrize(
    "environment", [{"RANK": "0"}, {"WORLD_SIZE": "2"}, {"RANK": "x", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}]
)
def test_half_a_launcher_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"launcher|torchrun"):
        find_world(environment)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"RANK": "5"}, "RANK=5, LOCAL_RANK=0 and WORLD_SIZE=2 are not the place"),
        ({"RANK": "2"}, "not the place"),
        ({"RANK": "-1"}, "not the place"),
        ({"LOCAL_RANK": "-1"}, "not the place"),
        ({"WORLD_SIZE": "0"}, "not the place"),
        ({"MASTER_PORT": "abc"}, "MASTER_PORT=abc is not a port"),
        ({"MASTER_PORT": "65536"}, "not a port"),
        ({"MASTER_PORT": ""}, "not a port"),
    ],
)
def test_a_place_that_is_none_and_a_port_that_is_none_are_named(wrong: dict[str, str], message: str) -> None:
    right = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}
    assert place(right) == (0, 0, 2)
    with pytest.raises(ConfigError, match=message):
        find_world(right | wrong)


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
