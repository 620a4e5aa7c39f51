"""Saving checkpoints during a run: at once or in the background, over a full disk, the older ones cleared away.

Every process takes part in gathering the state and writes a share of it (`format.py` says what). In the background,
each copies its share into its own memory, with AdamW 12 bytes a parameter divided by the processes, and a thread writes
it while the training continues. The threads communicate in a group of their own.

A checkpoint that cannot be written costs nothing but itself: the run notes it and continues, and the one before stays.
Only the last one of a run must succeed, because nothing would be left of the steps since. An old one that cannot be
removed costs room, and the next save tries again.
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lexalcm.distributed.world import World
from lexalcm.errors import TrainingError, UserError
from lexalcm.io.atomic import write_text
from lexalcm.train.checkpoint.format import (
    Content,
    TrainState,
    checkpoint_name,
    disk_failures_of,
    gather,
    list_checkpoints,
    step_of,
    write_checkpoint,
)
from lexalcm.train.checkpoint.settings import CheckpointSettings
from lexalcm.train.engines.protocol import Engine


class CheckpointManager:
    """Saves the checkpoints of one run; every process has one and makes the same calls.

    Attributes:
        last: the newest checkpoint that is whole, or none.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        settings: CheckpointSettings,
        world: World,
        note: Callable[[str], None],
        last: Path | None = None,
        recreate_folder: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Save into a folder.

        Args:
            folder: where checkpoints go; `latest` beside it names the newest.
            engine: whose state it is.
            settings: which are kept, and whether they are written in the background.
            world: this process's place.
            note: prints that one could not be saved.
            last: the checkpoint that the run resumes from.
            recreate_folder: makes the run's folder again where it is gone, and gives a note of that.
        """
        self.last = last
        self._folder = folder
        self._engine = engine
        self._settings = settings
        self._world = world
        self._note = note
        self._recreate_folder = recreate_folder
        self._thread = ThreadPoolExecutor(1, "checkpoint") if settings.background else None
        self._writer_world = world.for_thread() if settings.background else world
        self._writing: Future[str | None] | None = None

    def save(self, state: TrainState, *, required: bool = False) -> None:
        """Save the state of a step; where that is `required`, this returns once it is.

        Raises:
            TrainingError: it is required and cannot be saved.
        """
        content = gather(self._engine, state, self._world)
        if self._thread is None:
            self._settle(lambda: self._write(content))
        else:
            self.finish()
            copied = content.copied()
            self._writing = self._thread.submit(self._write, copied)
            if required:
                self.finish()
        if required and (self.last is None or self.last.name != checkpoint_name(state.step)):
            raise TrainingError(
                f"step {state.step} could not be saved in {self._folder}: make room, and give the same command "
                "again to resume from the last checkpoint that was saved"
            )

    def finish(self) -> None:
        """Wait for what is being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            self._settle(writing.result)

    def close(self) -> None:
        """Wait for what is being written, and end the thread."""
        self.finish()
        if self._thread is not None:
            self._thread.shutdown()

    def _settle(self, write: Callable[[], str | None]) -> None:
        try:
            message = write()
        except UserError as error:
            kept = "there is no checkpoint yet" if self.last is None else f"{self.last.name} stays"
            self._note(f"a checkpoint could not be saved in {self._folder}: {error}; the run continues, {kept}")
        else:
            if message is not None:
                self._note(message)

    def _write(self, content: Content) -> str | None:
        """Write a checkpoint and tidy up; gives a note of the folder, or of what could not be tidied up."""

        def recreate_folder() -> str | None:
            with disk_failures_of(self._writer_world):
                return self._recreate_folder()

        made_again = self._writer_world.from_main(recreate_folder)
        self.last = write_checkpoint(self._folder, content, self._writer_world)
        if not self._world.is_main:
            return made_again
        try:
            write_text(self._folder.parent / "latest", self.last.name + "\n")
            for old in self._expired():
                shutil.rmtree(old)
        except (OSError, UserError) as error:
            return f"{self.last} is saved, but what it replaces could not be removed: {error}"
        return made_again

    def _expired(self) -> Iterator[Path]:
        every = self._settings.keep_every
        assert self.last is not None
        # What lies beyond the newest one is not of this run, and must not cost it its own.
        own = [path for path in list_checkpoints(self._folder) if path.name <= self.last.name]
        return (path for path in own[self._settings.keep :] if every is None or step_of(path) % every)
