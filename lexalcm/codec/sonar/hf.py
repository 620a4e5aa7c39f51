"""`sonar-hf`: SONAR's published weights on Transformers' M2M-100 modules, with any torch and without fairseq2."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor
from torch.nn import Module

from lexalcm.codec.base import Request
from lexalcm.codec.options import dtype_name
from lexalcm.codec.sonar.checkpoint import Side
from lexalcm.codec.sonar.files import (
    FOLDER_VARIABLE,
    OpenedWeights,
    Part,
    SonarFile,
    WeightsNotFoundError,
    encoder_heads,
    find_beside,
    find_here,
    find_part,
    open_weights,
)
from lexalcm.codec.sonar.sonar_base import PLACES, SonarBase, fingerprint_of
from lexalcm.codec.sonar.tokenizer import SonarTokenizer
from lexalcm.errors import CodecError, import_extra

if TYPE_CHECKING:
    from lexalcm.codec.sonar.decoder import SonarDecoder
    from lexalcm.codec.sonar.encoder import SonarEncoder

HEAD_DIM = 64
ENCODER_POSITIONS_MORE = 2
"""The encoder's position table is by fairseq's offset longer than the decoder's."""

MOST_SENTENCES_AT_ONCE = 8192
"""The next ones are read while a GPU computes what is queued (see `sonar_encoder`), a fifth of a second's work."""


class SonarHfCodec(SonarBase):
    """SONAR on Transformers' modules."""

    backend: ClassVar[str] = "sonar-hf"

    def description(self) -> str:
        """Implementation, device and number type."""
        return f"{self.backend} on {self.device} in {dtype_name(self.dtype)}, Transformers with SDPA"

    @cached_property
    def tokenizer(self) -> SonarTokenizer:
        """The tokenizer of both sides."""
        return SonarTokenizer(self._file("tokenizer").path, self._languages)

    @cached_property
    def encoder(self) -> "SonarEncoder":
        """The encoder on its device.

        Raises:
            CodecError: no weights, or a tokenizer of another vocabulary.
        """
        _require_transformers()
        from lexalcm.codec.sonar.encoder import SonarEncoder
        from lexalcm.codec.sonar.model import build_encoder

        opened = self._encoder_weights
        positions = self.options.max_seq_len + ENCODER_POSITIONS_MORE
        module = build_encoder(opened.weights.sizes, self._heads(opened), positions, opened.weights.tensors)
        Module.to(module, self.device, self.dtype)
        return SonarEncoder(module, self.tokenizer, max_tokens=positions, batch_tokens=self.run_options.batch)

    @cached_property
    def decoder(self) -> "SonarDecoder":
        """The decoder on its device.

        Raises:
            CodecError: no weights, or of other sizes than the encoder or tokenizer.
        """
        _require_transformers()
        from lexalcm.codec.sonar.decoder import SonarDecoder
        from lexalcm.codec.sonar.model import build_decoder

        opened = self._open("decoder")
        sizes = opened.weights.sizes
        encoded = self.dim if self._record else None  # else nothing is encoded yet: the encoder is not opened for this
        if encoded not in (sizes.dim, None):
            raise CodecError(f"the SONAR decoder is for {sizes.dim} dimensions, the encoder makes {encoded}")
        heads, positions = self._heads(opened), self.options.max_seq_len
        module = build_decoder(sizes, heads, positions, opened.weights.tensors, self.tokenizer.eos)
        Module.to(module, self.device, self.dtype)
        return SonarDecoder(module, self.tokenizer, positions, batch_tokens=self.run_options.batch)

    @property
    def sentences_at_once(self) -> int:
        """Sentences that are best embedded together: fewer than where each group waits for its first tokens."""
        return min(super().sentences_at_once, MOST_SENTENCES_AT_ONCE)

    def _encode_stream(self, requests: Iterable[Request]) -> Iterator[np.ndarray]:
        return self.encoder.stream(requests)

    def _decode(self, embeddings: np.ndarray, lang: str) -> list[str]:
        return self.decoder.write(embeddings, lang, self.run_options.decoding)

    def token_logits(self, concepts: Tensor, tokens: Tensor) -> Tensor:
        """See `lexalcm.codec.base.DifferentiableCodec`; `tokenizer` makes the tokens."""
        return self.decoder.token_logits(concepts, tokens)

    def _identity(self) -> tuple[int, str]:
        opened = self._encoder_weights
        fingerprint = fingerprint_of(
            opened.digest,
            self._heads(opened),
            lambda text, lang: self.tokenizer.encode([text], lang)[0].tolist(),
            self._languages,
        )
        return opened.weights.sizes.dim, fingerprint

    @property
    def cut(self) -> int:
        """Sentences that were too long so far and lost their end."""
        here: SonarEncoder | None = self.__dict__.get("encoder")
        return self._cut_before + (here.cut if here else 0)

    _cut_before = 0
    """By encoders that are unloaded."""

    def _decoded_dim(self) -> int:
        return self.dim if self._record and "decoder" not in self.__dict__ else self.decoder.dim

    def _unload(self) -> None:
        self._cut_before = self.cut
        for name in ("encoder", "decoder"):
            self.__dict__.pop(name, None)

    def _look_elsewhere(self) -> bool:
        if not any(getattr(self.options, place) for place in PLACES) or find_here("encoder") is None:
            return False
        self._unload()
        for name in ("tokenizer", "_encoder_weights"):
            self.__dict__.pop(name, None)
        self.options = self.options.model_copy(update=dict.fromkeys(PLACES))
        return True

    @cached_property
    def _encoder_weights(self) -> OpenedWeights:
        return self._open("encoder")

    def _open(self, side: Side) -> OpenedWeights:
        file = self._file(side)
        opened = open_weights(file, side)
        rows, wanted = opened.weights.sizes.vocab_size, self.tokenizer.vocab_size
        if rows != wanted:
            raise CodecError(
                f"{file.path} has {rows:,} tokens, the tokenizer {self.tokenizer.model_file} with "
                f"{len(self._languages)} languages has {wanted:,}: give the tokenizer and languages of these weights"
            )
        return opened

    def _file(self, part: Part) -> SonarFile:
        own = {"encoder": None, "decoder": self.options.decoder, "tokenizer": self.options.tokenizer}[part]
        try:
            if own is None and self.options.weights is not None:
                return find_beside(part, self.options.weights, self.progress)
            return find_part(part, own, self.progress)
        except WeightsNotFoundError as error:
            if not self.noted:
                raise
            if here := find_here(part):
                return here
            advice = f"set {FOLDER_VARIABLE} to the folder where the weights are by now"
            raise WeightsNotFoundError(f"{error}, or {advice}") from error

    def _heads(self, opened: OpenedWeights) -> int:
        """As given, or as a config says; a decoder without one has as many as the encoder."""
        heads = self.options.heads or opened.heads
        if heads is None and opened.weights.side == "decoder":
            heads = self._encoder_heads()
        return heads or max(1, opened.weights.sizes.dim // HEAD_DIM)

    def _encoder_heads(self) -> int | None:
        """As the encoder's config says, whose weights need not be here for it."""
        if opened := self.__dict__.get("_encoder_weights"):
            return opened.heads
        try:
            return encoder_heads(self.options.weights)
        except WeightsNotFoundError:
            if not self.noted:
                raise
            return encoder_heads(None)


def _require_transformers() -> None:
    import_extra("transformers", "hf", "the codec sonar-hf")
