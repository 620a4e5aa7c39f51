"""Concept by concept: continue prompts, each new concept becoming part of the context of the next.

A prompt is read once. Every new concept then costs one position against cached keys and values, and in a diffusion
model each denoising step one position, with guidance two. Prompts of a batch may differ in length: rows are padded at
their ends, and each row's next concept goes to its own next slot. The noise of a prompt comes from a generator of its
own, so that a prompt's result does not depend, but for rounding, on its batch. Texts that have ended leave the batch:
the others then cost what they would in a smaller one.

Shapes: B prompts, L positions, D embedding dimension.
"""

from collections.abc import Generator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lexalcm.diffusion.samplers import DrawNoise
from lexalcm.errors import UserError
from lexalcm.generate.prompts.prompt import check_seed
from lexalcm.model.lcm import LCM, evaluating
from lexalcm.model.predictor import ConceptPredictor

EXPECTED = 32
"""Concepts that caches have room for at first: a text may be allowed to be long and yet end soon."""


class KeepRows(NamedTuple):
    """Which rows of the last answer go on, and with what; the others leave the batch.

    Attributes:
        rows: their places in the last answer, int64 [K], ascending.
        concepts: the context of what follows, [K, D].
    """

    rows: Tensor
    concepts: Tensor


Concepts = Generator[Tensor, Tensor | KeepRows | None, None]
"""Yields the next concept of every prompt, [B, D]; takes one to put in its place."""


def generate(
    predictor: ConceptPredictor, prompts: Sequence[Tensor], seeds: Sequence[int], max_concepts: int
) -> Concepts:
    """Continue prompts; each concept is yielded as it comes.

    Args:
        predictor: a model with its options, see `prepare`; stopping rules are the caller's.
        prompts: concepts in the codec's space, [n, D] each, n of at least 1.
        seeds: of each prompt's noise, which is drawn on the CPU: the same on every device.
        max_concepts: how many concepts to make at most; stop iterating to make fewer.

    Yields:
        the next concept of every prompt in the codec's space, float32 [B, D]. What is sent back in its place, [B, D],
        becomes the context of the concepts that follow; nothing sent, or None, leaves it as it is. A `KeepRows` does so
        for some rows, and the others leave: B is then the number of those.

    Raises:
        UserError: no prompt, an empty one, another dimension than the model's, NaN, not a seed for each prompt. Raised
            at the call, not at the first concept. And what is sent back with another shape, or NaN: where it is sent.
    """
    if not prompts:
        raise UserError("nothing to continue: give at least one prompt")
    if len(seeds) != len(prompts):
        raise UserError(f"{len(prompts)} prompts with {len(seeds)} seeds: give one seed for each prompt")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, Tensor):
            raise UserError(f"prompt {number}: a {type(prompt).__name__}, expected a tensor of concepts, [n, dim]")
        if prompt.ndim != 2 or not len(prompt):
            raise UserError(f"prompt {number}: shape {list(prompt.shape)}, expected at least one concept, [n, dim]")
        predictor.model.check_concepts(prompt, f"prompt {number}")
    if type(max_concepts) is not int or max_concepts < 1:
        raise UserError(f"{max_concepts!r} concepts to generate: ask for a whole number, at least one")
    generators = [torch.Generator().manual_seed(check_seed(seed)) for seed in seeds]
    dim = predictor.model.config.dim
    return generate_from_noise(
        predictor,
        prompts,
        lambda: torch.stack([torch.randn(1, dim, generator=generator) for generator in generators]),
        max_concepts,
    )


@torch.inference_mode()
def generate_from_noise(
    predictor: ConceptPredictor, prompts: Sequence[Tensor], draw_noise: DrawNoise, max_concepts: int
) -> Concepts:
    """`generate` with noise [B, 1, D] from `draw_noise`, called in the order of the concepts; prompts unchecked."""
    model = predictor.model
    device = model.device
    longest = max(len(prompt) for prompt in prompts)
    alive: Tensor | None = None  # which prompts are still continued; none: all

    def draw() -> Tensor:
        return draw_noise().to(device) if alive is None else draw_noise().to(device)[alive]

    reader = predictor.new_reader(len(prompts), longest + min(max_concepts, EXPECTED), draw)
    last_B = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    padded_BLD = pad_sequence([prompt.to(device) for prompt in prompts], batch_first=True)
    concept_BD = model.normalizer.normalize(padded_BLD[torch.arange(len(prompts), device=device), last_B])
    if longest > 1:
        positions_BL = torch.arange(longest - 1, device=device).expand(len(prompts), -1)
        with evaluating(model):
            reader.read(model.normalizer.normalize(padded_BLD[:, :-1]), positions_BL, longest - 1)
    for number in range(max_concepts):
        with evaluating(model):
            guess_BD = model.normalizer.denormalize(reader.next(concept_BD, last_B + number, longest + number))
        sent = yield guess_BD
        _check_sent(model, sent, len(guess_BD))
        if isinstance(sent, KeepRows):
            rows_K = sent.rows.to(device)
            alive = rows_K if alive is None else alive[rows_K]
            last_B = last_B[rows_K]
            longest = int(last_B.max()) + 1
            reader.keep(rows_K)
            sent = sent.concepts
        concept_BD = model.normalizer.normalize(guess_BD if sent is None else sent.to(device))


def _check_sent(model: LCM, sent: Tensor | KeepRows | None, rows: int) -> None:
    if sent is None:
        return
    concepts: object = sent
    if isinstance(sent, KeepRows):
        places, concepts = sent
        if not isinstance(places, Tensor) or places.dtype != torch.int64 or places.ndim != 1 or not len(places):
            raise UserError("the rows that go on: expected their places, int64 [K], K of at least 1")
        listed = places.tolist()
        if listed[0] < 0 or listed[-1] >= rows or listed != sorted(set(listed)):
            raise UserError(f"the rows that go on: {listed}, expected places from 0 to {rows - 1}, ascending")
        rows = len(listed)
    if not isinstance(concepts, Tensor):
        raise UserError(f"sent back: a {type(concepts).__name__}, expected a tensor of concepts, [{rows}, dim]")
    if concepts.ndim != 2 or len(concepts) != rows:
        raise UserError(f"sent back: shape {list(concepts.shape)}, expected a concept for each row, [{rows}, dim]")
    model.check_concepts(concepts, "sent back")
