"""The report of a training run, or of several side by side: curves, latest metrics, settings that differ."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lexalcm.errors import UserError
from lexalcm.io.atomic import check_output
from lexalcm.io.progress import Progress, silent
from lexalcm.pages import run_figures as figures
from lexalcm.pages.page import PAGE, CaptionedFigure, Fact, FigureSpec, draw_figures, render_page, write_report
from lexalcm.pages.run_metrics import METRICS_FILE, RunMetrics, differing_settings, read_runs
from lexalcm.pages.style import Format

TEMPLATE = "run.html.j2"
SHOWN_SETTINGS = 40


@dataclass(frozen=True)
class RunRow:
    """A line of the table of runs; None where the run has not written a number."""

    name: str
    path: str
    step: int
    steps: int | None
    loss: float | None
    validation_loss: float | None
    best_validation_loss: float | None
    best_step: int | None
    concepts_per_s: float | None
    seconds: float | None
    skipped_steps: int
    skipped_documents: int


def report_runs(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    by_time: bool = False,
    format: Format = "png",
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the report of runs into the folder `out`.

    Args:
        paths: folders of runs.
        out: a new folder for `index.html` and the pictures.
        by_time: draw over the time of training instead of steps.
        format: of the pictures.
        overwrite: replace `out` if it exists.
        progress: opens a report of long work.

    Returns:
        What was written, and the numbers of the page's tables.

    Raises:
        UserError: a path is not a run, a run has not written anything yet, or `out` cannot be written.
    """
    check_output(out, overwrite=overwrite, marker=PAGE)
    runs = read_runs(paths)
    for run in runs:
        if run.unreadable and not run.lines:
            raise UserError(f"{run.path}/{METRICS_FILE} is damaged: none of its lines is a JSON object with a step")
        if not run.lines:
            raise UserError(f"{run.path} has written no metrics yet: wait for its first line, or watch it with --live")
    drawn = draw_figures(figure_specs(runs, by_time), format, progress)
    files = write_report(out, render_runs(runs, drawn), drawn, overwrite=overwrite)
    return {
        "out": str(out),
        "files": files,
        "runs": [asdict(summarize(run)) for run in runs],
        "differing_settings": differing_settings(runs),
    }


def render_runs(
    runs: Sequence[RunMetrics], drawn: Sequence[CaptionedFigure], *, reload_seconds: float | None = None
) -> str:
    """The page; with `reload_seconds`, one that asks its server for a new version at that interval."""
    rows = [summarize(run) for run in runs]
    settings = differing_settings(runs)
    return render_page(
        TEMPLATE,
        {
            "title": f"Run {runs[0].path}" if len(runs) == 1 else f"{len(runs)} runs",
            "command": "lcm visualize run " + " ".join(str(run.path) for run in runs),
            "facts": _facts(rows[0]) if len(rows) == 1 else [],
            "notes": _notes(runs),
            "figures": drawn,
            "rows": rows,
            "settings": dict(list(settings.items())[:SHOWN_SETTINGS]),
            "more_settings": max(0, len(settings) - SHOWN_SETTINGS),
            "reload_seconds": reload_seconds,
            "drawn": time.strftime("%Y-%m-%d %H:%M:%S"),
        },
    )


def summarize(run: RunMetrics) -> RunRow:
    """The latest metrics of a run."""
    steps, validation = run.points("validation_loss")
    best = int(validation.argmin()) if len(validation) else None
    throughput = run.points("concepts_per_s")[1]
    return RunRow(
        name=run.name,
        path=str(run.path),
        step=int(run.last("step") or 0),
        steps=run.steps,
        loss=run.last("loss"),
        validation_loss=run.last("validation_loss"),
        best_validation_loss=None if best is None else float(validation[best]),
        best_step=None if best is None else int(steps[best]),
        concepts_per_s=float(throughput.mean()) if len(throughput) else None,
        seconds=run.last("seconds"),
        skipped_steps=int(run.last("skipped_steps") or 0),
        skipped_documents=int(run.last("skipped_documents") or 0),
    )


def figure_specs(runs: Sequence[RunMetrics], by_time: bool) -> list[FigureSpec]:
    """The figures whose metrics the runs have."""
    x_axis = figures.time_axis(runs) if by_time else figures.STEP_AXIS

    def having(column: str) -> Sequence[RunMetrics]:
        return runs if any(run.has(column) for run in runs) else []

    specs = [
        FigureSpec(
            "loss",
            "Training loss",
            "Mean over the targets of the steps since the line before: squared distance to the true next concept, "
            "in normalized space. Predicting the mean gives about the number of dimensions.",
            figures.curves,
            (having("loss"), "loss", "training loss per concept", x_axis, True),
        )
    ]
    if kept := having("validation_loss"):
        specs.append(
            FigureSpec(
                "validation_loss",
                "Validation loss",
                "On held-out documents, with the same noise each time; a ring marks the lowest. When it rises while "
                "the training loss falls, the model overfits: it learns its documents by heart.",
                figures.validation,
                (kept, x_axis),
            )
        )
    specs += [
        FigureSpec(
            "learning_rate",
            "Learning rate",
            "As the schedule set it in the optimizer.",
            figures.learning_rate,
            (having("lr"), x_axis),
        ),
        FigureSpec(
            "gradient_norm",
            "Gradient norm",
            "Before clipping, at the last step of each line. Spikes come before a loss that jumps: lower train.lr or "
            "lengthen train.warmup_steps.",
            figures.curves,
            (having("grad_norm"), "grad_norm", "gradient norm (L2)", x_axis, True),
        ),
        FigureSpec(
            "throughput",
            "Throughput",
            "Concepts per second, without padding. A dip is usually a checkpoint, a validation, or waiting for data.",
            figures.curves_from_zero,
            (having("concepts_per_s"), "concepts_per_s", "throughput (concepts/s)", x_axis),
        ),
    ]
    return [spec for spec in specs if spec.arguments[0]] + _timestep_specs(runs, x_axis) + _optional_specs(runs, x_axis)


def _timestep_specs(runs: Sequence[RunMetrics], x_axis: figures.XAxis) -> list[FigureSpec]:
    kept = [run for run in runs if run.loss_by_timestep is not None]
    if not kept:
        return []
    specs = [
        FigureSpec(
            "loss_by_timestep",
            "Loss by timestep",
            "Mean of the newest tenth of the lines, by how much noise was in the concept to denoise; dashed, where "
            "there is one, the newest validation. To the left most of the answer is given; to the right the context "
            "alone must tell.",
            figures.loss_by_timestep,
            (runs,),
        )
    ]
    if len(kept) == 1:
        specs.append(
            FigureSpec(
                "loss_by_timestep_over_training",
                "Loss by timestep over training" + (f", {kept[0].name}" if len(runs) > 1 else ""),
                "One line for each tenth of the timesteps, stronger with more noise. What is easy is learned first.",
                figures.loss_by_timestep_over_training,
                (kept[0], x_axis),
            )
        )
    return specs


def _optional_specs(runs: Sequence[RunMetrics], x_axis: figures.XAxis) -> list[FigureSpec]:
    """Figures of metrics that only some runs write."""
    specs = []
    if any(run.has("mfu") for run in runs):
        caption = "Operations that the model's design needs, over what the device could do in the time."
        arguments = (runs, "mfu", "MFU", x_axis)
        specs.append(FigureSpec("mfu", "Model FLOPs utilization (MFU)", caption, figures.percentages, arguments))
    if any(run.has("data_wait") for run in runs):
        caption = "Share of the time in which training waited for data. Above a few percent: raise data.num_workers."
        arguments = (runs, "data_wait", "time waiting for data", x_axis)
        specs.append(FigureSpec("data_wait", "Data wait", caption, figures.percentages, arguments))
    if any(run.has("peak_memory_gb") for run in runs):
        caption = "The most that any process has held at one time, so far."
        arguments = (runs, "peak_memory_gb", "peak memory (GB)", x_axis)
        specs.append(FigureSpec("peak_memory", "Peak memory", caption, figures.curves_from_zero, arguments))
    for column, title, caption in (
        ("skipped_steps", "Skipped steps", "Steps so far whose loss or gradient was not finite; no weight changed."),
        ("skipped_documents", "Skipped documents", "Documents so far that were left out because of damaged shards."),
    ):
        if any(run.points(column)[1].any() for run in runs):
            arguments = (runs, column, f"{title.lower()} (cumulative)", x_axis)
            specs.append(FigureSpec(column, title, caption, figures.cumulative_counts, arguments))
    return specs


def _facts(row: RunRow) -> list[Fact]:
    facts = [Fact(f"{row.step:,}", "steps" + (f" of {row.steps:,}" if row.steps else ""))]
    if row.loss is not None:
        facts.append(Fact(f"{row.loss:.4g}", "training loss"))
    if row.best_validation_loss is not None:
        facts.append(Fact(f"{row.best_validation_loss:.4g}", f"lowest validation loss, at step {row.best_step:,}"))
    if row.concepts_per_s is not None:
        facts.append(Fact(f"{row.concepts_per_s:,.0f}", "concepts per second"))
    if row.seconds is not None:
        facts.append(Fact(duration(row.seconds), "of training"))
    facts.append(Fact(f"{row.skipped_steps:,}", "skipped steps"))
    return facts


def duration(seconds: float) -> str:
    """A time in words: `17 s`, `4 min`, `2 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _notes(runs: Sequence[RunMetrics]) -> list[str]:
    notes = []
    for run in runs:
        if not run.lines:
            notes.append(f"{run.name} has written no metrics yet.")
        if run.unreadable:
            lines = "line was" if run.unreadable == 1 else "lines were"
            notes.append(f"{run.unreadable} {lines} skipped in {run.name}: not a JSON object with a step.")
    return notes
