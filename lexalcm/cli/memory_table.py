"""A memory plan as a table."""

import dataclasses
from typing import TYPE_CHECKING

from lexalcm.cli.console import err, out, print_json

if TYPE_CHECKING:
    from lexalcm.train.memory.plan import MemoryEstimate, MemoryPlan

COLUMNS = {
    "weights": "weight",
    "gradients": "grad",
    "optimizer": "optim",
    "average": "ema",
    "activations": "activ",
    "buffers": "buffer",
    "total": "total",
    "cpu": "CPU",
    "nvme": "NVMe",
}
"""Of an estimate, by short names: a table that fits a terminal."""


def print_memory_plan(plan: "MemoryPlan", as_json: bool) -> None:
    """Print a memory plan: JSON with bytes, or a table in GiB and what fits."""
    if as_json:
        best = None if plan.best is None else [plan.best.engine, plan.best.checkpointing]
        print_json({**dataclasses.asdict(plan), "best": best})
        return
    from rich import box
    from rich.table import Column, Table

    gpus = f"{plan.processes} GPU{'s' if plan.processes > 1 else ''}"
    limit = "" if plan.limit is None else f" of {plan.limit / 2**30:.0f} GiB"
    title = (
        f"GiB on each of {gpus}{limit}: {plan.parameters:,} parameters, {plan.precision}, "
        f"micro-batches of {plan.micro_batch} rows of {plan.row_length}"
    )
    shown = {name: text for name, text in COLUMNS.items() if any(getattr(one, name) for one in plan.estimates)}
    table = Table(
        Column("engine", no_wrap=True, min_width=13),
        Column("ckpt", no_wrap=True, min_width=4),
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
    for text in shown.values():
        table.add_column(text, justify="right", no_wrap=True)
    if plan.limit is not None:
        table.add_column("rows", justify="right", no_wrap=True)
    for estimate in plan.estimates:
        cells = [_gib(getattr(estimate, name)) for name in shown]
        rows = [] if plan.limit is None else [str(estimate.largest_micro_batch or "-")]
        style = "bold" if estimate is plan.best else "" if estimate.fits is not False else "dim"
        table.add_row(estimate.engine, estimate.checkpointing, *cells, *rows, style=style)
    rows_text = "" if plan.limit is None else "; rows: the largest data.micro_batch that fits"
    table.caption = f"{_compiled(plan)}ckpt: train.activation_checkpointing; CPU and NVMe: for each GPU{rows_text}"
    table.caption_justify = "left"
    out.print(table)
    if plan.limit is not None:
        out.print("nothing fits: use more GPUs or a smaller model" if plan.best is None else _how(plan.best))
    else:
        err.print("add --gpu-memory 12GB to see what fits")


def _compiled(plan: "MemoryPlan") -> str:
    if not any(one.compiled for one in plan.estimates):
        return ""
    eager = dict.fromkeys(one.engine.partition("_")[0] for one in plan.estimates if not one.compiled)
    return f"layers compiled{', but under ' if eager else ''}{', '.join(eager)}; "


def _how(best: "MemoryEstimate") -> str:
    from lexalcm.train.memory.choice import options_of

    return f"simplest configuration that fits: lcm train {options_of(best)}"


def _gib(size: int) -> str:
    gib = size / 2**30
    return "" if size == 0 else f"{gib:.2f}" if gib < 10 else f"{gib:.1f}"
