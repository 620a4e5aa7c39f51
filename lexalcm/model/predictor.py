"""What generation asks of an architecture: how its model, made ready once, predicts concepts from those before them.

`LCM.predictor` gives an `ArchitecturePredictor`. It reads documents concept by concept
(`lexalcm.generate.autoregressive`) and predicts whole packed rows (`lexalcm.generate.teacher_forced`). Where it has a
`NextConcept` too, a GPU makes concepts by replaying a graph of it (`lexalcm.generate.static_buffers`).

Shapes: B rows, L positions, R rows of static buffers, C draws of noise for a concept, D embedding dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from lexalcm.diffusion.samplers import DrawNoise, Observer
from lexalcm.model.layers.cache import LayerCache

if TYPE_CHECKING:
    from lexalcm.model.lcm import LCM

NetworkAnswers = Callable[[Tensor, int], tuple[Tensor, ...]]
"""From x_t and t to what the network predicts with conditioning and, with guidance, without."""


class DenoisingProcess(Protocol):
    """How concepts come out of noise around a network, see `lexalcm.generate.denoising`."""

    @property
    def guided(self) -> bool:
        """Whether the network is to answer without conditioning too."""

    @property
    def evaluated(self) -> Sequence[int]:
        """The timesteps that the network is asked for, each once."""

    @property
    def draws(self) -> int:
        """How many times noise is drawn for a concept."""

    def __call__(self, network: NetworkAnswers, draw_noise: DrawNoise, observe: Observer | None = None) -> Tensor:
        """Sample normalized concepts, of the shape that `draw_noise` gives."""


class Reader(Protocol):
    """Keeps what is needed of the concepts so far of B documents."""

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, used: int) -> None:
        """Take in normalized concepts, one document a row.

        Rows may be padded at their ends: what stands at a position beyond a document's end comes anew before its turn.

        Args:
            concepts_BLD: normalized.
            positions_BL: of the concepts in their documents.
            used: how many positions are in use with these, at most.
        """

    def next(self, concept_BD: Tensor, positions_B: Tensor, used: int) -> Tensor:
        """Take in one more concept of each document and guess the one after it, normalized, [B, D]."""

    def keep(self, rows_K: Tensor) -> None:
        """Go on with these documents alone, by their places, int64 [K]; noise is then drawn for them alone."""


@dataclass
class StaticInputs:
    """What the work on static buffers reads, and the caches that it writes: tensors that stay in their places.

    Attributes:
        concept: the last of each row, normalized, [R, D].
        positions: of those in their documents, int64 [R].
        noise: standard normal, [C, R, 1, D].
        cache: of each layer.
    """

    concept: Tensor
    positions: Tensor
    noise: Tensor
    cache: list[LayerCache]

    def draw_noise(self) -> DrawNoise:
        """The noise of a concept, one draw after the other, [R, 1, D] each."""
        return iter(self.noise.unbind()).__next__


class NextConcept(ABC):
    """How an architecture makes a concept of those before it in static buffers.

    Attributes:
        draws: how many times noise is drawn for a concept, C.
        other_slots: slots of the caches that are not concepts'.
    """

    draws: int = 0
    other_slots: int = 0

    @abstractmethod
    def new_cache(self, rows: int, slots: int) -> list[LayerCache]:
        """Caches of this many slots, all zeros."""

    def begin(self, cache: list[LayerCache]) -> None:  # noqa: B027  nothing is known, unless an architecture says so
        """Write what is known before the first concept into caches of zeros."""

    @abstractmethod
    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, cache: list[LayerCache], used: int) -> None:
        """Take in normalized concepts; arguments as for `Reader.read`."""

    @abstractmethod
    def __call__(self, at: StaticInputs, observe: Observer | None) -> Tensor:
        """Take in one more normalized concept at each row's position and guess the one after it, [R, D]."""


class ConceptPredictor(Protocol):
    """A model with its options."""

    @property
    def model(self) -> "LCM":
        """The model; must not change any more."""

    def new_reader(self, rows: int, slots: int, draw_noise: DrawNoise) -> Reader:
        """A reader of `rows` documents, with room for `slots` concepts, or more when they come; noise is [B, 1, D]."""

    def predict_rows(
        self, concepts_BLD: Tensor, documents_BL: Tensor, positions_BL: Tensor, draw_noise: DrawNoise
    ) -> Tensor:
        """Guess each concept of packed rows from those before it in its document, normalized, [B, L, D].

        What stands at the first position of a document means nothing. Noise is [B, L, D].
        """


class ArchitecturePredictor(ConceptPredictor, Protocol):
    """What `LCM.predictor` gives."""

    def next_concept(self) -> NextConcept | None:
        """The work of a concept in static buffers, which take memory of their own; None: readers serve on a GPU too."""
