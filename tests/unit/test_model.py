"""What a model may see, what it is trained on, and that engines can wrap it."""

from itertools import pairwise

import pytest
import torch
from tiny_models import CONFIGS, DIM, lively_model, packed_rows

from lexalcm.config import validate
from lexalcm.errors import ConfigError, UserError
from lexalcm.model import LCM, BaseLCM, DiffusionLCM, ModelConfig, count_parameters, create_model
from lexalcm.model.normalizer import Normalizer
from lexalcm.objective import create_objective

ARCHITECTURES = list(CONFIGS)
DIFFUSION = ["one-tower", "two-tower"]


def outputs(model: LCM, rows: dict[str, torch.Tensor], noise_seed: int = 3) -> torch.Tensor:
    """Each position's output given fixed noise and timesteps, so that only the rows differ between calls."""
    concepts = model.normalizer.normalize(rows["embeddings"])
    shape = rows["documents"].shape
    if isinstance(model, BaseLCM):
        return model(concepts, rows["documents"], rows["positions"])
    assert isinstance(model, DiffusionLCM)
    generator = torch.Generator().manual_seed(noise_seed)
    noisy = torch.randn(*shape, DIM, generator=generator)
    timesteps = torch.randint(100, shape, generator=generator)
    dropped = torch.zeros(shape, dtype=torch.bool)
    return model(concepts, rows["documents"], rows["positions"], noisy, timesteps, dropped)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_position_sees_itself_or_later_ones(architecture: str) -> None:
    model = lively_model(architecture)
    rows = packed_rows([[8]], 8)
    before = outputs(model, rows)
    rows["embeddings"][0, 4] += 1
    changed = (outputs(model, rows) != before).any(-1)[0].tolist()
    # base guesses concept i + 1 at position i; the others guess concept i there, from concepts before it
    first = 4 if architecture == "base" else 5
    assert changed == [False] * first + [True] * (8 - first)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packing_changes_nothing(architecture: str) -> None:
    model = lively_model(architecture)
    lengths = [[3, 5, 2], [1, 4]]
    packed = packed_rows(lengths, 12)
    noise = torch.randn(2, 12, DIM)
    timesteps = torch.randint(100, (2, 12))

    def predict(rows: dict[str, torch.Tensor], noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        concepts = model.normalizer.normalize(rows["embeddings"])
        if isinstance(model, BaseLCM):
            return model(concepts, rows["documents"], rows["positions"])
        assert isinstance(model, DiffusionLCM)
        undropped = torch.zeros_like(timesteps, dtype=torch.bool)
        return model(concepts, rows["documents"], rows["positions"], noise, timesteps, undropped)

    together = predict(packed, noise, timesteps)
    for row, row_lengths in enumerate(lengths):
        starts = [0, *torch.tensor(row_lengths).cumsum(0).tolist()]
        for start, stop in pairwise(starts):
            alone = packed_rows([[stop - start]], stop - start)
            place = slice(start, stop)
            alone["embeddings"][0] = packed["embeddings"][row, place]
            result = predict(alone, noise[row : row + 1, place], timesteps[row : row + 1, place])
            torch.testing.assert_close(together[row, place], result[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", DIFFUSION)
def test_dropped_conditioning_sees_nothing_of_the_document(architecture: str) -> None:
    model = lively_model(architecture)
    assert isinstance(model, DiffusionLCM)
    noisy, timesteps = torch.randn(1, 4, DIM), torch.tensor([[5, 30, 60, 99]])
    dropped = torch.tensor([[False, False, True, False]])
    results = []
    for seed in (0, 1):
        rows = packed_rows([[4]], 4, seed=seed)
        results.append(model(rows["embeddings"], rows["documents"], rows["positions"], noisy, timesteps, dropped)[0])
    same = (results[0] == results[1]).all(-1).tolist()
    assert same == [True, False, True, False]  # the first position has nothing before it


@pytest.mark.parametrize("architecture", DIFFUSION)
def test_conditioning_is_dropped_in_training_only(architecture: str) -> None:
    rows = packed_rows([[6, 6]] * 40, 12)
    model = lively_model(architecture, dropout=0.0)
    assert isinstance(model, DiffusionLCM)
    seen = []
    model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[-1]))
    create_objective(model.eval())(**rows)
    create_objective(model.train())(**rows)
    assert not seen[0].any()
    assert seen[1].float().mean() == pytest.approx(0.15, abs=0.05)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_is_the_squared_distance_of_targets_in_normalized_space(architecture: str) -> None:
    model = lively_model(architecture)
    rows = packed_rows([[3, 4], [5]], 8)
    torch.manual_seed(5)
    loss = create_objective(model)(**rows)
    normalized = (rows["embeddings"] - model.normalizer.center) / model.normalizer.scale
    if isinstance(model, BaseLCM):
        guesses = outputs(model, rows).roll(1, dims=1)
    else:
        assert isinstance(model, DiffusionLCM)
        torch.manual_seed(5)
        timesteps = torch.randint(100, (2, 8))
        noise = torch.randn(2, 8, DIM)
        alphas = model.schedule.alphas_cumprod[timesteps].unsqueeze(-1)
        noisy = alphas.sqrt() * normalized + (1 - alphas).sqrt() * noise
        undropped = torch.zeros(2, 8, dtype=torch.bool)
        guesses = model(normalized, rows["documents"], rows["positions"], noisy, timesteps, undropped)
    expected = ((guesses - normalized) ** 2).sum(-1)
    assert loss.count == 2 + 3 + 4
    torch.testing.assert_close(loss.sum, expected[rows["targets"]].sum())
    torch.testing.assert_close(loss.per_target, torch.where(rows["targets"], expected, 0.0))
    assert not loss.per_target.requires_grad


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_default_generator_decides_all_randomness(architecture: str) -> None:
    model = create_model(CONFIGS[architecture], 0).train()
    rows = packed_rows([[3, 4], [5]], 8)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(float(create_objective(model)(**rows).sum.detach()))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_gets_a_gradient(architecture: str) -> None:
    model = lively_model(architecture).train()
    create_objective(model)(**packed_rows([[3, 4], [5]], 8)).sum.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    zero = [
        name for name, parameter in model.named_parameters() if parameter.grad is not None and not parameter.grad.any()
    ]
    assert without == []
    # a constant added to all keys of a query changes no softmax
    assert [name for name in zero if "k_proj.bias" not in name] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_creation_is_decided_by_the_seed(architecture: str) -> None:
    state = torch.get_rng_state()
    first, same, other = (create_model(CONFIGS[architecture], seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_new_two_tower_model_does_not_look_at_its_context() -> None:
    model = create_model(CONFIGS["two-tower"], 0).eval()
    rows = [packed_rows([[6]], 6, seed=seed) for seed in (0, 1)]
    assert torch.equal(outputs(model, rows[0]), outputs(model, rows[1]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("way", ["weights", "autocast"])
def test_bfloat16_stays_close(architecture: str, way: str) -> None:
    model = lively_model(architecture)
    rows = packed_rows([[3, 4], [5]], 8)
    torch.manual_seed(0)
    exact = create_objective(model)(**rows)
    torch.manual_seed(0)
    if way == "weights":
        loss = create_objective(model.to(torch.bfloat16))(**rows)
    else:
        with torch.autocast("cpu", torch.bfloat16):
            loss = create_objective(model)(**rows)
    assert loss.sum.dtype == torch.float32
    assert loss.sum.item() == pytest.approx(exact.sum.item(), rel=0.02)
    loss.sum.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_the_normalizer_stays_float32() -> None:
    normalizer = Normalizer(3)
    normalizer.set_statistics({"center": torch.tensor([1.001, 2, 3]), "scale": torch.tensor([0.1, 1, 10])})
    before = {name: buffer.clone() for name, buffer in normalizer.named_buffers()}
    normalizer.bfloat16()
    assert all(torch.equal(buffer, before[name]) for name, buffer in normalizer.named_buffers())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_compile_without_a_graph_break(architecture: str) -> None:
    model = lively_model(architecture)
    rows = packed_rows([[3, 4], [5]], 8)
    torch.manual_seed(0)
    plain = create_objective(model)(**rows)
    for block in model.blocks():
        block.compile(backend="eager", fullgraph=True)
    torch.manual_seed(0)
    torch.testing.assert_close(create_objective(model)(**rows).sum, plain.sum)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_learns_ten_documents_by_heart(architecture: str) -> None:
    torch.manual_seed(0)
    model = create_model(CONFIGS[architecture].model_copy(update={"dropout": 0.0, "width": 32}), 0)
    rows = packed_rows([[6, 6]] * 5, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(240):
        loss = create_objective(model)(**rows)
        (loss.sum / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.sum.detach() / loss.count))
    assert sum(losses[-20:]) / 20 < 0.25 * losses[0]


def test_set_statistics_refuses_what_cannot_be() -> None:
    normalizer = Normalizer(3)
    with pytest.raises(UserError, match="not positive in dimension 1"):
        normalizer.set_statistics({"center": torch.zeros(3), "scale": torch.tensor([1.0, 0.0, 1.0])})
    with pytest.raises(UserError, match="shape"):
        normalizer.set_statistics({"center": torch.zeros(4), "scale": torch.ones(4)})
    with pytest.raises(UserError, match="NaN"):
        normalizer.set_statistics({"center": torch.full((3,), torch.nan), "scale": torch.ones(3)})
    with pytest.raises(UserError, match="clip_max"):
        normalizer.set_statistics({"center": torch.zeros(3), "scale": torch.ones(3), "clip_min": torch.zeros(3)})


SIZES = {"architecture": "two-tower", "dim": 8, "width": 16, "num_heads": 2, "ffn_dim": 8, "num_layers": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "does not divide"),
        ({"num_heads": 16}, "odd size"),
        ({"context_layers": 0}, "contextualizer"),
        ({"architecture": "base", "context_layers": 1}, "two-tower"),
        ({"architecture": "bass"}, "unknown architecture .bass.: did you mean base"),
        ({"architecture": "base", "context_layers": 0, "diffusion": {}}, "do not denoise"),
        ({"architecture": None}, "architecture"),
        ({"dim": 0}, "dim"),
        ({"layers": 3}, "num_layers"),
        ({"diffusion": {"steps": 1}}, "diffusion.steps"),
        ({"codec": {"name": "lsa", "dim": 9, "fingerprint": "f"}}, "9-dimensional"),
    ],
)
def test_config_refuses_what_does_not_fit(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(ModelConfig, {**SIZES, "context_layers": 1, **changes})


def test_parameters_are_counted_without_making_them() -> None:
    for config in CONFIGS.values():
        parts = count_parameters(config)
        assert sum(parts.values()) == sum(parameter.numel() for parameter in create_model(config, 0).parameters())


@pytest.mark.parametrize("architecture", DIFFUSION)
def test_a_batch_that_does_not_fit_is_named(architecture: str) -> None:
    model = lively_model(architecture)
    assert isinstance(model, DiffusionLCM)
    rows = packed_rows([[4]], 4)
    given = {
        "timesteps": torch.tensor([[0, 99, 5, 5]]),
        "noise": torch.zeros(1, 4, DIM),
        "dropped": torch.zeros(1, 4, dtype=torch.bool),
    }
    assert create_objective(model)(**rows, **given).sum.isfinite()
    wrong = [
        ("timesteps", torch.full((1, 4), 100)),
        ("timesteps", torch.full((1, 4), -1)),
        ("timesteps", torch.full((1, 4), 0.5)),
        ("timesteps", torch.zeros(1, 3, dtype=torch.int64)),
        ("noise", torch.zeros(1, 4, DIM + 1)),
        ("dropped", torch.zeros(4, dtype=torch.bool)),
        ("embeddings", torch.zeros(1, 4, DIM + 1)),
        ("documents", torch.zeros(1, 5, dtype=torch.int64)),
        ("targets", torch.zeros(1, 3, dtype=torch.bool)),
        ("targets: type torch.int64", rows["targets"].long()),
        ("dropped: type torch.float32", given["dropped"].float()),
        ("documents: type torch.uint8", rows["documents"].to(torch.uint8)),
        ("positions: type torch.float32", rows["positions"].float()),
        ("timesteps: type torch.uint8", given["timesteps"].to(torch.uint8)),
        ("embeddings: type torch.int64", rows["embeddings"].long()),
    ]
    for message, tensor in wrong:
        with pytest.raises(UserError, match=message):
            create_objective(model)(**{**rows, **given, message.partition(":")[0]: tensor})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_concepts_of_another_size_are_refused(architecture: str) -> None:
    rows = packed_rows([[4]], 4)
    rows["embeddings"] = torch.zeros(1, 4, DIM + 1)
    with pytest.raises(UserError, match=f"expected .rows, length, {DIM}."):
        create_objective(lively_model(architecture))(**rows)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"width": 1_000_000}, r"take [0-9,]+\.[0-9] GB, this machine has [0-9,]+\.[0-9] GB: choose a smaller size"),
        ({"width": 10**9}, "width: expected less than or equal to 1048576"),
        ({"num_layers": 10**9}, "num_layers: expected less than or equal to 10000"),
        ({"norm_eps": 1e300}, "norm_eps: expected less than or equal to 1"),
    ],
)
def test_a_model_larger_than_the_machine_is_refused_before_it_is_made(sizes: dict[str, float], says: str) -> None:
    tree = {"architecture": "base", "dim": 8, "width": 16, "num_heads": 2, "ffn_dim": 24, "num_layers": 1, **sizes}
    with pytest.raises(UserError, match=says):
        create_model(validate(ModelConfig, tree), seed=0)
