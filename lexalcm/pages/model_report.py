"""The report of a model: its parts, their parameters and memory, and an architecture diagram.

Only the config is read, or the preset; no weight is loaded or made.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lexalcm.errors import UserError
from lexalcm.io.atomic import check_output
from lexalcm.io.progress import Progress, silent
from lexalcm.model.config import ModelConfig
from lexalcm.model.flops import training_flops
from lexalcm.model.presets import PUBLISHED_DIM, preset, preset_names
from lexalcm.model.storage.folder import model_folder, read_config
from lexalcm.pages import model_figures as figures
from lexalcm.pages.model_diagram import diagram
from lexalcm.pages.model_parts import (
    TRAINING,
    WEIGHTS,
    ModuleGroup,
    count_text,
    module_groups,
    operations_text,
    parameters_by_part,
    size_text,
)
from lexalcm.pages.page import PAGE, Fact, FigureSpec, draw_figures, render_page, write_report
from lexalcm.pages.style import Format
from lexalcm.registries import ARCHITECTURES

ROW = 128
"""Concepts of a packed row, and of a document, that operations are counted for."""


def report_model(
    name: str,
    out: Path | str,
    *,
    dim: int | None = None,
    format: Format = "png",
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the report of a model into the folder `out`.

    Args:
        name: a preset, or a model or run folder, or a hub id.
        out: a new folder for `index.html` and the pictures.
        dim: embedding dimension, of a preset; None: SONAR's.
        format: of the pictures.
        overwrite: replace `out` if it exists.
        progress: opens a report of long work.

    Returns:
        What was written; parameters by part and group; bytes.

    Raises:
        UserError: no such model, `dim` for a model that has its own, or `out` cannot be written.
    """
    check_output(out, overwrite=overwrite, marker=PAGE)
    config = _find(name, dim)
    groups = module_groups(config)
    counts = parameters_by_part(groups)
    total = sum(counts.values())
    cached = ARCHITECTURES.load(config.architecture).cached_numbers(config)
    operations = training_flops(config, ROW, ROW) / ROW
    drawn = draw_figures(_figure_specs(config, groups), format, progress)
    values = {
        "title": f"Model {name}",
        "command": f"lcm visualize model {name}" + (f" --dim {dim}" if dim is not None else ""),
        "architecture": config.architecture,
        "facts": [
            Fact(count_text(total), "parameters"),
            Fact(size_text(total * WEIGHTS["bf16"]), "weights, bf16"),
            Fact(size_text(total * sum(TRAINING.values())), "weights, gradients and optimizer (AdamW)"),
            Fact(operations_text(operations), f"training compute per concept, in documents of {ROW}"),
            Fact(size_text(cached * WEIGHTS["bf16"]), "KV cache per concept, bf16"),
        ],
        "figures": drawn,
        "groups": groups,
        "parts": [
            {"name": part, "parameters": count, "share": count / total}
            | {kind: size_text(count * size) for kind, size in WEIGHTS.items()}
            | {"training": size_text(count * sum(TRAINING.values()))}
            for part, count in counts.items()
        ],
        "total": total,
        "settings": _settings(config),
    }
    files = write_report(out, render_page("model.html.j2", values), drawn, overwrite=overwrite)
    return {
        "out": str(out),
        "files": files,
        "architecture": config.architecture,
        "parameters": counts,
        "total": total,
        "module_groups": [asdict(group) for group in groups],
        "weight_bytes": {kind: total * size for kind, size in WEIGHTS.items()},
        "training_bytes": total * sum(TRAINING.values()),
        "cached_numbers_per_concept": cached,
        "training_flops_per_concept": operations,
    }


def _find(name: str, dim: int | None) -> ModelConfig:
    if name in preset_names():
        return preset(name, dim if dim is not None else PUBLISHED_DIM)
    if dim is not None:
        raise UserError(f"--dim is for presets: {name} has its own dimension")
    if "/" not in name and not Path(name).exists():
        try:
            preset(name, PUBLISHED_DIM)  # raises an error that suggests a preset
        except UserError as error:
            raise UserError(f"no folder {name}, and {error}") from error
    return read_config(model_folder(name))


def _settings(config: ModelConfig) -> dict[str, str]:
    """The other settings of the architecture."""
    layers = f"{config.context_layers} + {config.num_layers}" if config.context_layers else f"{config.num_layers}"
    settings = {
        "architecture": config.architecture,
        "embedding dimension": f"{config.dim:,}",
        "width": f"{config.width:,}",
        "layers": layers,
        "heads": f"{config.num_heads} of {config.width // config.num_heads}",
        "feed-forward": f"{config.ffn_dim:,}",
        "dropout": f"{config.dropout:g}",
    }
    if config.diffusion is not None:
        settings["diffusion"] = (
            f"{config.diffusion.steps} timesteps, {config.diffusion.schedule}, predicts {config.diffusion.prediction}"
        )
    if config.codec is not None:
        settings["codec"] = f"{config.codec.name} ({config.codec.fingerprint[:16]})"
    return settings


def _figure_specs(config: ModelConfig, groups: Sequence[ModuleGroup]) -> list[FigureSpec]:
    return [
        FigureSpec(
            "architecture",
            "Architecture",
            ARCHITECTURES.load(config.architecture).flow + " Numbers are parameters, over all layers.",
            diagram,
            (config, groups),
        ),
        FigureSpec(
            "parameters",
            "Parameters by module",
            "Of each kind, over all layers.",
            figures.parameters,
            (groups,),
        ),
        FigureSpec(
            "training_memory",
            "Training memory",
            "In bf16 with AdamW, on one process, without activations. Sharding (ZeRO, FSDP) divides it among "
            "processes.",
            figures.training_memory,
            (parameters_by_part(groups), TRAINING),
        ),
    ]
