"""Text in, text out: a model folder with its codec, its end-of-text concept and the stopping rules.

A prompt is segmented into sentences and embedded; what the model makes is decoded sentence by sentence as it comes. The
context of what follows is the model's own concept, as in the published code, or with `reencode` the concept of the
decoded text, which keeps the context among concepts of real sentences.

Shapes: n sentences, D embedding dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor
from typing_extensions import Self

from lexalcm.codec.base import Codec
from lexalcm.codec.options import CodecOptions
from lexalcm.codec.registry import CODEC_FOLDER, load_codec
from lexalcm.codec.special import SPECIAL_FILE
from lexalcm.data.progress import Progress, silent
from lexalcm.data.segment import segment
from lexalcm.errors import CodecError, UserError
from lexalcm.generate.autoregressive import Concepts, generate
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.generate.stopping import StoppingRules, StopReason
from lexalcm.generate.teacher_forced import predict_each
from lexalcm.model.folder import load_model
from lexalcm.model.lcm import LCM
from lexalcm.model.locate import find_model


@dataclass(frozen=True)
class WrittenSentence:
    """A sentence that the model made."""

    text: str
    concept: Tensor  # float32 [D], in the codec's space


@dataclass(frozen=True)
class Guess:
    """What the model expected at a sentence of the prompt, beside what stands there."""

    actual: str
    guess: str
    squared_l2: float  # in normalized space
    cosine: float  # in the codec's space


class TextModel:
    """A model with the codec it was made for."""

    def __init__(self, folder: Path, model: LCM, codec: Codec, end_of_text: Tensor | None) -> None:
        self.folder = folder
        self.model = model
        self.codec = codec
        self.end_of_text = end_of_text
        self._predictor = lru_cache(maxsize=1)(partial(prepare, model))

    @classmethod
    def open(
        cls,
        path: str | Path | None = None,
        *,
        device: torch.device | str = "cpu",
        codec: str | None = None,
        codec_options: CodecOptions | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Open a model folder or the folder of a run; none: the newest run's.

        Args:
            path: the folder.
            device: of the model.
            codec: another implementation of the model's codec, e.g. `"sonar-hf"` of `"sonar"`.
            codec_options: how the codec is run, and decodes.
            progress: opens reports of downloads.

        Raises:
            UserError: no such model, or an incomplete folder.
            CodecError: the model notes no codec, or its codec cannot be opened.
        """
        folder = find_model(path)
        model = load_model(folder).to(device)
        if model.config.codec is None:
            raise CodecError(f"{folder} does not say which codec it was made for: it cannot read or write text")
        special = load_file(folder / SPECIAL_FILE) if (folder / SPECIAL_FILE).is_file() else {}
        end_of_text = torch.from_numpy(special["end_of_text"]) if "end_of_text" in special else None
        opened = load_codec(
            model.config.codec, folder / CODEC_FOLDER, name=codec, options=codec_options, progress=progress
        )
        return cls(folder, model, opened, end_of_text)

    def options(self, **changes: Any) -> GenerationOptions:
        """The model's own generation options with changes; a change of None changes nothing."""
        return GenerationOptions.for_model(self.model.generation_config, **changes)

    def read(self, text: str, lang: str) -> list[str]:
        """Segment a prompt into sentences.

        Raises:
            UserError: it has none.
        """
        sentences = segment(text, lang)
        if not sentences:
            raise UserError("the prompt has no sentence: give a text with words")
        return sentences

    def embed(self, sentences: Sequence[str], lang: str) -> Tensor:
        """Concepts of sentences, float32 [n, D]."""
        return torch.from_numpy(np.asarray(self.codec.encode(sentences, lang), dtype=np.float32))

    def write(
        self, sentences: Sequence[str], lang: str, options: GenerationOptions, seed: int, to: str | None = None
    ) -> "Continuation":
        """Continue a prompt.

        Args:
            sentences: the prompt.
            lang: its language.
            options: of generation, with the rules of when to stop.
            seed: of the noise; the same seed gives the same text.
            to: the language to write; None: the prompt's.
        """
        prompt = self.embed(sentences, lang)
        concepts = generate(self._predictor(options), [prompt], [seed], options.max_sentences)
        rules = StoppingRules(options, self.end_of_text, list(prompt))
        return Continuation(self, concepts, rules, sentences, to or lang, reencode=options.reencode)

    def guess_each(
        self, sentences: Sequence[str], lang: str, options: GenerationOptions, seed: int, to: str | None = None
    ) -> list[Guess]:
        """The model's guess, in the language `to` (None: `lang`), of every sentence but the first from those before it.

        Raises:
            UserError: fewer than two sentences.
        """
        if len(sentences) < 2:
            raise UserError("--each compares guesses with what follows: give at least two sentences")
        actual = self.embed(sentences, lang)
        documents = torch.zeros(1, len(sentences), dtype=torch.int64)
        positions = torch.arange(len(sentences))[None]
        guesses = predict_each(self._predictor(options), actual[None], documents, positions, seed)[0, 1:].cpu()
        actual = actual[1:]
        distances = (self._normalize(guesses) - self._normalize(actual)).square().sum(-1)
        cosines = torch.cosine_similarity(guesses, actual, dim=-1)
        texts = self.codec.decode(guesses.numpy(), to or lang)
        return [
            Guess(sentence, text, float(distance), float(cosine))
            for sentence, text, distance, cosine in zip(sentences[1:], texts, distances, cosines, strict=True)
        ]

    def _normalize(self, concepts: Tensor) -> Tensor:
        return self.model.normalizer.normalize(concepts.to(self.model.device)).cpu()


class Continuation:
    """The sentences that continue a prompt, to be iterated once; each is made when it is asked for.

    Attributes:
        stop: why the text ended, once it has.
    """

    def __init__(
        self,
        model: TextModel,
        concepts: Concepts,
        rules: StoppingRules,
        prompt: Sequence[str],
        lang: str,
        *,
        reencode: bool,
    ) -> None:
        self.stop: StopReason | None = None
        self._model = model
        self._concepts = concepts
        self._rules = rules
        self._said = set(prompt)
        self._lang = lang
        self._reencode = reencode

    def __iter__(self) -> Iterator[WrittenSentence]:
        made = next(self._concepts, None)
        while made is not None:
            concept = made[0].cpu()
            self.stop = self._rules.before(concept)
            if self.stop is not None:
                return
            text = self._model.codec.decode(concept[None].numpy(), self._lang, avoid=self._said)[0]
            self._said.add(text)
            context = self._model.embed([text], self._lang) if self._reencode else concept[None]
            self.stop = self._rules.after(context[0])
            yield WrittenSentence(text, concept)
            if self.stop is not None:
                return
            made = self._concepts.send(context)
