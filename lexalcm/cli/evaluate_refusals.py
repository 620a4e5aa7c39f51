"""Options of `lcm evaluate` that have no effect with the others given are an error."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from lexalcm.evaluate.settings import EvaluationSettings

OF_DATA = (
    "data", "split", "metrics", "free", "prefix", "lm", "baselines", "neighbours", "batch", "corpus_order",
)  # fmt: skip
"""Options without effect in a task."""
STOPS = ("stop_similarity", "stop_repetition")
"""Stopping rules, which are off if a text is to be as long as the document."""
PROMPT = ("max_prompt",)
"""Never used in evaluations: a model reads the last window of a text of any length."""


def reject_unused_options(context: typer.Context, settings: "EvaluationSettings", *, task: bool) -> None:
    """Make sure that every option on the command line has an effect.

    Raises:
        UserError: one has none.
    """
    from lexalcm.codec.options import CodecChoice
    from lexalcm.evaluate.run.evaluation import needs_text
    from lexalcm.generate.options import GenerationOptions, SamplingOptions
    from lexalcm.option import option_fields

    typed = [option.name for option in context.command.get_params(context) if _is_typed(context, option.name)]
    if task:
        _reject(typed, (*OF_DATA, *PROMPT), "with --task")
        return
    if settings.free is None:
        of_texts = [one.name for one in option_fields(GenerationOptions) if one not in option_fields(SamplingOptions)]
        _reject(typed, ("prefix", *of_texts), "without --free")
    else:
        _reject(typed, (*STOPS, *PROMPT), "with --free")
    if "nearest" not in settings.baselines:
        _reject(typed, ("neighbours",), "without the baseline nearest")
    if not needs_text(settings):
        _reject(typed, [one.name for one in option_fields(CodecChoice)], "unless a metric needs text (--metrics text)")


def _is_typed(context: typer.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name or "")
    return source is not None and source.name == "COMMANDLINE"


def _reject(typed: Iterable[str | None], unused: Iterable[str], where: str) -> None:
    from lexalcm.errors import UserError

    for name in unused:
        if name in typed:
            raise UserError(f"--{name.replace('_', '-')} has no effect {where}: omit it")
