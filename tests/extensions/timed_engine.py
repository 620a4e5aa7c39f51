"""An engine of another package: `single`, which also tells the run's log how long its updates took."""

import logging
import time

from lexalcm.train.engines.protocol import Update
from lexalcm.train.engines.single import SingleEngine

logger = logging.getLogger("lexalcm.train.timed")  # what is below lexalcm.train is in the log


class TimedEngine(SingleEngine):
    """One process; it trains with, and takes in memory, what `single` does."""

    name = "timed"
    _updates = 0
    _seconds = 0.0

    def update(self, lr: float) -> Update:
        """See `Engine.update`."""
        begin = time.perf_counter()
        done = super().update(lr)
        self._seconds += time.perf_counter() - begin
        self._updates += 1
        return done

    def close(self) -> None:
        """See `Engine.close`."""
        logger.info("%d updates in %.3f s", self._updates, self._seconds)
        super().close()
