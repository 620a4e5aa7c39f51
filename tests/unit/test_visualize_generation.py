"""Pictures of the denoising of a concept show what generation does, and change nothing of it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from text_model_folder import make_text_model
from tiny_models import lively_model

from lexalcm.errors import CodecError, DataError, UserError
from lexalcm.generate.autoregressive import generate
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.generate.text import TextModel
from lexalcm.pages import generation_figures as figures
from lexalcm.pages.generation_report import document_prompt, report_generation, text_prompt
from lexalcm.pages.generation_trace import trace
from lexalcm.pages.style import theme

TEXT = "We must do more for our schools. The budget grows. Nobody slept. Peace is near."


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    return TextModel.open(make_text_model(tmp_path_factory.mktemp("text") / "model", sampler="dpm-solver++", steps=5))


@pytest.fixture(scope="module")
def prompt(writer):
    return text_prompt(writer, TEXT, writer.options(), None, seed=3)


@pytest.fixture(scope="module")
def traced(writer, prompt):
    return trace(writer, prompt.concepts, writer.options(), [3, 4])


@pytest.mark.parametrize("architecture", ["one-tower", "two-tower"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++"])
def test_watching_a_generation_changes_nothing(architecture, guidance, sampler):
    model = lively_model(architecture)
    options = GenerationOptions(sampler=sampler, steps=4, guidance_scale=guidance)
    seen = []
    watched = prepare(model, options, observe=lambda step, steps, prediction: seen.append((step, steps, prediction.x0)))
    prompts, seeds = [torch.randn(3, 6, generator=torch.Generator().manual_seed(0))] * 2, [0, 1]
    concepts = next(generate(watched, prompts, seeds, 1))
    torch.testing.assert_close(concepts, next(generate(prepare(model, options), prompts, seeds, 1)), rtol=0, atol=0)
    assert [(step, steps) for step, steps, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    last = model.normalizer.denormalize(seen[-1][2][:, 0])
    torch.testing.assert_close(concepts, last, rtol=0, atol=1e-5)  # the last step's answer is the concept


def test_a_trajectory_ends_at_what_the_model_says(writer, prompt, traced):
    guided, unguided = traced.trajectories
    assert (guided.guidance, unguided.guidance) == (2.0, 1.0)
    for trajectory in traced.trajectories:
        assert len(trajectory.timesteps) == 5
        assert trajectory.estimates.shape == (5, 2, writer.model.config.dim)
        options = writer.options(guidance_scale=trajectory.guidance)
        said = next(generate(prepare(writer.model, options), [prompt.concepts[:-1]] * 2, [3, 4], 1))
        torch.testing.assert_close(trajectory.estimates[-1], said, rtol=0, atol=1e-5)


def test_distances_are_those_of_the_estimates(writer, prompt, traced):
    normalizer, truth = writer.model.normalizer, prompt.concepts[-1]
    normalized_truth = normalizer.normalize(truth)
    for trajectory in traced.trajectories:
        difference = normalizer.normalize(trajectory.estimates) - normalized_truth
        assert trajectory.squared_l2 == pytest.approx(difference.square().sum(-1).numpy(), rel=1e-3)
        for step, sample in np.ndindex(trajectory.cosine.shape):
            a, b = trajectory.estimates[step, sample].double().numpy(), truth.double().numpy()
            assert trajectory.cosine[step, sample] == pytest.approx(
                a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5
            )
        # Pythagoras, in units of the distance from the mean to the truth
        assert trajectory.squared_l2 == pytest.approx(
            ((trajectory.projection - 1) ** 2 + trajectory.residual**2) * traced.squared_l2_of_mean, rel=1e-3
        )
    assert traced.squared_l2_of_mean == pytest.approx(float(normalized_truth.square().sum()), rel=1e-5)
    before = normalizer.normalize(prompt.concepts[-2])
    assert traced.squared_l2_of_last == pytest.approx(float((before - normalized_truth).square().sum()), rel=1e-5)


def test_curves_are_the_distances_and_their_axes_are_named(traced):
    [axes] = figures.distances(traced).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "denoising step (noise decreases →)",
        "squared L2 to the true concept",
    )
    curves = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    for trajectory in traced.trajectories:
        assert curves[trajectory.name] == pytest.approx(trajectory.squared_l2.mean(axis=1))
    assert set(curves["mean of all concepts"]) == {traced.squared_l2_of_mean}
    assert set(curves["last concept repeated"]) == {traced.squared_l2_of_last}
    [axes] = figures.cosines(traced.trajectories).axes
    assert axes.get_ylabel() == "cosine similarity with the true concept"
    [axes] = figures.trajectory_plane(traced.trajectories).axes
    strong = {line.get_label(): line.get_xydata() for line in axes.lines}
    assert strong["unguided"][:, 0] == pytest.approx(traced.trajectories[1].projection.mean(axis=1))


def test_matrix_shows_the_cosines_and_which_sentences_belong_together():
    cosines = np.array([[1, 0.5, -0.25], [0.5, 1, 0], [-0.25, 0, 1]])
    axes, bar = figures.similarity_matrix(cosines, ["1", "T", "a"], [1, 1, 1]).axes
    assert axes.images[0].get_array().tolist() == cosines.tolist()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "T", "a"]
    assert [text.get_text() for text in axes.texts][:3] == ["1.00", "0.50", "-0.25"]
    assert [line.get_xdata()[0] for line in axes.lines[1::2]] == [0.5, 1.5]
    assert bar.get_ylabel() == "cosine similarity"


@pytest.mark.parametrize("name", ["light", "dark"])
def test_numbers_of_the_matrix_stand_out_from_their_cells(name):
    def luminance(shade):
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in to_rgb(shade)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    values = np.linspace(-0.004, 1, 121).reshape(11, 11)
    with theme(name):
        axes, _ = figures.similarity_matrix(values, list("abcdefghijk"), [11]).axes
    [image] = axes.images
    for text, value in zip(axes.texts, values.ravel(), strict=True):
        one, other = sorted([luminance(text.get_color()), luminance(image.cmap(image.norm(value))[:3])])
        assert (other + 0.05) / (one + 0.05) > 3.5
    assert axes.texts[0].get_text() == "0.00"  # not -0.00


def test_report_shows_words_and_pictures(writer, prompt, tmp_path):
    result = report_generation(writer, prompt, writer.options(), tmp_path / "out", samples=3)
    assert result["truth"] == "Peace is near."
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(result["files"])
    guided, unguided = result["trajectories"]
    assert np.array(guided["squared_l2"]).shape == (5, 3)
    assert [step["step"] for step in guided["decoded"]] == [1, 2, 3, 4, 5]
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    plain = re.sub(r"\s+", " ", page)
    for text in ("Peace is near.", *(step["text"] for step in unguided["decoded"])):
        assert " ".join(text.split())[:60] in plain
    written = [
        sentence.text
        for sentence in writer.write(writer.prompt(TEXT[:-15], writer.options(), seed=3), writer.options())
    ]
    assert result["written"] == written
    names = result["similarities"]["sentences"]
    assert names == ["1", "2", "3", "T", *"abcd"[: len(written)]]
    matrix = np.array(result["similarities"]["cosine"])
    assert np.diag(matrix) == pytest.approx(np.ones(len(names)), abs=1e-5)


def test_a_document_of_a_data_set_serves_as_text(writer, make_dataset):
    generator = np.random.default_rng(0)
    dim = writer.model.config.dim
    documents = [("eng_Latn", generator.normal(size=(n, dim))) for n in (3, 12)]
    fingerprint = writer.model.config.codec.fingerprint
    data = make_dataset({"train": documents, "validation": documents}, fingerprint=fingerprint)
    prompt = document_prompt(writer, str(data.path), "validation", "1", None, seed=0)
    assert prompt.sentences == tuple(f"Sentence {place} of validation 1." for place in range(9))
    assert prompt.concepts.numpy() == pytest.approx(documents[1][1][:9], abs=1e-6)
    assert len(document_prompt(writer, str(data.path), "validation", "validation-1", 12, seed=0).sentences) == 12
    assert len(document_prompt(writer, str(data.path), "train", "0", None, seed=0).sentences) == 3
    with pytest.raises(UserError, match=r"--sentence 4: document 0 has 3 sentences"):
        document_prompt(writer, str(data.path), "train", "0", 4, seed=0)
    with pytest.raises(DataError, match="no document 7 in train: give an id, or 0 to 1"):
        document_prompt(writer, str(data.path), "train", "7", None, seed=0)
    other = make_dataset({"train": documents})
    with pytest.raises(CodecError):
        document_prompt(writer, str(other.path), "train", "0", None, seed=0)


def test_mistakes_are_said(writer, prompt, tmp_path: Path):
    with pytest.raises(UserError, match="at least two sentences"):
        text_prompt(writer, "Peace.", writer.options(), None, seed=0)
    base = TextModel.open(make_text_model(tmp_path / "base", "base"))
    with pytest.raises(UserError, match="is a base model: it answers in one step and denoises nothing"):
        report_generation(base, prompt, base.options(), tmp_path / "out")
    with pytest.raises(UserError, match="trained with 100"):
        report_generation(writer, prompt, writer.options(steps=101), tmp_path / "out")
    assert not (tmp_path / "out").exists()
