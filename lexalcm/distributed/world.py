"""Which process of a run this is, and the little that its processes tell each other.

A process learns its place from its environment, whoever started it: `torchrun` and the `deepspeed` launcher set
RANK, LOCAL_RANK and WORLD_SIZE; `srun` sets SLURM_PROCID and its kin; started by itself, a process is a world of
one. A world of one needs no address and no port: its process group, where an engine wants one, meets in memory.

Gradients travel over the default group (NCCL between GPUs, gloo between CPUs). What this module sends - a few
numbers a step, a small object now and then - goes over gloo in any case, so that it never waits for a GPU stream.

No process waits for ever: see heartbeat.py. Should that fail too, torch gives up after twice the time.
An error is reported once: by the process that had it, not by those that had to end because of it.
"""

import gc
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from lexalcm.distributed.heartbeat import Watchdog
from lexalcm.distributed.rendezvous import join_process_group
from lexalcm.errors import ConfigError, LexaError, TrainingError

T = TypeVar("T")

LOST = "has lost another process of this run, which ended or was killed: the same command resumes from the checkpoint"


@dataclass
class World:
    """This process's place among the processes of the run."""

    rank: int = 0
    local_rank: int = 0  # on this machine
    size: int = 1
    local_size: int | None = None  # processes on this machine, where the launcher says it
    group: dist.ProcessGroup | None = None  # over gloo, for what is sent here; set by `joined`
    watchdog: Watchdog | None = None  # set by `joined`

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes and prints."""
        return self.rank == 0

    @property
    def reports_main_failure(self) -> bool:
        """Whether this is one of the few that report it where all of them have lost the main process."""
        return self.local_rank == 0 or self.rank == 1

    @property
    def device(self) -> torch.device:
        """This process's GPU, or the CPU where there is none.

        Raises:
            ConfigError: this machine runs more processes than it has GPUs.
        """
        if not torch.cuda.is_available():
            return torch.device("cpu")
        gpus, processes = torch.cuda.device_count(), max(self.local_rank + 1, self.local_size or 1)
        if processes > gpus:
            raise ConfigError(
                f"{processes} processes were started on this machine, and {gpus} GPU{'s are' if gpus > 1 else ' is'} "
                "visible to each: start one process a GPU, and let every process see all of them"
            )
        return torch.device("cuda", self.local_rank)

    def at(self, work: str) -> None:
        """Say what this process is about to do, in words that finish the sentence "it was ...", should it hang there.

        All processes must say the same things in the same order.
        """
        if self.watchdog is not None:
            self.watchdog.at(work)

    def watched(self, items: Iterator[T], reading: str = "reading data", working: str = "computing") -> Iterator[T]:
        """Pass on items, and say what this process does while it waits for one and while it works on one."""
        while True:
            self.at(reading)
            try:
                item = next(items)
            except StopIteration:
                return
            self.at(working)
            yield item

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add up numbers over all processes, each place by itself."""
        if self.size == 1:
            return list(values)
        self.at("exchanging numbers")
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return total.tolist()

    def gather(self, value: T) -> list[T]:
        """What each process gives, by rank."""
        if self.size == 1:
            return [value]
        self.at("exchanging what each process knows")
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def from_main(self, work: Callable[[], T]) -> T:
        """Do work on the main process alone and give its result, or its `LexaError`, to all."""
        if self.size == 1:
            return work()
        self.at("working in the run's folder")
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

    def together(self, work: Callable[[], T]) -> list[T]:
        """Do work on every process and give what came of it, by rank, or the first one's `LexaError`, to all."""
        done: tuple[list[T], LexaError | None]
        try:
            done = [work()], None
        except LexaError as error:
            done = [], error
        all_done = self.gather(done)
        for _, failure in all_done:
            if failure is not None:
                raise failure
        return [result for results, _ in all_done for result in results]

    def for_thread(self) -> "World":
        """The same place for a thread beside this one, whose exchanges mix with no others; every process must call it.

        Nobody watches that thread.
        """
        group = None if self.size == 1 else dist.new_group(backend="gloo")
        return replace(self, group=group, watchdog=None)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            self.at("waiting for all")
            dist.barrier(group=self.group)


def find_world(environment: dict[str, str] | None = None) -> World:
    """Read this process's place from the environment.

    Raises:
        ConfigError: a launcher's variables are incomplete, not numbers, or not a place in the run.
    """
    env = dict(os.environ) if environment is None else environment
    if "RANK" in env or "WORLD_SIZE" in env:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        local_size = env.get("LOCAL_WORLD_SIZE", env.get("LOCAL_SIZE", ""))  # torchrun's name for it, deepspeed's name
    elif "SLURM_STEP_NUM_TASKS" in env:  # set by srun alone; the batch script itself has only SLURM_NTASKS
        names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS")
        tasks = env.get("SLURM_STEP_TASKS_PER_NODE", "")  # 8, or 8(x2) for two nodes with 8 each; 8,4 stays unknown
        local_size = re.sub(r"\(x\d+\)$", "", tasks)
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
    if not (0 <= rank < size and local_rank >= 0):
        nowhere = ConfigError(
            f"{names[0]}={rank}, {names[1]}={local_rank} and {names[2]}={size} are not the place of a process: ranks "
            "count from 0 to below the number of processes"
        )
        nowhere.reported_by_peer = False  # the others may have a place
        raise nowhere
    port = env.get("MASTER_PORT", "1")
    if not (port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigError(f"MASTER_PORT={port} is not a port: give one from 1 to 65535, free on the first machine")
    return World(rank, local_rank, size, int(local_size) if local_size.isdigit() else None)


@contextmanager
def joined(world: World, *, process_group: bool, timeout: float) -> Iterator[None]:
    """Join the processes of the run for the duration of a `with` block.

    Args:
        world: this process's place.
        process_group: set one up even for a world of one, because the engine wants it.
        timeout: seconds that a process may keep the others waiting; the run is ended then.

    Raises:
        TrainingError: the processes do not find each other, or another one has ended.
    """
    if world.size == 1 and not process_group:
        yield
        return
    backend = "gloo"
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
        backend = "nccl"
    limit = timedelta(seconds=2 * timeout)  # after the watchdog, which names the one that hangs
    with _torchrun_environment(world):
        if world.size == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=limit)
            store = None
        else:
            store = join_process_group(backend, world.rank, world.size, timeout)
            own = dist.PrefixStore("watchdog", store.clone())  # type: ignore[attr-defined]
            world.watchdog = Watchdog(own, world.rank, world.size, timeout, reports=world.reports_main_failure)
        world.group = dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo", timeout=limit)
        try:
            yield
        except LexaError as error:
            error.reported_by_peer = _reported_by_peer(store, world, str(error))
            raise
        except Exception as error:
            if store is None or not (isinstance(error, RuntimeError) and _is_of_connections(error)):
                _reported_by_peer(store, world, str(error))  # the others need not say that they have lost this one
                raise
            ended = TrainingError(f"process {world.rank} {LOST}")
            ended.reported_by_peer = _reported_by_peer(store, world, LOST)
            raise ended from error
        finally:
            if world.watchdog is not None:
                world.watchdog.close()
            world.group = world.watchdog = None
            gc.collect()  # what an engine has left in cycles may hold the group, whose end would then wait for ever
            if dist.is_initialized():  # an engine's end may have been the group's
                dist.destroy_process_group()


def _reported_by_peer(store: dist.Store | None, world: World, message: str) -> bool:
    """Note why this process ends; whether another process has already reported the same, or the cause of it."""
    if store is None:
        return False
    try:
        rank, first = store.compare_set("error", "", f"{world.rank} {message}").decode().split(" ", 1)
    except RuntimeError:  # the store has ended with the main process
        return message == LOST and not world.reports_main_failure
    return int(rank) != world.rank and message in (first, LOST)


def _is_of_connections(error: RuntimeError) -> bool:
    """Whether torch complains that it cannot reach another process, as far as its words tell."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@contextmanager
def _torchrun_environment(world: World) -> Iterator[None]:
    """Set the variables of torchrun, which libraries read, where srun or nobody has; unset them at the end."""
    variables = {"RANK": str(world.rank), "LOCAL_RANK": str(world.local_rank), "WORLD_SIZE": str(world.size)}
    if world.size > 1:
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST") or "localhost"
        port = 20_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20_000
        variables |= {"MASTER_ADDR": first_node(nodes), "MASTER_PORT": str(port)}
    missing = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def first_node(nodes: str) -> str:
    """The first machine of a Slurm node list: `gpu[003-007,012],login` begins with `gpu003`."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", nodes)[0])
