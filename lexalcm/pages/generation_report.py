"""The report of a generated concept: its denoising trajectories, beside the sentence that really follows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lexalcm.data.format.dataset import Dataset
from lexalcm.errors import DataError, UserError
from lexalcm.generate.continuation import embed
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.prompts.prompt import Prompt
from lexalcm.generate.text import TextModel
from lexalcm.io.atomic import check_output
from lexalcm.io.progress import Progress, silent
from lexalcm.model.storage.codec_match import check_codec_match
from lexalcm.pages import generation_figures as figures
from lexalcm.pages.generation_trace import Trace, Trajectory, check_denoises, trace
from lexalcm.pages.page import PAGE, Fact, FigureSpec, draw_figures, render_page, write_report
from lexalcm.pages.style import Format
from lexalcm.text.running_text import join_sentences

DECODED = 6
"""Steps of each trajectory whose estimate is decoded."""

SHOWN_PROMPT = 12
"""Sentences of the prompt in the matrix, the last ones."""

SHOWN_CHARACTERS = 700
"""Of the prompt, at the head of the page."""

OF_DOCUMENT = 9
"""The sentence of a document to guess, by default."""


@dataclass(frozen=True)
class DecodedStep:
    """The model's estimate of the concept, decoded."""

    step: int
    timestep: int
    squared_l2: float
    cosine: float
    text: str


@dataclass(frozen=True)
class Sentence:
    """A sentence of the matrix."""

    name: str
    text: str


def text_prompt(model: TextModel, text: str, options: GenerationOptions, lang: str | None, seed: int) -> Prompt:
    """A text whose last sentence is to be guessed.

    Raises:
        UserError: fewer than two sentences.
    """
    prompt = model.prompt(text, options, lang=lang, seed=seed)
    if len(prompt.sentences) < 2:
        raise UserError("the last sentence is the one to guess from those before it: give at least two sentences")
    [concepts] = embed(model.codec, [(prompt.sentences, prompt.lang)])
    return Prompt(prompt.sentences, prompt.lang, prompt.to, seed, concepts)


def document_prompt(model: TextModel, data: str, split: str, document: str, sentence: int | None, seed: int) -> Prompt:
    """The first sentences of a document of a data set, the last of them to be guessed.

    Args:
        model: whose codec must be the data set's.
        data: the data set.
        split: of it.
        document: its number in the split, or its id.
        sentence: the one to guess, counted from 1; None: the ninth, or the last of a shorter document.
        seed: of the noise.

    Raises:
        UserError: no such data set, split, document or sentence.
        CodecError: the data set's concepts are another codec's.
    """
    dataset = Dataset.open(data)
    check_codec_match(model.model.config, model.folder, dataset.manifest.codec, dataset.address)
    documents = dataset.split(split)
    if document.isdecimal() and int(document) < len(documents):
        number = int(document)
    else:
        known = (i for i in range(len(documents)) if documents.document(i)["id"] == document)
        number = next(known, -1)
        if number < 0:
            raise DataError(f"{data} has no document {document} in {split}: give an id, or 0 to {len(documents) - 1}")
    content = documents.document(number)
    length = int(documents.lengths[number])
    chosen = sentence if sentence is not None else min(OF_DOCUMENT, length)
    if not 2 <= chosen <= length:
        raise UserError(f"--sentence {chosen}: document {document} has {length} sentences, choose 2 to {length}")
    if "sentences" not in content:
        raise DataError(f"{data} stores no text: there is nothing to show beside the guess")
    concepts = torch.from_numpy(np.array(documents.embeddings(number)[:chosen], dtype=np.float32))
    return Prompt(tuple(content["sentences"][:chosen]), content["lang"], content["lang"], seed, concepts)


def report_generation(
    model: TextModel,
    prompt: Prompt,
    options: GenerationOptions,
    out: Path | str,
    *,
    samples: int = 4,
    command: str = "lcm visualize generation",
    format: Format = "png",
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the report of a generation into the folder `out`.

    Args:
        model: a diffusion model with its codec.
        prompt: sentences with their concepts, the last of which is to be guessed.
        options: of generation.
        out: a new folder for `index.html` and the pictures.
        samples: number of trajectories with guidance, and of those without, from seeds that follow the prompt's.
        command: what made the report.
        format: of the pictures.
        overwrite: replace `out` if it exists.
        progress: opens a report of long work.

    Returns:
        What was written, distances and decoded texts.

    Raises:
        UserError: a base model, more steps than it was trained with, or `out` cannot be written.
    """
    check_output(out, overwrite=overwrite, marker=PAGE)
    check_denoises(model.model, model.folder)
    assert prompt.concepts is not None
    with progress("generating", "trajectories") as report:
        seeds = [prompt.seed + number for number in range(samples)]
        traced = trace(model, prompt.concepts, options, seeds)
        report(1, 2)
        context = Prompt(prompt.sentences[:-1], prompt.lang, prompt.to, prompt.seed, prompt.concepts[:-1])
        written = list(model.write(context, options))
        report(2, 2)
    decoded = {trajectory.name: _decode(model, trajectory, prompt.to) for trajectory in traced.trajectories}
    sentences, matrix, blocks = _matrix(prompt, [one.text for one in written], [one.concept for one in written])
    specs = _figure_specs(traced, sentences, matrix, blocks)
    drawn = draw_figures(specs, format, progress)
    values = {
        "title": "Denoising of one concept",
        "command": command,
        "model": str(model.folder),
        "lang": prompt.lang.replace("_", "-"),
        "to": prompt.to.replace("_", "-"),
        "facts": _facts(prompt, traced, samples),
        "context": _ending(prompt.sentences[:-1]),
        "truth": prompt.sentences[-1],
        "figures": drawn,
        "decoded": decoded,
        "sentences": sentences,
        "hidden": max(0, len(prompt.sentences) - 1 - SHOWN_PROMPT),
        "options": options,
    }
    files = write_report(out, render_page("generation.html.j2", values), drawn, overwrite=overwrite)
    return {
        "out": str(out),
        "files": files,
        "model": str(model.folder),
        "options": options.model_dump(mode="json"),
        "truth": prompt.sentences[-1],
        "squared_l2_of_mean": traced.squared_l2_of_mean,
        "squared_l2_of_last": traced.squared_l2_of_last,
        "trajectories": [
            {
                "name": trajectory.name,
                "guidance_scale": trajectory.guidance,
                "timesteps": list(trajectory.timesteps),
                "squared_l2": trajectory.squared_l2.tolist(),
                "cosine": trajectory.cosine.tolist(),
                "decoded": [asdict(step) for step in decoded[trajectory.name]],
            }
            for trajectory in traced.trajectories
        ],
        "written": [one.text for one in written],
        "similarities": {"sentences": [sentence.name for sentence in sentences], "cosine": matrix.tolist()},
    }


def _decode(model: TextModel, trajectory: Trajectory, lang: str) -> list[DecodedStep]:
    """Some steps of the first sample, decoded, the first and the last among them."""
    count = len(trajectory.timesteps)
    chosen = np.unique(np.linspace(0, count - 1, DECODED).round().astype(int)).tolist()
    texts = model.codec.decode(trajectory.estimates[chosen, 0].numpy(), lang)
    return [
        DecodedStep(
            step + 1,
            trajectory.timesteps[step],
            float(trajectory.squared_l2[step, 0]),
            float(trajectory.cosine[step, 0]),
            text,
        )
        for step, text in zip(chosen, texts, strict=True)
    ]


def _matrix(
    prompt: Prompt, texts: Sequence[str], concepts: Sequence[Tensor]
) -> tuple[list[Sentence], np.ndarray, list[int]]:
    """Sentences with short names, the cosines of all pairs, and how many are prompt, truth and the model's."""
    assert prompt.concepts is not None
    first = max(0, len(prompt.sentences) - 1 - SHOWN_PROMPT)
    sentences = [Sentence(f"{first + i}", text) for i, text in enumerate(prompt.sentences[first:-1], start=1)]
    blocks = [len(sentences), 1, len(texts)]
    sentences.append(Sentence("T", prompt.sentences[-1]))
    sentences += [Sentence(_letters(number), text) for number, text in enumerate(texts)]
    together = torch.cat([prompt.concepts[first:], *[concept[None].float() for concept in concepts]])
    unit = torch.nn.functional.normalize(together, dim=-1)
    return sentences, (unit @ unit.T).numpy(), [block for block in blocks if block]


def _letters(number: int) -> str:
    """a, b, ..., z, then by number."""
    return chr(ord("a") + number) if number < 26 else f"+{number + 1}"


def _ending(sentences: Sequence[str]) -> str:
    """The last sentences of a text, whole, as many as fit; at least one."""
    kept = len(sentences) - 1
    while kept and sum(map(len, sentences[kept - 1 :])) <= SHOWN_CHARACTERS:
        kept -= 1
    return ("… " if kept else "") + join_sentences(sentences[kept:])


def _facts(prompt: Prompt, traced: Trace, samples: int) -> list[Fact]:
    facts = [
        Fact(f"{len(prompt.sentences) - 1}", "sentences read"),
        Fact(f"{len(traced.trajectories[0].timesteps)}", "denoising steps"),
    ]
    for trajectory in traced.trajectories:
        kind = "guided" if trajectory.guidance != 1 else "unguided"
        facts.append(
            Fact(
                f"{trajectory.squared_l2[-1].mean():.4g}", f"squared L2 to the true concept after the last step, {kind}"
            )
        )
    return [
        *facts,
        Fact(f"{traced.squared_l2_of_mean:.4g}", "squared L2 of the mean of all concepts (no model)"),
        Fact(f"{samples}", "samples"),
    ]


def _figure_specs(
    traced: Trace, sentences: Sequence[Sentence], matrix: np.ndarray, blocks: Sequence[int]
) -> list[FigureSpec]:
    return [
        FigureSpec(
            "squared_l2",
            "Squared L2 distance by denoising step",
            "Distance to the truth: between the estimate after each step and the sentence that really follows, in "
            "normalized space. Faint: each sample; strong: their mean. A sample is one of the possible sentences, so "
            "the mean of all concepts may well be nearer.",
            figures.distances,
            (traced,),
        ),
        FigureSpec(
            "cosine",
            "Cosine similarity by denoising step",
            "Direction of the truth: the same in the codec's space, where length does not count.",
            figures.cosines,
            (traced.trajectories,),
        ),
        FigureSpec(
            "trajectory",
            "Denoising trajectory",
            "The trajectory from above: from the mean of all concepts (square) the straight line to the truth (star) "
            "leads to the right; upwards is everything else. Faint: each sample; strong: their mean, which ends at the "
            "large dot.",
            figures.trajectory_plane,
            (traced.trajectories,),
        ),
        FigureSpec(
            "self_similarity",
            "Self-similarity matrix",
            "Who resembles whom: cosine similarities of the prompt's sentences (numbers), the truth (T), and what the "
            "model writes after the prompt (letters). A stripe among the letters: the model repeats itself.",
            figures.similarity_matrix,
            (matrix, [sentence.name for sentence in sentences], blocks),
        ),
    ]
