"""What would stop a model when its turn comes, found before the first one has been evaluated for hours: options that
cannot be, weights that are missing, cut off or another model's. Weights are not loaded for it, their file's header is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lexalcm.diffusion.schedule import NoiseSchedule
from lexalcm.errors import UserError
from lexalcm.generate.denoising import Denoising
from lexalcm.generate.options import GenerationOptions
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import meta_model
from lexalcm.model.storage.folder import WEIGHTS_FILE, check_state, read_config, read_generation_config


def check_model(folder: Path, changes: Mapping[str, Any]) -> GenerationOptions:
    """Make sure that a model can be loaded and run with some options.

    Args:
        folder: the model's.
        changes: to its own generation options; a change of None changes nothing.

    Returns:
        The options it will have.

    Raises:
        UserError: it cannot; the message names the folder.
        ConfigError: a config or options that contradict themselves.
    """
    config = read_config(folder)
    _check_weights(folder, config)
    try:
        options = GenerationOptions.for_model(read_generation_config(folder), **changes)
        if config.diffusion is not None:
            Denoising(NoiseSchedule(config.diffusion), options)
    except UserError as error:
        raise type(error)(f"{folder}: {error}") from error
    return options


def _check_weights(folder: Path, config: ModelConfig) -> None:
    """Make sure that the weights' file is whole and has what the config asks for."""
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise UserError(f"{folder} has no {WEIGHTS_FILE}: it is not a complete model folder")
    model = meta_model(config)
    try:
        with safe_open(file, framework="pt") as weights:  # fails where the file is shorter than its header says
            names = list(weights.keys())
            state = {name: torch.empty(weights.get_slice(name).get_shape(), device="meta") for name in names}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is truncated or damaged: copy or export the model again") from error
    check_state(model, state, str(file))
