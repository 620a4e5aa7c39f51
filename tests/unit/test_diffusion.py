"""Schedules, objectives, samplers and guidance against closed forms."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from midpoint_sampler import MIDPOINT
from torch import Tensor

from lexalcm.diffusion.guidance import guided, limited, unguided
from lexalcm.diffusion.samplers import (
    DDIM,
    DPM_SOLVER,
    Calls,
    DenoiseFn,
    Sampler,
    dry_run,
    log_snr_timesteps,
    sample_ddim,
    sample_dpm_solver,
    trailing_timesteps,
)
from lexalcm.diffusion.schedule import DiffusionSettings, NoiseSchedule, Prediction
from lexalcm.errors import ConfigError, UserError

SCHEDULES = [{"schedule": name} for name in ("cosine", "quadratic", "sigmoid")]
PREDICTIONS = [{}, {"prediction": "v"}, {"prediction": "epsilon", "zero_terminal_snr": False}]


@pytest.mark.parametrize("settings", SCHEDULES)
def test_noise_grows_to_pure_noise(settings: dict) -> None:
    table = NoiseSchedule(DiffusionSettings(**settings)).alphas_cumprod
    assert len(table) == 100
    assert (table.diff() < 0).all()
    assert table[-1] == 0
    assert NoiseSchedule(DiffusionSettings(**settings, zero_terminal_snr=False)).alphas_cumprod[-1] > 0


def closed_form(settings: DiffusionSettings) -> np.ndarray:
    """alpha_t^2 of each timestep in float64, by logarithms instead of products and without the steps in between."""
    if settings.schedule == "quadratic":
        roots = np.linspace(settings.beta_start**0.5, settings.beta_end**0.5, settings.steps)
        signal = np.exp(np.log1p(-(roots**2)).cumsum())
    else:
        time = np.arange(1, settings.steps + 1) / settings.steps
        if settings.schedule == "cosine":
            angle = (np.append(0, time) + 0.008) / 1.008 * np.pi / 2
            signal = (1 + np.cos(2 * angle[1:])) / (1 + np.cos(2 * angle[0]))
        else:
            odds = (1 - time) / time
            signal = odds**settings.sigmoid_alpha / (odds**settings.sigmoid_alpha + np.exp(-settings.sigmoid_beta))
        signal[-1] = signal[-2] * (1 - 0.999)
    if settings.zero_terminal_snr:
        alpha = np.sqrt(signal)
        signal = (alpha[0] * (alpha - alpha[-1]) / (alpha[0] - alpha[-1])) ** 2
    return signal


@pytest.mark.parametrize("zero_terminal_snr", [True, False])
@pytest.mark.parametrize("settings", SCHEDULES)
def test_tables_are_rounded_once(settings: dict, zero_terminal_snr: bool) -> None:
    """To the same numbers, bit for bit, however float64 got there: so they are the same on every processor."""
    schedule = NoiseSchedule(DiffusionSettings(**settings, zero_terminal_snr=zero_terminal_snr))
    signal = closed_form(schedule.settings)
    pairs = np.array([schedule.alpha_sigma(timestep) for timestep in range(100)])
    for table, exact in (
        (schedule.alphas_cumprod.numpy(), signal),
        (schedule.snr.numpy(), signal / (1 - signal)),
        (pairs[:, 0], np.sqrt(signal)),
        (pairs[:, 1], np.sqrt(1 - signal)),
    ):
        np.testing.assert_array_equal(table, exact.astype(np.float32))
    x0, noise = torch.eye(2).unsqueeze(1).expand(-1, 100, -1)
    noisy = schedule.add_noise(x0, noise, torch.arange(100))
    np.testing.assert_array_equal(noisy.numpy(), pairs.astype(np.float32))


def test_another_table_is_taken_as_it_is() -> None:
    table = torch.tensor([0.75, 0.36, 0.0])
    schedule = NoiseSchedule(DiffusionSettings(steps=3), table)
    assert schedule.alphas_cumprod.equal(table)
    assert schedule.snr.tolist() == [3.0, pytest.approx(0.5625), 0.0]
    assert schedule.alpha_sigma(1) == pytest.approx((0.6, 0.8))


def test_zero_terminal_snr_leaves_the_first_timestep() -> None:
    plain, zero = (NoiseSchedule(DiffusionSettings(zero_terminal_snr=flag)).alphas_cumprod for flag in (False, True))
    torch.testing.assert_close(plain[0], zero[0])


@pytest.mark.parametrize("settings", PREDICTIONS)
def test_target_and_interpretation_are_inverse(settings: dict) -> None:
    schedule = NoiseSchedule(DiffusionSettings(**settings))
    x0, noise = torch.randn(2, 1, 3, 8, dtype=torch.float64)
    for timestep in (0, 40, 97):
        timesteps = torch.full((1, 3), timestep)
        x_t = schedule.add_noise(x0, noise, timesteps)
        answer = schedule.interpret(schedule.target(x0, noise, timesteps), x_t, timestep)
        torch.testing.assert_close(answer.x0, x0, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(answer.epsilon, noise, rtol=1e-4, atol=1e-4)


def test_noise_prediction_cannot_begin_at_pure_noise() -> None:
    with pytest.raises(ConfigError, match="zero_terminal_snr"):
        DiffusionSettings(prediction="epsilon")


def test_clamped_snr_weights_average_one_and_follow_the_snr() -> None:
    schedule = NoiseSchedule(DiffusionSettings(loss_weighting="clamped-snr", min_weight=0.1, max_weight=5))
    weights = schedule.loss_weights(torch.arange(100))
    assert weights.mean() == pytest.approx(1)
    assert weights[0] / weights[-1] == pytest.approx(50)
    middle = int((schedule.snr - 1).abs().argmin())
    assert weights[middle] / weights[-1] == pytest.approx(float(schedule.snr[middle]) / 0.1, rel=1e-5)


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, [99]), (2, [99, 49]), (10, [99, 89, 79, 69, 59, 49, 39, 29, 19, 9])]
)
def test_timesteps_are_spread_from_the_last_one(steps: int, expected: list[int]) -> None:
    assert trailing_timesteps(steps, NoiseSchedule(DiffusionSettings())) == expected


@pytest.mark.parametrize("steps", [7, 12, 40, 60, 99, 100])
def test_as_many_steps_as_asked_for(steps: int) -> None:
    timesteps = trailing_timesteps(steps, NoiseSchedule(DiffusionSettings()))
    assert len(set(timesteps)) == steps
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[0] == 99
    assert timesteps[-1] >= 0


@pytest.mark.parametrize("zero_terminal_snr", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 12, 40, 99, 100])
def test_log_snr_timesteps_are_as_many_as_asked_for_and_even(steps: int, zero_terminal_snr: bool) -> None:
    schedule = NoiseSchedule(DiffusionSettings(zero_terminal_snr=zero_terminal_snr))
    timesteps = log_snr_timesteps(steps, schedule)
    assert len(set(timesteps)) == steps
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[0] == 99
    assert timesteps[-1] == 0 or steps <= 2
    if steps == 12:  # in the middle, where timesteps lie close enough for even steps of log-SNR
        log_snr = schedule.snr.log()[[timestep for timestep in timesteps if 5 <= timestep <= 90]]
        assert log_snr.diff().std() < 0.15 * log_snr.diff().mean()


def test_more_steps_than_trained_is_an_error() -> None:
    with pytest.raises(UserError, match="100"):
        trailing_timesteps(101, NoiseSchedule(DiffusionSettings()))
    with pytest.raises(UserError, match="100"):
        log_snr_timesteps(101, NoiseSchedule(DiffusionSettings()))


def gaussian_predictor(schedule: NoiseSchedule, mean: float, deviation: float) -> DenoiseFn:
    """The exact predictor when clean numbers are normal: the conditional mean of x_0 given x_t."""

    def network(x_t: Tensor, timestep: int) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(timestep)
        gain = alpha * deviation**2 / ((alpha * deviation) ** 2 + sigma**2)
        return mean + gain * (x_t - alpha * mean)

    return unguided(network, schedule)


Sample = Callable[[DenoiseFn, Tensor, NoiseSchedule, list[int]], Tensor]


def gaussian_error(sample: Sample, steps: int) -> float:
    """Distance from the exact solution of the probability flow, which maps noise z to mean + deviation * z."""
    schedule = NoiseSchedule(DiffusionSettings())
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    second_order = sample is sample_dpm_solver
    timesteps = (log_snr_timesteps if second_order else trailing_timesteps)(steps, schedule)
    result = sample(gaussian_predictor(schedule, 1.5, 0.5), noise, schedule, timesteps)
    return float((result - (1.5 + 0.5 * noise)).abs().max())


def test_ddim_solves_the_probability_flow() -> None:
    assert gaussian_error(sample_ddim, 100) < 0.02
    assert gaussian_error(sample_ddim, 100) < gaussian_error(sample_ddim, 50) < gaussian_error(sample_ddim, 25)


def test_dpm_solver_needs_fewer_steps() -> None:
    assert gaussian_error(sample_dpm_solver, 12) < gaussian_error(sample_ddim, 40)
    assert gaussian_error(sample_dpm_solver, 100) < gaussian_error(sample_ddim, 100)


def test_fresh_noise_keeps_the_distribution() -> None:
    schedule = NoiseSchedule(DiffusionSettings())
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, generator=generator)
    predict = gaussian_predictor(schedule, 1.5, 0.5)
    draw = lambda: torch.randn(20_000, generator=generator)  # noqa: E731
    result = sample_ddim(predict, noise, schedule, list(range(99, -1, -1)), eta=1.0, draw_noise=draw)
    assert result.mean() == pytest.approx(1.5, abs=0.02)
    assert result.std() == pytest.approx(0.5, abs=0.02)
    assert torch.corrcoef(torch.stack([noise, result]))[0, 1].abs() < 0.1  # deterministic sampling would give 1


def test_fresh_noise_must_be_given() -> None:
    schedule = NoiseSchedule(DiffusionSettings())
    with pytest.raises(UserError, match="draw_noise"):
        sample_ddim(gaussian_predictor(schedule, 1.5, 0.5), torch.zeros(3), schedule, [99, 50], eta=0.5)


def test_predictor_is_asked_once_a_step_from_noise_to_clean() -> None:
    schedule = NoiseSchedule(DiffusionSettings())
    for sampler in (sample_ddim, sample_dpm_solver):
        asked = []

        def predict(x_t: Tensor, timestep: int, asked: list[int] = asked) -> Prediction:
            asked.append(timestep)
            return Prediction(x_t, x_t)

        sampler(predict, torch.ones(3), schedule, [99, 60, 20])
        assert asked == [99, 60, 20]


def test_a_dry_run_finds_what_a_sampler_asks_for() -> None:
    schedule = NoiseSchedule(DiffusionSettings())
    assert dry_run(DDIM, schedule, [99, 60, 20]) == Calls([99, 60, 20], 0)
    assert dry_run(DDIM, schedule, [99, 60, 20], eta=0.5) == Calls([99, 60, 20], 2)  # the last step adds no noise
    assert dry_run(DPM_SOLVER, schedule, [99, 60, 20]) == Calls([99, 60, 20], 0)
    assert dry_run(MIDPOINT, schedule, [99, 60, 20], eta=0.5) == Calls([99, 79, 60, 40, 20, 9], 2)


def test_steps_are_told_with_what_is_gone_on_with() -> None:
    schedule = NoiseSchedule(DiffusionSettings())
    predict = gaussian_predictor(schedule, 1.5, 0.5)
    for sampler in (DDIM, DPM_SOLVER, MIDPOINT):
        told: list[tuple[int, int, Prediction]] = []
        result = sampler.sample(
            predict, torch.ones(3), schedule, [99, 60, 20], observe=lambda *step, told=told: told.append(step)
        )
        assert [step for *step, _ in told] == [[1, 3], [2, 3], [3, 3]]
        assert torch.equal(told[-1][2].x0, result)


def test_a_sampler_that_breaks_its_word_is_named() -> None:
    schedule = NoiseSchedule(DiffusionSettings())

    def too_far(predict: DenoiseFn, x: Tensor, schedule: NoiseSchedule, timesteps: list[int], **_: object) -> Tensor:
        return predict(x, 100).x0

    def silent(predict: DenoiseFn, x: Tensor, schedule: NoiseSchedule, timesteps: list[int], **_: object) -> Tensor:
        return predict(x, timesteps[0]).x0

    with pytest.raises(UserError, match="Far asks for timestep 100: this model has 0 to 99"):
        dry_run(Sampler("Far", "", too_far, trailing_timesteps), schedule, [99])
    with pytest.raises(UserError, match="Silent must call observe"):
        dry_run(Sampler("Silent", "", silent, trailing_timesteps), schedule, [99])


def test_guidance_by_hand() -> None:
    schedule = NoiseSchedule(DiffusionSettings())
    generator = torch.Generator().manual_seed(0)
    x_t, conditional, unconditional = torch.randn(3, 2, 5, generator=generator).double()
    alpha, sigma = schedule.alpha_sigma(30)
    noise = [(x_t - alpha * x0) / sigma for x0 in (conditional, unconditional)]
    combined = noise[1] + 3 * (noise[0] - noise[1])
    deviations = [numbers.std(dim=-1, keepdim=True) for numbers in (noise[0], combined)]
    expected = 0.7 * combined * deviations[0] / deviations[1] + 0.3 * combined
    answer = guided(lambda x, t: (conditional, unconditional), schedule, 3.0, 0.7)(x_t, 30)
    torch.testing.assert_close(answer.epsilon, expected)
    torch.testing.assert_close(answer.x0, (x_t - sigma * expected) / alpha)


def test_pure_noise_is_not_guided() -> None:
    schedule = NoiseSchedule(DiffusionSettings())
    x_t, conditional, unconditional = torch.randn(3, 2, 5)
    answer = guided(lambda x, t: (conditional, unconditional), schedule, 3.0, 0.7)(x_t, 99)
    torch.testing.assert_close(answer.x0, conditional)


def test_limits() -> None:
    seen = []

    def predict(x_t: Tensor, timestep: int) -> Prediction:
        seen.append(x_t)
        return Prediction(torch.tensor([[0.5, -3.0, 8.0, 1.0]]), torch.full((1, 4), 2.0))

    x_t = torch.tensor([[1.0, -200.0, 3.0, 500.0]])
    clipped = limited(predict, clip_noisy=100, epsilon_scaling=4, clip_x0=2.0)(x_t, 5)
    assert seen[0].tolist() == [[1, -100, 3, 100]]
    assert clipped.x0.tolist() == [[0.5, -2, 2, 1]]
    assert clipped.epsilon.tolist() == [[0.5] * 4]
    threshold = limited(predict, clip_noisy=100, epsilon_scaling=1, dynamic_threshold=0.5, dynamic_threshold_max=6)
    # the median of |x0| is 2: clipped to +-2, then divided by 2
    assert threshold(x_t, 5).x0.tolist() == [[0.25, -1, 1, 0.5]]


def test_cosine_schedule_is_near_its_continuous_form() -> None:
    table = NoiseSchedule(DiffusionSettings(zero_terminal_snr=False)).alphas_cumprod
    for timestep in (9, 49, 89):
        signal = [math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0, (timestep + 1) / 100)]
        assert table[timestep] == pytest.approx(signal[1] / signal[0], rel=1e-4)
