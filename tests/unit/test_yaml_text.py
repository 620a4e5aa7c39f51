import re

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lexalcm.config import load_settings
from lexalcm.errors import ConfigError
from lexalcm.train.settings import RunConfig
from lexalcm.yaml_text import YAMLTextError, parse_yaml

LETTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Cs"])  # PyYAML folds line breaks
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.dates() | st.text(LETTERS),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(LETTERS), inner),
)
ODD = st.sampled_from(
    ["!!int", "!!float", "!!timestamp", "!!binary", "!!map", "&a", "*a", "<<", "0x_", "[", "{", ": ", "\n"]
)


@given(TREES)
def test_yaml_is_read_as_it_was_written(tree) -> None:
    assert parse_yaml(yaml.safe_dump(tree, allow_unicode=True)) == tree


@settings(deadline=None)
@given(st.text() | st.binary() | st.lists(ODD | st.text(max_size=3)).map(" ".join))
@example("2024-13-45")
@example("2024-02-30")
@example("0x_")
@example("0b_")
@example("!!int x")
@example("!!float x")
@example("!!timestamp x")
@example("!!bool x")
@example("1" * 5000)
@example("[" * 2000)
@example("&a [*a]")
@example("\ud83d")
def test_any_text_is_yaml_or_one_line(text: str | bytes) -> None:
    try:
        parse_yaml(text)
    except YAMLTextError as error:
        found = str(error)
    else:
        return
    assert "\n" not in found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2024-02-30\n", "line 2: this is no timestamp"),
        ("a: 1\nb: !!int x\n", "line 2: this is no int"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "line 4: b comes twice"),
        ("a: &t\n  ema: *t\n", "it holds itself"),
        ("[" * 2000, "nested too deep"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, says: str) -> None:
    with pytest.raises(YAMLTextError, match=f"^{says}$"):
        parse_yaml(text)


def test_merged_keys_are_no_doubles_and_parts_may_come_again() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, x: 4}\nd: *a\n"
    assert parse_yaml(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"x": 4, "y": 2},
        "d": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize("value", ["2024-13-45", "0x_", "!!int x", "1" * 5000, "[" * 2000, "&a [*a]", "{a: 1, a: 2}"])
def test_a_setting_that_is_none_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set train\.lr: the value is not valid YAML \(") as raised:
        load_settings(RunConfig, overrides=[f"train.lr={value}"])
    assert len(str(raised.value)) < 200


@given(st.text(LETTERS))
@example("data/set😀")
@example("𠮷")
@example("2024-02-30")
@example("null")
def test_a_value_that_is_given_as_it_is_stays_so(text: str) -> None:
    config = load_settings(RunConfig, overrides=[("data.path", text), ("name", text)])
    assert config.data.path == config.name == text
    assert RunConfig.model_validate(parse_yaml(config.to_yaml().encode())) == config


def test_a_file_that_is_no_yaml_is_named(tmp_path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("name: x\ntrain: &t\n  ema: *t\n")
    with pytest.raises(ConfigError, match=re.escape(f"{file} is not valid YAML: it holds itself")):
        load_settings(RunConfig, file)
