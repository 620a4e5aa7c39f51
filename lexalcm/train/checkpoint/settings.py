"""What is kept of a run while it trains: `train.checkpoint.*` of `lcm train`."""

from lexalcm.config import PositiveInt, Settings


class CheckpointSettings(Settings):
    """How often the whole state of a run is written, and how much of it is kept."""

    every: PositiveInt = 100
    """Steps between two checkpoints."""
    keep: PositiveInt = 2
    """How many of the newest checkpoints are kept."""
    keep_every: PositiveInt | None = None
    """Also keep, for good, the checkpoints of steps divisible by this; null: no others."""
    background: bool = False
    """Write while the training continues, from a copy in memory."""
