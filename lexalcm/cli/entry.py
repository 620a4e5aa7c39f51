"""Where `lcm` begins: a training listens to a scheduler's signals before the command line itself is loaded.

That takes a fifth of a second, on a busy machine more, in which a signal would end it without a word.
"""

import sys
from contextlib import nullcontext

from lexalcm.cli.streams import mend_streams
from lexalcm.distributed.signals import SCHEDULERS, StopRequest

WITHOUT_TRAINING = {"--plan", "--help", "-h"}
"""Options of `lcm train` with which a signal ends it like any other command."""


def main() -> None:
    """Run `lcm`; see `lexalcm.cli.app.main`."""
    mend_streams()
    command = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    trains = command == "train" and not WITHOUT_TRAINING & set(sys.argv)
    with StopRequest(signals=SCHEDULERS) if trains else nullcontext() as stop:
        from lexalcm.cli import app

        app.main(stop)
