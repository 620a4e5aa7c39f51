"""Objectives: what a training makes small. A new one: `docs/extending.md`."""

from lexalcm.objective.base import Loss, Objective
from lexalcm.objective.create import create_objective

__all__ = ["Loss", "Objective", "create_objective"]
