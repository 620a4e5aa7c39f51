"""Which process of a run this is, and the little that its processes tell each other.

A process learns its place from its environment, whoever started it: `torchrun` and the `deepspeed` launcher set
RANK, LOCAL_RANK and WORLD_SIZE; `srun` sets SLURM_PROCID and its kin; started by itself, a process is a world of
one. A world of one needs no address and no port: its process group, where an engine wants one, meets in memory.

Gradients travel over the default group (NCCL between GPUs, gloo between CPUs). What this module sends - a few
numbers a step, a small object now and then - goes over gloo in any case, so that it never waits for a GPU stream.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from lexalcm.errors import ConfigError, LexaError

T = TypeVar("T")


@dataclass
class World:
    """This process's place among the processes of the run."""

    rank: int = 0
    local_rank: int = 0  # on this machine
    size: int = 1
    group: dist.ProcessGroup | None = None  # over gloo, for what is sent here; set by `joined`

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes and speaks."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """This process's GPU, or the CPU where there is none.

        Raises:
            ConfigError: this machine runs more processes than it has GPUs.
        """
        if not torch.cuda.is_available():
            return torch.device("cpu")
        if self.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"process {self.local_rank} of this machine has no GPU: it has {torch.cuda.device_count()}, "
                "start one process a GPU"
            )
        return torch.device("cuda", self.local_rank)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add up numbers over all processes, each place by itself."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return total.tolist()

    def from_main(self, work: Callable[[], T]) -> T:
        """Do work on the main process alone and give its result, or its `LexaError`, to all."""
        if self.size == 1:
            return work()
        message: list[Any] = [None, None]
        if self.is_main:
            try:
                message[0] = work()
            except LexaError as error:
                message[1] = error
        dist.broadcast_object_list(message, src=0, group=self.group)
        if message[1] is not None:
            raise message[1]
        return message[0]

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier(group=self.group)


def find_world(environment: dict[str, str] | None = None) -> World:
    """Read this process's place from the environment.

    Raises:
        ConfigError: a launcher's variables are there in part, or are no numbers.
    """
    env = dict(os.environ) if environment is None else environment
    if "RANK" in env or "WORLD_SIZE" in env:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    elif "SLURM_STEP_NUM_TASKS" in env:  # set by srun alone; the batch script itself has only SLURM_NTASKS
        names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS")
    else:
        return World()
    try:
        rank, local_rank, size = (int(env[name]) for name in names)
    except KeyError as error:
        raise ConfigError(
            f"{error.args[0]} is not set, but others of {', '.join(names)} are: use a launcher"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{', '.join(names)} must be numbers: start with torchrun, deepspeed or srun") from error
    return World(rank, local_rank, size)


@contextmanager
def joined(world: World, *, process_group: bool) -> Iterator[None]:
    """Join the processes of the run for the duration of a `with` block.

    Args:
        world: this process's place.
        process_group: set one up even for a world of one, because the engine wants it.
    """
    if world.size == 1 and not process_group:
        yield
        return
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    with _said_to_libraries(world):
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        if world.size == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        else:
            dist.init_process_group(backend)
        world.group = dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo")
        try:
            yield
        finally:
            world.group = None
            if dist.is_initialized():  # an engine's end may have been the group's
                dist.destroy_process_group()


@contextmanager
def _said_to_libraries(world: World) -> Iterator[None]:
    """Say in torchrun's words, which libraries read, what srun or nobody said; take it back at the end."""
    said = {"RANK": str(world.rank), "LOCAL_RANK": str(world.local_rank), "WORLD_SIZE": str(world.size)}
    if world.size > 1:
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST") or "localhost"
        port = 20_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20_000
        said |= {"MASTER_ADDR": first_node(nodes), "MASTER_PORT": str(port)}
    missing = {name: value for name, value in said.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def first_node(nodes: str) -> str:
    """The first machine of a Slurm node list: `gpu[003-007,012],login` begins with `gpu003`."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", nodes)[0])
