"""What users are told of settings is what the settings are."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from lexalcm.config import PositiveFloat, PositiveInt, Probability, Settings, load_settings, setting_names
from lexalcm.settings_list import LISTED, Section, Setting, listed, page, sections
from lexalcm.train.settings import OTHER_NAMES, RunConfig

ROOT = Path(__file__).parents[2]


class Inner(Settings):
    """What is inside."""

    share: Probability | None = None
    """A share,
    in two lines."""


class Entry(Settings):
    """One of several."""

    path: str
    """Where it is."""


class Outer(Settings):
    """What is outside.

    More about it.
    """

    count: PositiveInt = 3
    """How many."""
    size: Annotated[int, Field(ge=2, lt=11)] = 5
    """How large."""
    rate: PositiveFloat = 0.5
    """How fast."""
    mode: Literal["auto", True, False] = "auto"
    """Whether."""
    flag: bool | None = None
    """Perhaps."""
    pair: tuple[Probability, Probability] = (0.9, 0.95)
    """Two of them."""
    words: tuple[str, ...] = ("a",)
    """Some text."""
    entries: tuple[Entry, ...] = ()
    """Several."""
    inner: Inner = Inner()
    maybe: Inner | None = None
    further: dict[str, Any] = Field(default_factory=dict)
    """All else."""


def test_a_class_is_read_with_all_that_is_within_it() -> None:
    assert list(sections(Outer, "top")) == [
        Section(
            "top",
            "What is outside.",
            (
                Setting("top.count", "whole number of at least 1", "3", "How many."),
                Setting("top.size", "whole number from 2 to 10", "5", "How large."),
                Setting("top.rate", "number above 0", "0.5", "How fast."),
                Setting("top.mode", "auto, true or false", "auto", "Whether."),
                Setting("top.flag", "true, false or null", "null", "Perhaps."),
                Setting("top.pair", "2 numbers from 0 to below 1", "[0.9, 0.95]", "Two of them."),
                Setting("top.words", "list of texts", "[a]", "Some text."),
                Setting("top.entries", "list of settings", "[]", "Several."),
                Setting("top.further", "mapping", "{}", "All else."),
            ),
        ),
        Section("top.entries[]", "One of several.", (Setting("top.entries[].path", "text", None, "Where it is."),)),
        Section(
            "top.inner",
            "What is inside.",
            (Setting("top.inner.share", "number from 0 to below 1 or null", "null", "A share, in two lines."),),
        ),
        Section(
            "top.maybe",
            "What is inside.",
            (Setting("top.maybe.share", "number from 0 to below 1 or null", "null", "A share, in two lines."),),
        ),
    ]


def test_the_page_is_made_from_the_classes() -> None:
    """`lcm settings --markdown > docs/settings.md` makes it anew."""
    assert (ROOT / "docs/settings.md").read_text(encoding="utf-8") == page() + "\n"


@pytest.mark.parametrize("first", LISTED)
def test_every_setting_says_what_it_means(first: str) -> None:
    for section in listed(first):
        assert section.meaning.endswith(".")
        for setting in section.settings:
            assert setting.meaning[:1].isupper() or setting.meaning[:1].isdigit(), setting
            assert setting.meaning.endswith((".", "*")), setting
            assert "|" not in setting.meaning + setting.type, setting  # it would end a cell of the page


def test_defaults_that_are_shown_can_be_set() -> None:
    """All at once they give the settings that nobody has changed."""
    shown = {one.name: one.default for section in listed("") for one in section.settings if "[]" not in one.name}
    assert {name.rpartition(".")[2] for name in shown} >= {"lr", "betas", "model", "background", "project"}
    assert load_settings(RunConfig, overrides=[f"{name}={default}" for name, default in shown.items()]) == RunConfig()
    for name, default in shown.items():
        value: Any = RunConfig()
        for part in name.split("."):
            value = getattr(value, part)
        read = yaml.safe_load(str(default))
        assert (tuple(read) if isinstance(read, list) else read) == value, name


def test_other_programs_names_lead_to_settings_that_there_are() -> None:
    names = set(setting_names(RunConfig))
    for other, ours in OTHER_NAMES.items():
        assert set(ours.split(" or ")) <= names, other
        assert other not in {name.rpartition(".")[2] for name in names}, "it has this name here too"
