"""What a program gets to know of a written sentence: its text, and numbers of its embedding in the codec's space."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lexalcm.generate.continuation import WrittenSentence
from lexalcm.generate.stopping import StopReason

SPACE = "codec"
"""The space that the numbers are of: concepts as the codec takes them, not as the network sees them."""


def sentence_report(sentence: WrittenSentence, before: Tensor) -> dict[str, Any]:
    """One sentence.

    Args:
        sentence: its concept is what the model made, before decoding.
        before: the concept that the model read last, [D].

    Returns:
        `text`; `norm`, `mean` and `std` of the concept; `cosine_to_previous` and `l2_to_previous` to the one before it.
    """
    concept = sentence.concept
    numbers = {
        "norm": concept.norm(),
        "mean": concept.mean(),
        "std": concept.std(correction=0),
        "cosine_to_previous": torch.cosine_similarity(concept, before, dim=0),
        "l2_to_previous": (concept - before).norm(),
    }
    return {"text": sentence.text, **{name: round(float(value), 6) for name, value in numbers.items()}}


def text_report(
    sentences: Iterable[WrittenSentence], prompt_concepts: Tensor, stop: StopReason | None
) -> dict[str, Any]:
    """The sentences of one text, each beside the one before it, and why it ended.

    Args:
        sentences: all of them.
        prompt_concepts: of what is continued, [n, D].
        stop: why the text ended.
    """
    reports = []
    before = prompt_concepts[-1]
    for sentence in sentences:
        reports.append(sentence_report(sentence, before))
        before = sentence.context
    return {"sentences": reports, "stop": stop}
