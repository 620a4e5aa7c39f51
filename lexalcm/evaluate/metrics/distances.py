"""How far predictions are from the truth, and how near to their context: one number per target.

Distances are measured in a space that the caller chooses (the evaluation uses the data set's normalized space for every
row of its table). Distances are computed in float64 by the expansion |p - x|^2 = |p|^2 + |x|^2 - 2 p.x: one matrix
product per batch, and memory for one block of distances (128 MB) however large the batch is.
"""

import numpy as np

BLOCK = 2**24  # distances held at a time
TIE = 1e-12  # relative to |p|^2 + |x|^2: distances closer than rounding are the same


def squared_distances(predictions: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Squared L2 distance between each prediction and its target, summed over dimensions.

    Args:
        predictions: [n, dim].
        truth: [n, dim].

    Returns:
        float64 [n].
    """
    difference = np.asarray(predictions, dtype=np.float64) - np.asarray(truth, dtype=np.float64)
    return np.einsum("nd,nd->n", difference, difference)


def contrastive_accuracy(
    predictions: np.ndarray,
    concepts: np.ndarray,
    documents: np.ndarray,
    targets: np.ndarray,
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """The share of a batch's other concepts that are farther (L2) from a prediction than the true one is.

    The true concept and its two neighbours in the document are left out of the comparison; a concept exactly as far
    as the true one counts half. Guessing at random gives 0.5. LCM paper (arXiv 2412.08821), section 2.4.1.

    Args:
        predictions: [n, dim], row i the prediction of concept i; rows that are no targets are not read.
        concepts: [n, dim], all concepts of the evaluation batch, documents one after another.
        documents: int [n], which document each concept belongs to.
        targets: bool [n], which concepts are predicted.
        candidates: bool [n], which concepts a prediction is compared with; none: all.

    Returns:
        float64 [targets.sum()], in order; NaN where nothing is left to compare with.
    """
    x_ND = np.asarray(concepts, dtype=np.float64)
    p_TD = np.asarray(predictions, dtype=np.float64)[targets]
    true_T = np.flatnonzero(targets)
    count = len(x_ND)
    x_norms_N = np.einsum("nd,nd->n", x_ND, x_ND)
    p_norms_T = np.einsum("td,td->t", p_TD, p_TD)
    result_T = np.empty(len(true_T))
    rows = max(1, BLOCK // max(1, count))
    for start in range(0, len(true_T), rows):
        block = slice(start, start + rows)
        true_B = true_T[block]
        scale_BN = p_norms_T[block, None] + x_norms_N
        margin_BN = scale_BN - 2 * (p_TD[block] @ x_ND.T)
        margin_BN -= margin_BN[np.arange(len(true_B)), true_B][:, None]  # > 0: farther than the true concept
        score_BN = np.where(np.abs(margin_BN) <= TIE * scale_BN, 0.5, margin_BN > 0)
        compared_BN = _compared(true_B, documents)
        if candidates is not None:
            compared_BN &= candidates
        with np.errstate(invalid="ignore"):  # nothing to compare with: 0 / 0
            result_T[block] = (score_BN * compared_BN).sum(1) / compared_BN.sum(1)
    return result_T


def _compared(true: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Which concepts each target is compared with, bool [len(true), n]: all but itself and its two neighbours."""
    mask = np.ones((len(true), len(documents)), dtype=bool)
    for step in (-1, 0, 1):
        other = true + step
        inside = (other >= 0) & (other < len(documents))
        inside[inside] = documents[other[inside]] == documents[true[inside]]
        mask[np.flatnonzero(inside), other[inside]] = False
    return mask


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosine of each row with the same row of the other: [n, dim] twice -> float64 [n]; 0 of a row of zeros."""
    return np.einsum("nd,nd->n", unit_rows(one), unit_rows(other))


def largest_context_cosines(predictions: np.ndarray, context: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The largest cosine of predictions of one document to a concept before them.

    Args:
        predictions: [targets, dim].
        context: [n, dim], the document's concepts.
        positions: int [targets], how many of these stand before each prediction.

    Returns:
        float64 [targets]; -inf where nothing stands before.
    """
    p_TD, x_ND = unit_rows(predictions), unit_rows(context)
    result_T = np.empty(len(p_TD))
    rows = max(1, BLOCK // len(x_ND))
    for start in range(0, len(p_TD), rows):
        block = slice(start, start + rows)
        cosine_BN = p_TD[block] @ x_ND.T
        cosine_BN[np.arange(len(x_ND)) >= positions[block, None]] = -np.inf
        result_T[block] = cosine_BN.max(axis=1)
    return result_T


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length one, float64 [n, dim]; rows of zeros stay."""
    vectors = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms == 0, 1, norms)
