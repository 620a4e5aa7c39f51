"""What every codec does: sentences to embeddings and back.

A codec is found by its name in the entry point group `lexalcm.codecs`; the entry point names a class with this
protocol. Data sets and models keep the codec's `record()`, so that what one codec made is never read as another's.
A codec that can be run on several devices or in several ways also has `configure`, see `lexalcm.codec.options`. One
that answers with sentences of a bank says so by the class attribute `from_bank = True`: small models then read on from
the decoded text. One that cuts long sentences may count them in an attribute `cut`. One that embeds best so many at a
time says how many in an attribute `sentences_at_once`. One that can prepare sentences while it embeds those before them
has `encode_stream`, see `StreamingCodec`. One whose decoder can be differentiated, so that a loss may be taken of its
words, has `token_logits`, see `DifferentiableCodec`.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

import numpy as np
from pydantic import Field
from typing_extensions import Self

from lexalcm.config import Settings

if TYPE_CHECKING:
    from torch import Tensor

STATED = "stated"
"""The fingerprint of a codec of which nothing but the name is known."""

Request = tuple[Sequence[str], str]
"""Sentences to be embedded, and their one language."""


def not_finite(place: int, count: int) -> str:
    """What is said of an embedding, one of `count` to be decoded, with numbers that are none."""
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
    """What the codec itself notes down."""


class Codec(Protocol):
    """Text <-> embedding, `dim` numbers a sentence."""

    @property
    def dim(self) -> int:
        """Numbers of an embedding."""

    @property
    def languages(self) -> frozenset[str] | None:
        """Language codes that it knows (`eng_Latn`), or None where any will do."""

    @property
    def fingerprint(self) -> str:
        """Equal for two codecs exactly when their embeddings may be mixed."""

    @classmethod
    def create(cls, documents: Iterable[tuple[str, Sequence[str]]], **options: Any) -> Self:
        """Make the codec, fitting it on (language, sentences) documents if it is one that is fitted.

        Options are checked before documents are read: it is tried without them before a corpus is segmented.
        """

    @classmethod
    def load(cls, record: CodecRecord, folder: Path) -> Self:
        """Open the codec of a record; `folder` holds what `save` wrote.

        Raises:
            CodecError: the folder is missing, incomplete, or of another fingerprint.
        """

    def encode(self, sentences: Sequence[str], lang: str) -> np.ndarray:
        """Embed sentences of one language: float32 [n, dim]."""

    def decode(
        self, embeddings: np.ndarray, lang: str | None = None, avoid: Collection[str] = frozenset()
    ) -> list[str]:
        """The sentence that each embedding [n, dim] stands for, in `lang` (None: whichever fits best).

        A codec that chooses from a bank passes over the sentences of `avoid`, e.g. those that a text has said already;
        one that writes its sentences takes no notice of it.
        """

    def record(self) -> CodecRecord:
        """What a data set or a model notes down of the codec."""

    def save(self, folder: Path) -> None:
        """Write what decoding needs into `folder`; a codec with weights of its own elsewhere writes nothing.

        A class attribute `files` may name what is written: a data set on a plain web server, which does not list its
        folders, is read by it.
        """


@runtime_checkable
class StreamingCodec(Protocol):
    """A codec that reads requests ahead: it prepares the next sentences while it embeds those before them."""

    def encode_stream(self, requests: Iterable[Request]) -> Iterator[np.ndarray]:
        """Embed one request after another.

        Args:
            requests: taken one by one, by whoever takes the embeddings, as far ahead as is useful.

        Yields:
            For each request, in their order, what `encode` gives, whatever is asked beside it: float32 [n, dim].
        """


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


def encode_each(codec: Codec, requests: Iterable[Request]) -> Iterator[np.ndarray]:
    """What `encode` gives for each request, float32 [n, dim]; ahead of its turn with a codec that streams."""
    if isinstance(codec, StreamingCodec):
        yield from codec.encode_stream(requests)
    else:
        for sentences, lang in requests:
            yield codec.encode(sentences, lang)
