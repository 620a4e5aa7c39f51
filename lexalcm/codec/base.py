"""What every codec does: sentences to embeddings and back.

A codec is found by its name in `lexalcm.registries.CODECS`. Data sets and models keep its `record()`, so that what one
codec made is never read as another's. One whose decoder can be differentiated, so that a loss may be taken of its
words, also has `token_logits`, see `DifferentiableCodec`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from pydantic import Field
from typing_extensions import Self

from lexalcm.codec.options import CodecOptions
from lexalcm.config import Settings
from lexalcm.io.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor

STATED = "stated"
"""The fingerprint of a codec of which nothing but the name is known."""

Request = tuple[Sequence[str], str]
"""Sentences to be embedded, and their one language."""


def not_finite(place: int, count: int) -> str:
    """The message about an embedding, one of `count` to be decoded, with NaN or infinite numbers."""
    return (
        f"embedding {place} of {count} is not finite (NaN or infinite): "
        "the model that made it diverged, see lcm verify model"
    )


class CodecRecord(Settings):
    """Which codec made the embeddings of a data set, or those that a model was made for."""

    name: str
    """Of the codec, among those that are installed."""
    dim: Annotated[int, Field(gt=0, le=2**20)]
    """Numbers of an embedding."""
    fingerprint: str
    """Equal for two codecs exactly when their embeddings may be mixed."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options that the codec records."""


class Codec(ABC):
    """Text <-> embedding, `dim` numbers a sentence. A subclass has the abstract methods and, set or as properties:

    Attributes:
        dim: numbers of an embedding.
        languages: language codes that it knows (`eng_Latn`), or None where any will do.
        fingerprint: equal for two codecs exactly when their embeddings may be mixed.

    The rest has defaults that suit a codec that runs in one way only.
    """

    dim: int
    languages: frozenset[str] | None
    fingerprint: str

    files: ClassVar[Sequence[str]] = ()
    """What `save` writes: a data set on a plain web server, which does not list its folders, is read by it."""
    from_bank: ClassVar[bool] = False
    """Whether it answers with sentences of a bank: small models then read on from the decoded text."""
    configurable: ClassVar[bool] = False
    """Whether it runs on several devices or in several ways: by a `configure` and with a `description` of its own."""

    @classmethod
    @abstractmethod
    def create(cls, documents: Iterable[tuple[str, Sequence[str]]], **options: Any) -> Self:
        """Make the codec, fitting it on (language, sentences) documents if it is one that is fitted.

        Options are checked before documents are read: it is tried without them before a corpus is segmented.
        """

    @classmethod
    @abstractmethod
    def load(cls, record: CodecRecord, folder: Path) -> Self:
        """Open the codec of a record; `folder` holds what `save` wrote.

        Raises:
            CodecError: the folder is missing, incomplete, or of another fingerprint.
        """

    @abstractmethod
    def encode(self, sentences: Sequence[str], lang: str) -> np.ndarray:
        """Embed sentences of one language: float32 [n, dim]."""

    @abstractmethod
    def decode(
        self, embeddings: np.ndarray, lang: str | None = None, avoid: Collection[str] = frozenset()
    ) -> list[str]:
        """The sentence that each embedding [n, dim] stands for, in `lang` (None: whichever fits best).

        A codec that chooses from a bank passes over the sentences of `avoid`, e.g. those that a text already has; one
        that writes its sentences ignores it.
        """

    @abstractmethod
    def record(self) -> CodecRecord:
        """What a data set or a model notes down of the codec."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what decoding needs into `folder`; a codec with weights of its own elsewhere writes nothing."""

    @property
    def sentences_at_once(self) -> int:
        """Sentences that are best embedded by one call."""
        return 4096

    @property
    def cut(self) -> int:
        """Sentences that were too long so far and lost their end; 0 of a codec that does not count them."""
        return 0

    def encode_stream(self, requests: Iterable[Request]) -> Iterator[np.ndarray]:
        """Embed one request after another; a codec may prepare the next sentences while it embeds those before them.

        Args:
            requests: taken one by one, by whoever takes the embeddings, as far ahead as is useful.

        Yields:
            For each request, in their order, what `encode` gives, whatever is asked beside it: float32 [n, dim].
        """
        for sentences, lang in requests:
            yield self.encode(sentences, lang)

    def configure(self, options: CodecOptions, progress: Progress = silent) -> None:
        """Run on a device, in a number type, in batches of a size, with a way to decode.

        Args:
            options: device, number type, batches, decoding.
            progress: opens reports of downloads.

        Raises:
            CodecError: it runs in one way only, and another was asked for; or the device cannot be used here.
        """
        options.refuse(self.record().name)

    def description(self) -> str:
        """Implementation, device and number type, e.g. `sonar-hf on cpu in fp32`."""
        return "on cpu"


@runtime_checkable
class DifferentiableCodec(Protocol):
    """A codec whose decoder writes token by token, and says how likely each token is as a function of the concept."""

    def token_logits(self, concepts: "Tensor", tokens: "Tensor") -> "Tensor":
        """What the decoder expects after each token of given sentences, in one pass (teacher forcing).

        Gradients flow to the concepts, and to nothing else: the decoder's weights are frozen.

        Args:
            concepts: as `encode` makes them, floating-point [N, D].
            tokens: of the sentence of each concept, in the codec's own vocabulary and as its decoder writes them, with
                what they begin with; int64 [N, T]. Shorter sentences are filled up behind their end by any tokens.

        Returns:
            float32 [N, T, V], on the decoder's device: place t scores the token at t + 1, knowing those up to t.
        """
