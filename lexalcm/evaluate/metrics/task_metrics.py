"""The metrics of tasks alone: concepts written against those of a reference. Their names: `lexalcm.registries`."""

from lexalcm.evaluate.metrics.metric import Metric
from lexalcm.evaluate.metrics.scored_example import ScoredExample
from lexalcm.evaluate.metrics.text_similarity import tokenize


def _precision(scored: ScoredExample) -> float:
    return float(scored.cosines.max(axis=1).mean()) if scored.written else 0.0


def _recall(scored: ScoredExample) -> float:
    return float(scored.cosines.max(axis=0).mean()) if scored.written else 0.0


def _f1(scored: ScoredExample) -> float:
    precision, recall = _precision(scored), _recall(scored)
    return 2 * precision * recall / (precision + recall) if precision > 0 and recall > 0 else 0.0


CONCEPT_PRECISION = Metric(
    title="concept precision",
    better="higher",
    definition="mean over the written sentences of the largest cosine to a sentence of the reference",
    compute_example=lambda scored: (_precision(scored), 1),
    scale=100,
    decimals=1,
)
CONCEPT_RECALL = Metric(
    title="concept recall",
    better="higher",
    definition="mean over the sentences of the reference of the largest cosine to a written sentence",
    compute_example=lambda scored: (_recall(scored), 1),
    scale=100,
    decimals=1,
)
CONCEPT_F1 = Metric(
    title="concept F1",
    better="higher",
    definition="harmonic mean of concept precision and concept recall (0 unless both are positive)",
    compute_example=lambda scored: (_f1(scored), 1),
    scale=100,
    decimals=1,
)
LENGTH_RATIO = Metric(
    title="length ratio",
    better=None,
    definition="tokens written, divided by tokens of the reference",
    compute_example=lambda scored: (len(tokenize(scored.text)), len(tokenize(scored.reference_text))),
    needs="text",
    weight="tokens of the reference",
)
