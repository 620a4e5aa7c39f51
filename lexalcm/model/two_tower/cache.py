"""What a two-tower model keeps of the concepts so far."""

from dataclasses import dataclass

from lexalcm.model.layers.cache import LayerCache


@dataclass
class TwoTowerCache:
    """What generation keeps of the concepts so far, for each layer: keys and values.

    The denoiser's slot 0 holds those of the zero vector, slot j + 1 those of the context of position j.
    """

    contextualizer: list[LayerCache]
    denoiser: list[LayerCache]
