"""`lcm train`: train a model in a run folder."""

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lexalcm.cli.console import err, out, print_json
from lexalcm.distributed.signals import SCHEDULERS, StopRequest
from lexalcm.errors import ConfigError, LexaError
from lexalcm.registries import ENGINES, OBJECTIVES

if TYPE_CHECKING:
    from lexalcm.train.run.main import DryRunResult, RunResult

Overrides = list[str | tuple[str, Any]]
"""What overrides the settings of the file, see `lexalcm.config.load_settings`."""

SECONDS_TO_REPORT = 3.0  # a launcher ends all processes when one has ended: the one that says why must come first


def train(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML file of settings.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Data set folder.  \\[default: data/sample]")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model folder or hub id to begin from.  \\[default: models/base]")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The run's folder is runs/NAME.  \\[default: the model folder's name]")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help=f"auto, {', '.join(ENGINES.names())}.  \\[default: auto]")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option("--objective", help=f"The loss: {', '.join(OBJECTIVES.names())}.  \\[default: the model's own]"),
    ] = None,
    deepspeed: Annotated[
        str | None, typer.Option("--deepspeed", metavar="FILE", help='DeepSpeed JSON; "auto" values are filled in.')
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Optimizer steps in all.")] = None,
    resume: Annotated[
        str,
        typer.Option(
            "--resume",
            metavar="auto|PATH|never",
            help="Resume where the run stopped or from a checkpoint, or start over.",
        ),
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --resume never: replace the run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make two steps, report memory and speed, write nothing.")
    ] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Show what each engine takes in memory on GPUs, and which fits; train nothing."),
    ] = False,
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus", metavar="N", min=1, help="With --plan: number of GPUs.  \\[default: those of this machine, or 1]"
        ),
    ] = None,
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            "--gpu-memory", metavar="12GB", help="With --plan: memory of each GPU.  \\[default: this machine's]"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting, e.g. train.lr=1e-4; lcm settings lists them. May be repeated."),
    ] = None,
    nproc: Annotated[
        str | None,
        typer.Option(
            "--nproc", metavar="N|gpu", help="Start this many processes on this machine, one a GPU; gpu: on all GPUs."
        ),
    ] = None,
    max_restarts: Annotated[
        int,
        typer.Option(
            "--max-restarts", min=0, help="With --nproc: how many times to start all again when one of them dies."
        ),
    ] = 0,
    stop_code: Annotated[
        int,
        typer.Option(
            "--stop-code",
            min=0,
            max=255,
            help="Exit code when asked to stop; not 0 where a launcher is to start the run again.",
        ),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    local_rank: Annotated[int, typer.Option("--local_rank", "--local-rank", hidden=True)] = 0,
) -> None:
    """Train a model; the same command again resumes where it stopped.

    The run's folder holds its settings, checkpoints, metrics.jsonl, TensorBoard
    files (tensorboard --logdir runs) and, at the end, the exported model that
    lcm infer loads. Ctrl-C, SIGTERM and SIGUSR1 finish the step and save.
    --nproc, torchrun, the deepspeed launcher and srun start one process a GPU
    of this same command.

    \b
    Examples:
      lcm train                                  # models/base on data/sample
      lcm train --deepspeed configs/zero2.json
      lcm train --data data/mine --model models/mine --set train.lr=3e-4
      lcm train --config my.yaml --name second --dry-run     # does it fit?
      lcm train --plan --model two-tower-1.6b --gpus 8 --gpu-memory 80GB
      lcm train --resume runs/base --steps 2000              # resume, for longer
      lcm train --nproc 2 --set data.global_batch=4          # on 2 GPUs
      lcm train --nproc gpu --set data.global_batch=8        # on all of 8
      torchrun --nproc-per-node 2 -m lexalcm train \\
        --deepspeed configs/zero3.json --set data.global_batch=4
    """
    if not plan and (gpus is not None or gpu_memory is not None):
        raise ConfigError("--gpus and --gpu-memory go with --plan; start processes with --nproc or a launcher")
    if plan and nproc is not None:
        raise ConfigError("--nproc starts processes, and --plan needs none: give the number of GPUs with --gpus")
    if nproc is not None:
        raise typer.Exit(_launch(nproc, max_restarts, stop_code, context.obj))
    if max_restarts:
        raise ConfigError("--max-restarts goes with --nproc; torchrun has an option of its own for it")
    named: dict[str, str | int | list[str] | None] = {
        "data.path": data,
        "data.sets": None if data is None else [],  # --data names the one to read
        "model": model,
        "name": name,
        "train.engine": engine,
        "train.objective": objective,
        "deepspeed": deepspeed,
        "train.steps": steps,
    }
    options = [(key, value) for key, value in named.items() if value is not None]
    if plan:
        _plan_memory(config, [*(overrides or ()), *options], gpus, gpu_memory, as_json)
        return
    try:
        stop = StopRequest(context.obj, SCHEDULERS, stop_code)
        status = _train(config, [*(overrides or ()), *options], resume, overwrite, dry_run, as_json, stop)
    except LexaError as error:
        reported = error.reported_by_peer
        if reported is None:  # all have it: the first one of each machine reports it
            reported = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) != "0"
        if not reported:
            raise
        code = error.exit_code
        signal.signal(signal.SIGTERM, lambda *_: os._exit(code))  # launchers end all, and then read every code
        time.sleep(SECONDS_TO_REPORT)
        raise typer.Exit(code) from error
    if status == "stopped":
        raise typer.Exit(stop_code)


def _launch(nproc: str, restarts: int, stop_code: int, stop: StopRequest | None) -> int:
    from lexalcm.distributed.launcher import check_not_launched, count_processes, run_processes, without_options

    processes = count_processes(nproc)
    check_not_launched(processes, os.environ)
    arguments = without_options(sys.argv[1:], ["--nproc", "--max-restarts"])
    return run_processes(
        [sys.executable, "-m", "lexalcm", *arguments], processes, restarts=restarts, stop_code=stop_code, stop=stop
    )


def _plan_memory(
    config: Path | None, overrides: Overrides, gpus: int | None, gpu_memory: str | None, as_json: bool
) -> None:
    from lexalcm.cli.memory_table import print_memory_plan
    from lexalcm.config import load_settings
    from lexalcm.train.memory.choice import plan_run_memory
    from lexalcm.train.settings import RunConfig

    print_memory_plan(plan_run_memory(load_settings(RunConfig, config, overrides), gpus, gpu_memory), as_json)


def _train(
    config: Path | None,
    overrides: Overrides,
    resume: str,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    stop: StopRequest,
) -> str:
    """Train, or try to, and print what came of it; gives how it ended."""
    with stop:  # before torch is loaded, which takes seconds
        from lexalcm.cli.training_display import training_display
        from lexalcm.distributed.world import find_world
        from lexalcm.train.monitor.run_monitor import output_is_closed
        from lexalcm.train.run import main as run

        settings = run.read_run_config(config, overrides, resume)
        is_main = find_world().is_main
        if dry_run:
            report = run.dry_run(settings, display=training_display(), stop=stop)
            if is_main:
                _print_dry_run(report, as_json)
            return "finished"
        result = run.train(settings, resume=resume, overwrite=overwrite, display=training_display(), stop=stop)
        try:
            if is_main:
                _print_result(result, as_json)
        except OSError as error:
            if not output_is_closed(error):
                raise
        return result.status


def _print_result(result: "RunResult", as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(result))
        return
    if result.status == "complete":
        err.print(
            f"{result.run} is complete: all {result.step} steps are done (train longer: --steps, another run: --name)"
        )
    elif result.status == "stopped" and result.checkpoint is None:
        err.print("stopped before the first step: the same command starts it")
    elif result.status == "stopped":
        err.print(f"stopped at step {result.step}, saved in {result.checkpoint}: the same command resumes from there")
    else:
        skipped = f", {result.skipped_steps} steps skipped" if result.skipped_steps else ""
        if result.skipped_documents:
            skipped += f", {result.skipped_documents:,} documents skipped (bad shards: lcm verify data)"
        err.print(f"{result.step} steps, {result.concepts:,} concepts in {result.seconds:.0f} s{skipped}")
        out.print(f"train loss {_loss(result.train_loss)}, validation loss {_loss(result.validation_loss)}")
        err.print(f"wrote {result.run}: model/ (exported), checkpoints/, metrics.jsonl, tb/, config.yaml")
        err.print(f'Next: lcm infer --model {result.run} "We must do more for our schools."')


def _print_dry_run(report: "DryRunResult", as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    from rich.table import Table

    table = Table(
        "memory of one process",
        title=f"{report.model_parameters:,} parameters, engine {report.engine}, {report.precision}, "
        f"{report.device}, {report.processes} process{'es' if report.processes > 1 else ''}",
    )
    table.add_column("MiB", justify="right")
    for part in ("parameters", "gradients", "optimizer", "peak"):
        table.add_row(part, f"{getattr(report, part + '_bytes') / 2**20:,.1f}")
    out.print(table)
    out.print(
        f"{report.seconds_per_step:.2f} s a step (the first ones are slow); loss {report.loss:.4f}; nothing saved"
    )


def _loss(value: Any) -> str:
    return "unknown" if value is None else f"{value:.4f}"
