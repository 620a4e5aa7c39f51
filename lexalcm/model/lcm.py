"""What every LCM has: a config, a normalizer, a prediction over packed rows, a folder to be saved in.

`forward` is the prediction; what it is compared with in training is an objective's business (`lexalcm.objective`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn
from typing_extensions import Self

from lexalcm.diffusion.samplers import Observer
from lexalcm.diffusion.schedule import NoiseSchedule
from lexalcm.errors import ConfigError, UserError
from lexalcm.model.config import ModelConfig
from lexalcm.model.normalizer import Normalizer
from lexalcm.model.predictor import ArchitecturePredictor, DenoisingProcess
from lexalcm.model.presets import Preset

if TYPE_CHECKING:
    from lexalcm.generate.continuation import Continuation, WrittenSentence
    from lexalcm.generate.text import TextModel


class LCM(nn.Module, ModelHubMixin, ABC, library_name="lexalcm", tags=["large-concept-model"]):
    """Base of the architectures; what one must hold is in `docs/extending.md`.

    Its `forward` takes normalized concepts of packed rows, float32 [B, L, D], and for each position which document of
    its row it belongs to, int64 [B, L], -1 on padding, and which concept of the document it is, int64 [B, L]. What it
    predicts is normalized too: see `BaseLCM.forward` and, for models that denoise, `DiffusionLCM.forward`.

    Args:
        config: sizes.

    Attributes:
        presets: its named sizes; the preset `tiny` of the architecture `base` is called `base-tiny`.
        flow: how concepts go through it, in a sentence or two, for its picture.
        denoises: whether it makes concepts out of noise: its config then has `diffusion`, and it a `schedule`.
        samples: whether a prompt's continuations differ with the seed.
        objective: the name of the one that it is trained with, unless another is asked for.
        attended: the share of all pairs of positions in a document's row, as they are computed, that a position may
            attend; for `lexalcm.model.flops`.
        schedule: of the noise; None in a model that does not denoise.
    """

    presets: ClassVar[Mapping[str, Preset]] = {}
    flow: ClassVar[str]
    denoises: ClassVar[bool] = False
    samples: ClassVar[bool] = False
    objective: ClassVar[str] = "squared_l2"
    attended: ClassVar[float] = 0.5  # causal: those before it
    schedule: NoiseSchedule | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.normalizer = Normalizer(config.dim)
        self.generation_config: dict[str, Any] = {}  # generation options that suit these weights, saved beside them
        self.folder: Path | None = None  # where it was loaded from, with its codec
        self._text_model: TextModel | None = None

    @classmethod
    def check_config(cls, config: ModelConfig) -> None:
        """Make sure that a config, whose numbers are in their ranges, suits the architecture.

        Raises:
            ConfigError: it does not.
        """
        if config.context_layers:
            raise ConfigError(
                "context_layers belongs to models with a contextualizer, such as two-tower: "
                "remove it, or choose another architecture"
            )
        if config.diffusion is not None and not cls.denoises:
            raise ConfigError(f"diffusion: {config.architecture} models do not denoise: remove it")

    @classmethod
    def cached_numbers(cls, config: ModelConfig) -> int:
        """How many numbers generation keeps of each concept of the context: keys and values of every layer."""
        return 2 * config.width * (config.num_layers + config.context_layers)

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The repeated layers, in order: what to wrap for activation checkpointing, compilation or sharding.

        First `config.context_layers` of one kind, if any, then `config.num_layers` of another.
        """

    @abstractmethod
    def predictor(self, denoising: DenoisingProcess | None, observe: Observer | None) -> ArchitecturePredictor:
        """Make the model ready to generate; called in evaluation mode, without gradients.

        Args:
            denoising: how concepts come out of noise; None for a model that does not denoise.
            observe: is called at each denoising step.
        """

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.normalizer.center.device

    def check_concepts(self, concepts: Tensor, name: str) -> None:
        """Make sure that concepts from outside fit this model.

        Raises:
            UserError: not floating-point [..., D], or with NaN or infinity.
        """
        if concepts.ndim < 1 or concepts.shape[-1] != self.config.dim:
            raise UserError(
                f"{name}: shape {list(concepts.shape)}, this model takes {self.config.dim} numbers a concept"
            )
        if not concepts.is_floating_point():
            raise UserError(f"{name}: type {concepts.dtype}, expected floating-point numbers")
        if not concepts.isfinite().all():
            raise UserError(f"{name}: holds NaN or infinity")

    def generate(
        self,
        text: str | Sequence[str],
        *,
        lang: str | None = None,
        to: str | None = None,
        seed: int = 0,
        **options: Any,
    ) -> "Continuation":
        """Continue a text: sentences, made one by one as they are asked for.

        Args:
            text: a text, which is segmented into sentences, or sentences as they are.
            lang: its language as a SONAR code, `"jpn_Jpan"`; none: seen from its script.
            to: the language to write; none: that of the text.
            seed: of the noise; the same seed gives the same text.
            options: changes of the model's own, e.g. `steps=12`; see `lexalcm.generate.options.GenerationOptions`.

        Returns:
            an iterator; its sentences print as their text and hold their `concept`; `stop` says why the text ended.

        Raises:
            UserError: no sentence in the text, or options that contradict each other.
            CodecError: the model was not loaded from a folder with its codec, or that lacks the language.
        """
        text_model = self._with_codec()
        chosen = text_model.options(**options)
        return text_model.write(text_model.prompt(text, chosen, lang=lang, to=to, seed=seed), chosen)

    def generate_batch(
        self,
        texts: Sequence[str | Sequence[str]],
        *,
        lang: str | None = None,
        to: str | None = None,
        seed: int = 0,
        **options: Any,
    ) -> "list[list[WrittenSentence]]":
        """Continue several texts together, which is faster: the sentences of each; arguments as for `generate`.

        A text's result is, but for rounding, what `generate` makes of it alone with the same seed.
        """
        text_model = self._with_codec()
        chosen = text_model.options(**options)
        prompts = [text_model.prompt(text, chosen, lang=lang, to=to, seed=seed) for text in texts]
        written: list[list[WrittenSentence]] = [[] for _ in prompts]
        for sentences in text_model.write_all(prompts, chosen):
            for number, sentence in sentences:
                written[number].append(sentence)
        return written

    def _with_codec(self) -> "TextModel":
        from lexalcm.generate.text import TextModel  # above this package: the one exception, for the user's comfort

        if self._text_model is None:
            self._text_model = TextModel.of(self)
        return self._text_model

    def _save_pretrained(self, save_directory: Path) -> None:
        from lexalcm.model.storage.folder import write_model, write_state
        from lexalcm.model.storage.sidecar_files import copy_sidecar_files

        if self.folder is not None and self.folder.resolve() != save_directory.resolve():
            copy_sidecar_files(self.folder, save_directory)
        state = self.state_dict()
        write_model(save_directory, self.config, lambda file: write_state(file, state), self.generation_config)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub_options: Any) -> Self:
        """Load a model folder, or a model of the Hugging Face hub by its id.

        Args:
            pretrained_model_name_or_path: a folder, a run folder, or an id like `"name/model"`.
            hub_options: passed to `huggingface_hub.snapshot_download`, e.g. `revision`, `token`.

        Raises:
            UserError: missing or foreign folder, unreadable weights, no access to the hub, another architecture.
        """
        from lexalcm.model.storage.folder import load_model

        model = load_model(pretrained_model_name_or_path, **hub_options)
        if not isinstance(model, cls):
            raise UserError(
                f"{pretrained_model_name_or_path} holds a {model.config.architecture} model: "
                "load it with lexalcm.model.load_model"
            )
        return model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and back into the mode that it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
