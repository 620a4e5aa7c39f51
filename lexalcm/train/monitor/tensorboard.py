"""TensorBoard's files of a run."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

AGAIN = 60.0  # seconds from one writer to the next: each begins a file


class TensorBoard:
    """See `MetricsWriter`."""

    def __init__(self, folder: Path, step: int) -> None:
        """Write into a folder; what it holds of steps beyond `step` is hidden."""
        self._folder = folder
        self._begun = time.monotonic()
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `MetricsWriter.scalars`."""
        with self._begun_anew_after_failing():
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        """See `MetricsWriter.text`."""
        with self._begun_anew_after_failing():
            self._writer.add_text(name, text, step)

    @contextmanager
    def _begun_anew_after_failing(self) -> Iterator[None]:
        """A writer whose file could not be written, on a disk that was full, never writes again: take another."""
        try:
            yield
        except OSError:
            if self._folder.is_dir() and time.monotonic() - self._begun > AGAIN:
                self._begun = time.monotonic()
                self._writer = SummaryWriter(str(self._folder))
            raise

    def close(self) -> None:
        """See `MetricsWriter.close`."""
        self._writer.close()
