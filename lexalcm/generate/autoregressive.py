"""Concept by concept: continue prompts, each new concept becoming part of the context of the next.

A prompt is read once. Every new concept then costs the contextualizer one position against cached keys and values, the
denoiser the keys and values of the contexts once, and each denoising step one position, with guidance two. Prompts of a
batch may differ in length: rows are padded at their ends, and each row's next concept goes to its own next slot. The
noise of a prompt comes from a generator of its own, so that a prompt's result does not depend, but for rounding, on its
batch.

Shapes: B prompts, L positions, K memory slots, D embedding dimension.
"""

from collections.abc import Generator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lexalcm.errors import UserError
from lexalcm.generate.denoising import ConceptDenoiser, DrawNoise
from lexalcm.generate.options import GenerationOptions
from lexalcm.model.base import BaseLCM
from lexalcm.model.lcm import LCM, evaluating
from lexalcm.model.two_tower import TwoTowerLCM

Concepts = Generator[Tensor, Tensor | None, None]
"""Yields the next concept of every prompt, [B, D]; takes one to put in its place."""


def generate(
    model: LCM, prompts: Sequence[Tensor], options: GenerationOptions, seeds: Sequence[int], max_concepts: int
) -> Concepts:
    """Continue prompts; each concept is yielded as it comes.

    Args:
        model: any architecture; run in evaluation mode.
        prompts: concepts in the codec's space, [n, D] each, n of at least 1.
        options: how a diffusion model generates; stopping rules are the caller's.
        seeds: of each prompt's noise, which is drawn on the CPU: the same on every device.
        max_concepts: how many concepts to make at most; stop iterating to make fewer.

    Yields:
        the next concept of every prompt in the codec's space, float32 [B, D]. What is sent back in its place, [B, D],
        becomes the context of the concepts that follow; nothing sent, or None, leaves it as it is.

    Raises:
        UserError: no prompt, an empty one, another dimension than the model's, NaN, not a seed for each prompt, more
            denoising steps than in training. Raised at the call, not at the first concept.
    """
    if not prompts:
        raise UserError("nothing to continue: give at least one prompt")
    if len(seeds) != len(prompts):
        raise UserError(f"{len(prompts)} prompts with {len(seeds)} seeds: give one seed for each prompt")
    for number, prompt in enumerate(prompts):
        if prompt.ndim != 2 or not len(prompt):
            raise UserError(f"prompt {number}: shape {list(prompt.shape)}, expected at least one concept, [n, dim]")
        model.check_concepts(prompt, f"prompt {number}")
    if max_concepts < 1:
        raise UserError(f"{max_concepts} concepts to generate: ask for at least one")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    dim = model.config.dim
    return generate_from_noise(
        model,
        prompts,
        options,
        lambda: torch.stack([torch.randn(1, dim, generator=generator) for generator in generators]),
        max_concepts,
    )


@torch.inference_mode()
def generate_from_noise(
    model: LCM,
    prompts: Sequence[Tensor],
    options: GenerationOptions,
    draw_noise: DrawNoise,
    max_concepts: int,
    timesteps: Sequence[int] | None = None,
) -> Concepts:
    """`generate` with noise [B, 1, D] from `draw_noise`, called in the order of the concepts; prompts unchecked.

    `timesteps`, descending, replace those that `options.steps` gives.
    """
    slots = max(len(prompt) for prompt in prompts) + max_concepts
    if isinstance(model, BaseLCM):
        return _continue(model, prompts, _BaseReader(model, len(prompts), slots), max_concepts)
    if isinstance(model, TwoTowerLCM):
        denoiser = ConceptDenoiser(model, options, timesteps)
        return _continue(model, prompts, _TwoTowerReader(denoiser, len(prompts), slots, draw_noise), max_concepts)
    raise TypeError(f"no way to generate with {type(model).__name__}")


class _Reader(Protocol):
    """Keeps what is needed of the concepts so far."""

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, used: int) -> None:
        """Take in normalized concepts; arguments as for `Transformer.extend`."""

    def next(self, concept_BD: Tensor, positions_B: Tensor, used: int) -> Tensor:
        """Take in one more concept of each row and guess the one after it, normalized, [B, D]."""


class _BaseReader:
    def __init__(self, model: BaseLCM, rows: int, slots: int) -> None:
        self.model, self.cache = model, model.new_cache(rows, slots)

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, used: int) -> None:
        self.model.extend(concepts_BLD, positions_BL, self.cache, used)

    def next(self, concept_BD: Tensor, positions_B: Tensor, used: int) -> Tensor:
        return self.model.extend(concept_BD[:, None], positions_B[:, None], self.cache, used)[:, 0]


class _TwoTowerReader:
    def __init__(self, denoiser: ConceptDenoiser, rows: int, slots: int, draw_noise: DrawNoise) -> None:
        self.model, self.denoiser, self.draw_noise = denoiser.model, denoiser, draw_noise
        self.cache = self.model.new_cache(rows, slots)

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, used: int) -> None:
        self.model.extend(concepts_BLD, positions_BL, self.cache, used)

    def next(self, concept_BD: Tensor, positions_B: Tensor, used: int) -> Tensor:
        self.read(concept_BD[:, None], positions_B[:, None], used)
        device = self.model.device
        memory_BKW = self.cache.memory[:, : used + 1].contiguous()
        mask_B11K = torch.arange(used + 1, device=device) <= positions_B[:, None, None, None] + 1
        return self.denoiser.denoise(memory_BKW, mask_B11K, lambda: self.draw_noise().to(device))[:, 0]


@torch.inference_mode()
def _continue(model: LCM, prompts: Sequence[Tensor], reader: _Reader, max_concepts: int) -> Concepts:
    device = model.device
    longest = max(len(prompt) for prompt in prompts)
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
        said_BD = yield guess_BD
        concept_BD = model.normalizer.normalize(guess_BD if said_BD is None else said_BD.to(device))
