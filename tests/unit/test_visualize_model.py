"""Pictures of a model show all its parameters, counted as its matrices have them."""

import pytest
from tiny_models import CONFIGS

from lexalcm.errors import UserError
from lexalcm.model import create_model, preset
from lexalcm.pages import model_figures as figures
from lexalcm.pages.model_diagram import diagram
from lexalcm.pages.model_parts import (
    TRAINING,
    count_text,
    module_groups,
    operations_text,
    parameters_by_part,
    size_text,
)
from lexalcm.pages.model_report import report_model


@pytest.mark.parametrize("architecture", CONFIGS)
def test_pieces_hold_every_parameter_once(architecture):
    config = CONFIGS[architecture]
    groups = module_groups(config)
    everything = sum(parameter.numel() for parameter in create_model(config, seed=0).parameters())
    assert sum(group.parameters for group in groups) == everything
    assert sum(parameters_by_part(groups).values()) == everything


def test_pieces_of_a_large_model_are_the_sizes_of_its_matrices():
    config = preset("two-tower-7b", 1024)
    groups = {(group.part, group.name): group for group in module_groups(config)}
    width, ffn = 4096, 11008
    attention = 4 * (width**2 + width)
    assert groups["contextualizer", "self-attention"].parameters == 5 * attention
    assert groups["denoiser", "cross-attention"].parameters == 14 * attention
    assert groups["denoiser", "self-projection"].parameters == 14 * attention // 2  # no queries, no keys
    assert groups["denoiser", "feed-forward"].parameters == 14 * (3 * width * ffn + 2 * ffn + width)
    assert groups["denoiser", "modulator"].parameters == 14 * 9 * (width**2 + width)
    assert groups["denoiser", "output projection"].parameters == width * 1024 + 1024
    assert (groups["denoiser", "feed-forward"].layers, groups["denoiser", "output projection"].layers) == (14, 0)


def test_bars_are_the_counts_and_axes_are_named():
    groups = module_groups(CONFIGS["two-tower"])
    [axes] = figures.parameters(groups).axes
    widths = {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in axes.patches}
    names = [label.get_text() for label in axes.get_yticklabels()]
    places = [round(place) for place in axes.get_yticks()]
    shown = [(name, widths[place]) for name, place in zip(names, places, strict=True)]
    assert shown == [(group.name, group.parameters) for group in groups]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("parameters", "module")
    counts = parameters_by_part(groups)
    [axes] = figures.training_memory(counts, TRAINING).axes
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches][-len(counts) :]
    assert ends == [16 * count for count in counts.values()]  # weights, gradients, float32 weights, two moments
    assert axes.get_xlabel() == "memory of weights, gradients and optimizer"


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_drawing_names_the_towers_and_their_layers(architecture):
    config = CONFIGS[architecture]
    figure = diagram(config, module_groups(config))
    texts = [text.get_text() for text in figure.axes[0].texts]
    towers = {"two-tower": ["Contextualizer", "Denoiser"]}.get(architecture, ["Transformer"])
    assert [text for text in texts if text in ("Contextualizer", "Denoiser", "Transformer")] == towers
    assert texts.count("2 layers, 16 wide") == len(towers)
    assert ("timestep" in texts) == (architecture != "base")


def test_report_of_a_preset_and_of_a_folder(tmp_path):
    result = report_model("base-tiny", tmp_path / "preset", dim=128)
    config = preset("base-tiny", 128)
    everything = sum(parameter.numel() for parameter in create_model(config, seed=0).parameters())
    assert result["total"] == everything
    assert result["weight_bytes"] == {"bf16": 2 * everything, "fp32": 4 * everything}
    assert result["cached_numbers_per_concept"] == 4 * 2 * 256  # keys and values of four layers
    create_model(CONFIGS["one-tower"], seed=0).save_pretrained(tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()  # no weight is read
    result = report_model(str(tmp_path / "model"), tmp_path / "folder", format="svg")
    assert sorted(result["files"]) == ["architecture.svg", "index.html", "parameters.svg", "training_memory.svg"]


def test_mistakes_are_said(tmp_path):
    create_model(CONFIGS["base"], seed=0).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="did you mean two-tower-tiny"):
        report_model("two-towr-tiny", tmp_path / "out")
    with pytest.raises(UserError, match="no such model"):
        report_model(str(tmp_path / "nowhere"), tmp_path / "out")
    with pytest.raises(UserError, match="--dim is for presets"):
        report_model(str(tmp_path / "model"), tmp_path / "out", dim=8)


def test_large_numbers_are_said_in_few_letters():
    assert [count_text(count) for count in (0, 999, 999.9, 1610000000, 350e6)] == ["0", "999", "1 k", "1.61 B", "350 M"]
    assert [size_text(count) for count in (12, 999999, 112e9)] == ["12 B", "1 MB", "112 GB"]
    assert operations_text(4.2e10) == "42 GFLOP"
