"""The objective of a training, by name."""

from lexalcm.errors import ConfigError
from lexalcm.model.lcm import LCM
from lexalcm.objective.base import Objective
from lexalcm.registries import OBJECTIVES

AUTO = "auto"
"""The name that stands for the one of the model's architecture."""


def create_objective(model: LCM, name: str = AUTO) -> Objective:
    """A model with the loss that it is trained with.

    Args:
        model: the model.
        name: of a registered objective, or `auto`: the architecture's own.

    Raises:
        UserError: nothing is registered under the name; the message names the nearest.
        ConfigError: it is for models of another kind.
    """
    objective = OBJECTIVES.load(model.objective if name == AUTO else name)
    if objective.denoises != model.denoises:
        suits = "models that denoise" if objective.denoises else "models that predict the next concept themselves"
        raise ConfigError(
            f"train.objective is {name}, which trains {suits}, and this is a {model.config.architecture} model: "
            f"omit it, and the objective is {model.objective}"
        )
    return objective(model)
