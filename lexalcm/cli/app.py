"""The Typer application `lcm` and the one place where errors become a line and an exit code.

Commands are registered as callbacks whose modules import nothing heavy, so that `lcm --help` answers at once;
torch, scikit-learn and pandas load inside the functions that need them.
"""

import errno
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lexalcm.cli import bootstrap, data, evaluate, infer, settings, train, verify, visualize
from lexalcm.cli.console import complain, out, say_what_it_took, set_verbosity
from lexalcm.cli.settings_options import SettingsCommand
from lexalcm.cli.streams import forget_unwritten
from lexalcm.errors import LexaError

if TYPE_CHECKING:
    from lexalcm.distributed.signals import StopRequest

UsageError: type[Any] = typer.BadParameter.__mro__[1]  # click's, which versions of typer keep in different places

NO_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)
"""What torch says, on a CPU or a GPU."""

LONGEST_SHOWN = 100
"""Letters of a path in a message: it may be a whole text, given where a path is expected."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

ANYWHERE = frozenset({"--debug", "--quiet", "-q", "--verbose", "-v"})
"""Options of `lcm` itself that may stand behind its commands too."""

app = typer.Typer(
    name="lcm",
    help="Prepare data for, train and run Large Concept Models.",
    epilog="First steps:  lcm data sample;  lcm bootstrap;  lcm train;  lcm infer 'We must do more for our schools.'"
    "\n\nExit codes:  0 done;  1 failed while running, or lcm verify found errors;  2 a mistake in what was asked;  "
    "130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from lexalcm.cli.versions import versions

        for line in versions():
            out.print(line)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print versions and exit.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also say how long each stage took.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks. These three may stand anywhere in the line.")
    ] = False,
    local_rank: Annotated[int, typer.Option("--local_rank", hidden=True)] = 0,  # the deepspeed launcher puts it here
) -> None:
    """Prepare data for, train and run Large Concept Models."""


app.add_typer(data.app, name="data")
app.command("bootstrap")(bootstrap.bootstrap)
app.command("train")(train.train)
app.command("settings")(settings.settings)
app.command("infer", cls=SettingsCommand)(infer.infer)
app.command("evaluate", cls=SettingsCommand)(evaluate.evaluate)
app.add_typer(verify.app, name="verify")
app.add_typer(visualize.app, name="visualize")


def _of_the_system(error: Exception) -> str | None:
    """What the system says of a call that failed, if one did; `shutil` and what is written in Rust give it as text."""
    place: object = getattr(error, "filename", None)
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        place, _, text = error.args[0][0]
    else:
        text = str(error)
    match = re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", text)
    if match is None:
        return " ".join(text.split()) if isinstance(error, OSError) else None
    number = int(match[1] or match[2])
    if place is None and number in (errno.ENOSPC, errno.EDQUOT):
        place = "make room, or choose another place for the output"
    shown = "" if place is None else f": {os.fsdecode(place) if isinstance(place, bytes) else place}"
    return os.strerror(number) + (shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}...")


def _complain(text: str) -> None:
    """Say in one line why the command ends, also where a name has several."""
    complain("lcm: " + text.replace("\n", "\\n"))


def report_fault(error: Exception) -> None:
    """Keep the traceback of an exception that nobody foresaw in a file, and say in one line where that is."""
    import tempfile
    import traceback

    from lexalcm.cli.versions import versions

    with tempfile.NamedTemporaryFile(  # made with O_EXCL, for its owner alone
        "w", prefix="lcm-fault-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as file:
        print(" ".join(sys.argv), *versions(), sep="\n", end="\n\n", file=file)
        traceback.print_exception(error, file=file)
    said = " ".join(f"{type(error).__name__}: {error}".split())
    _complain(
        f"unexpected {said if len(said) <= LONGEST_SHOWN else f'{said[:LONGEST_SHOWN]}...'}: a fault of lcm or of a "
        f"package under it; please report it with {file.name}, which holds the details"
    )


def _split(arguments: list[str]) -> tuple[list[str], set[str]]:
    """A command line without the options that may stand anywhere in it, before `--`; and those."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = {argument for argument in arguments[:end] if argument in ANYWHERE}
    return [argument for argument in arguments[:end] if argument not in ANYWHERE] + arguments[end:], given


def main(stop: "StopRequest | None" = None) -> None:
    """Run `lcm`: 0 when all went well, 1 for a failure while running, 2 for a mistake in what was asked.

    Args:
        stop: has caught signals since before this module was loaded; see `lexalcm.cli.entry`.
    """
    # Threads that wait by spinning make torch many times slower beside another busy process (8x on two cores); set
    # before torch is loaded, because OpenMP reads it then.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Torch's C++ parts warn, with a stack of addresses, of each connection that another process's end has closed.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    arguments, anywhere = _split(sys.argv[1:])
    debug = "--debug" in anywhere
    set_verbosity(quiet=bool(anywhere & {"-q", "--quiet"}), verbose=bool(anywhere & {"-v", "--verbose"}))
    try:
        code = app(arguments, prog_name="lcm", standalone_mode=False, obj=stop)
        if code == INTERRUPTED:  # Typer makes a code of Ctrl-C
            raise KeyboardInterrupt
        say_what_it_took()
        sys.exit(code)
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "lcm"
        if error.format_message():  # a group without a command has shown its help instead
            _complain(f"{error.format_message().rstrip('.')}: see {command} --help")
        sys.exit(error.exit_code)
    except LexaError as error:
        if debug:
            raise
        _complain(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has gone, e.g. `lcm ... | head`
        forget_unwritten()
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            _complain("there is not enough memory for this: choose smaller sizes, or a machine with more")
            sys.exit(1)
        complaint = _of_the_system(error)
        if complaint is None:
            report_fault(error)
            sys.exit(1)
        _complain(complaint)
        forget_unwritten()
        sys.exit(2)
    except KeyboardInterrupt:
        _complain("interrupted")
        sys.exit(INTERRUPTED)
