"""`lcm evaluate`: how well models predict held-out text, or do a task, compared with baselines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lexalcm.cli import infer_options as o
from lexalcm.cli.console import out, print_json, progress
from lexalcm.cli.evaluate_refusals import reject_unused_options
from lexalcm.cli.settings_options import FromSettings

if TYPE_CHECKING:
    from lexalcm.evaluate.report.report import Evaluation

LONGEST_WAIT = 3 * 3600.0
"""Seconds by which the slowest process may lag behind the fastest."""


def _list_metrics(wanted: bool) -> None:
    if wanted:
        from lexalcm.evaluate.report.tables import metric_table

        out.print(metric_table())
        raise typer.Exit


def evaluate(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Model or run folders, hub ids.  \\[default: newest of runs/*/model]"),
    ] = None,
    data: Annotated[str, typer.Option("--data", help="Data set: a folder or an address.")] = "data/sample",
    free: Annotated[
        bool,
        typer.Option("--free", help="Free-running: continue documents, by -n sentences (10), from the model's output."),
    ] = False,
    prefix: Annotated[int, typer.Option("--prefix", min=1, help="--free: sentences given of each document.")] = 5,
    task: Annotated[
        Path | None,
        typer.Option("--task", metavar="FILE", help="JSONL of source, reference (and lang): continue each source."),
    ] = None,
    lm: Annotated[
        str | None,
        typer.Option(
            "--lm", metavar="ID", help="Causal language model for mutual information: a Transformers id or a folder."
        ),
    ] = None,
    *,
    evaluation: Annotated[dict[str, Any], FromSettings("lexalcm.evaluate.settings:EvaluationSettings")],
    generation: o.Generation,
    to: Annotated[
        list[Path] | None,
        typer.Option("--out", "-o", help="Also write the report here, .json, .md or .html; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    list_metrics: Annotated[
        bool, typer.Option("--list-metrics", is_eager=True, callback=_list_metrics, help="Show all metrics and exit.")
    ] = False,
) -> None:
    """Measure how well models predict held-out documents, or do a task.

    Squared L2: distance of the prediction from the true next concept, in
    the data set's normalized space.

    Contrastive accuracy: the share of the other concepts of the evaluation
    batch that are farther from the prediction than the true one is (its two
    neighbours excluded); chance is 50%.

    More with --metrics; --list-metrics shows all.

    Baselines: the last concept repeated, the mean of the training split, the
    concept after the nearest training concept. Intervals (95%) and p-values
    are by the paired bootstrap over documents.

    A diffusion model samples with the options of its generation_config.json
    unless they are given here.

    With --out, an interrupted evaluation is resumed by the same command. Under
    torchrun or srun, documents are divided among the processes.

    \b
    Examples:
      lcm evaluate                                 # newest run, data/sample
      lcm evaluate runs/base runs/deep --metrics all -o report.html -o report.json
      lcm evaluate runs/base --free --prefix 3 -n 5 --limit 100
      lcm evaluate runs/base --metrics all --lm gpt2 --steps 20 --guidance 2
      lcm evaluate runs/base --task summaries.jsonl
      torchrun --nproc-per-node 8 -m lexalcm evaluate runs/base --data data/wiki -o wiki.json
    """
    from lexalcm.config import validate
    from lexalcm.distributed.world import find_world, joined
    from lexalcm.evaluate.run.models import evaluate as evaluate_models
    from lexalcm.evaluate.run.tasks import evaluate_task
    from lexalcm.evaluate.settings import EvaluationSettings
    from lexalcm.io.progress import silent

    world = find_world()
    continued = {"prefix": prefix}
    if free and "max_sentences" in generation:
        continued["sentences"] = generation.pop("max_sentences")
    if world.size > 1 and evaluation.get("device", "auto") == "auto":
        evaluation["device"] = str(world.device)
    settings = validate(
        EvaluationSettings,
        evaluation
        | {
            "free": continued if free else None,
            "language_model": {"name": lm} if lm else None,
            "generation": generation,
        },
    )
    reject_unused_options(context, settings, task=task is not None)
    found: list[str | None] = [*models] if models else [None]
    shown = progress if world.is_main else silent
    with joined(world, process_group=False, timeout=LONGEST_WAIT):
        if task is not None:
            report = evaluate_task(found, task, settings, out=to or [], processes=world, progress=shown)
        else:
            report = evaluate_models(found, data, settings, out=to or [], processes=world, progress=shown)
    if report is not None:
        _show(report, as_json)


def _show(evaluation: "Evaluation", as_json: bool) -> None:
    from lexalcm.evaluate.report.formatting import sentences
    from lexalcm.evaluate.report.tables import tables

    if as_json:
        print_json(evaluation.to_json())
        return
    for table in tables(evaluation):
        out.print(table)
    for line in sentences(evaluation):
        out.print(line)
