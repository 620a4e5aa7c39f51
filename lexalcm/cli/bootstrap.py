"""`lcm bootstrap`: a new model folder with seeded weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lexalcm.cli.console import err, out, print_json

if TYPE_CHECKING:
    from lexalcm.model import LCM


DEFAULT_DATA = "data/sample"


def bootstrap(
    preset: Annotated[
        str | None,
        typer.Option("--preset", "-p", help="Architecture and size, see --list.  \\[default: two-tower-tiny]"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Data set that gives dimension, normalizer and codec.  \\[default: data/sample]"),
    ] = None,
    normalizer: Annotated[
        Path | None,
        typer.Option("--normalizer", metavar="FILE", help="File of `lcm data normalize -o`; else the data set's own."),
    ] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Folder to make.  \\[default: models/base]")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the weights.")] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a size, e.g. model.num_layers=4; lcm settings model lists them."),
    ] = None,
    from_fairseq2: Annotated[
        Path | None,
        typer.Option("--from-fairseq2", metavar="FILE", help="Instead: weights of a checkpoint of the published code."),
    ] = None,
    from_checkpoint: Annotated[
        Path | None,
        typer.Option("--from-checkpoint", metavar="PATH", help="Instead: a checkpoint of a run, or a run's newest."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="With --from-fairseq2: the checkpoint's config.")
    ] = None,
    list_presets: Annotated[bool, typer.Option("--list", help="List the presets with their parameter counts.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Initialise a model's weights.

    The weights are drawn from a seed as in the published code: attention
    Xavier-uniform, other projections uniform within 1/sqrt(inputs), timestep
    modulators zero (adaLN-zero). The normalizer is the one fitted on the data
    set, and the codec is recorded, so that the model is never given another
    codec's embeddings.

    A checkpoint of Meta's large_concept_model (base or two-tower; .pt or
    .safetensors) brings its own sizes and normalizer. With --data its codec is
    recorded too; that must be the embeddings that it was trained on. A
    checkpoint of a run here becomes a model with --from-checkpoint.

    \b
    Examples:
      lcm bootstrap                                        # two-tower-tiny for data/sample -> models/base
      lcm bootstrap --list
      lcm bootstrap --preset base-tiny --out models/mse
      lcm bootstrap --preset two-tower-small --set model.num_layers=8 --seed 1 --out models/deep
      lcm bootstrap --from-fairseq2 model.pt --config model.yaml --out models/meta
      lcm bootstrap --from-checkpoint runs/base/checkpoints/step_00000100 --out models/at-100
    """
    if list_presets:
        _print_presets(as_json)
        return
    from lexalcm.data.format.dataset import Dataset
    from lexalcm.model.presets import DEFAULT_PRESET
    from lexalcm.train.bootstrap import (
        DEFAULT_OUT,
        BootstrapRequest,
        bootstrap_from_checkpoint,
        bootstrap_from_fairseq2,
        bootstrap_model,
    )

    if from_checkpoint is not None:
        _reject_conflicting("--from-checkpoint", preset, overrides, normalizer)
        folder = to or Path(DEFAULT_OUT)
        model = bootstrap_from_checkpoint(from_checkpoint, folder, overwrite=overwrite)
        _print_result(model, folder, as_json)
        return
    if from_fairseq2 is not None:
        _reject_conflicting("--from-fairseq2", preset, overrides, normalizer)
        folder = to or Path(DEFAULT_OUT)
        dataset = Dataset.open(data) if data else None
        model = bootstrap_from_fairseq2(from_fairseq2, config, dataset, folder, overwrite=overwrite)
        _print_result(model, folder, as_json)
        return
    dataset = Dataset.open(data or DEFAULT_DATA)
    request = BootstrapRequest.of(preset or DEFAULT_PRESET, dataset, seed, overrides or (), normalizer)
    folder = to or Path(DEFAULT_OUT)
    if to is None and not overwrite and request.is_fulfilled(folder):
        err.print(f"{folder} is already this model: nothing to do. Next: lcm train")
        return
    model = bootstrap_model(request, dataset, folder, normalizer=normalizer, overwrite=overwrite)
    _print_result(model, folder, as_json)


def _reject_conflicting(option: str, preset: str | None, overrides: list[str] | None, normalizer: Path | None) -> None:
    from lexalcm.errors import UserError

    for other, given, own in (
        ("--preset", preset, "sizes"),
        ("--set", overrides, "sizes"),
        ("--normalizer", normalizer, "normalizer"),
    ):
        if given:
            raise UserError(f"{other} has no effect with {option}: a checkpoint has its own {own}")


def _print_presets(as_json: bool) -> None:
    from rich import box
    from rich.table import Table

    from lexalcm.model import count_parameters
    from lexalcm.model.presets import DEFAULT_PRESET, PUBLISHED_DIM, preset, preset_names

    counts = {name: count_parameters(preset(name, PUBLISHED_DIM)) for name in preset_names()}
    if as_json:
        print_json({name: sum(parts.values()) for name, parts in counts.items()})
        return
    title = f"Presets, for concepts of dimension {PUBLISHED_DIM}"
    table = Table("preset", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("width", "layers", "heads", "feed-forward", "parameters"):
        table.add_column(column, justify="right")
    for name, parts in counts.items():
        config = preset(name, PUBLISHED_DIM)
        layers = f"{config.context_layers} + {config.num_layers}" if config.context_layers else str(config.num_layers)
        table.add_row(
            f"{name} *" if name == DEFAULT_PRESET else name,
            f"{config.width}",
            layers,
            f"{config.num_heads}",
            f"{config.ffn_dim}",
            f"{sum(parts.values()):,}",
        )
    table.caption = "* the default"
    out.print(table)


def _print_result(model: "LCM", folder: Path, as_json: bool) -> None:
    from rich import box
    from rich.table import Table

    from lexalcm.model import count_parameters

    parts = count_parameters(model.config)
    total = sum(parts.values())
    if as_json:
        print_json({"model": folder, "preset": model.config.preset, "parameters": parts, "total": total})
        return
    title = f"{model.config.preset or model.config.architecture}, concepts of dimension {model.config.dim}"
    table = Table("part", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("parameters", justify="right")
    for part, count in parts.items():
        table.add_row(part, f"{count:,}")
    table.add_section()
    table.add_row("all", f"{total:,}", style="bold")
    out.print(table)
    err.print(f"wrote {folder}. Next: lcm train --model {folder}")
