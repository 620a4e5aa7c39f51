"""Settings fields as options: what is read from a class, and that the pages say the same."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from lexalcm.config import PositiveFloat, PositiveInt, Settings
from lexalcm.generate.options import GenerationOptions, SamplingOptions
from lexalcm.option import Option, in_words, option_fields

GENERATION = Path(__file__).parents[2] / "docs" / "generation.md"


class Oven(Settings):
    fan: Annotated[bool, Option()] = False


class Cake(Settings):
    eggs: Annotated[PositiveInt, Option()] = 3
    """How
    many.
    """
    sugar_share: Annotated[float | None, Field(ge=0, le=0.5), Option(("--sugar", "-s"))] = None
    butter: Annotated[Annotated[float, Field(ge=1)] | None, Option(default="as much as flour")] = None
    flour: Annotated[PositiveFloat, Option(metavar="GRAMS", panel="Dry")] = 250.0
    form: Annotated[Literal["round", "loaf"], Option()] = "round"
    """The tin."""
    filling: Annotated[str, Option(choices=lambda: ["jam", "cream"])] = "jam"
    """Between the halves."""
    secret: int = 7
    oven: Oven = Oven()


def test_options_are_read_from_fields() -> None:
    fields = option_fields(Cake)
    assert [field.path for field in fields] == [
        ("eggs",), ("sugar_share",), ("butter",), ("flour",), ("form",), ("filling",), ("oven", "fan"),
    ]  # fmt: skip
    eggs, sugar, butter, flour, form, filling, fan = fields
    assert (eggs.type, eggs.minimum, eggs.maximum, eggs.flags, eggs.metavar, eggs.default) == (
        int, 1, None, ("--eggs",), "N", "3",
    )  # fmt: skip
    assert eggs.help == "How many."
    assert (sugar.type, sugar.minimum, sugar.maximum, sugar.metavar, sugar.default) == (float, 0, 0.5, "X", "")
    assert (sugar.name, sugar.names) == ("sugar", {"sugar_share", "sugar", "s"})
    assert (butter.type, butter.minimum, butter.default) == (float, 1, "as much as flour")
    assert (flour.type, flour.minimum, flour.metavar, flour.panel) == (float, None, "GRAMS", "Dry")
    assert (form.type, form.help, form.default, form.metavar) == (str, "The tin: round, loaf.", "round", None)
    assert filling.help == "Between the halves: jam, cream."
    assert (fan.type, fan.flags, fan.name, fan.default) == (bool, ("--fan/--no-fan",), "fan", "")


@pytest.mark.parametrize(
    ("value", "words"), [(None, ""), (False, ""), (True, "True"), (1.0, "1"), (0.95, "0.95"), (0, "0"), ("a", "a")]
)
def test_defaults_in_words(value: object, words: str) -> None:
    assert in_words(value) == words


def test_every_option_of_generation_can_be_set_and_stopping_rules_are_not_sampling() -> None:
    assert [field.path[0] for field in option_fields(GenerationOptions)] == list(GenerationOptions.model_fields)
    assert GenerationOptions.model_fields.keys() - SamplingOptions.model_fields.keys() == {
        "reencode", "max_sentences", "max_prompt", "stop_similarity", "repetition",
    }  # fmt: skip


def test_the_page_on_generation_has_the_table_of_the_options() -> None:
    rows = ["| option | `generation_config.json` | default | |", "|---|---|---|---|"]
    for field in option_fields(GenerationOptions):
        flags = ", ".join(f"`{flag}`" for flag in field.flags)
        default = GenerationOptions.model_fields[field.path[0]].default
        rows.append(f"| {flags} | `{field.path[0]}` | {in_words(default)} | {field.help.replace('|', chr(92) + '|')} |")
    table = "\n".join(rows) + "\n"
    assert table in GENERATION.read_text(encoding="utf-8"), f"put this into {GENERATION}:\n{table}"
