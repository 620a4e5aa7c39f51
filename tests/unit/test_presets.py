"""Presets: the published parameter counts, and our own sizes."""

import subprocess
import sys

import pytest

from lexalcm.errors import ConfigError, UserError
from lexalcm.model import DEFAULT_PRESET, count_parameters, preset, preset_names
from lexalcm.model.presets import generation_options

SONAR_DIM = 1024


@pytest.mark.parametrize(
    ("name", "published"),
    [("base-1.6b", 1_649_185_792), ("two-tower-1.6b", 1_645_538_304), ("two-tower-7b", 6_930_781_696)],
)
def test_published_presets_have_the_published_size(name: str, published: int) -> None:
    config = preset(name, SONAR_DIM)
    queries_and_keys = 0
    if config.architecture == "two-tower":
        queries_and_keys = config.num_layers * 2 * (config.width + 1) * config.width
    assert sum(count_parameters(config).values()) + queries_and_keys == published


@pytest.mark.parametrize(("size", "parameters"), [("small", 60e6), ("medium", 350e6), ("large", 800e6)])
@pytest.mark.parametrize("architecture", ["base", "one-tower", "two-tower"])
def test_presets_in_between(architecture: str, size: str, parameters: float) -> None:
    count = sum(count_parameters(preset(f"{architecture}-{size}", SONAR_DIM)).values())
    assert count == pytest.approx(parameters, rel=0.06)


@pytest.mark.parametrize("name", ["two-tower-tiny", "base-tiny", "one-tower-tiny"])
def test_the_decoded_text_is_read_again_only_where_it_is_of_a_bank(name: str) -> None:
    assert generation_options(name, "lsa")["reencode"] is True
    for codec in ("sonar", "sonar-hf", "a-codec-that-is-not-here"):
        assert "reencode" not in generation_options(name, codec)
        assert generation_options(name, "lsa") == generation_options(name, codec) | {"reencode": True}


@pytest.mark.parametrize("codec", ["lsa", "sonar"])
def test_other_presets_keep_the_published_options(codec: str) -> None:
    others = [name for name in preset_names() if not name.endswith("-tiny")]
    assert [generation_options(name, codec) for name in others] == [{}] * (len(preset_names()) - 3)


def test_all_presets_fit_common_codecs() -> None:
    for name in preset_names():
        for dim in (256, SONAR_DIM):
            config = preset(name, dim)
            assert (config.preset, config.dim) == (name, dim)
    assert DEFAULT_PRESET in preset_names()


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean two-tower-small"):
        preset("two-tower-smal", 256)


def test_concepts_too_wide_for_a_preset() -> None:
    with pytest.raises(ConfigError, match="too narrow for dim=2048"):
        preset("two-tower-tiny", 2048)


def test_sizes_are_counted_without_loading_the_compiler() -> None:
    """Counting and loading build the model on the meta device; torch's compiler would add two seconds to each."""
    code = (
        "import sys\n"
        "from lexalcm.model import count_parameters, preset\n"
        "for name in ('base-tiny', 'two-tower-7b'): count_parameters(preset(name, 1024))\n"
        "print('torch._dynamo' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"
