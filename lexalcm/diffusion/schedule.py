"""The forward process: how much of a concept is left at each timestep, and how predictions translate into each other.

x_t = alpha_t x_0 + sigma_t noise with alpha_t^2 = alphas_cumprod[t] and sigma_t^2 = 1 - alphas_cumprod[t]. Tables are
computed in float64 and rounded once, to the same float32 numbers on every processor. The published code computes them
in float32, where 1 - alphas_cumprod near t = 0 has four digits and a square root is off by the last bit on some
processors; its alphas_cumprod differ from these by a few times 2^-24.

Shapes: B rows, L positions, D embedding dimension, T timesteps.
"""

import math
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from lexalcm.config import NonNegativeFloat, PositiveFloat, Probability, Settings
from lexalcm.errors import ConfigError

MAX_BETA = 0.999
COSINE_OFFSET = 0.008


class DiffusionSettings(Settings):
    """The noise schedule and the training objective; part of a model's config, since its weights depend on it."""

    steps: Annotated[int, Field(ge=2)] = 100
    """Diffusion timesteps in training."""
    schedule: Literal["cosine", "quadratic", "sigmoid"] = "cosine"
    """How noise grows over the timesteps."""
    beta_start: PositiveFloat = 1e-4
    """Of the quadratic schedule: the first timestep's beta."""
    beta_end: PositiveFloat = 0.02
    """Of the quadratic schedule: the last timestep's beta."""
    sigmoid_alpha: PositiveFloat = 1.5
    """Of the sigmoid schedule: steepness."""
    sigmoid_beta: float = 0.0
    """Of the sigmoid schedule: shift."""
    zero_terminal_snr: bool = True
    """Rescale the schedule so that the last timestep is pure noise (arXiv 2305.08891)."""
    prediction: Literal["x0", "epsilon", "v"] = "x0"
    """What the network predicts: the clean concept, the noise, or the velocity."""
    condition_dropout: Probability = 0.15
    """Share of targets that see no context in training, for guidance."""
    loss_weighting: Literal["none", "clamped-snr"] = "none"
    """Weight of a timestep in the loss; clamped-snr: its signal-to-noise ratio between two bounds."""
    min_weight: NonNegativeFloat = 0.0
    """Of clamped-snr: the lower bound, before weights are scaled to average one."""
    max_weight: PositiveFloat = 5.0
    """Of clamped-snr: the upper bound."""

    @model_validator(mode="after")
    def _check_terminal_snr(self) -> Self:
        if self.prediction == "epsilon" and self.zero_terminal_snr:
            raise ConfigError(
                "diffusion.prediction=epsilon cannot start from pure noise: set diffusion.zero_terminal_snr=false"
            )
        return self


class Prediction(NamedTuple):
    """A network's answer at one timestep, as clean concept and as noise."""

    x0: Tensor
    epsilon: Tensor


class NoiseSchedule:
    """The tables of a schedule and the conversions that need them.

    Args:
        settings: which schedule, how many timesteps, what the network predicts.
        alphas_cumprod: [T], to be taken instead of what the settings give.

    Attributes:
        alphas_cumprod: alpha_t^2 of each timestep, float32 [T] on the CPU.
        snr: signal-to-noise ratio alpha_t^2 / sigma_t^2 of each timestep, float32 [T] on the CPU.
    """

    def __init__(self, settings: DiffusionSettings, alphas_cumprod: Tensor | None = None) -> None:
        self.settings = settings
        self.steps = settings.steps
        signal_T = compute_alphas_cumprod(settings) if alphas_cumprod is None else alphas_cumprod.double()
        self.alphas_cumprod = signal_T.float()
        self.snr = (signal_T / (1 - signal_T)).float()
        self._alpha_sigma_T2 = torch.stack([signal_T, 1 - signal_T], dim=-1).sqrt().float()
        self._alpha_sigma: list[tuple[float, float]] = [tuple(pair) for pair in self._alpha_sigma_T2.tolist()]
        self._per_device: dict[torch.device, Tensor] = {}

    def alpha_sigma(self, timestep: int) -> tuple[float, float]:
        """alpha_t and sigma_t of one timestep, as float32 has them; (1, 0) below the first one, without noise."""
        return (1.0, 0.0) if timestep < 0 else self._alpha_sigma[timestep]

    def add_noise(self, x0_BLD: Tensor, noise_BLD: Tensor, timesteps_BL: Tensor) -> Tensor:
        """x_t of each position at its own timestep."""
        alpha_BL1, sigma_BL1 = self._alpha_sigma_of(timesteps_BL)
        return alpha_BL1 * x0_BLD + sigma_BL1 * noise_BLD

    def target(self, x0_BLD: Tensor, noise_BLD: Tensor, timesteps_BL: Tensor) -> Tensor:
        """What the network is asked to predict: x_0, the noise, or v = alpha_t noise - sigma_t x_0."""
        if self.settings.prediction == "x0":
            return x0_BLD
        if self.settings.prediction == "epsilon":
            return noise_BLD
        alpha_BL1, sigma_BL1 = self._alpha_sigma_of(timesteps_BL)
        return alpha_BL1 * noise_BLD - sigma_BL1 * x0_BLD

    def loss_weights(self, timesteps_BL: Tensor) -> Tensor:
        """Weight of each position's loss; over uniformly drawn timesteps the weights average one.

        Clamped SNR (arXiv 2303.09556): min(max_weight, max(min_weight, snr)). The published code divides by the mean
        over the batch instead of the mean over timesteps, which would tie a target's loss to its neighbours in a batch.
        """
        weights_T = self.snr.double().clamp(self.settings.min_weight, self.settings.max_weight)
        return (weights_T / weights_T.mean()).float().to(timesteps_BL.device)[timesteps_BL]

    def interpret(self, output: Tensor, x_t: Tensor, timestep: int) -> Prediction:
        """A network's output at `timestep` as x_0 and noise, whatever it was trained to predict (any shape)."""
        alpha, sigma = self.alpha_sigma(timestep)
        if self.settings.prediction == "x0":
            return Prediction(output, (x_t - alpha * output) / sigma)
        if self.settings.prediction == "epsilon":
            return Prediction((x_t - sigma * output) / alpha, output)
        return Prediction(alpha * x_t - sigma * output, alpha * output + sigma * x_t)

    def _alpha_sigma_of(self, timesteps_BL: Tensor) -> tuple[Tensor, Tensor]:
        device = timesteps_BL.device
        if device not in self._per_device:
            with torch.inference_mode(False):  # kept for later training steps, which could not use inference tensors
                self._per_device[device] = self._alpha_sigma_T2.to(device)
        alpha_BL1, sigma_BL1 = self._per_device[device][timesteps_BL].split(1, dim=-1)
        return alpha_BL1, sigma_BL1


def compute_alphas_cumprod(settings: DiffusionSettings) -> Tensor:
    """The products of (1 - beta) up to each timestep, float64 [T] on the CPU.

    Cosine: arXiv 2102.09672, eq. 17. Quadratic and sigmoid: LCM paper (arXiv 2412.08821), section 2.3.1. With
    `zero_terminal_snr`, rescaled so that the last timestep is pure noise (arXiv 2305.08891, algorithm 1).
    """
    if settings.schedule == "quadratic":
        roots = (settings.beta_start**0.5, settings.beta_end**0.5)
        betas = torch.linspace(*roots, settings.steps, dtype=torch.float64, device="cpu") ** 2
    else:
        signal = [_signal(settings, i / settings.steps) for i in range(settings.steps + 1)]
        betas = torch.tensor(
            [min(1 - after / before, MAX_BETA) for before, after in pairwise(signal)],
            dtype=torch.float64,
            device="cpu",
        )
    alphas_cumprod = (1 - betas).cumprod(0)
    if not settings.zero_terminal_snr:
        return alphas_cumprod
    root = alphas_cumprod.sqrt()
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2


def _signal(settings: DiffusionSettings, time: float) -> float:
    """alpha^2 of the continuous schedule at `time` in [0, 1], before betas are clamped."""
    if settings.schedule == "cosine":
        return math.cos((time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
    # sigmoid(beta - alpha logit(time)); its limits at the ends of the interval are 1 and 0
    if time in (0.0, 1.0):
        return 1.0 - time
    return 1 / (1 + math.exp(settings.sigmoid_alpha * math.log(time / (1 - time)) - settings.sigmoid_beta))
