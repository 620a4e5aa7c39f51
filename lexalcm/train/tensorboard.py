"""TensorBoard's files of a run."""

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """See `Elsewhere`."""

    def __init__(self, folder: Path, step: int) -> None:
        """Write into a folder; what it holds of steps beyond `step` is hidden."""
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Elsewhere.scalars`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        """See `Elsewhere.text`."""
        self._writer.add_text(name, text, step)

    def close(self) -> None:
        """See `Elsewhere.close`."""
        self._writer.close()
