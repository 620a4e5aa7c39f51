"""The examples of a task: read from JSONL, and what is written for them compared with their references."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lexalcm.codec.base import Codec
from lexalcm.data.languages import find_language
from lexalcm.data.segment import segment
from lexalcm.errors import DataError, UserError
from lexalcm.evaluate.catalogue import TASK_METRICS
from lexalcm.evaluate.metrics import cosines, unit_rows
from lexalcm.evaluate.text_metrics import RepeatedNgrams, chrf, join_sentences, rouge_l, tokenize
from lexalcm.evaluate.text_of_concepts import encode_texts
from lexalcm.generate.seen_language import see_language

FIELDS = {"source", "reference", "lang", "id"}


@dataclass(frozen=True)
class TaskExample:
    """A text to continue, and what it should become."""

    id: str
    lang: str
    source: list[str]  # sentences, one at least
    reference: list[str]


def read_examples(file: Path, limit: int | None = None, codec: Codec | None = None) -> list[TaskExample]:
    """Read a JSONL file of `source`, `reference`, and where given `lang` and `id`; other fields are left alone.

    Args:
        file: UTF-8, an object a line; empty lines are passed over.
        limit: read no more than so many.
        codec: what will read them, which helps to see their language.

    Raises:
        DataError: no such file, a line that is not of this form, or none at all.
    """
    examples: list[TaskExample] = []
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip() and (limit is None or len(examples) < limit):
                    examples.append(_example(line, f"{file}, line {number}", number, codec))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: convert it first, e.g. with iconv") from error
    if not examples:
        raise DataError(f"{file} has no example: write one JSON object a line, with source and reference")
    return examples


def _example(line: str, where: str, number: int, codec: Codec | None) -> TaskExample:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: write one object a line, with source and reference") from error
    texts = {}
    for name in ("source", "reference"):
        text = record.get(name) if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise DataError(f"{where}: the field {name} must be a text")
        texts[name] = text
    lang = _language(record.get("lang"), texts["source"], where, codec)
    sentences = {name: segment(text, lang) for name, text in texts.items()}
    for name, found in sentences.items():
        if not found:
            raise DataError(f"{where}: {name} has no sentence")
    name = str(record.get("id", number)).encode("utf-8", "replace").decode()  # no report can hold half a character
    return TaskExample(name, lang, sentences["source"], sentences["reference"])


def _language(given: object, text: str, where: str, codec: Codec | None) -> str:
    if given and not isinstance(given, str):
        raise DataError(f"{where}: lang must be a language's code or name")
    try:
        return find_language(given) if isinstance(given, str) and given else see_language(text, codec)
    except UserError as error:
        raise DataError(f"{where}: {error}") from error


def score_examples(codec: Codec, examples: Sequence[TaskExample], written: Sequence[Sequence[str]]) -> np.ndarray:
    """Compare what was written with the references.

    Args:
        codec: embeds both.
        examples: of them.
        written: the sentences for each.

    Returns:
        Numbers times weights, and weights, of the metrics in `TASK_METRICS`: float64 [2, metrics, examples, 1].
    """
    texts = [
        (sentence, example.lang)
        for example, sentences in zip(examples, written, strict=True)
        for sentence in [*sentences, *example.reference, example.source[-1]]
    ]
    embedded = encode_texts(codec, [text for text, _ in texts], [lang for _, lang in texts])
    scores = []
    start = 0
    for example, sentences in zip(examples, written, strict=True):
        middle, end = start + len(sentences), start + len(sentences) + len(example.reference)
        scores.append(_score(example, sentences, embedded[start:middle], embedded[middle:end], embedded[end]))
        start = end + 1
    table = np.array([[values[name] for name in TASK_METRICS] for values in scores], dtype=np.float64)
    return np.moveaxis(table, 0, 2)[..., None].swapaxes(0, 1)


def _score(
    example: TaskExample, written: Sequence[str], ours: np.ndarray, theirs: np.ndarray, before: np.ndarray
) -> dict[str, tuple[float, float]]:
    text, reference = join_sentences(written), join_sentences(example.reference)
    precision = recall = 0.0
    if written:
        cosine_WR = unit_rows(ours) @ unit_rows(theirs).T
        precision, recall = float(cosine_WR.max(axis=1).mean()), float(cosine_WR.max(axis=0).mean())
    f1 = 2 * precision * recall / (precision + recall) if precision > 0 and recall > 0 else 0.0
    neighbours = cosines(ours, np.concatenate([before[None], ours[:-1]])) if written else np.empty(0)
    ngrams = RepeatedNgrams()
    counts = [ngrams.add(sentence) for sentence in written]
    return {
        "rouge_l": (rouge_l(text, reference), 1),
        "chrf": (chrf(text, reference), 1),
        "concept_precision": (precision, 1),
        "concept_recall": (recall, 1),
        "concept_f1": (f1, 1),
        "coherence": (float(neighbours.sum()), len(neighbours)),
        "repetition": (sum(one for one, _ in counts), sum(every for _, every in counts)),
        "length_ratio": (len(tokenize(text)), len(tokenize(reference))),
    }
