"""When a text ends: at a concept near end of text, at one that repeats an earlier one, or at a length.

An answer in a conversation ends at what stands behind answers in the data, a role's concept or end of text. A base
model predicts the average of what may follow, so that a mixture of these is an end as well: what counts is the cosine
between a concept and the mixture of these (with weights of zero or more) that is nearest to it.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from scipy.optimize import nnls
from torch import Tensor

from lexalcm.generate.options import GenerationOptions

StopReason = Literal["end of text", "end of turn", "repetition", "length"]


class StoppingRules:
    """The rules of one text, fed with its concepts in order.

    Args:
        options: thresholds; a rule whose threshold is None or 1 never holds.
        end_of_text: the codec's concept for it, [D], or None.
        prompt: the concepts that the text begins with, [D] each.
        turn_ends: of an answer, the concepts that may stand behind it, [D] each.
    """

    def __init__(
        self,
        options: GenerationOptions,
        end_of_text: Tensor | None,
        prompt: Sequence[Tensor],
        turn_ends: Sequence[Tensor] = (),
    ) -> None:
        self.options = options
        self.end_of_text = end_of_text
        self._turn_ends = torch.stack(list(turn_ends), dim=1).double().numpy() if turn_ends else None
        self._seen = list(prompt)
        self._made = 0

    def before(self, concept: Tensor) -> StopReason | None:
        """Why the text ends before this concept, if it does.

        A concept near end of text is the end itself. One that repeats what the text already contains adds nothing.
        """
        options = self.options
        ends = [] if self.end_of_text is None else [self.end_of_text]
        if _is_near(concept, ends, options.stop_similarity):
            return "end of text"
        if self._turn_ends is not None:
            weights, _ = nnls(self._turn_ends, concept.double().numpy())
            mixture = torch.from_numpy(self._turn_ends @ weights).float()
            if _is_near(concept, [mixture], options.stop_similarity):
                return "end of turn"
        if _is_near(concept, self._seen, options.repetition):
            return "repetition"
        return None

    def after(self, concept: Tensor) -> StopReason | None:
        """Take in a concept that became part of the text, and say whether the text ends with it."""
        self._seen.append(concept)
        self._made += 1
        return "length" if self._made >= self.options.max_sentences else None


def _is_near(concept: Tensor, others: Sequence[Tensor], threshold: float | None) -> bool:
    if threshold is None or threshold >= 1 or not others:
        return False
    return bool((torch.cosine_similarity(torch.stack(list(others)), concept, dim=-1) > threshold).any())
