"""A metric of another package: how long predictions are, relative to the true concepts.

An average of several concepts is shorter than each of them: below 1 a model averages over what could follow.
"""

import numpy as np

from lexalcm.evaluate.metrics.metric import Metric
from lexalcm.evaluate.metrics.scored_batch import ScoredBatch, Values


def norm_ratio(scored: ScoredBatch) -> Values:
    """The sum of the first is divided by the sum of the second: float [targets] each."""
    return np.linalg.norm(scored.predictions, axis=1), np.linalg.norm(scored.truth, axis=1)


NORM_RATIO = Metric(
    title="norm ratio",
    better=None,
    definition="L2 norm of the prediction, divided by that of the true concept, in the codec's space",
    compute=norm_ratio,
    groups=("embedding",),
    weight="the norm of the true concept",
)
