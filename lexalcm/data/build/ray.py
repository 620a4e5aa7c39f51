"""The units of `embed` on a Ray cluster: sources and units are handed out to whoever is free, one codec a worker.

The machines share the folder of the input and that of the output, under the same paths. What a lost machine was at is
done again elsewhere; what it had finished stays.
"""

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from lexalcm.data.build.embed import EmbedJob, EmbedResult, finish, unwritable
from lexalcm.data.build.units import Unit, WorkUnits
from lexalcm.errors import UserError, import_extra
from lexalcm.io.progress import Counter, Progress, silent

LOCAL = "local"
ATTEMPTS = 4
"""How often a unit is tried on another worker after its own died."""


class _Embedder:
    """A worker that keeps the codec."""

    def __init__(self, job: EmbedJob, work: WorkUnits) -> None:
        self.job = job
        self.work = work
        self.codec = job.workspace.codec.open()

    def embed(self, unit: Unit) -> tuple[Unit, int]:
        """Embed a unit; with how many of its sentences the codec cut."""
        before = self.codec.cut
        try:
            self.job.workspace.embed(self.work, [unit], self.codec, lambda _sentences: None)
        except OSError as error:
            raise unwritable(self.job.out, error) from error
        return unit, self.codec.cut - before


def _try_codec(job: EmbedJob) -> frozenset[str] | None:
    return job.workspace.try_codec()


def _segment(job: EmbedJob, part: int, languages: frozenset[str] | None) -> int:
    counter = Counter(lambda _done, _total: None)
    try:
        job.segment(part, counter, languages)
    except OSError as error:
        raise unwritable(job.out, error) from error
    return counter.done


def _prepare(job: EmbedJob) -> WorkUnits:
    return job.workspace.prepare(lambda _sentences: None)


def embed_on_ray(
    job: EmbedJob, address: str, *, workers: int | None = None, progress: Progress = silent
) -> EmbedResult:
    """Do all work on a data set, on a Ray cluster.

    Args:
        job: what all workers are given.
        address: of the cluster's head (`auto` for the one of this machine), or `local` to start one here; a process
            that is connected to a cluster already uses that.
        workers: how many embed; None: one for each GPU of the cluster, or where it has none for each CPU.
        progress: opens a report of each stage.

    Raises:
        MissingExtraError: Ray is not installed.
        UserError: no cluster there, or as `embed`.
    """
    ray: Any = import_extra("ray", "ray", "--ray")
    finished = job.finished()
    if finished is not None:
        return EmbedResult(job.out, built=finished)
    with _connected(ray, address):
        try:
            languages = ray.get(ray.remote(num_cpus=1, max_retries=ATTEMPTS)(_try_codec).remote(job))
            job.workspace.begin(job.request())
            return _work(ray, job, workers, languages, progress)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Be connected to the cluster, and no longer than needed unless somebody else made the connection."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone unasked
    _check_address(address)
    local = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Make sure that somebody answers there: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            advice = "give the address of a cluster's head, auto, or local"
            raise UserError(f"no Ray cluster at {address} ({error.strerror or error}): {advice}") from error


def _work(
    ray: Any, job: EmbedJob, workers: int | None, languages: frozenset[str] | None, progress: Progress
) -> EmbedResult:
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    cpus = int(resources.get("CPU", 1))
    segment = ray.remote(num_cpus=1, max_retries=ATTEMPTS)(_segment)
    with progress("segmenting", "sentences") as report:
        counter = Counter(report)
        parts = (lambda part=part: segment.remote(job, part, languages) for part in range(len(job.sources)))
        for sentences in _in_turn(ray, parts, 2 * cpus):
            counter(sentences)
    with progress(f"making the codec {job.settings.codec}", "sentences"):
        work = ray.get(ray.remote(num_cpus=1, max_retries=ATTEMPTS)(_prepare).remote(job))
    undone = [unit for unit in work.units if not job.workspace.is_done(unit)]
    cut = 0
    if undone:
        count = min(len(undone), workers or gpus or cpus)
        options = {"num_cpus": 1, "max_restarts": -1, "max_task_retries": ATTEMPTS}
        embedder = ray.remote(_Embedder).options(**options, num_gpus=1 if gpus else 0)
        shared = ray.put(work)
        actors = [embedder.remote(job, shared) for _ in range(count)]
        with progress("embedding", "sentences") as report:
            counter = Counter(report, sum(unit.sentences for unit in undone))
            for unit, lost in _on_actors(ray, actors, undone):
                counter(unit.sentences)
                cut += lost
    return finish(job, work, len(undone), cut)


def _in_turn(ray: Any, starts: Iterable[Callable[[], Any]], at_once: int) -> Iterator[Any]:
    """Start calls, `at_once` before the first is waited for, and yield what they give as they end."""
    pending: list[Any] = []
    for start in starts:
        pending.append(start())
        if len(pending) >= at_once:
            ended, pending = ray.wait(pending)
            yield from ray.get(ended)
    yield from ray.get(pending)


def _on_actors(ray: Any, actors: list[Any], units: Iterable[Unit]) -> Iterator[tuple[Unit, int]]:
    """Give each free actor the next unit, and yield the units as they end, with the sentences that were cut."""
    queue = deque(units)
    running: dict[Any, Any] = {}
    for actor in actors:
        if queue:
            running[actor.embed.remote(queue.popleft())] = actor
    while running:
        ended, _ = ray.wait(list(running))
        for call in ended:
            actor = running.pop(call)
            yield ray.get(call)
            if queue:
                running[actor.embed.remote(queue.popleft())] = actor
