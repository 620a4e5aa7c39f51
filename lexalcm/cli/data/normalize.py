"""`lcm data normalize`."""

import json
from typing import Annotated

import typer

from lexalcm.cli.console import err, out
from lexalcm.cli.data.options import DEFAULT, AsJson, Dir


def normalize(
    path: Dir = DEFAULT,
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
        int, typer.Option("--max-concepts", help="Fit on a uniform sample of so many concepts if there are more.")
    ] = 1_000_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the sample.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit the normalizer of a data set again, on its training split.

    `lcm data build` has done so already, with the defaults. Models made before
    keep the normalizer they have.

    \b
    Examples:
      lcm data normalize data/wiki --clip 0.001
      lcm data normalize data/wiki --quantiles 0.0025 0.0075    # what the published code computes
    """
    from lexalcm.config import validate
    from lexalcm.data.build import refit_normalizer
    from lexalcm.data.normalize import NormalizerSettings

    given = {
        "method": method,
        "quantiles": quantiles,
        "clip_probability": clip_probability,
        "max_concepts": max_concepts,
        "seed": seed,
    }
    with err.status("fitting the normalizer"):
        stats = refit_normalizer(path, validate(NormalizerSettings, given))
    if as_json:
        out.print(json.dumps({name: values.tolist() for name, values in stats.items()}))
        return
    scale = stats["scale"]
    out.print(f"{path}: {len(scale)} dimensions, scale {scale.min():.4g} to {scale.max():.4g}", markup=False)
