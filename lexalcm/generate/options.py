"""How a model generates: sampler, guidance, stopping. A base model takes notice of the stopping rules alone.

The defaults are those of the LCM paper (arXiv 2412.08821, section 2.4) but for the sampler: DPM-Solver++ in 12 steps
comes nearer to what 100 steps give than the paper's DDIM in 40 (`tools/compare_samplers.py`, `docs/benchmarks.md`). A
model folder may carry its own in `generation_config.json`; what a caller asks for goes before both.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import Self

from lexalcm.config import NonNegativeFloat, PositiveFloat, PositiveInt, Probability, Settings, validate
from lexalcm.errors import ConfigError
from lexalcm.registries import SAMPLERS

Fraction = Annotated[float, Field(ge=0, le=1)]
Similarity = Annotated[float, Field(ge=-1, le=1)]


class GenerationOptions(Settings):
    """Options of generation.

    Raises:
        ConfigError: options that contradict each other.
    """

    sampler: Annotated[str, AfterValidator(SAMPLERS.check)] = "dpm-solver++"
    steps: PositiveInt = 12  # denoising steps for a concept; exactly so many are run
    guidance_scale: NonNegativeFloat = 3.0  # 1: no guidance
    guidance_rescale: Fraction = 0.7  # arXiv 2305.08891, algorithm 2
    initial_noise_scale: PositiveFloat = 0.6
    epsilon_scaling: PositiveFloat = 1.00045  # the predicted noise is divided by it (arXiv 2308.15321)
    eta: Fraction = 0.0  # ddim: share of fresh noise, 0 deterministic, 1 as DDPM
    clip_noisy: PositiveFloat = 100.0  # noisy concepts are kept within +- this
    clip_x0: PositiveFloat | None = None  # predicted concepts, in normalized space, are kept within +- this
    dynamic_threshold: Probability | None = None  # a quantile of |x0|, e.g. 0.995, to clip and divide by (2205.11487)
    dynamic_threshold_max: Annotated[float, Field(ge=1)] = 6.0
    reencode: bool = False  # the decoded text's concept, not the model's, is the context of what follows
    max_sentences: PositiveInt = 10
    max_prompt: PositiveInt = 256  # sentences of a prompt; a longer one is taken for a mistake
    stop_similarity: Similarity | None = 0.9  # stop at a concept so close (cosine) to end of text; 1 or none: never
    repetition: Similarity | None = 0.95  # stop at a concept so close (cosine) to an earlier one; 1 or none: never

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.eta and not SAMPLERS.load(self.sampler).adds_noise:
            raise ConfigError(
                f"eta={self.eta}: {self.sampler} adds no noise, set sampler=ddim (and some 40 steps) or eta=0"
            )
        if self.clip_x0 is not None and self.dynamic_threshold is not None:
            raise ConfigError("clip_x0 and dynamic_threshold both clip predicted concepts: set one of them")
        return self

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
