"""A small line chart as SVG text: one metric by place in the text, a line with its interval for each predictor.

Colours are CSS classes of the page (`series-0` ... `series-5`), so that one picture serves light and dark pages;
letters are large enough for a phone, where the chart is about 340 pixels wide.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lexalcm.evaluate.report import Estimate

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 56
SERIES = 6  # colours
ROUNDING = 1e-6  # of a step: a cosine of 1.0000001 needs no tick above 1


@dataclass(frozen=True)
class Line:
    """A predictor's numbers, one a place; none where there is none."""

    name: str
    colour: int
    estimates: Sequence[Estimate | None]


def draw(lines: Sequence[Line], places: Sequence[str], *, xlabel: str, label: str, scale: float) -> str:
    """Draw lines over places.

    Args:
        lines: what is drawn; those without a number are left out.
        places: names of the places, evenly spaced.
        xlabel: what places are.
        label: what the picture shows, for those who do not see it.
        scale: what numbers are multiplied by.
    """
    ticks = _ticks(
        [
            scale * bound
            for line in lines
            for one in line.estimates
            if one is not None
            for bound in (
                one.value,
                one.low if one.low is not None else one.value,
                one.high if one.high is not None else one.value,
            )
        ]
    )
    low, high = ticks[0], ticks[-1]
    step = (WIDTH - LEFT - RIGHT) / max(1, len(places))

    def x(place: int) -> float:
        return LEFT + step * (place + 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label, quote=True)}">']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y(tick) + 5:.1f}" text-anchor="end">{tick:,.6g}</text>')
    for place, name in enumerate(places):
        parts.append(
            f'<text class="tick" x="{x(place):.1f}" y="{HEIGHT - BOTTOM + 22}" text-anchor="middle">{name}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(xlabel)}</text>')
    for line in lines:
        known = [(place, one) for place, one in enumerate(line.estimates) if one is not None]
        colour = f"series-{min(line.colour, SERIES - 1)}"
        band = [
            (x(place), y(scale * one.low), y(scale * one.high))
            for place, one in known
            if one.low is not None and one.high is not None
        ]
        if len(band) > 1:
            outline = [f"{a:.1f},{b:.1f}" for a, _, b in band] + [f"{a:.1f},{b:.1f}" for a, b, _ in reversed(band)]
            parts.append(f'<polygon class="band {colour}" points="{" ".join(outline)}"/>')
        dots = [(x(place), y(scale * one.value)) for place, one in known]
        if len(dots) > 1:
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in dots)
            parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        parts += [f'<circle class="dot {colour}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in dots]
    return "".join([*parts, "</svg>"])


def _ticks(values: Sequence[float]) -> list[float]:
    """Three to six round numbers, evenly spaced, with all values between the first and the last."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step + ROUNDING), math.ceil(high / step - ROUNDING)
    return [number * step for number in range(first, last + 1)]
