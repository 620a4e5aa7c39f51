"""Continue the documents of a batch after their prefix, as `lcm infer` continues a text, but to the truth's length.

Of a conversation each answer is written behind the true turns before it. No stopping rule ends a text: every document
gets a sentence for each of its own, so that all predictors answer for the same targets. Memory holds one batch: its
prompts, what is written, and the model's caches of both.
"""

import numpy as np
import torch

from lexalcm.errors import LexaError
from lexalcm.evaluate.metrics.scored_batch import BatchPrediction
from lexalcm.evaluate.run.batches import EvaluationBatch
from lexalcm.evaluate.settings import FreeRunning
from lexalcm.generate.continuation import Continuations, WrittenSentence
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.prompts.prompt import Prompt
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
) -> BatchPrediction:
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
    continuations, is_sentence = batch.continuations, batch.is_sentence
    predictions = np.full_like(batch.embeddings, np.nan)
    if not continuations:
        return BatchPrediction(predictions, [])
    seeds = np.random.SeedSequence([seed, number]).generate_state(len(continuations), np.uint32).tolist()
    prompts = []
    for (start, begin, _), noise in zip(continuations, seeds, strict=True):
        given = slice(start if window is None else max(start, begin - window), begin)
        lang = batch.languages[batch.documents[start]]
        concepts = torch.from_numpy(batch.embeddings[given])
        answers = not is_sentence[begin - 1]  # behind the concept of the assistant
        prompts.append(Prompt(batch.sentences[given], lang, lang, noise, concepts, answers=answers))
    longest = max(stop - begin for _, begin, stop in continuations)
    written = collect(writer.write_all(prompts, options.model_copy(update={"max_sentences": longest})))
    texts = []
    for (_, begin, stop), sentences in zip(continuations, written, strict=True):
        wanted = sentences[: stop - begin]
        predictions[begin:stop] = torch.stack([one.concept for one in wanted]).numpy()
        texts += [one.text for one in wanted]
    if not np.isfinite(predictions[batch.targets]).all():
        raise LexaError("the model's concepts are not finite numbers: check it with lcm verify model")
    return BatchPrediction(predictions, texts)


def collect(continuations: Continuations) -> list[list[WrittenSentence]]:
    """The whole text that continues each prompt."""
    written: list[list[WrittenSentence]] = [[] for _ in continuations.prompts]
    for round_ in continuations:
        for number, sentence in round_:
            written[number].append(sentence)
    return written
