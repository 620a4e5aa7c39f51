"""An objective of another package: the direction of the next concept, whatever its length."""

from torch import Tensor, nn

from lexalcm.objective import Loss, Objective


class Cosine(Objective):
    """Cosine distance of the next concept to the model's guess of it, in normalized space."""

    def loss(self, embeddings: Tensor, documents: Tensor, positions: Tensor, targets: Tensor) -> Loss:
        """See `Objective.loss`; the guess of a concept is at the position before it."""
        concepts_BLD = self.model.normalizer.normalize(embeddings)
        guesses_BLD = self.model(concepts_BLD, documents, positions)
        cosine_BL = nn.functional.cosine_similarity(guesses_BLD[:, :-1], concepts_BLD[:, 1:], dim=-1)
        return Loss.of(nn.functional.pad(1 - cosine_BL, (1, 0)), targets & (positions > 0))
