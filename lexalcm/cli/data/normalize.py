"""`lcm data normalize`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lexalcm.cli.console import err, out
from lexalcm.cli.data.options import DEFAULT, AsJson


def normalize(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DIR[:WEIGHT]]...", help="Data sets, each with its share of a mixture.  \\[default: data/sample]"
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write it here, not into the data set; required for several."),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="robust (median and quantiles) or standard (mean and deviation).")
    ] = "robust",
    quantiles: Annotated[tuple[float, float], typer.Option("--quantiles", help="Where robust measures the spread.")] = (
        0.25,
        0.75,
    ),
    clip_probability: Annotated[
        float | None, typer.Option("--clip", help="Clip this share of numbers off at either end, e.g. 0.001.")
    ] = None,
    max_concepts: Annotated[
        int, typer.Option("--max-concepts", help="Fit on a uniform sample of this many concepts if there are more.")
    ] = 2_000_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the sample.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit the normalizer of a data set again, or that of a mixture, on the
    training splits.

    `lcm data build` has done so already, with the defaults. Models made before
    keep the normalizer they have. With weights, each data set counts as much as
    its weight is of all weights; without, every concept counts the same.

    \b
    Examples:
      lcm data normalize data/wiki --clip 0.001
      lcm data normalize data/wiki --quantiles 0.0025 0.0075    # what the published code computes
      lcm data normalize data/wiki:4 data/books:1 -o normalizer.safetensors
      lcm bootstrap --data data/wiki --normalizer normalizer.safetensors
    """
    from lexalcm.config import validate
    from lexalcm.data.normalizer.fit import NormalizerSettings
    from lexalcm.data.normalizer.refit import fit_mixture, parse_weighted, refit_normalizer
    from lexalcm.errors import UserError

    given = {
        "method": method,
        "quantiles": quantiles,
        "clip_probability": clip_probability,
        "max_concepts": max_concepts,
        "seed": seed,
    }
    settings = validate(NormalizerSettings, given)
    sets = paths or [str(DEFAULT)]
    with err.status("fitting the normalizer"):
        if to is not None:
            written, stats = fit_mixture(sets, settings, to)
        elif len(sets) > 1:
            raise UserError("the normalizer of a mixture needs a file of its own: give one with --out")
        else:
            written = Path(parse_weighted(sets[0])[0])
            stats = refit_normalizer(written, settings)
    if as_json:
        out.print(json.dumps({name: values.tolist() for name, values in stats.items()}))
        return
    scale = stats["scale"]
    out.print(f"{written}: {len(scale)} dimensions, scale {scale.min():.4g} to {scale.max():.4g}")
