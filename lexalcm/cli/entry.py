"""Entry point of `lcm`: a training handles a scheduler's signals before the command line itself is loaded.

Loading takes a fifth of a second, on a busy machine more, in which a signal would end it without a message.
"""

import sys
from contextlib import nullcontext

from lexalcm.cli.streams import make_streams_safe
from lexalcm.distributed.signals import SCHEDULERS, StopRequest

NOT_TRAINING = {"--plan", "--help", "-h"}
"""Options of `lcm train` with which a signal ends it like any other command."""


def main() -> None:
    """Run `lcm`; see `lexalcm.cli.app.main`."""
    make_streams_safe()
    command = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    trains = command == "train" and not NOT_TRAINING & set(sys.argv)
    with StopRequest(signals=SCHEDULERS) if trains else nullcontext() as stop:
        from lexalcm.cli import app

        app.main(stop)
