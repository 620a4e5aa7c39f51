"""Next-concept regression by least squares (LCM paper, section 2.3.1).

Shapes: B rows, L positions, D embedding dimension.
"""

from torch import Tensor, nn

from lexalcm.objective.base import Loss, Objective


class SquaredL2(Objective):
    """Squared L2 distance of the next concept to the model's guess of it, in normalized space, added up over D."""

    def loss(self, embeddings: Tensor, documents: Tensor, positions: Tensor, targets: Tensor) -> Loss:
        """See `Objective.loss`. A document's first concept cannot be a target."""
        concepts_BLD = self.model.normalizer.normalize(embeddings)
        guesses_BLD = self.model(concepts_BLD, documents, positions)
        loss_BL = squared_l2(guesses_BLD[:, :-1], concepts_BLD[:, 1:])
        return Loss.of(nn.functional.pad(loss_BL, (1, 0)), targets & (positions > 0))


def squared_l2(prediction_BLD: Tensor, target_BLD: Tensor) -> Tensor:
    """Squared distance of each position, added up over dimensions in float32, [B, L]."""
    return (prediction_BLD.float() - target_BLD.float()).square().sum(-1)
