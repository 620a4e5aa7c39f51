"""What both implementations of SONAR share: options, languages, identity, and the checks at the edge.

A data set or model made with either notes the codec `sonar`; the fingerprint says which weights, which tokenizer and
how many heads, and both compute it alike, so that what one made the other reads.
"""

import hashlib
import json
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from typing_extensions import Self

from lexalcm.codec.base import STATED, Codec, CodecRecord, Request, not_finite
from lexalcm.codec.options import CodecOptions, choose_dtype
from lexalcm.codec.sonar.files import FOLDER_VARIABLE
from lexalcm.config import PositiveInt, Settings, validate
from lexalcm.device import choose_device
from lexalcm.errors import CodecError
from lexalcm.io.progress import Progress, silent
from lexalcm.text.languages import SONAR_LANGUAGES, shown_nearest

if TYPE_CHECKING:
    import torch

RECORD_NAME = "sonar"
DEFAULT_LANGUAGE = "eng_Latn"

CUT_WARNING = (
    "a sentence has more than the %d tokens that SONAR reads: it is cut there, and so are others like it; "
    "segment the text with a lower --max-chars to keep all of it"
)

_PROBES = (
    "It is a truth universally acknowledged, that a single man must be in want of a wife.",
    "Ich weiß nicht, was soll es bedeuten; où sont les neiges d'antan? ¿Quién soy yo?",
    "そのころわたくしは、モリーオ市の博物局に勤めて居りました。 我思故我在。 나는 생각한다.",
    "Все счастливые семьи похожи друг на друга. Ἄνδρα μοι ἔννεπε. تعلم العربية. סוף טוב. नमस्ते दुनिया। ไทย",
    "½ × 3.14 ≈ 1,57 € — №7 … ﬁn ① ｆｕｌｌ 🙂 \u200b\u00a0x",
)
"""Text whose tokens tell tokenizers apart: their pieces, their normalisation, the order of their languages."""

SENTENCES_AT_ONCE = {"cpu": 256, "cuda": 32768}


class SonarOptions(Settings):
    """Which SONAR."""

    weights: str | None = None  # a folder, a file or a hub repository with the encoder; None: the published files
    decoder: str | None = None  # likewise; None: where the encoder is, else the published one
    tokenizer: str | None = None  # likewise
    languages: tuple[str, ...] | None = None  # codes in the order of their tokens; None: SONAR's 202
    heads: PositiveInt | None = None  # attention heads; None: the config's, else of 64 dimensions each
    max_seq_len: PositiveInt = 512  # positions of the decoder; the encoder has two more


PLACES = ("weights", "decoder", "tokenizer")
"""Options that say where files are, on the machine where they were given."""


def fingerprint_of(weights: str, heads: int, encode: Callable[[str, str], list[int]], languages: Sequence[str]) -> str:
    """What identifies SONAR's embeddings: weights, heads, tokens.

    Args:
        weights: `weights_digest` of the encoder.
        heads: its attention heads.
        encode: (text, language) to token ids in source form.
        languages: all of them.
    """
    probes = [encode(probe, languages[0]) for probe in _PROBES]
    tokens = [encode("", lang) for lang in sorted(languages)]
    return hashlib.sha256(json.dumps([weights, heads, probes, tokens]).encode()).hexdigest()


class SonarBase(Codec):
    """SONAR by one of its implementations. Weights are found, and loaded, when they are first needed.

    Attributes:
        noted: whether it is the codec of a data set or a model. Where weights were then is a hint, no condition: they
            may be elsewhere now, and the fingerprint tells whether they are the same.
    """

    configurable = True
    backend: ClassVar[str]

    def __init__(self, options: SonarOptions, record: CodecRecord | None = None) -> None:
        """Set it up; nothing is read yet.

        Args:
            options: which SONAR.
            record: of a data set or model that it was made for; other weights are refused.
        """
        self.options = options
        self.run_options = CodecOptions()
        self.progress: Progress = silent
        self.noted = record is not None
        self._record = record
        self._languages = options.languages or SONAR_LANGUAGES

    @classmethod
    def create(cls, documents: Iterable[tuple[str, Sequence[str]]], **options: Any) -> Self:
        """Set it up; the documents are not read, SONAR is trained already.

        Raises:
            ConfigError: an unknown option or a value of the wrong type.
        """
        options.pop("seed", None)  # nothing is drawn here
        return cls(validate(SonarOptions, _absolute(options), prefix="codec"))

    @classmethod
    def load(cls, record: CodecRecord, folder: Path) -> Self:
        """Set it up as recorded; nothing lies in `folder`.

        Raises:
            CodecError: the record is another codec's.
        """
        if record.name != RECORD_NAME:
            raise CodecError(f"this was made with the codec {record.name}, which {cls.backend} does not implement")
        return cls(validate(SonarOptions, record.options, prefix="codec"), record)

    def configure(self, options: CodecOptions, progress: Progress = silent) -> None:
        """Run so from now on.

        Args:
            options: device, number type, batches, decoding.
            progress: opens reports of downloads.

        Raises:
            CodecError: a device that cannot be used here.
        """
        choose_device(options.device, "--codec-device ")
        moved = (options.device, options.dtype, options.batch) != (
            self.run_options.device,
            self.run_options.dtype,
            self.run_options.batch,
        )
        self.run_options, self.progress = options, progress
        if moved:
            self._unload()

    @property
    def dim(self) -> int:  # type: ignore[override]  # is known when the weights are
        """Numbers of an embedding."""
        return self._record.dim if self._record else self._measured().dim

    @property
    def languages(self) -> frozenset[str]:  # type: ignore[override]
        """Codes of the languages it reads and writes."""
        return frozenset(self._languages)

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Equal for the same weights and tokenizer, whichever implementation opens them."""
        return self._record.fingerprint if self._record else self._measured().fingerprint

    def record(self) -> CodecRecord:
        """What a data set or a model notes: the codec `sonar`, whichever implementation it is."""
        return self._record or self._measured()

    def save(self, folder: Path) -> None:
        """Write nothing: the weights are too large to travel with every data set."""

    def encode(self, sentences: Sequence[str], lang: str) -> np.ndarray:
        """Embed sentences of one language: float32 [n, dim].

        Raises:
            CodecError: an unknown language, no weights, or numbers that overflow in the chosen number type.
        """
        (embeddings,) = self.encode_stream([(sentences, lang)])
        return embeddings

    def encode_stream(self, requests: Iterable[Request]) -> Iterator[np.ndarray]:
        """Embed one request after another, see `Codec.encode_stream`: float32 [n, dim] each.

        Raises:
            CodecError: as `encode`.
        """
        asked: deque[Sequence[str]] = deque()

        def some() -> Iterator[Request]:
            """The requests that have a sentence."""
            for sentences, lang in requests:
                self._check_language(lang)
                asked.append(sentences)
                if len(sentences):
                    yield sentences, lang

        def nothing() -> Iterator[np.ndarray]:
            """The embeddings of those that have none, as far as it is their turn."""
            while asked and not len(asked[0]):
                asked.popleft()
                yield np.empty((0, self.dim), dtype=np.float32)

        rest = some()
        first = next(rest, None)  # an unknown language is reported before weights are looked for
        if first is not None:
            with self._room():
                self._check_identity()
                for embeddings in self._encode_stream(chain([first], rest)):
                    yield from nothing()
                    _check_finite(embeddings, asked.popleft())
                    yield embeddings
        yield from nothing()

    def decode(
        self, embeddings: np.ndarray, lang: str | None = None, avoid: Collection[str] = frozenset()
    ) -> list[str]:
        """The sentence in `lang` (none: English) that each embedding [n, dim] stands for; `avoid` is not heeded.

        Raises:
            CodecError: an unknown language, embeddings of another dimension or not finite, or no weights.
        """
        lang = lang or (DEFAULT_LANGUAGE if DEFAULT_LANGUAGE in self._languages else self._languages[0])
        self._check_language(lang)
        embeddings = np.atleast_2d(np.asarray(embeddings, dtype=np.float32))
        if not embeddings.size:
            return []
        with self._room():
            dim = self._decoded_dim()
        if embeddings.ndim != 2 or embeddings.shape[1] != dim:
            raise CodecError(f"the codec {RECORD_NAME} decodes {dim} dimensions, not {embeddings.shape[-1]}")
        broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
        if len(broken):
            raise CodecError(not_finite(int(broken[0]), len(embeddings)))
        with self._room():
            return self._decode(embeddings, lang)

    @property
    @abstractmethod
    def cut(self) -> int:
        """Sentences that were too long so far and lost their end."""

    @property
    def device(self) -> "torch.device":
        """Where it computes."""
        return choose_device(self.run_options.device, "--codec-device ")

    @property
    def dtype(self) -> "torch.dtype":
        """In which numbers."""
        return choose_dtype(self.run_options.dtype, self.device)

    @abstractmethod
    def description(self) -> str:
        """Implementation, device and number type, e.g. `sonar-hf on cpu in fp32`."""

    @property
    def sentences_at_once(self) -> int:
        """Sentences that are best embedded by one call: on a GPU so many that its first wait for tokens hardly counts,
        on a CPU, which embeds a few in a second, so few that something is seen to happen."""
        return SENTENCES_AT_ONCE.get(self.device.type, 4096)

    @abstractmethod
    def _encode_stream(self, requests: Iterable[Request]) -> Iterator[np.ndarray]:
        """Embeddings of requests that have a sentence each, in their order."""

    @abstractmethod
    def _decode(self, embeddings: np.ndarray, lang: str) -> list[str]: ...

    @abstractmethod
    def _identity(self) -> tuple[int, str]:
        """Dimension and fingerprint of the weights that are there."""

    @abstractmethod
    def _unload(self) -> None:
        """Forget loaded weights."""

    def _decoded_dim(self) -> int:
        """Numbers of the embeddings that it decodes."""
        return self.dim

    def _look_elsewhere(self) -> bool:
        """Take the weights of another place, if there is one; those that are here are not what was used before."""
        return False

    @contextmanager
    def _room(self) -> Iterator[None]:
        """What a device without memory for it says, in one line."""
        from torch import OutOfMemoryError

        try:
            yield
        except OutOfMemoryError as error:
            batch = self.run_options.batch
            smaller = "give a --codec-batch" if batch is None else f"take a --codec-batch below {batch}"
            raise CodecError(
                f"{self.device} has no memory left for the codec {self.backend}: {smaller}, a smaller --beam, "
                "--codec-dtype fp16, or --codec-device cpu"
            ) from error

    def _measured(self) -> CodecRecord:
        """The record of the weights that are there; kept, because that takes seconds."""
        if self._record is None:
            with self._room():
                dim, fingerprint = self._identity()
            options = self.options.model_dump(mode="json", exclude_defaults=True)
            self._record = CodecRecord(name=RECORD_NAME, dim=dim, fingerprint=fingerprint, options=options)
            self._identified = True
        return self._record

    _identified = False

    def _check_identity(self) -> None:
        """Make sure, once, that the weights are those that are recorded."""
        if self._identified or self._record is None or self._record.fingerprint == STATED:
            return
        _, fingerprint = self._identity()
        if fingerprint != self._record.fingerprint and self._look_elsewhere():
            _, fingerprint = self._identity()
        if fingerprint != self._record.fingerprint:
            raise CodecError(
                f"these SONAR weights have the fingerprint {fingerprint[:12]}, expected "
                f"{self._record.fingerprint[:12]}: set {FOLDER_VARIABLE} to the folder with those that were used before"
            )
        self._identified = True

    def _check_language(self, lang: str) -> None:
        if lang in self._languages:
            return
        near = shown_nearest(lang, self._languages)
        raise CodecError(f"SONAR does not know the language {lang!r}: the nearest are {near}")


def _check_finite(embeddings: np.ndarray, sentences: Sequence[str]) -> None:
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        raise CodecError(
            f"the embedding of {sentences[int(broken[0])][:60]!r} is not finite: take --codec-dtype fp32, "
            "and if that does not help, the weights are damaged"
        )


def _absolute(options: dict[str, Any]) -> dict[str, Any]:
    """Paths as they are from any folder: a data set notes them."""
    paths = {
        name: str(Path(value).expanduser().resolve())
        for name in PLACES
        if isinstance(value := options.get(name), str) and Path(value).expanduser().exists()
    }
    return options | paths
