"""Continue the documents of a batch after their prefix, as `lcm infer` continues a text, but to the truth's length.

No stopping rule ends a text: every document gets a sentence for each of its own, so that all predictors answer for the
same targets. Memory holds one batch: its prompts, what is written, and the model's caches of both.
"""

import numpy as np
import torch

from lexalcm.errors import LexaError
from lexalcm.evaluate.batches import EvaluationBatch
from lexalcm.evaluate.scene import Prediction
from lexalcm.evaluate.settings import FreeRunning
from lexalcm.generate.continuation import Continuations, WrittenSentence
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.prompt import Prompt
from lexalcm.generate.text import TextModel


def without_stops(options: GenerationOptions, free: FreeRunning) -> GenerationOptions:
    """The same options, but texts are as long as asked for."""
    return options.model_copy(
        update={"stop_similarity": None, "repetition": None, "max_sentences": free.sentences},
    )


def continue_batch(
    writer: TextModel,
    options: GenerationOptions,
    batch: EvaluationBatch,
    *,
    seed: int,
    number: int,
    window: int | None = None,
) -> Prediction:
    """Continue documents, each as far as the batch has it.

    Args:
        writer: a model with the data set's codec.
        options: from `without_stops`.
        batch: [n, dim] embeddings, with their text.
        seed, number: the run's seed and the batch's number; together they seed the noise.
        window: concepts that the model reads of what is given, the last ones; none: all.

    Raises:
        LexaError: the model's concepts are not finite.
    """
    spans = [
        (span, span.start + given)
        for span, given in zip(batch.spans, batch.prefixes.tolist(), strict=True)
        if span.stop - span.start > given
    ]
    predictions = np.full_like(batch.embeddings, np.nan)
    if not spans:
        return Prediction(predictions, [])
    seeds = np.random.SeedSequence([seed, number]).generate_state(len(spans), np.uint32).tolist()
    prompts = []
    for (span, begin), noise in zip(spans, seeds, strict=True):
        given = slice(span.start if window is None else max(span.start, begin - window), begin)
        lang = batch.languages[batch.documents[span.start]]
        concepts = torch.from_numpy(batch.embeddings[given])
        prompts.append(Prompt(batch.sentences[given], lang, lang, noise, concepts))
    written = collect(writer.write_all(prompts, options))
    texts = []
    for (span, begin), sentences in zip(spans, written, strict=True):
        wanted = sentences[: span.stop - begin]
        predictions[begin : span.stop] = torch.stack([one.concept for one in wanted]).numpy()
        texts += [one.text for one in wanted]
    if not np.isfinite(predictions[batch.targets]).all():
        raise LexaError("the model's concepts are not finite numbers: check it with lcm verify model")
    return Prediction(predictions, texts)


def collect(continuations: Continuations) -> list[list[WrittenSentence]]:
    """The whole text that continues each prompt."""
    written: list[list[WrittenSentence]] = [[] for _ in continuations.prompts]
    for round_ in continuations:
        for number, sentence in round_:
            written[number].append(sentence)
    return written
