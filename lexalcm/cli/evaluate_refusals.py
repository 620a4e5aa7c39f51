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
OF_CODEC = ("codec", "codec_device", "codec_dtype", "codec_batch", "beam")


def refuse_useless(context: typer.Context, settings: "EvaluationSettings", *, task: bool) -> None:
    """Make sure that no option was typed that nothing here asks for.

    Raises:
        UserError: one was.
    """
    from lexalcm.evaluate.evaluation import needs_text

    typed = [name for name in context.params if _is_typed(context, name)]
    if task:
        _refuse(typed, OF_DATA, "with --task")
        return
    if settings.free is None:
        _refuse(typed, ("prefix", "sentences"), "without --free")
    if "nearest" not in settings.baselines:
        _refuse(typed, ("neighbours",), "without the baseline nearest")
    if not needs_text(settings):
        _refuse(typed, OF_CODEC, "where no metric is of text (--metrics text)")


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse(typed: Iterable[str], useless: Iterable[str], where: str) -> None:
    from lexalcm.errors import UserError

    for name in useless:
        if name in typed:
            raise UserError(f"--{name.replace('_', '-')} has no meaning {where}: leave it away")
