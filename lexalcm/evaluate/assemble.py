"""From the numbers of every predictor to a report: means, intervals, differences, for all documents and by group."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lexalcm import __version__
from lexalcm.evaluate.evaluation_run import Predictor
from lexalcm.evaluate.report import ALL, Change, Difference, Estimate, Evaluation, Example, Row, Size
from lexalcm.evaluate.tally import CONFIDENCE, Summary, summarize


def assemble(
    predictors: Sequence[Predictor[Any, Any]],
    tallies: Sequence[np.ndarray],
    *,
    metrics: Sequence[str],
    documents: np.ndarray,
    languages: np.ndarray,
    targets: np.ndarray,
    place_names: Sequence[str],
    place_sizes: Sequence[Size],
    resamples: int,
    seed: int,
    dataset: dict[str, Any],
    settings: dict[str, Any],
    notes: Sequence[str],
    examples: Sequence[Example],
) -> Evaluation:
    """Make the report.

    Args:
        predictors: in the order of the table.
        tallies: of each predictor [2, metrics, bins, all documents], see `lexalcm.evaluate.tally`.
        metrics: their names.
        documents: int, those that count: n of them.
        languages: theirs, [n].
        targets: how many each of them has, [n].
        place_names, place_sizes: of each bin; none at all: the report has no numbers by place.
        resamples, seed: of the bootstrap.
        dataset, settings, notes, examples: see `Evaluation`.
    """
    models = [index for index, one in enumerate(predictors) if one.kind == "model"]
    others = [index for index, one in enumerate(predictors) if one.kind == "baseline"]
    against_baselines = [(model, other) for model in models for other in others]
    among_models = [(one, other) for place, one in enumerate(models) for other in models[place + 1 :]]
    pairs = [*against_baselines, *among_models]
    groups = {ALL: np.ones(len(languages), dtype=bool)}
    groups |= {str(language): languages == language for language in np.unique(languages)}
    summaries = {
        name: summarize(tallies, documents[chosen], pairs, resamples, seed, places=name == ALL and bool(place_names))
        for name, chosen in groups.items()
    }
    used = [place for place, size in enumerate(place_sizes) if size.targets]

    def named(values: Sequence[Any]) -> dict[str, Any]:
        return {metric: value for metric, value in zip(metrics, values, strict=True) if value is not None}

    def scores(index: int) -> dict[str, dict[str, Estimate]]:
        return {name: named(summary.scores[index]) for name, summary in summaries.items()}

    def places(index: int) -> dict[str, dict[str, Estimate]]:
        return {place_names[place]: named(summaries[ALL].places[place][index]) for place in used}

    def difference(pair: tuple[int, int]) -> Difference:
        return Difference(predictors[pair[0]].name, predictors[pair[1]].name, _changes(summaries, pair, named))

    return Evaluation(
        dataset=dataset,
        settings={
            **settings,
            "seed": seed,
            "resamples": resamples,
            "confidence": CONFIDENCE,
            "lexalcm": __version__,
        },
        metrics=list(metrics),
        sizes={name: Size(int(chosen.sum()), int(targets[chosen].sum())) for name, chosen in groups.items()},
        place_sizes={place_names[place]: place_sizes[place] for place in used},
        rows=[
            Row(one.name, one.kind, scores(index), one.settings, places(index)) for index, one in enumerate(predictors)
        ],
        differences=[difference(pair) for pair in against_baselines],
        comparisons=[difference(pair) for pair in among_models],
        notes=list(notes),
        examples=list(examples),
    )


def _changes(summaries: dict[str, Summary], pair: tuple[int, int], named: Any) -> dict[str, dict[str, Change]]:
    return {name: named(summary.changes[pair]) for name, summary in summaries.items()}
