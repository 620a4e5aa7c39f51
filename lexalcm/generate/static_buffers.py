"""Reading documents on a GPU: all tensors stay in their places, so that the work of a concept can be a CUDA graph.

A set of static buffers has caches and inputs for a number of rows and of slots, and the work of one next concept on
them: taking in the last concept, and all denoising steps. The work attends to all slots and computes all rows, of which
a mask and the reader know which count; hence rows and slots come in powers of two. The first concept in new buffers is
computed operation by operation; with the second the work is captured, which takes as long as one or two concepts so
computed; from then on it is replayed. Buffers go back to the pool when their reader is done, and the next reader of
that size finds them captured. Those unused for longest are freed, as many as are more than `KEPT`.

Texts that leave a batch leave their rows computing until three quarters of the rows are so: a GPU hardly notices them,
and to capture anew costs more than they do.

Shapes: B rows in use, R rows of the buffers, L positions, C draws of noise for a concept, D embedding dimension.
"""

import logging
from contextlib import suppress

import torch
from torch import Tensor

from lexalcm.diffusion.samplers import DrawNoise, Observer
from lexalcm.diffusion.schedule import Prediction
from lexalcm.generate.graphs import Capture, Work
from lexalcm.model.predictor import NextConcept, StaticInputs

KEPT = 8
"""Sets of buffers that wait for their next reader, at most; each holds caches, and a graph."""

FEWEST_SLOTS = 32

logger = logging.getLogger(__name__)


class StaticBuffers:
    """Caches, inputs and work for R rows and a number of slots.

    Args:
        next_concept: the work.
        rows: R.
        slots: of the caches.
        device: of the model.
        dim: D.
        observe: whether each step's prediction is kept for an observer.
    """

    def __init__(
        self, next_concept: NextConcept, rows: int, slots: int, device: torch.device, dim: int, observe: bool
    ) -> None:
        self.rows = rows
        self.slots = slots
        self.inputs = StaticInputs(
            torch.zeros(rows, dim, device=device),
            torch.zeros(rows, dtype=torch.int64, device=device),
            torch.zeros(next_concept.draws, rows, 1, dim, device=device),
            next_concept.new_cache(rows, slots),
        )
        self.guess_RD = torch.zeros(rows, dim, device=device)
        self.seen: list[tuple[int, int, Prediction]] = []
        self._next_concept = next_concept
        self._observe = observe
        self._done_once = False
        self._replay: Work | None = None

    def reset(self) -> None:
        """Forget all documents."""
        for layer in self.inputs.cache:
            layer.clear()  # also what a mask would hide: no weight is so small that it could hide NaN
        self._next_concept.begin(self.inputs.cache)

    def work(self) -> None:
        """Make the next concept from the inputs, operation by operation."""
        self.seen = []
        observe = (lambda *step: self.seen.append(step)) if self._observe else None
        self.guess_RD.copy_(self._next_concept(self.inputs, observe))

    @property
    def can_be_captured(self) -> bool:
        """Whether the work has been done once and not been captured."""
        return self._done_once and self._replay is None

    def capture(self, capture: Capture) -> None:
        """Have the work replayed from now on.

        Raises:
            RuntimeError: it cannot be captured, and will go on as before.
        """
        self._replay = capture(self.work)

    def run(self) -> None:
        """Make the next concept from the inputs."""
        (self._replay or self.work)()
        self._done_once = True


class StaticBufferPool:
    """A predictor's static buffers.

    Args:
        next_concept: the architecture's work.
        device: of the model.
        dim: D.
        capture: makes graphs; none: everything is computed operation by operation.
        observe: is shown, once a concept is made, the prediction of each of its steps.
    """

    def __init__(
        self,
        next_concept: NextConcept,
        device: torch.device,
        dim: int,
        capture: Capture | None,
        observe: Observer | None = None,
    ) -> None:
        self.next_concept = next_concept
        self._device = device
        self._dim = dim
        self._capture = capture
        self._observe = observe
        self._free: list[StaticBuffers] = []  # used last: last

    def take(self, rows: int, concepts: int) -> StaticBuffers:
        """Empty buffers for at least `rows` documents of `concepts` concepts."""
        rows = _power_of_two(rows)
        slots = _power_of_two(max(FEWEST_SLOTS, concepts + self.next_concept.other_slots))
        buffers = next((one for one in self._free if (one.rows, one.slots) == (rows, slots)), None)
        if buffers is not None:
            self._free.remove(buffers)
        else:
            buffers = self._make(rows, slots)
        buffers.reset()
        return buffers

    def give_back(self, buffers: StaticBuffers) -> None:
        """Keep buffers for their next reader."""
        self._free = [*self._free, buffers][-KEPT:]

    def run(self, buffers: StaticBuffers, rows: int) -> Tensor:
        """Make the next concept of the first rows from the buffers' inputs, [B, D]."""
        if self._capture is not None and buffers.can_be_captured:
            try:
                buffers.capture(self._capture)
            except (RuntimeError, AssertionError) as error:  # the latter: torch without CUDA
                self._capture = None
                cause = str(error.__context__ or error).partition("\n")[0]  # not that ending the capture failed too
                logger.warning("no CUDA graphs, so that generation is slower: %s", cause)
        buffers.run()
        if self._observe is not None:
            for step, steps, prediction in buffers.seen:
                self._observe(step, steps, Prediction(*(part[:rows].clone() for part in prediction)))
        return buffers.guess_RD[:rows].clone()

    def _make(self, rows: int, slots: int) -> StaticBuffers:
        arguments = (self.next_concept, rows, slots, self._device, self._dim, self._observe is not None)
        with suppress(torch.OutOfMemoryError):
            return StaticBuffers(*arguments)
        self._free.clear()
        return StaticBuffers(*arguments)


class StaticReader:
    """See `Reader`.

    Args:
        pool: the predictor's.
        rows: B.
        concepts: how many there is room for at first.
        draw_noise: makes noise [B, 1, D].
    """

    def __init__(self, pool: StaticBufferPool, rows: int, concepts: int, draw_noise: DrawNoise) -> None:
        self._pool = pool
        self._draw_noise = draw_noise
        self._rows = rows
        self._buffers = pool.take(rows, concepts)

    def __del__(self) -> None:
        """Give the buffers back."""
        with suppress(AttributeError):  # there was no memory for one
            self._pool.give_back(self._buffers)

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, used: int) -> None:
        """See `Reader.read`."""
        self._make_room(used)
        self._pool.next_concept.read(
            concepts_BLD, positions_BL, [layer.rows(self._rows) for layer in self._buffers.inputs.cache], used
        )

    def next(self, concept_BD: Tensor, positions_B: Tensor, used: int) -> Tensor:
        """See `Reader.next`."""
        self._make_room(used)
        buffers, rows = self._buffers, self._rows
        buffers.inputs.concept[:rows] = concept_BD
        buffers.inputs.positions[:rows] = positions_B
        for noise_R1D in buffers.inputs.noise:
            noise_R1D[:rows] = self._draw_noise()
        return self._pool.run(buffers, rows)

    def keep(self, rows_K: Tensor) -> None:
        """See `Reader.keep`."""
        self._rows = len(rows_K)
        if 4 * self._rows > self._buffers.rows:
            for layer in self._buffers.inputs.cache:
                layer.copy_from(layer, rows_K)
            return
        self._move(self._buffers.slots - self._pool.next_concept.other_slots, rows_K)

    def _make_room(self, concepts: int) -> None:
        room = self._buffers.slots - self._pool.next_concept.other_slots
        if concepts > room:
            self._move(concepts, torch.arange(self._rows, device=self._buffers.inputs.positions.device))

    def _move(self, concepts: int, rows_K: Tensor) -> None:
        before = self._buffers
        self._buffers = self._pool.take(len(rows_K), concepts)
        for layer, layer_before in zip(self._buffers.inputs.cache, before.inputs.cache, strict=True):
            layer.copy_from(layer_before, rows_K)
        self._pool.give_back(before)


def _power_of_two(number: int) -> int:
    """The smallest that is not below."""
    return 1 << (number - 1).bit_length()
