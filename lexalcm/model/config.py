"""Every choice that a model's weights or its computation depend on, in one typed config.

The config is saved as `config.json` beside the weights. Learning rates, batch sizes and generation options are not part
of it: they may change without the weights changing their meaning.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from lexalcm.codec.base import CodecRecord
from lexalcm.config import PositiveFloat, PositiveInt, Probability, Settings
from lexalcm.diffusion.schedule import DiffusionSettings
from lexalcm.errors import ConfigError
from lexalcm.registries import ARCHITECTURES

AttentionKernel = Literal["auto", "sdpa", "flex"]


class ModelConfig(Settings):
    """Sizes and objective of an LCM.

    Raises:
        ConfigError: an architecture that nothing has, heads that do not divide the width, an odd head size (rotary
            positions turn pairs), or what the architecture refuses (`LCM.check_config`).
    """

    architecture: str
    """The architecture: lcm bootstrap --list shows them."""
    preset: str | None = None
    """The preset that it was made from; its sizes may have been changed since."""
    dim: Annotated[int, Field(gt=0, le=2**20)]
    """Numbers in a concept; given by the data set."""
    width: Annotated[int, Field(gt=0, le=2**20)]
    """Numbers in a hidden state."""
    num_heads: PositiveInt
    """Attention heads of a layer; must divide the width into even parts."""
    ffn_dim: Annotated[int, Field(gt=0, le=2**22)]
    """Inner size of the gated feed-forward network."""
    num_layers: Annotated[int, Field(gt=0, le=10_000)]
    """Layers of the tower that predicts: the only one, or the denoiser."""
    context_layers: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Layers of a contextualizer beside that tower."""
    dropout: Probability = 0.1
    """On the output of every attention and feed-forward block."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary positions."""
    norm_eps: Annotated[float, Field(gt=0, le=1)] = 1e-5
    """Added to the variance in norms."""
    attention: AttentionKernel = "auto"
    """The kernel of attention over packed rows; auto: FlexAttention on a GPU, SDPA elsewhere."""
    diffusion: DiffusionSettings | None = None
    """Of an architecture that denoises; filled with its defaults."""
    codec: CodecRecord | None = None
    """Which embeddings the weights were made for; given by the data set."""

    @model_validator(mode="before")
    @classmethod
    def _fill_diffusion(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(name := values.get("architecture"), str):
            return values
        if ARCHITECTURES.load(name).denoises and values.get("diffusion") is None:
            return {**values, "diffusion": {}}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.num_heads:
            raise ConfigError(f"num_heads={self.num_heads} does not divide width={self.width}: change one of them")
        if self.width // self.num_heads % 2:
            raise ConfigError(
                f"width={self.width} over num_heads={self.num_heads} gives heads of odd size "
                f"{self.width // self.num_heads}: change one of them"
            )
        if self.codec is not None and self.codec.dim != self.dim:
            raise ConfigError(
                f"dim={self.dim}, but codec {self.codec.name} makes {self.codec.dim}-dimensional concepts"
            )
        ARCHITECTURES.load(self.architecture).check_config(self)
        return self
