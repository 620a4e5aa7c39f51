"""Generation: caches, batches and seeds change nothing; what is asked for is what is run."""

from collections.abc import Iterator

import pytest
import torch
from midpoint_sampler import sample_midpoint
from tiny_models import CONFIGS, DIM, lively_model, packed_rows
from torch import Tensor

from lexalcm.diffusion.guidance import unguided
from lexalcm.errors import ConfigError, UserError
from lexalcm.generate.autoregressive import KeepRows, generate, generate_from_noise
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.generate.teacher_forced import predict_each, predict_each_from_noise
from lexalcm.model import LCM, BaseLCM, DiffusionLCM, OneTowerLCM, TwoTowerLCM
from lexalcm.model.layers.masks import causal_mask
from lexalcm.model.two_tower.cross_attention import cross_attention
from lexalcm.model.two_tower.denoiser import shift_contexts
from lexalcm.model.two_tower.fixed_linear import FixedLinear
from lexalcm.model.two_tower.folded_denoiser import FoldedDenoiser
from lexalcm.objective import create_objective

ARCHITECTURES = list(CONFIGS)
DIFFUSION = ["one-tower", "two-tower"]
OPTIONS = GenerationOptions(sampler="ddim", steps=6, guidance_scale=2.0)
SAMPLERS = [
    OPTIONS,
    GenerationOptions(steps=6, sampler="dpm-solver++"),
    GenerationOptions(steps=6, sampler="ddim", eta=0.5),
]


def prompts_of(lengths: list[int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, DIM, generator=generator) for length in lengths]


def run(model: LCM, prompts: list[Tensor], options: GenerationOptions, seeds: list[int], concepts: int) -> Tensor:
    return torch.stack(list(generate(prepare(model, options), prompts, seeds, concepts)), dim=1)


def fixed_noise(concepts: Tensor) -> Iterator[Tensor]:
    return iter(concepts.split(1, dim=1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_caches_change_nothing(architecture: str) -> None:
    """Concept k from caches equals the first concept after a prompt that already holds the k - 1 before it."""
    model = lively_model(architecture)
    prompts = prompts_of([3, 3])
    noise = torch.randn(2, 4, DIM, generator=torch.Generator().manual_seed(1))
    predictor = prepare(model, OPTIONS)
    cached = generate_from_noise(predictor, prompts, fixed_noise(noise).__next__, 4)
    for number, concept in enumerate(cached):
        fresh = generate_from_noise(predictor, prompts, lambda k=number: noise[:, k : k + 1], 1)
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


@pytest.mark.parametrize("architecture", DIFFUSION)
def test_the_seed_decides(architecture: str) -> None:
    model = lively_model(architecture)
    first, same, other = (run(model, prompts_of([2]), OPTIONS, [seed], 2) for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_guessing_each_concept_equals_generating_after_each_prefix(architecture: str) -> None:
    model = lively_model(architecture)
    rows = packed_rows([[4, 3], [5]], 8)
    noise = torch.randn(2, 8, DIM, generator=torch.Generator().manual_seed(1))
    arguments = (rows["embeddings"], rows["documents"], rows["positions"])
    predictor = prepare(model, OPTIONS)
    guesses = predict_each_from_noise(predictor, *arguments, lambda: noise)
    for row, column in rows["targets"].nonzero().tolist():
        start = column - int(rows["positions"][row, column])
        prompt = rows["embeddings"][row, start:column]
        concept = noise[row, column][None, None]
        expected = next(generate_from_noise(predictor, [prompt], lambda x=concept: x, 1))
        torch.testing.assert_close(guesses[row, column], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_first_concepts_and_padding_have_no_guess(architecture: str) -> None:
    rows = packed_rows([[4, 3], [5]], 8)
    predictor = prepare(lively_model(architecture), OPTIONS)
    guesses = predict_each(predictor, rows["embeddings"], rows["documents"], rows["positions"], 0)
    assert torch.equal(guesses.isfinite().all(-1), rows["targets"])
    assert torch.equal(guesses.isnan().all(-1), ~rows["targets"])


@pytest.mark.parametrize("architecture", DIFFUSION)
def test_no_guidance_is_the_conditional_model(architecture: str) -> None:
    model = lively_model(architecture)
    assert isinstance(model, DiffusionLCM)
    prompt = prompts_of([3])[0]
    noise = torch.randn(1, 1, DIM)
    plain = {"guidance_scale": 1.0, "initial_noise_scale": 1.0}
    # one step from pure noise: the answer is the denoiser's, by the training pass's way
    predictor = prepare(model, GenerationOptions(steps=1, **plain))
    one_step = next(generate_from_noise(predictor, [prompt], lambda: noise, 1))
    concepts = model.normalizer.normalize(torch.cat([prompt, torch.zeros(1, DIM)])[None])
    documents, positions = torch.zeros(1, 4, dtype=torch.int64), torch.arange(4)[None]
    noisy = torch.cat([torch.zeros(1, 3, DIM), noise], dim=1)
    output = model(concepts, documents, positions, noisy, torch.full((1, 4), 99), torch.zeros(1, 4, dtype=torch.bool))
    torch.testing.assert_close(one_step[0], model.normalizer.denormalize(output[0, 3]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", DIFFUSION)
def test_a_sampler_may_ask_between_its_steps(architecture: str, midpoint: str) -> None:
    """At timesteps where no step begins the answers are the denoiser's too, by the training pass's way."""
    model = lively_model(architecture)
    assert isinstance(model, DiffusionLCM)
    [prompt], noise = prompts_of([3]), torch.randn(1, 1, DIM, generator=torch.Generator().manual_seed(1))
    options = {"guidance_scale": 1.0, "initial_noise_scale": 1.0, "epsilon_scaling": 1.0}
    told: list[tuple[int, int]] = []
    predictor = prepare(
        model,
        GenerationOptions(sampler=midpoint, steps=5, **options),
        observe=lambda step, steps, _prediction: told.append((step, steps)),
    )
    found = next(generate_from_noise(predictor, [prompt], lambda: noise, 1))

    concepts = model.normalizer.normalize(torch.cat([prompt, torch.zeros(1, DIM)])[None])
    documents, positions = torch.zeros(1, 4, dtype=torch.int64), torch.arange(4)[None]
    asked: list[int] = []

    def network(x_t: Tensor, timestep: int) -> Tensor:
        asked.append(timestep)
        noisy = torch.cat([torch.zeros(1, 3, DIM), x_t], dim=1)
        undropped = torch.zeros(1, 4, dtype=torch.bool)
        return model(concepts, documents, positions, noisy, torch.full((1, 4), timestep), undropped)[:, 3:]

    with torch.no_grad():
        expected = sample_midpoint(unguided(network, model.schedule), noise, model.schedule, [99, 79, 59, 39, 19])
    assert asked == [99, 89, 79, 69, 59, 49, 39, 29, 19, 9]
    torch.testing.assert_close(found[0], model.normalizer.denormalize(expected[0, 0]), rtol=1e-4, atol=1e-4)
    assert told == [(step, 5) for step in range(1, 6)]


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("architecture", DIFFUSION)
def test_runs_the_steps_it_is_asked_for(architecture: str, scale: float) -> None:
    model = lively_model(architecture)
    assert isinstance(model, OneTowerLCM | TwoTowerLCM)
    output_proj = model.output_proj if isinstance(model, OneTowerLCM) else model.denoiser.norm
    calls: list[int] = []
    output_proj.register_forward_hook(lambda *_: calls.append(1))
    run(model, prompts_of([2]), GenerationOptions(steps=40, guidance_scale=scale), [0], 1)
    assert len(calls) == 40


@pytest.mark.parametrize("positions", [1, 2, 16, 40])
def test_the_folded_denoiser_computes_what_the_denoiser_does(positions: int) -> None:
    """Few positions and many, which take different ways to multiply; the unconditional half as if dropped."""
    model = lively_model("two-tower")
    assert isinstance(model, TwoTowerLCM)
    rows = packed_rows([[positions]], positions)
    noisy = torch.randn(1, positions, DIM, generator=torch.Generator().manual_seed(1))
    concepts, documents = rows["embeddings"], rows["documents"]
    folded = FoldedDenoiser(model.denoiser, [99, 40])
    mask = causal_mask(documents, "sdpa")
    memory = shift_contexts(model.contexts(concepts, rows["positions"], mask), documents)
    with torch.inference_mode():
        attentions = folded.attend(model.keys_values(memory), mask, positions)
        pair = folded(noisy, 40, attentions, guided=True)
        (alone,) = folded(noisy, 40, attentions, guided=False)
    assert len(pair) == 2
    for dropped, output in [(False, pair[0]), (True, pair[1]), (False, alone)]:
        drop = torch.full((1, positions), dropped)
        expected = model(concepts, documents, rows["positions"], noisy, torch.full((1, positions), 40), drop)
        torch.testing.assert_close(output, expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generation_leaves_the_training_mode(architecture: str) -> None:
    model = lively_model(architecture, dropout=0.5).train()
    first, second = (run(model, prompts_of([2]), OPTIONS, [0], 2) for _ in range(2))
    assert torch.equal(first, second)  # no dropout
    assert model.training
    loss = create_objective(model)(**packed_rows([[3]], 3))
    loss.sum.backward()  # what generation kept does not get in the way of training


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bad_prompts_are_refused_at_the_call(architecture: str) -> None:
    model = lively_model(architecture)
    predictor = prepare(model, OPTIONS)
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
        ([good], [0], 1.5, "whole number"),
        ([good], [0], True, "whole number"),
        ([good.tolist()], [0], 1, "prompt 0: a list"),
        ([good], [-1], 1, "seed -1"),
        ([good], [2**64], 1, "seed 18446744073709551616"),
    ]:
        with pytest.raises(UserError, match=message):
            generate(predictor, prompts, seeds, concepts)
    if not isinstance(model, BaseLCM):
        with pytest.raises(UserError, match="trained with 100"):
            prepare(model, GenerationOptions(steps=101))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_sent_back_must_fit(architecture: str) -> None:
    predictor = prepare(lively_model(architecture), OPTIONS)
    for sent, message in [
        (torch.zeros(1, DIM), "shape"),
        (torch.zeros(2, 1, DIM), "shape"),
        (torch.zeros(2, DIM + 1), f"{DIM} numbers"),
        (torch.full((2, DIM), torch.nan), "NaN"),
        ([[0.0] * DIM] * 2, "a list"),
        (KeepRows(torch.tensor([1]), torch.zeros(2, DIM)), "shape"),
        (KeepRows(torch.tensor([2]), torch.zeros(1, DIM)), "places from 0 to 1"),
        (KeepRows(torch.tensor([True, False]), torch.zeros(1, DIM)), "int64"),
    ]:
        concepts = generate(predictor, prompts_of([2, 1]), [0, 1], 2)
        next(concepts)
        with pytest.raises(UserError, match=message):
            concepts.send(sent)


@pytest.mark.parametrize("architecture", DIFFUSION)
def test_given_timesteps_must_be_the_models_and_descend(architecture: str) -> None:
    model = lively_model(architecture)
    for timesteps in ([], [100, 5], [5, -1], [5, 9], [5, 5], [9.5, 3], [True, False], torch.tensor([9, 5])):
        with pytest.raises(UserError, match="timestep"):
            prepare(model, OPTIONS, timesteps)
    assert next(generate(prepare(model, OPTIONS, [99, 40, 0]), prompts_of([2]), [0], 1)).isfinite().all()


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
    with pytest.raises(ConfigError, match="unknown sampler 'dim': did you mean ddim"):
        GenerationOptions.for_model({"sampler": "dim"})


@pytest.mark.parametrize("contexts", [3, 20])
def test_a_single_position_attends_few_contexts_and_many_alike(contexts: int) -> None:
    """Against attention written out head by head; below 8 contexts of 2 heads the keys are folded."""
    model = lively_model("two-tower")
    assert isinstance(model, TwoTowerLCM)
    attention = model.denoiser.layers[0].cross_attention
    generator = torch.Generator().manual_seed(0)
    x, memory = torch.randn(1, 16, generator=generator), torch.randn(1, contexts, 16, generator=generator)
    with torch.inference_mode():
        keys, values = attention.keys_values(memory)
        mask = torch.ones(1, 1, 1, contexts, dtype=torch.bool)
        projections = FixedLinear.of(attention.q_proj), FixedLinear.of(attention.output_proj)
        attended = cross_attention(*projections, (keys, values), mask, 1)(x)
        queries = attention.q_proj(x).view(2, 8)
        mixed = [((keys[0, h] @ queries[h]) / 8**0.5).softmax(0) @ values[0, h] for h in range(2)]
        expected = attention.output_proj(torch.cat(mixed))
    torch.testing.assert_close(attended[0], expected, rtol=1e-5, atol=1e-6)
