"""Generation: caches, batches and seeds change nothing; what is asked for is what is run."""

from collections.abc import Iterator

import pytest
import torch
from tiny_models import CONFIGS, DIM, lively_model, packed_rows
from torch import Tensor

from lexalcm.errors import ConfigError, UserError
from lexalcm.generate.autoregressive import generate, generate_from_noise
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.teacher_forced import predict_each, predict_each_from_noise
from lexalcm.model import LCM, BaseLCM, TwoTowerLCM

ARCHITECTURES = list(CONFIGS)
OPTIONS = GenerationOptions(steps=6, guidance_scale=2.0)
SAMPLERS = [OPTIONS, GenerationOptions(steps=6, sampler="dpm-solver++"), GenerationOptions(steps=6, eta=0.5)]


def prompts_of(lengths: list[int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, DIM, generator=generator) for length in lengths]


def run(model: LCM, prompts: list[Tensor], options: GenerationOptions, seeds: list[int], concepts: int) -> Tensor:
    return torch.stack(list(generate(model, prompts, options, seeds, concepts)), dim=1)


def fixed_noise(concepts: Tensor) -> Iterator[Tensor]:
    return iter(concepts.split(1, dim=1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_caches_change_nothing(architecture: str) -> None:
    """Concept k from caches equals the first concept after a prompt that already holds the k - 1 before it."""
    model = lively_model(architecture)
    prompts = prompts_of([3, 3])
    noise = torch.randn(2, 4, DIM, generator=torch.Generator().manual_seed(1))
    cached = generate_from_noise(model, prompts, OPTIONS, fixed_noise(noise).__next__, 4)
    for number, concept in enumerate(cached):
        fresh = generate_from_noise(model, prompts, OPTIONS, lambda k=number: noise[:, k : k + 1], 1)
        torch.testing.assert_close(concept, next(fresh), rtol=1e-4, atol=1e-4)
        prompts = [torch.cat([prompt, row[None]]) for prompt, row in zip(prompts, concept, strict=True)]


@pytest.mark.parametrize("options", SAMPLERS, ids=["ddim", "dpm-solver++", "eta"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prompt_does_not_depend_on_its_batch(architecture: str, options: GenerationOptions) -> None:
    model = lively_model(architecture)
    prompts = prompts_of([1, 5, 2])
    together = run(model, prompts, options, [7, 8, 9], 3)
    for number, seed in enumerate([7, 8, 9]):
        alone = run(model, [prompts[number]], options, [seed], 3)
        torch.testing.assert_close(together[number], alone[0], rtol=1e-4, atol=1e-4)


def test_the_seed_decides() -> None:
    model = lively_model("two-tower")
    first, same, other = (run(model, prompts_of([2]), OPTIONS, [seed], 2) for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_guessing_each_concept_equals_generating_after_each_prefix(architecture: str) -> None:
    model = lively_model(architecture)
    rows = packed_rows([[4, 3], [5]], 8)
    noise = torch.randn(2, 8, DIM, generator=torch.Generator().manual_seed(1))
    arguments = (rows["embeddings"], rows["documents"], rows["positions"])
    guesses = predict_each_from_noise(model, *arguments, OPTIONS, lambda: noise)
    for row, column in rows["targets"].nonzero().tolist():
        start = column - int(rows["positions"][row, column])
        prompt = rows["embeddings"][row, start:column]
        concept = noise[row, column][None, None]
        expected = next(generate_from_noise(model, [prompt], OPTIONS, lambda x=concept: x, 1))
        torch.testing.assert_close(guesses[row, column], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_first_concepts_and_padding_have_no_guess(architecture: str) -> None:
    rows = packed_rows([[4, 3], [5]], 8)
    guesses = predict_each(
        lively_model(architecture), rows["embeddings"], rows["documents"], rows["positions"], OPTIONS, 0
    )
    assert torch.equal(guesses.isfinite().all(-1), rows["targets"])
    assert torch.equal(guesses.isnan().all(-1), ~rows["targets"])


def test_no_guidance_is_the_conditional_model() -> None:
    model = lively_model("two-tower")
    assert isinstance(model, TwoTowerLCM)
    prompt = prompts_of([3])[0]
    noise = torch.randn(1, 1, DIM)
    plain = {"guidance_scale": 1.0, "initial_noise_scale": 1.0}
    # one step from pure noise: the answer is the denoiser's, by the training pass's way
    one_step = next(generate_from_noise(model, [prompt], GenerationOptions(steps=1, **plain), lambda: noise, 1))
    concepts = model.normalizer.normalize(torch.cat([prompt, torch.zeros(1, DIM)])[None])
    documents, positions = torch.zeros(1, 4, dtype=torch.int64), torch.arange(4)[None]
    noisy = torch.cat([torch.zeros(1, 3, DIM), noise], dim=1)
    output = model.predict(
        concepts, documents, positions, noisy, torch.full((1, 4), 99), torch.zeros(1, 4, dtype=torch.bool)
    )
    torch.testing.assert_close(one_step[0], model.normalizer.denormalize(output[0, 3]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_runs_the_steps_it_is_asked_for(scale: float) -> None:
    model = lively_model("two-tower")
    assert isinstance(model, TwoTowerLCM)
    calls = []
    denoise = model.denoiser.denoise
    model.denoiser.denoise = lambda *arguments: calls.append(1) or denoise(*arguments)  # type: ignore[method-assign]
    run(model, prompts_of([2]), GenerationOptions(steps=40, guidance_scale=scale), [0], 1)
    assert len(calls) == 40


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generation_leaves_the_training_mode(architecture: str) -> None:
    model = lively_model(architecture, dropout=0.5).train()
    first, second = (run(model, prompts_of([2]), OPTIONS, [0], 2) for _ in range(2))
    assert torch.equal(first, second)  # no dropout
    assert model.training
    model(**packed_rows([[3]], 3)).sum.backward()  # what generation kept does not get in the way of training


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bad_prompts_are_refused_at_the_call(architecture: str) -> None:
    model = lively_model(architecture)
    good = prompts_of([2])[0]
    nan = good.clone()
    nan[1, 0] = torch.nan
    for prompts, seeds, concepts, message in [
        ([], [], 1, "at least one prompt"),
        ([good], [], 1, "one seed"),
        ([good[:0]], [0], 1, "prompt 0"),
        ([good, good[0]], [0, 0], 1, "prompt 1"),
        ([good[:, 1:]], [0], 1, f"{DIM} numbers"),
        ([nan], [0], 1, "NaN"),
        ([good.long()], [0], 1, "floating-point"),
        ([good], [0], 0, "at least one"),
    ]:
        with pytest.raises(UserError, match=message):
            generate(model, prompts, OPTIONS, seeds, concepts)
    if not isinstance(model, BaseLCM):
        with pytest.raises(UserError, match="trained with 100"):
            generate(model, [good], GenerationOptions(steps=101), [0], 1)


def test_options_come_from_the_model_then_from_the_caller() -> None:
    options = GenerationOptions.for_model({"steps": 20, "guidance_scale": 2.0}, steps=30, eta=None)
    assert (options.steps, options.guidance_scale, options.eta) == (30, 2.0, 0.0)
    for wrong in (
        {"step": 3},
        {"steps": 0},
        {"eta": 0.5, "sampler": "dpm-solver++"},
        {"clip_x0": 1, "dynamic_threshold": 0.9},
    ):
        with pytest.raises(ConfigError):
            GenerationOptions.for_model({}, **wrong)
