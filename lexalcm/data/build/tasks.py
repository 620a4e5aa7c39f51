"""Which share of the work a process takes: `--task I/N`, else what Slurm or torchrun says of it.

Share I of N is every N-th unit from the I-th on. Shares are counted from 0.

    --task 3/8                                        share 3 of 8
    SLURM_ARRAY_TASK_ID, _MIN, _COUNT, _STEP          sbatch --array=0-7, also --array=1-8 and --array=0-14:2
    RANK, WORLD_SIZE                                  torchrun
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lexalcm.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """Share `index` of `count`."""

    index: int = 0
    count: int = 1

    def share(self, units: Sequence[T]) -> Sequence[T]:
        """The units that are this task's own."""
        return units[self.index :: self.count]

    def from_own_on(self, units: Sequence[T]) -> Sequence[T]:
        """All units, this task's own first: what is left of others' comes after."""
        return [unit for turn in range(self.count) for unit in units[(self.index + turn) % self.count :: self.count]]


def choose_task(text: str | None, environment: Mapping[str, str] = os.environ) -> Task:
    """Read `--task`, or without it the environment; without both, all of the work.

    Processes that torchrun starts in each task of a Slurm array share what is that task's.

    Raises:
        ConfigError: not I/N with 0 <= I < N, or an environment that contradicts itself.
    """
    if text is not None:
        first, _, second = text.partition("/")
        if not (first.isdecimal() and second.isdecimal()):
            raise ConfigError(f"--task {text}: write it as I/N, e.g. 0/8 for the first of eight")
        return _task(int(first), int(second), f"--task {text}", "tasks are counted from 0")
    array, process = _array_task(environment), _process_task(environment)
    return Task(array.index * process.count + process.index, array.count * process.count)


def _array_task(environment: Mapping[str, str]) -> Task:
    if "SLURM_ARRAY_TASK_ID" in environment:
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
        number, lowest, count = (_number(environment, name) for name in names)
        step = _number(environment, "SLURM_ARRAY_TASK_STEP", 1) or 1
        advice = "give --array a plain range, e.g. 0-7"
        if (number - lowest) % step:
            raise ConfigError(f"the Slurm array's task {number} is not in steps of {step} from {lowest}: {advice}")
        return _task((number - lowest) // step, count, f"the Slurm array's task {number}", advice)
    return Task()


def _process_task(environment: Mapping[str, str]) -> Task:
    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank, size = (_number(environment, name) for name in ("RANK", "WORLD_SIZE"))
        return _task(rank, size, f"RANK={rank} WORLD_SIZE={size}", "start it with torchrun, or give --task")
    return Task()


def _task(index: int, count: int, shown: str, advice: str) -> Task:
    if not 0 <= index < count:
        raise ConfigError(f"{shown}: there is no task {index} of {count}, {advice}")
    return Task(index, count)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise ConfigError(f"{name}={text!r} in the environment is not a number: give --task I/N instead")
    return int(text)
