"""The models: configs, presets, base, one-tower and two-tower LCM, folders, import of published checkpoints."""

from lexalcm.model.base.network import BaseLCM
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import count_parameters, create_model
from lexalcm.model.diffusion_lcm import DiffusionLCM
from lexalcm.model.lcm import LCM
from lexalcm.model.one_tower.network import OneTowerLCM
from lexalcm.model.presets import DEFAULT_PRESET, Preset, preset, preset_names
from lexalcm.model.storage.folder import load_model
from lexalcm.model.two_tower.network import TwoTowerLCM

__all__ = [
    "DEFAULT_PRESET",
    "LCM",
    "BaseLCM",
    "DiffusionLCM",
    "ModelConfig",
    "OneTowerLCM",
    "Preset",
    "TwoTowerLCM",
    "count_parameters",
    "create_model",
    "load_model",
    "preset",
    "preset_names",
]
