"""The figures of the data report: each takes numbers and gives a Matplotlib figure in the current theme."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from lexalcm.pages.style import colour, new_axes

SHOWN_LANGUAGES = 6
POINTS = 6000  # at most drawn
FEW = 100  # points, up to which they are drawn large
BINS = 50
SHARE_OF_LANGUAGE = "share of the language's sentences"


def document_lengths(lengths: np.ndarray) -> Figure:
    """Histogram of the documents' lengths."""
    figure, axes = new_axes("document length (concepts)", "number of documents")
    long_tailed = lengths.max() > 20 * np.median(lengths)
    if long_tailed:
        edges = np.unique(np.geomspace(1, lengths.max() + 1, 40).astype(int))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    else:
        step = max(1, int(np.ceil(lengths.max() / BINS)))
        edges = np.arange(0, lengths.max() + step + 1, step) - (0.5 if step == 1 else 0)  # a bar over its number
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.hist(lengths, bins=edges.tolist(), color=colour(0), alpha=0.9, rwidth=1 if long_tailed else 0.9)
    _count_axis(axes)
    return figure


def sentence_lengths(lengths: np.ndarray, languages: np.ndarray, order: Sequence[str]) -> Figure:
    """Histogram of the sentences' lengths, one outline per language; a long tail is counted in the last bin."""
    longest = min(int(lengths.max()), int(1.5 * np.quantile(lengths, 0.995)))
    cut = "; longer ones in the last bin" if longest < lengths.max() else ""
    figure, axes = new_axes(f"sentence length (characters{cut})", SHARE_OF_LANGUAGE)
    step = max(1, int(np.ceil(longest / BINS)))
    _histograms_by_language(
        axes, np.minimum(lengths, longest), languages, order, np.arange(0, longest + step + 1, step)
    )
    return figure


def norms(values: np.ndarray, languages: np.ndarray, order: Sequence[str]) -> Figure:
    """L2 norms of the embeddings, per language; norms that are all the same are shown as the peak they are."""
    figure, axes = new_axes("L2 norm of the embedding", SHARE_OF_LANGUAGE)
    middle, spread = float(np.median(values)), float(np.ptp(values))
    half = max(spread / 2, 0.05 * middle, 1e-6)
    center = (values.max() + values.min()) / 2
    _histograms_by_language(axes, values, languages, order, np.linspace(center - half, center + half, BINS + 2))
    return figure


def coordinate_quantiles(quantiles: np.ndarray) -> Figure:
    """Quantiles of each normalized coordinate, beside those of a standard normal distribution.

    Args:
        quantiles: [5, dim], the 1, 25, 50, 75 and 99% quantiles.
    """
    figure, axes = new_axes("dimension (sorted by spread)", "normalized value")
    low, lower, middle, upper, high = quantiles[:, np.argsort(quantiles[-1] - quantiles[0])]
    dimensions = np.arange(1, len(middle) + 1)
    axes.fill_between(dimensions, low, high, color=colour(0), alpha=0.25, linewidth=0, label="1–99%")
    axes.fill_between(dimensions, lower, upper, color=colour(0), alpha=0.6, linewidth=0, label="25–75%")
    axes.plot(dimensions, middle, color=colour(0), linewidth=1.2, label="median")
    for value in (-2.326, -0.674, 0.674, 2.326):  # the same quantiles of a standard normal distribution
        label = "standard normal" if value > 1 else None
        axes.axhline(value, color=colour(1), linewidth=1, linestyle=(0, (4, 3)), label=label)
    axes.set_xlim(1, max(2, len(middle)))
    axes.margins(y=0.18)
    axes.legend(ncols=2, loc="upper left")
    return figure


def pca(points: np.ndarray, shares: np.ndarray, languages: np.ndarray, order: Sequence[str]) -> Figure:
    """The sentences on the first two principal components, coloured by language."""
    figure, axes = new_axes(f"PC 1 ({shares[0]:.1%} of variance)", f"PC 2 ({shares[1]:.1%} of variance)")
    shown = np.arange(len(points))
    if len(points) > POINTS:
        shown = np.sort(np.random.default_rng(0).choice(len(points), POINTS, replace=False))
    for number, (label, members) in enumerate(_language_series(languages[shown], order)):
        x, y = points[shown[members]].T
        axes.scatter(
            x,
            y,
            s=7 if len(shown) > FEW else 30,
            color=colour(number),
            alpha=0.45,
            linewidths=0,
            label=label,
            rasterized=True,
        )
    legend = axes.legend(loc="best", markerscale=2.5 if len(shown) > FEW else 1)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    return figure


def pair_similarities(consecutive: np.ndarray, random: np.ndarray) -> Figure:
    """Cosine similarities of consecutive sentences beside those of random pairs; dashed, the means."""
    figure, axes = new_axes("cosine similarity of two sentences", "share of pairs")
    together = np.concatenate([consecutive, random])
    edges = np.linspace(together.min(), min(1.0, together.max()) + 1e-6, BINS + 1)
    for number, (values, label) in enumerate([(consecutive, "consecutive"), (random, "random")]):
        if len(values):
            _histogram(axes, values, edges, number, label)
            axes.axvline(values.mean(), color=colour(number), linewidth=1, linestyle=(0, (4, 3)))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylim(0, None)
    axes.legend()
    return figure


def _language_series(languages: np.ndarray, order: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """(label, members) per language; beyond six, the smallest are one series."""
    kept = order if len(order) <= SHOWN_LANGUAGES else order[: SHOWN_LANGUAGES - 1]
    series = [(language, np.flatnonzero(languages == language)) for language in kept]
    if len(kept) < len(order):
        series.append((f"{len(order) - len(kept)} others", np.flatnonzero(~np.isin(languages, kept))))
    return series


def _histograms_by_language(
    axes: Axes, values: np.ndarray, languages: np.ndarray, order: Sequence[str], edges: np.ndarray
) -> None:
    for number, (label, members) in enumerate(_language_series(languages, order)):
        _histogram(axes, values[members], edges, number, label)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylim(0, None)
    axes.legend()


def _histogram(axes: Axes, values: np.ndarray, edges: np.ndarray, number: int, label: str) -> None:
    shares = np.histogram(values, edges)[0] / len(values)
    axes.stairs(shares, edges, fill=True, color=colour(number), alpha=0.18)
    axes.stairs(shares, edges, color=colour(number), linewidth=1.8, label=label)


def _count_axis(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(axis="x", visible=False)
