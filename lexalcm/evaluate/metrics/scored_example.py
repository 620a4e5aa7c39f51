"""An example of a task with what was written for it, and its metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lexalcm.codec.base import Codec
from lexalcm.evaluate.metrics.distances import unit_rows
from lexalcm.evaluate.metrics.text_of_concepts import encode_texts
from lexalcm.evaluate.run.examples import TaskExample
from lexalcm.registries import METRICS
from lexalcm.text.running_text import join_sentences


@dataclass
class ScoredExample:
    """What metrics of tasks are computed from."""

    example: TaskExample
    written: Sequence[str]
    """The sentences that continue the source; may be none."""
    written_concepts: np.ndarray
    """[written, dim]"""
    reference_concepts: np.ndarray
    """[reference, dim]"""
    source_concept: np.ndarray
    """Of the source's last sentence, [dim]."""

    @cached_property
    def text(self) -> str:
        """What was written, as running text."""
        return join_sentences(self.written)

    @cached_property
    def reference_text(self) -> str:
        """The reference, as running text."""
        return join_sentences(self.example.reference)

    @cached_property
    def cosines(self) -> np.ndarray:
        """Of each sentence written to each of the reference: [written, reference]."""
        return unit_rows(self.written_concepts) @ unit_rows(self.reference_concepts).T


def score_examples(
    codec: Codec, examples: Sequence[TaskExample], written: Sequence[Sequence[str]], metrics: Sequence[str]
) -> np.ndarray:
    """Compare what was written with the references.

    Args:
        codec: embeds both.
        examples: the examples.
        written: the sentences for each.
        metrics: their names.

    Returns:
        Numbers times weights, and weights: float64 [2, metrics, examples, 1].
    """
    texts = [
        (sentence, example.lang)
        for example, sentences in zip(examples, written, strict=True)
        for sentence in [*sentences, *example.reference, example.source[-1]]
    ]
    embedded = encode_texts(codec, [text for text, _ in texts], [lang for _, lang in texts])
    functions = [compute for name in metrics if (compute := METRICS.load(name).compute_example)]
    scores = []
    start = 0
    for example, sentences in zip(examples, written, strict=True):
        middle, end = start + len(sentences), start + len(sentences) + len(example.reference)
        scored = ScoredExample(example, sentences, embedded[start:middle], embedded[middle:end], embedded[end])
        scores.append([compute(scored) for compute in functions])
        start = end + 1
    return np.moveaxis(np.array(scores, dtype=np.float64), 0, 2)[..., None].swapaxes(0, 1)
