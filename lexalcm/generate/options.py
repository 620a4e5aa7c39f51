"""How a model generates: sampler, guidance, stopping. A base model takes notice of the stopping rules alone.

The defaults are those of the LCM paper (arXiv 2412.08821, section 2.4) but for the sampler: DPM-Solver++ in 12 steps
comes nearer to what 100 steps give than the paper's DDIM in 40 (`tools/compare_samplers.py`, `docs/benchmarks.md`). A
model folder may carry its own in `generation_config.json`; what a caller asks for takes precedence over both.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import Self

from lexalcm.config import NonNegativeFloat, PositiveFloat, PositiveInt, Probability, Settings, validate
from lexalcm.errors import ConfigError
from lexalcm.option import Option
from lexalcm.registries import SAMPLERS

Sampler = Annotated[str, AfterValidator(SAMPLERS.check)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Similarity = Annotated[float, Field(ge=-1, le=1)]

_own = partial(Option, default="")  # helps do not tell the default: it is the model's own
_sampling = partial(_own, panel="Sampling")
_correction = partial(_own, panel="Sampling corrections")
_stopping = partial(_own, panel="Stopping")


class SamplingOptions(Settings):
    """How a diffusion model predicts one concept.

    Raises:
        ConfigError: options that contradict each other.
    """

    sampler: Annotated[Sampler, _sampling(metavar="NAME", choices=SAMPLERS.names)] = "dpm-solver++"
    """The sampling algorithm."""
    steps: Annotated[PositiveInt, _sampling()] = 12
    """Denoising steps of a diffusion model."""
    guidance_scale: Annotated[NonNegativeFloat, _sampling(("--guidance",))] = 3.0
    """Classifier-free guidance scale; 1 means no guidance."""
    guidance_rescale: Annotated[Fraction, _sampling()] = 0.7  # arXiv 2305.08891, algorithm 2
    """How far guided noise is rescaled to the spread of the conditional noise."""
    initial_noise_scale: Annotated[PositiveFloat, _sampling(("--noise-scale",))] = 0.6
    """Scale of the initial noise; smaller is nearer to the average."""
    epsilon_scaling: Annotated[PositiveFloat, _correction()] = 1.00045  # arXiv 2308.15321
    """Divide the predicted noise by this."""
    eta: Annotated[Fraction, _sampling()] = 0.0
    """Share of fresh noise at each step, for samplers that add some, such as ddim."""
    clip_noisy: Annotated[PositiveFloat, _correction()] = 100.0
    """Keep noisy concepts within +-X."""
    clip_x0: Annotated[PositiveFloat | None, _correction()] = None
    """Keep predicted concepts, normalized, within +-X."""
    dynamic_threshold: Annotated[Probability | None, _correction()] = None  # arXiv 2205.11487, section 2.3
    """Clip predicted concepts to this quantile of abs(x0), e.g. 0.995, and divide by it."""
    dynamic_threshold_max: Annotated[float, Field(ge=1), _correction()] = 6.0
    """Upper bound of this quantile."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.eta and not SAMPLERS.load(self.sampler).adds_noise:
            raise ConfigError(
                f"eta={self.eta}: {self.sampler} adds no noise, set sampler=ddim (and some 40 steps) or eta=0"
            )
        if self.clip_x0 is not None and self.dynamic_threshold is not None:
            raise ConfigError("clip_x0 and dynamic_threshold both clip predicted concepts: set one of them")
        return self


class GenerationOptions(SamplingOptions):
    """How a model writes a text: how it predicts each concept, what it reads on from, and when it stops."""

    reencode: Annotated[bool, _sampling()] = False
    """Read on from the decoded text, not from the model's own concepts."""
    max_sentences: Annotated[PositiveInt, _stopping(("--max-sentences", "--sentences", "-n"))] = 10
    """Write at most this many sentences."""
    max_prompt: Annotated[PositiveInt, Option(panel="Input and output")] = 256
    """A prompt of more sentences is an error."""
    stop_similarity: Annotated[Similarity | None, _stopping()] = 0.9
    """Stop at a concept with this cosine to end of text or more; 1: never."""
    repetition: Annotated[Similarity | None, _stopping(("--stop-repetition",))] = 0.95
    """Stop at a concept with this cosine to an earlier one or more; 1: never."""

    @property
    def stops_at_end(self) -> bool:
        """Whether a text may end at end of text."""
        return self.stop_similarity is not None and self.stop_similarity < 1

    @classmethod
    def for_model(cls, generation_config: Mapping[str, Any], **changes: Any) -> Self:
        """A model's own options with changes; a change of None leaves the model's (or the default) in place.

        Raises:
            ConfigError: an unknown or contradicting option.
        """
        chosen = {name: value for name, value in changes.items() if value is not None}
        return validate(cls, {**generation_config, **chosen}, prefix="generation")
