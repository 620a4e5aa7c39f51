"""The figures of noise schedules: each takes schedules and gives a Matplotlib figure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lexalcm.diffusion.schedule import NoiseSchedule
from lexalcm.pages.style import colour, new_axes, theme_colour

MARKERS = ("o", "D", "s", "^", "v", "P")
TIMESTEP = "timestep (noise increases →)"
LOG_SNR = "log-SNR, ln(α²/σ²)"


def noise_schedule(schedules: Mapping[str, NoiseSchedule]) -> Figure:
    """The coefficients of the concept and of the noise at each timestep."""
    figure, axes = new_axes(TIMESTEP, "coefficient")
    for number, (name, schedule) in enumerate(schedules.items()):
        alphas = schedule.alphas_cumprod.double().numpy()
        timesteps = np.arange(schedule.steps)
        axes.plot(timesteps, np.sqrt(alphas), color=colour(number), label=name)
        axes.plot(timesteps, np.sqrt(1 - alphas), color=colour(number), linestyle=(0, (4, 2)), linewidth=1.4)
    kinds = [
        Line2D([], [], color=theme_colour("muted")),
        Line2D([], [], color=theme_colour("muted"), linestyle=(0, (4, 2))),
    ]
    handles, labels = axes.get_legend_handles_labels() if len(schedules) > 1 else ([], [])
    axes.legend(
        [*handles, *kinds],
        [*labels, "concept (α)", "noise (σ)"],
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=3,
    )
    axes.set_xlim(0, None)
    return figure


def log_snr(schedules: Mapping[str, NoiseSchedule]) -> Figure:
    """The logarithm of the signal-to-noise ratio; a timestep without signal has none and is left out."""
    figure, axes = new_axes(TIMESTEP, LOG_SNR)
    for number, (name, schedule) in enumerate(schedules.items()):
        values = log_snr_of(schedule)
        known = np.isfinite(values)
        axes.plot(np.flatnonzero(known), values[known], color=colour(number), label=name)
    axes.axhline(0, color=theme_colour("muted"), linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlim(0, None)
    if len(schedules) > 1:
        axes.legend()
    return figure


def sampler_timesteps(schedule: NoiseSchedule, steps: Mapping[str, Sequence[int]]) -> Figure:
    """The timesteps at which samplers' steps begin, on the log-SNR curve; pure noise is drawn at the bottom.

    Args:
        schedule: the curve.
        steps: of each sampler, descending.
    """
    figure, axes = new_axes(TIMESTEP, LOG_SNR)
    values = log_snr_of(schedule)
    finite = values[np.isfinite(values)]
    floor = finite.min() - 0.12 * np.ptp(finite)
    heights = np.where(np.isfinite(values), values, floor)
    known = np.isfinite(values)
    axes.plot(np.flatnonzero(known), values[known], color=theme_colour("muted"), linewidth=1.2)
    for number, (name, timesteps) in enumerate(steps.items()):
        style: dict[str, Any] = {
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": "none",
            "markersize": max(8 - 2.5 * number, 3),
            "fillstyle": "full" if number else "none",
            "markeredgewidth": 1.6,
        }
        label = f"{name}, {len(timesteps)} steps"
        axes.plot(timesteps, heights[timesteps], color=colour(number), label=label, **style)
    if not known.all():
        axes.annotate(
            "pure noise: −∞",
            (schedule.steps - 1, floor),
            xytext=(-12, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=theme_colour("muted"),
            fontsize=10,
        )
    axes.legend()
    return figure


def loss_weights(schedule: NoiseSchedule) -> Figure:
    """The factor of the loss at each timestep in training; one on average."""
    figure, axes = new_axes(TIMESTEP, "loss weight")
    axes.plot(schedule.loss_weights(torch.arange(schedule.steps)).numpy())
    axes.set_ylim(0, None)
    return figure


def log_snr_of(schedule: NoiseSchedule) -> np.ndarray:
    """The natural logarithm of the signal-to-noise ratio of each timestep, [T]; minus infinity without signal."""
    return np.array([math.log(snr) if snr > 0 else -math.inf for snr in schedule.snr.tolist()])
