"""Time text generation as its user sees it: the first sentence of a loaded model, and many prompts at once.

Everything counts: segmenting and embedding the prompt, all denoising steps, decoding. Weights are new, which costs what
trained ones do; the embedded codec is fitted on a part of the packaged text, with which prompts also begin.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lexalcm.codec.lsa.codec import LsaCodec
from lexalcm.data.sources.corpus import Source, read_documents
from lexalcm.data.sources.sample import packaged_text
from lexalcm.generate.prompts.prompt import Prompt
from lexalcm.generate.text import TextModel
from lexalcm.model.create import create_model
from lexalcm.model.placement import to_device
from lexalcm.model.presets import preset
from lexalcm.text.segment import segment

EVERY = 10
"""Of the packaged documents, every n-th is fitted on: 2,000 sentences."""

PROMPT_SENTENCES = (1, 8)
"""Prompts have from one to this many sentences, in turn."""


def text_rates(preset_name: str, prompts: int, sentences: int, repeats: int, device: str) -> dict[str, Any]:
    """Measure a preset.

    Args:
        preset_name: e.g. `"two-tower-small"`.
        prompts: continued together, and one by one.
        sentences: made for each.
        repeats: how many times both are timed, alternating.
        device: of the model.

    Returns:
        seconds to the first sentence (once, with what is prepared for model and options; and then), sentences per
        second both ways, and the median ratio of a turn's two times; the same of the process's own processor time,
        which other programs on the machine disturb less.
    """
    documents = _documents()
    codec = LsaCodec.create([("eng_Latn", document) for document in documents])
    model = to_device(create_model(preset(preset_name, codec.dim), seed=0).eval(), device)
    writer = TextModel(Path(), model, codec, None)
    options = writer.options(max_sentences=sentences, stop_similarity=1, repetition=1)
    low, high = PROMPT_SENTENCES
    texts = [
        " ".join(documents[number % len(documents)][: low + number % (high - low + 1)]) for number in range(prompts)
    ]

    def prompt(number: int) -> Prompt:
        return writer.prompt(texts[number], options, lang="eng_Latn", seed=number)

    began = time.perf_counter()
    next(writer.write(prompt(0), options))
    cold = time.perf_counter() - began
    first = []
    for number in range(1, 1 + max(3, repeats)):
        began = time.perf_counter()
        next(writer.write(prompt(number % prompts), options))
        first.append(time.perf_counter() - began)

    def write_together() -> None:
        rounds = writer.write_all([prompt(number) for number in range(prompts)], options)
        assert sum(len(sentences) for sentences in rounds) == prompts * options.max_sentences

    def write_alone() -> None:
        for number in range(prompts):
            assert len(list(writer.write(prompt(number), options))) == options.max_sentences

    together, alone = zip(*((_time(write_together), _time(write_alone)) for _ in range(repeats)), strict=True)
    return {
        "preset": preset_name,
        "prompts": prompts,
        "first_sentence_seconds": {"cold": round(cold, 4), "warm": round(statistics.median(first), 4)},
        "sentences_per_s": {
            "one by one": round(prompts * sentences / statistics.median(wall for wall, _ in alone), 2),
            "together": round(prompts * sentences / statistics.median(wall for wall, _ in together), 2),
        },
        "speedup": {
            clock: round(statistics.median(one[i] / all_[i] for one, all_ in zip(alone, together, strict=True)), 2)
            for i, clock in enumerate(("time", "processor time"))
        },
    }


def _time(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock and of this process's processors."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def _documents() -> Sequence[list[str]]:
    with packaged_text() as path:
        chosen = [one for one in read_documents([Source(path, path.name)]) if one.lang == "eng_Latn"][::EVERY]
    return [sentences for one in chosen if (sentences := segment(one.text, one.lang))]
