"""Options of `lcm evaluate` that would do nothing beside what else is given: an error, not a surprise."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from lexalcm.evaluate.settings import EvaluationSettings

OF_DATA = (
    "data", "split", "metrics", "free", "prefix", "lm", "baselines", "neighbours", "batch", "corpus_order",
)  # fmt: skip
"""What a task has not, being a file with ways and metrics of its own."""
STOPS = ("stop_similarity", "stop_repetition")
"""What does not end a text that is to be as long as the document's."""
PROMPT = ("max_prompt",)
"""What no evaluation asks for: a model reads the last window of a text of any length."""


def refuse_useless(context: typer.Context, settings: "EvaluationSettings", *, task: bool) -> None:
    """Make sure that no option was typed that nothing here asks for.

    Raises:
        UserError: one was.
    """
    from lexalcm.codec.options import CodecOptions
    from lexalcm.evaluate.evaluation import needs_text
    from lexalcm.generate.options import GenerationOptions, SamplingOptions
    from lexalcm.option import option_fields

    typed = [option.name for option in context.command.get_params(context) if _is_typed(context, option.name)]
    if task:
        _refuse(typed, (*OF_DATA, *PROMPT), "with --task")
        return
    if settings.free is None:
        of_texts = [one.name for one in option_fields(GenerationOptions) if one not in option_fields(SamplingOptions)]
        _refuse(typed, ("prefix", *of_texts), "without --free")
    else:
        _refuse(typed, (*STOPS, *PROMPT), "with --free")
    if "nearest" not in settings.baselines:
        _refuse(typed, ("neighbours",), "without the baseline nearest")
    if not needs_text(settings):
        of_codec = [one.name for one in option_fields(CodecOptions)]
        _refuse(typed, ("codec", *of_codec), "where no metric is of text (--metrics text)")


def _is_typed(context: typer.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name or "")
    return source is not None and source.name == "COMMANDLINE"


def _refuse(typed: Iterable[str | None], useless: Iterable[str], where: str) -> None:
    from lexalcm.errors import UserError

    for name in useless:
        if name in typed:
            raise UserError(f"--{name.replace('_', '-')} has no meaning {where}: leave it away")
