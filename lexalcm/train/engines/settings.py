"""Settings that belong to one engine: `train.fsdp.*` of `lcm train`."""

from lexalcm.config import Settings


class FSDPSettings(Settings):
    """The engine fsdp."""

    offload: bool = False
    """Keep weights and optimizer state in the CPU's memory, and update there."""
