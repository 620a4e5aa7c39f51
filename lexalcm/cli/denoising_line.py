"""A progress line of the denoising at the foot of a terminal; nothing where the output is not a terminal."""

from types import TracebackType

from rich.status import Status
from rich.text import Text
from typing_extensions import Self

from lexalcm.cli.console import err, is_live_terminal


class DenoisingLine:
    """Shows steps as they are reported; disappears for what is printed, and at the end."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._sentence = 1

    def step(self, step: int, steps: int) -> None:
        """A denoising step of the sentence that is being made is done."""
        if not is_live_terminal():
            return
        text = Text(f"sentence {self._sentence}, step {step} of {steps}", style="dim")
        if self._status is None:
            self._status = err.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def clear(self, sentence: int) -> None:
        """Make room for printing; what comes next is the sentence of that number."""
        self._sentence = sentence
        if self._status is not None:
            self._status.stop()
            self._status = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear(1)
