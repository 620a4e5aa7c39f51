"""`sonar-space`: the same codec over the pipelines of Meta's own package, on fairseq2.

It reads the published weights, which fairseq2 keeps in its own cache (FAIRSEQ2_CACHE_DIR), and it needs exactly the
torch that fairseq2 was built for, so that it wants an environment of its own. What goes wrong is reported in one line.
"""

import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch

from lexalcm.codec.base import CodecRecord, Request
from lexalcm.codec.options import dtype_name
from lexalcm.codec.sonar.checkpoint import arrange, weights_digest
from lexalcm.codec.sonar.sonar_base import CUT_WARNING, PLACES, SonarBase, SonarOptions, fingerprint_of
from lexalcm.errors import CodecError, MissingExtraError, import_extra
from lexalcm.io.progress import Progress

logger = logging.getLogger(__name__)

ENCODER_CARD = "text_sonar_basic_encoder"
DECODER_CARD = "text_sonar_basic_decoder"

BATCH_SENTENCES = {"cpu": 16, "cuda": 256}
OTHER_BATCH_SENTENCES = 32
TOKENS_OF_A_SENTENCE = 64
"""Reckoned when a batch is asked for in tokens: the pipelines count sentences."""

INSTALL = "make a new environment and pip install 'lexalcm[sonar]' there, or use --codec sonar-hf"


def import_pipelines() -> ModuleType:
    """The module of Meta's text pipelines.

    Raises:
        MissingExtraError: it is not installed.
        CodecError: it is, but cannot be loaded; names the command that repairs it.
    """
    try:
        return import_extra("sonar.inference_pipelines.text", "sonar", "the codec sonar-space")
    except MissingExtraError:
        raise MissingExtraError(f"the codec sonar-space needs the package sonar-space: {INSTALL}") from None
    except Exception as error:  # whatever a native library raises while it is loaded
        raise CodecError(explain(error)) from error


def explain(error: Exception) -> str:
    """Why Meta's package cannot be loaded, and the command that repairs it."""
    text = str(error)
    if "libsndfile" in text:
        return (
            "fairseq2 needs the library libsndfile: apt-get install libsndfile1, "
            "or conda install -c conda-forge libsndfile"
        )
    if "oneTBB" in text or "libtbb" in text:
        return "fairseq2 needs the library oneTBB: pip install tbb"
    wanted = re.search(r"requires a (.+?) build of PyTorch (\S+?),", text)
    if wanted:
        return (
            f"fairseq2 needs torch {wanted[2]} ({wanted[1]}), here is {torch.__version__}: "
            f"pip install torch=={wanted[2]}, or {INSTALL}"
        )
    if "undefined symbol" in text or "libtorch" in text or "libc10" in text:
        return f"fairseq2 was built for another torch than {torch.__version__}: {INSTALL}"
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith(("fairseq2", "fairseq2n")):
        return f"sonar-space is installed without {error.name}: pip install fairseq2, or {INSTALL}"
    return f"sonar-space cannot be loaded ({type(error).__name__}: {' '.join(text.split())[:200]}): {INSTALL}"


class SonarSpaceCodec(SonarBase):
    """SONAR on Meta's pipelines."""

    backend: ClassVar[str] = "sonar-space"

    def __init__(self, options: SonarOptions, record: CodecRecord | None = None) -> None:
        """Set it up.

        Raises:
            MissingExtraError, CodecError: the package is missing, cannot be loaded, or other weights are asked for.
        """
        super().__init__(options, record)
        chosen = options.model_dump(exclude_defaults=True)
        if record is not None:  # where another implementation found its weights; the fingerprint knows the heads
            chosen = {name: value for name, value in chosen.items() if name not in {*PLACES, "heads"}}
        if chosen:
            raise CodecError(f"the codec sonar-space has no option {next(iter(chosen))}: use --codec sonar-hf")
        self._pipelines = import_pipelines()
        self._cut = 0

    @property
    def cut(self) -> int:
        """Sentences that were too long so far and lost their end."""
        return self._cut

    def description(self) -> str:
        """Implementation, device and number type."""
        return f"{self.backend} on {self.device} in {dtype_name(self.dtype)}, fairseq2"

    @cached_property
    def _to_embeddings(self) -> Any:
        """The encoding pipeline, in float32 until its weights have been identified."""
        with _loading(ENCODER_CARD, self.progress):
            return self._pipelines.TextToEmbeddingModelPipeline(
                encoder=ENCODER_CARD, tokenizer=ENCODER_CARD, device=self.device, dtype=torch.float32
            )

    @cached_property
    def _to_text(self) -> Any:
        with _loading(DECODER_CARD, self.progress):
            return self._pipelines.EmbeddingToTextModelPipeline(
                decoder=DECODER_CARD, tokenizer=ENCODER_CARD, device=self.device, dtype=self.dtype
            )

    def _encode_stream(self, requests: Iterable[Request]) -> Iterator[np.ndarray]:
        self.record()  # is of the weights as they are published: measured before they are rounded
        pipeline = self._to_embeddings
        pipeline.model.to(self.dtype)
        for sentences, lang in requests:
            with self._counting_cuts():
                embeddings = pipeline.predict(
                    list(sentences),
                    source_lang=lang,
                    batch_size=self._batch_sentences(),
                    progress_bar=False,
                    target_device=torch.device("cpu"),
                )
            yield embeddings.float().cpu().numpy()

    def _decode(self, embeddings: np.ndarray, lang: str) -> list[str]:
        decoding = self.run_options.decoding
        if decoding.repetition_penalty != 1:
            raise CodecError("the codec sonar-space has no repetition penalty: leave it at 1, or use --codec sonar-hf")
        return self._to_text.predict(
            torch.from_numpy(embeddings).to(self.device, self.dtype),
            target_lang=lang,
            batch_size=max(1, self._batch_sentences() // 2),
            progress_bar=False,
            beam_size=decoding.beam,
            max_seq_len=decoding.max_tokens,
        )

    def _identity(self) -> tuple[int, str]:
        pipeline = self._to_embeddings
        weights = arrange(pipeline.model.state_dict(), "encoder", ENCODER_CARD)
        tokenizers: dict[str, Any] = {}

        def encode(text: str, lang: str) -> list[int]:
            if lang not in tokenizers:
                tokenizers[lang] = pipeline.tokenizer.create_encoder(lang=lang)
            return tokenizers[lang](text).tolist()

        heads = pipeline.model.encoder.layers[0].self_attn.num_heads
        return weights.sizes.dim, fingerprint_of(weights_digest(weights), heads, encode, self._languages)

    def _unload(self) -> None:
        for name in ("_to_embeddings", "_to_text"):
            self.__dict__.pop(name, None)

    def _batch_sentences(self) -> int:
        if self.run_options.batch is not None:
            return max(1, self.run_options.batch // TOKENS_OF_A_SENTENCE)
        return BATCH_SENTENCES.get(self.device.type, OTHER_BATCH_SENTENCES)

    @contextmanager
    def _counting_cuts(self) -> Iterator[None]:
        """Their warning at every call becomes one of ours, and a count."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            found = re.match(r"For (\d+) input tensors .* truncated to (\d+)", str(warning.message))
            if found is None:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
                continue
            if not self._cut:
                logger.warning(CUT_WARNING, int(found[2]))
            self._cut += int(found[1])


@contextmanager
def _loading(card: str, progress: Progress) -> Iterator[None]:
    """Shows that fairseq2 fetches or reads a model; what goes wrong is reported in one line."""
    try:
        with progress(f"loading {card}", "models") as report:
            yield
            report(1, 1)
    except Exception as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise CodecError(
            f"fairseq2 cannot load {card} ({type(error).__name__}: {reason}): check the network and the folder of "
            "FAIRSEQ2_CACHE_DIR, or use --codec sonar-hf"
        ) from error
