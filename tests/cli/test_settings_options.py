"""A field of a settings class is an option of the commands that have the class: in the help, and in what they do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
from documented import command_of, options_of
from text_model_folder import make_text_model

from lexalcm.codec.options import CodecOptions
from lexalcm.config import PositiveInt
from lexalcm.generate.options import GenerationOptions
from lexalcm.option import Option, option_fields

GENERATING = ["infer", "evaluate", "visualize generation"]
DECODING = [*GENERATING, "verify codec"]
EMBEDDING = ["data sample", "data build", "data embed"]


class MoreOptions(GenerationOptions):
    """As if a field had been added."""

    patience: Annotated[PositiveInt, Option(("--patience", "-p"), panel="When to stop")] = 4
    """Sentences without news."""


@pytest.fixture
def _more(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lexalcm.generate.options", "lexalcm.generate.text", "lexalcm.generate.sessions.session"):
        monkeypatch.setattr(f"{module}.GenerationOptions", MoreOptions)


@pytest.mark.parametrize("command", GENERATING)
def test_every_generation_option_is_an_option_of_what_generates(command: str) -> None:
    flags = {part for one in option_fields(GenerationOptions) for flag in one.flags for part in flag.split("/")}
    assert flags <= options_of(command.split())


@pytest.mark.parametrize("command", [*DECODING, *EMBEDDING])
def test_codec_options_are_options_of_what_runs_a_codec(command: str) -> None:
    fields = option_fields(CodecOptions)
    known = {flag for one in fields if command in DECODING or one.path[0] != "decoding" for flag in one.flags}
    unknown = {flag for one in fields for flag in one.flags} - known
    assert known <= options_of(command.split())
    assert unknown.isdisjoint(options_of(command.split()))


@pytest.mark.usefixtures("_more")
@pytest.mark.parametrize("command", GENERATING)
def test_a_field_that_is_added_is_in_the_help(lcm: Callable, command: str) -> None:
    assert "Sentences without news." in lcm(*command.split(), "--help").out


@pytest.mark.usefixtures("_more")
def test_a_field_that_is_added_reaches_the_options(lcm: Callable, tmp_path: Path) -> None:
    make_text_model(tmp_path / "model")
    line = ("infer", "Peace is near.", "--model", tmp_path / "model", "--json", "-n", 1)
    assert json.loads(lcm(*line).out)["options"]["patience"] == 4
    assert json.loads(lcm(*line, "-p", 9).out)["options"]["patience"] == 9
    wrong = lcm(*line, "--patience", 0)
    assert (wrong.code, wrong.out, len(wrong.err.splitlines())) == (2, "", 1)
    assert "'--patience'" in wrong.err


def test_corrections_of_sampling_reach_the_options(lcm: Callable, tmp_path: Path) -> None:
    make_text_model(tmp_path / "model")
    given = {"epsilon_scaling": 1.5, "clip_noisy": 50.0, "dynamic_threshold": 0.9, "dynamic_threshold_max": 3.0}
    line = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    answer = lcm("infer", "Peace is near.", "--model", tmp_path / "model", "--json", "-n", 1, *line)
    assert json.loads(answer.out)["options"].items() >= given.items()
    both = lcm("infer", "Peace.", "--model", tmp_path / "model", "--clip-x0", 2, "--dynamic-threshold", 0.9)
    assert (both.code, len(both.err.splitlines())) == (2, 1)
    assert "set one of them" in both.err


def test_what_is_not_given_is_not_in_the_mapping_but_for_the_command_s_own_default() -> None:
    def parsed(*line: str) -> dict:
        command, parent, rest = command_of(list(line))
        context = command.make_context(command.name, rest, parent=parent)
        return {name: one.take(context.params) for name, one in command._stand_ins.items()}

    assert parsed("infer", "x") == {"generation": {}, "codec": {}}
    line = ("infer", "x", "--no-reencode", "--guidance", "0", "--beam", "2", "--codec-device", "cpu")
    assert parsed(*line) == {
        "generation": {"guidance_scale": 0.0, "reencode": False},
        "codec": {"run": {"device": "cpu", "decoding": {"beam": 2}}},
    }
    assert parsed("visualize", "generation", "x")["generation"] == {"max_sentences": 5}
    assert parsed("visualize", "generation", "x", "-n", "2")["generation"] == {"max_sentences": 2}
