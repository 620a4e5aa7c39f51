"""The metrics of data sets, some of which are also those of tasks. Their names: `METRICS` in `lexalcm.registries`."""

from collections.abc import Callable

import numpy as np

from lexalcm.errors import DataError
from lexalcm.evaluate.metrics.distances import contrastive_accuracy, cosines, squared_distances
from lexalcm.evaluate.metrics.metric import Metric
from lexalcm.evaluate.metrics.scored_batch import ScoredBatch, Values, unweighted
from lexalcm.evaluate.metrics.scored_example import ScoredExample
from lexalcm.evaluate.metrics.text_of_concepts import encode_texts
from lexalcm.evaluate.metrics.text_similarity import RepeatedNgrams, chrf, rouge_l


def _squared_l2(scored: ScoredBatch) -> Values:
    return unweighted(squared_distances(scored.tools.space(scored.predictions), scored.tools.space(scored.truth)))


SQUARED_L2 = Metric(
    title="squared L2",
    better="lower",
    definition="squared distance of the prediction from the true concept, summed over dimensions, in the data set's "
    "normalized space",
    compute=_squared_l2,
    groups=("default", "embedding", "all"),
)


def _contrastive_accuracy(scored: ScoredBatch) -> Values:
    batch, space = scored.batch, scored.tools.space
    accuracies = contrastive_accuracy(
        space(scored.prediction.embeddings),
        space(batch.embeddings),
        batch.documents,
        batch.targets,
        batch.is_sentence,
    )
    if np.isnan(accuracies).any():
        raise DataError(
            f"split {scored.tools.split} holds too few concepts for contrastive accuracy: "
            "after a target and its two neighbours, none is left to compare with"
        )
    return unweighted(accuracies)


CONTRASTIVE_ACCURACY = Metric(
    title="contrastive accuracy",
    better="higher",
    definition="share of the other concepts of the evaluation batch that are farther from the prediction than the true "
    "one",
    compute=_contrastive_accuracy,
    groups=("default", "embedding", "all"),
    scale=100,
    unit="%",
    decimals=1,
)


def _cosine(scored: ScoredBatch) -> Values:
    return unweighted(cosines(scored.predictions, scored.truth))


COSINE = Metric(
    title="cosine to the truth",
    better="higher",
    definition="cosine of the prediction and the true concept, in the codec's space",
    compute=_cosine,
    groups=("embedding", "all"),
)


def _context_cosine(scored: ScoredBatch) -> Values:
    return scored.where_context(scored.context_cosines(np.asarray(scored.prediction.embeddings)))


CONTEXT_COSINE = Metric(
    title="largest cosine to the context",
    better=None,
    definition="the largest cosine of the prediction to a preceding concept, in the codec's space",
    compute=_context_cosine,
    groups=("embedding", "all"),
)


def _paraphrasing(scored: ScoredBatch) -> Values:
    return _context_cosine(scored)[0], scored.context_cosines(scored.batch.embeddings)


PARAPHRASING = Metric(
    title="paraphrasing",
    better=None,
    definition="the largest cosine of the prediction to a preceding concept, divided by that of the true concept; "
    "above 1: repeats the context more than the truth does",
    compute=_paraphrasing,
    groups=("embedding", "all"),
    weight="the largest cosine of the true concept to a preceding one",
)


def _coherence(scored: ScoredBatch) -> Values:
    truth, last = scored.batch.embeddings, scored.batch.last_sentence[scored.targets]
    previous = truth[last]
    if scored.free:
        previous = np.where((last >= scored.batch.begins)[:, None], scored.prediction.embeddings[last], previous)
    return scored.where_context(cosines(scored.predictions, previous))


def _coherence_of_example(scored: ScoredExample) -> tuple[float, float]:
    if not scored.written:
        return 0.0, 0.0
    previous = np.concatenate([scored.source_concept[None], scored.written_concepts[:-1]])
    return float(cosines(scored.written_concepts, previous).sum()), len(previous)


COHERENCE = Metric(
    title="coherence",
    better=None,
    definition="cosine of a predicted or written concept to the preceding one",
    compute=_coherence,
    compute_example=_coherence_of_example,
    groups=("embedding", "all"),
)


def _round_trip_l2(scored: ScoredBatch) -> Values:
    again = encode_texts(scored.codec, scored.texts, scored.languages)
    return unweighted(squared_distances(scored.tools.space(again), scored.tools.space(scored.truth)))


ROUND_TRIP_L2 = Metric(
    title="round-trip squared L2",
    better="lower",
    definition="as squared L2, of the prediction decoded to text and embedded again",
    compute=_round_trip_l2,
    groups=("text", "all"),
    needs="text",
)


def _between_texts(similarity: Callable[[str, str], float]) -> Callable[[ScoredBatch], Values]:
    def compute(scored: ScoredBatch) -> Values:
        pairs = zip(scored.texts, scored.true_texts, strict=True)
        return unweighted(np.array([similarity(decoded, true) for decoded, true in pairs], dtype=np.float64))

    return compute


ROUGE_L = Metric(
    title="ROUGE-L",
    better="higher",
    definition="F1 of the longest common subsequence of the tokens of the decoded text and the true text",
    compute=_between_texts(rouge_l),
    compute_example=lambda scored: (rouge_l(scored.text, scored.reference_text), 1),
    groups=("text", "all"),
    needs="text",
    scale=100,
    decimals=1,
)
CHRF = Metric(
    title="chrF",
    better="higher",
    definition="F2 of the character n-grams, n = 1 to 6, of the decoded text and the true text",
    compute=_between_texts(chrf),
    compute_example=lambda scored: (chrf(scored.text, scored.reference_text), 1),
    groups=("text", "all"),
    needs="text",
    decimals=1,
)


def _repetition(scored: ScoredBatch) -> Values:
    repeated, counts = [], []
    decoded, is_sentence = iter(scored.texts), scored.batch.is_sentence
    for passage in scored.passages:
        # A continuation is compared with itself alone (rep-4), a teacher-forced prediction with the document so far.
        before = RepeatedNgrams()
        for place in range(passage.written if scored.free else passage.start, passage.stop):
            if scored.targets[place]:
                found = before.add(next(decoded)) if scored.free else before.count(next(decoded))
                repeated.append(found[0])
                counts.append(found[1])
            if not scored.free and is_sentence[place]:
                before.add(scored.batch.sentences[place])
    return np.array(repeated, dtype=np.float64), np.array(counts, dtype=np.float64)


def _repetition_of_example(scored: ScoredExample) -> tuple[float, float]:
    ngrams = RepeatedNgrams()
    counts = [ngrams.add(sentence) for sentence in scored.written]
    return sum(repeated for repeated, _ in counts), sum(every for _, every in counts)


REPETITION = Metric(
    title="repeated 4-grams",
    better="lower",
    definition="share of the decoded text's 4-grams that already occur in the text before",
    compute=_repetition,
    compute_example=_repetition_of_example,
    groups=("text", "all"),
    needs="text",
    weight="its number of 4-grams",
    scale=100,
    unit="%",
    decimals=1,
)


def _mutual_information(scored: ScoredBatch) -> Values:
    if scored.tools.language_model is None:
        raise ValueError("mutual information without a language model")
    pairs = []
    truth, is_sentence = np.array(scored.batch.sentences, dtype=object), scored.batch.is_sentence
    decoded = truth.copy()
    decoded[scored.targets] = scored.texts
    for passage in scored.passages:
        context = passage.context(truth, decoded)
        for place in passage.targets.tolist():
            before = context[: place - passage.start][is_sentence[passage.start : place]]
            pairs.append((before[-scored.tools.lm_context :].tolist(), decoded[place]))
    return scored.tools.language_model.gain(pairs)


MUTUAL_INFORMATION = Metric(
    title="mutual information",
    better="higher",
    definition="(log p(text | up to 10 preceding sentences) - log p(text)) / tokens, by a language model, in nats",
    compute=_mutual_information,
    groups=("text", "all"),
    needs="language model",
    weight="its number of tokens",
)
