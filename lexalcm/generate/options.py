"""How a model generates: sampler, guidance, stopping. A base model takes notice of the stopping rules alone.

The defaults are those of the LCM paper (arXiv 2412.08821, section 2.4) but for the sampler: DPM-Solver++ in 12 steps
comes nearer to what 100 steps give than the paper's DDIM in 40 (`tools/compare_samplers.py`, `docs/benchmarks.md`). A
model folder may carry its own in `generation_config.json`; what a caller asks for goes before both.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from lexalcm.config import NonNegativeFloat, PositiveFloat, PositiveInt, Probability, Settings, validate
from lexalcm.errors import ConfigError
from lexalcm.option import Option

Fraction = Annotated[float, Field(ge=0, le=1)]
Similarity = Annotated[float, Field(ge=-1, le=1)]

_own = partial(Option, default="")  # helps do not tell the default: it is the model's own
_sampling = partial(_own, panel="How to sample")
_correction = partial(_own, panel="Corrections of sampling")
_stopping = partial(_own, panel="When to stop")


class SamplingOptions(Settings):
    """How a diffusion model predicts one concept.

    Raises:
        ConfigError: options that contradict each other.
    """

    sampler: Annotated[
        Literal["ddim", "dpm-solver++"], _sampling("How steps are taken: {choices}.", metavar="NAME")
    ] = "dpm-solver++"
    steps: Annotated[PositiveInt, _sampling("Denoising steps of a diffusion model.")] = 12
    guidance_scale: Annotated[
        NonNegativeFloat, _sampling("Classifier-free guidance scale; 1 is none.", ("--guidance",))
    ] = 3.0
    # arXiv 2305.08891, algorithm 2
    guidance_rescale: Annotated[Fraction, _sampling("How far guided noise gets the spread of the unguided.")] = 0.7
    initial_noise_scale: Annotated[
        PositiveFloat, _sampling("Size of the starting noise; smaller is nearer to the average.", ("--noise-scale",))
    ] = 0.6
    # arXiv 2308.15321
    epsilon_scaling: Annotated[PositiveFloat, _correction("Divide the predicted noise by this.")] = 1.00045
    eta: Annotated[Fraction, _sampling("Share of fresh noise at each step of ddim; 1 is as DDPM.")] = 0.0
    clip_noisy: Annotated[PositiveFloat, _correction("Keep noisy concepts within +-X.")] = 100.0
    clip_x0: Annotated[PositiveFloat | None, _correction("Keep predicted concepts, normalized, within +-X.")] = None
    # arXiv 2205.11487, section 2.3
    dynamic_threshold: Annotated[
        Probability | None,
        _correction("Clip predicted concepts to this quantile of |x0|, divide by it."),
    ] = None
    dynamic_threshold_max: Annotated[float, Field(ge=1), _correction("The most that this quantile counts as.")] = 6.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.eta and self.sampler != "ddim":
            raise ConfigError(
                f"eta={self.eta}: {self.sampler} adds no noise, set sampler=ddim (and some 40 steps) or eta=0"
            )
        if self.clip_x0 is not None and self.dynamic_threshold is not None:
            raise ConfigError("clip_x0 and dynamic_threshold both clip predicted concepts: set one of them")
        return self


class GenerationOptions(SamplingOptions):
    """How a model writes a text: how it predicts each concept, what it reads on from, and when it stops."""

    reencode: Annotated[bool, _sampling("Read on from the decoded text, not from the model's own concepts.")] = False
    max_sentences: Annotated[
        PositiveInt, _stopping("Write at most so many sentences.", ("--max-sentences", "--sentences", "-n"))
    ] = 10
    max_prompt: Annotated[
        PositiveInt, Option("A prompt of more sentences is taken for a mistake.", panel="What to read and write")
    ] = 256
    stop_similarity: Annotated[
        Similarity | None, _stopping("End at a concept so near (cosine) to end of text; 1: never.")
    ] = 0.9
    repetition: Annotated[
        Similarity | None,
        _stopping("End at a concept so near (cosine) to an earlier one; 1: never.", ("--stop-repetition",)),
    ] = 0.95

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
