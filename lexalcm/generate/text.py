"""Text in, text out: a model with the codec and the end-of-text concept of its folder.

Shapes: n sentences, D embedding dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from lexalcm.codec.base import Codec
from lexalcm.codec.options import CodecOptions
from lexalcm.codec.registry import CODEC_FOLDER, load_codec
from lexalcm.codec.special import SPECIAL_FILE, read_special
from lexalcm.errors import CodecError, UserError
from lexalcm.generate.autoregressive import generate
from lexalcm.generate.continuation import Continuation, Continuations, WrittenSentence, embed
from lexalcm.generate.denoising import Denoising
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.generate.prompts.chat import Roles, chat_prompt, sentences_without_roles
from lexalcm.generate.prompts.prompt import Prompt, read_prompt
from lexalcm.generate.teacher_forced import predict_each
from lexalcm.io.progress import Progress, silent
from lexalcm.model.lcm import LCM
from lexalcm.model.placement import to_device
from lexalcm.model.predictor import ConceptPredictor
from lexalcm.model.storage.folder import GENERATION_FILE, load_model, model_folder
from lexalcm.text.chat import Turn

OnStep = Callable[[int, int], None]
"""Is called at each denoising step: its number, from 1, and how many a concept takes."""

__all__ = ["Continuation", "Continuations", "Guess", "Prompt", "TextModel", "WrittenSentence"]


@dataclass(frozen=True)
class Guess:
    """What the model expected at a sentence of the prompt, beside what stands there."""

    actual: str
    guess: str
    squared_l2: float  # in normalized space
    cosine: float  # in the codec's space


class TextModel:
    """A model with the codec it was made for.

    Args:
        folder: the model's.
        model: on its device.
        codec: to read and write with.
        end_of_text: the codec's concept for it, [D]; None: unknown.
        on_step: is called at each denoising step.
    """

    def __init__(
        self, folder: Path, model: LCM, codec: Codec, end_of_text: Tensor | None, on_step: OnStep | None = None
    ) -> None:
        self.folder = folder
        self.model = model
        self.codec = codec
        self.end_of_text = end_of_text
        self.on_step = on_step
        self._prepared: tuple[object, ConceptPredictor] | None = None  # of which options and weights, and the model

    @classmethod
    def open(
        cls,
        path: str | Path | None = None,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        codec: str | None = None,
        codec_options: CodecOptions | None = None,
        progress: Progress = silent,
        on_step: OnStep | None = None,
    ) -> Self:
        """Open a model folder, the folder of a run or a hub's model; none: the newest run's.

        Args:
            path: the folder, or a hub id `"name/model"`.
            device: of the model: cpu, cuda, cuda:1, or auto, a GPU if there is one.
            dtype: of its weights: fp32, bf16, or auto, as they are saved.
            codec: another implementation of the model's codec, e.g. `"sonar-hf"` of `"sonar"`.
            codec_options: how the codec is run, and decodes.
            progress: opens reports of downloads.
            on_step: is called at each denoising step.

        Raises:
            UserError: no such model, an incomplete folder, no such device.
            CodecError: the model notes no codec, or its codec cannot be opened.
        """
        model = to_device(load_model(model_folder(path)), device, dtype)
        return cls.of(model, codec=codec, codec_options=codec_options, progress=progress, on_step=on_step)

    @classmethod
    def of(
        cls,
        model: LCM,
        *,
        codec: str | None = None,
        codec_options: CodecOptions | None = None,
        progress: Progress = silent,
        on_step: OnStep | None = None,
    ) -> Self:
        """Open the codec of a loaded model; arguments and errors as for `open`."""
        folder = model.folder
        if folder is None:
            raise CodecError("this model was not loaded from a folder, which would hold its codec: save and load it")
        if model.config.codec is None:
            raise CodecError(f"{folder} does not say which codec it was made for: it cannot read or write text")
        end_of_text = read_end_of_text(folder)
        opened = load_codec(
            model.config.codec, folder / CODEC_FOLDER, name=codec, options=codec_options, progress=progress
        )
        return cls(folder, model, opened, end_of_text, on_step)

    @cached_property
    def roles(self) -> Roles:
        """The concepts that open turns of conversations.

        Raises:
            UserError: the model's folder lacks some.
        """
        return Roles.read(self.folder)

    @property
    def note(self) -> str | None:
        """What its user should know of the folder, if anything."""
        if (self.folder / GENERATION_FILE).is_file():
            return None
        return f"{self.folder} has no {GENERATION_FILE}: generating with the published options, which may not suit it"

    def check_samples(self, samples: int) -> None:
        """Make sure that several samples of one prompt can differ.

        Raises:
            UserError: a model that draws no noise is asked for more than one.
        """
        if samples > 1 and not self.model.samples:
            raise UserError(
                f"a {self.model.config.architecture} model draws no noise, so that all samples would be alike: "
                "omit --samples"
            )

    def options(self, **changes: Any) -> GenerationOptions:
        """The model's own generation options with changes; a change of None changes nothing.

        Raises:
            ConfigError: an unknown or contradicting option.
            UserError: more denoising steps than the model was trained with.
        """
        options = GenerationOptions.for_model(self.model.generation_config, **changes)
        if self.model.schedule is not None:
            Denoising(self.model.schedule, options)
        return options

    def prompt(
        self,
        text: str | Sequence[str],
        options: GenerationOptions,
        *,
        lang: str | None = None,
        to: str | None = None,
        seed: int = 0,
    ) -> Prompt:
        """Make a prompt of a text or of sentences; see `read_prompt`.

        Raises:
            UserError: no sentence with words in it, more than `options.max_prompt`, a script that leaves the language
                open.
            CodecError: a language that the codec does not have.
        """
        return read_prompt(text, lang=lang, to=to, seed=seed, max_sentences=options.max_prompt, codec=self.codec)

    def chat_prompt(
        self,
        turns: Sequence[Turn],
        options: GenerationOptions,
        *,
        lang: str | None = None,
        to: str | None = None,
        seed: int = 0,
    ) -> Prompt:
        """Make a prompt of a conversation, to be answered; see `lexalcm.generate.prompts.chat`.

        Raises:
            UserError: no text, a last turn of the assistant, or more than `options.max_prompt` sentences.
            CodecError: a language that the codec does not have.
        """
        return chat_prompt(turns, lang=lang, to=to, seed=seed, max_sentences=options.max_prompt, codec=self.codec)

    def write(self, prompt: Prompt, options: GenerationOptions) -> Continuation:
        """Continue one prompt, sentence by sentence; errors as for `write_all`."""
        return Continuation(self.write_all([prompt], options))

    def write_all(self, prompts: Sequence[Prompt], options: GenerationOptions) -> Continuations:
        """Continue prompts together.

        Args:
            prompts: of any lengths and languages; the result of each is, but for rounding, what it is alone.
            options: of generation, with the rules of when to stop.

        Raises:
            UserError: no prompt, more denoising steps than the model was trained with, or no end-of-text concept.
        """
        check_end(self.folder, self.end_of_text, options)
        unknown = [prompt for prompt in prompts if prompt.concepts is None]
        new = zip(
            unknown,
            embed(self.codec, [(sentences_without_roles(prompt), prompt.lang) for prompt in unknown]),
            strict=True,
        )
        whole = iter([self.roles.insert(found, one.heads) if one.heads else found for one, found in new])
        embedded = [next(whole) if prompt.concepts is None else prompt.concepts for prompt in prompts]
        seeds = [prompt.seed for prompt in prompts]
        concepts = generate(self._predictor(options), embedded, seeds, options.max_sentences)
        answers = options.stops_at_end and any(prompt.answers for prompt in prompts)
        turn_ends = self.roles.ends if answers else ()
        return Continuations(self.codec, options, prompts, embedded, concepts, self.end_of_text, turn_ends)

    def guess_each(self, prompt: Prompt, options: GenerationOptions) -> list[Guess]:
        """The model's guess of every sentence but the first from those before it.

        Raises:
            UserError: fewer than two sentences.
        """
        if len(prompt.sentences) < 2:
            raise UserError("--each compares guesses with what follows: give at least two sentences")
        [actual] = embed(self.codec, [(prompt.sentences, prompt.lang)])
        documents = torch.zeros(1, len(actual), dtype=torch.int64)
        positions = torch.arange(len(actual))[None]
        guesses = predict_each(self._predictor(options), actual[None], documents, positions, prompt.seed)[0, 1:].cpu()
        actual = actual[1:]
        distances = (self._normalize(guesses) - self._normalize(actual)).square().sum(-1)
        cosines = torch.cosine_similarity(guesses, actual, dim=-1)
        texts = self.codec.decode(guesses.numpy(), prompt.to)
        return [
            Guess(sentence, text, float(distance), float(cosine))
            for sentence, text, distance, cosine in zip(prompt.sentences[1:], texts, distances, cosines, strict=True)
        ]

    def _normalize(self, concepts: Tensor) -> Tensor:
        return self.model.normalizer.normalize(concepts.to(self.model.device)).cpu()

    def _predictor(self, options: GenerationOptions) -> ConceptPredictor:
        """The model made ready; anew when it was trained or moved meanwhile."""
        weights = tuple((parameter.data_ptr(), parameter._version) for parameter in self.model.parameters())
        made_of = (options, weights)
        if self._prepared is None or self._prepared[0] != made_of:
            self._prepared = made_of, self._prepare(options)
        return self._prepared[1]

    def _prepare(self, options: GenerationOptions) -> ConceptPredictor:
        on_step = self.on_step
        observe = None if on_step is None else lambda step, steps, _prediction: on_step(step, steps)
        return prepare(self.model, options, observe=observe)


def read_end_of_text(folder: Path) -> Tensor | None:
    """The concept for end of text that a model's folder keeps, float32 [D]; None where it keeps none.

    Raises:
        UserError: its file is damaged.
    """
    special = read_special(folder) if (folder / SPECIAL_FILE).is_file() else {}
    return torch.from_numpy(special["end_of_text"]) if "end_of_text" in special else None


def check_end(folder: Path, end_of_text: Tensor | None, options: GenerationOptions) -> None:
    """Make sure that options which stop at end of text can know it.

    Raises:
        UserError: the model's folder has no concept for it.
    """
    if end_of_text is None and options.stops_at_end:
        raise UserError(
            f"{folder} has no {SPECIAL_FILE}, which says where a text ends: copy it from the data set "
            "that the model was trained on, or switch that off with --stop-similarity 1"
        )
