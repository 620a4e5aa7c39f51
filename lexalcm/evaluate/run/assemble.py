"""From the numbers of every predictor to a report: means, intervals, differences, for all documents and by group."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lexalcm import __version__
from lexalcm.evaluate.report.report import ALL, Change, Difference, Estimate, Evaluation, Example, Row, Size
from lexalcm.evaluate.run.evaluation_run import Predictor
from lexalcm.evaluate.run.tally import CONFIDENCE, Summary, summarize


def assemble(
    predictors: Sequence[Predictor[Any, Any]],
    tallies: Sequence[np.ndarray],
    *,
    metrics: Sequence[str],
    documents: np.ndarray,
    languages: np.ndarray,
    targets: np.ndarray,
    position_names: Sequence[str],
    position_sizes: Sequence[Size],
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
        tallies: of each predictor [2, metrics, bins, all documents], see `lexalcm.evaluate.run.tally`.
        metrics: their names.
        documents: int [n], those that are reported on.
        languages: [n], of these documents.
        targets: the number of targets of each of them, [n].
        position_names, position_sizes: of each bin of positions; if empty the report has no numbers by position.
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
        name: summarize(
            tallies, documents[chosen], pairs, resamples, seed, by_position=name == ALL and bool(position_names)
        )
        for name, chosen in groups.items()
    }
    used = [bin_ for bin_, size in enumerate(position_sizes) if size.targets]

    def named(values: Sequence[Any]) -> dict[str, Any]:
        return {metric: value for metric, value in zip(metrics, values, strict=True) if value is not None}

    def scores(index: int) -> dict[str, dict[str, Estimate]]:
        return {name: named(summary.scores[index]) for name, summary in summaries.items()}

    def by_position(index: int) -> dict[str, dict[str, Estimate]]:
        return {position_names[bin_]: named(summaries[ALL].positions[bin_][index]) for bin_ in used}

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
        position_sizes={position_names[bin_]: position_sizes[bin_] for bin_ in used},
        rows=[
            Row(one.name, one.kind, scores(index), one.settings, by_position(index))
            for index, one in enumerate(predictors)
        ],
        differences=[difference(pair) for pair in against_baselines],
        comparisons=[difference(pair) for pair in among_models],
        notes=list(notes),
        examples=list(examples),
    )


def _changes(summaries: dict[str, Summary], pair: tuple[int, int], named: Any) -> dict[str, dict[str, Change]]:
    return {name: named(summary.changes[pair]) for name, summary in summaries.items()}
