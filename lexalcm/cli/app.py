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
from lexalcm.cli.console import out, print_error, print_resource_usage, set_verbosity
from lexalcm.cli.settings_options import SettingsCommand
from lexalcm.cli.streams import discard_unwritten_output
from lexalcm.errors import LexaError

if TYPE_CHECKING:
    from lexalcm.distributed.signals import StopRequest

UsageError: type[Any] = typer.BadParameter.__mro__[1]  # click's, which versions of typer keep in different places

OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)
"""Torch's messages, on a CPU or a GPU."""

LONGEST_SHOWN = 100
"""Letters of a path in a message: it may be a whole text, given where a path is expected."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

GLOBAL_OPTIONS = frozenset({"--debug", "--quiet", "-q", "--verbose", "-v"})
"""Options of `lcm` itself that may also follow its commands."""

app = typer.Typer(
    name="lcm",
    help="Prepare data for, train and run Large Concept Models.",
    epilog="First steps:  lcm data sample;  lcm bootstrap;  lcm train;  lcm infer 'We must do more for our schools.'"
    "\n\nExit codes:  0 done;  1 failed while running, or lcm verify found errors;  2 invalid usage or input;  "
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
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also print how long each stage took.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks. These three options may stand anywhere.")
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


def _system_error_text(error: Exception) -> str | None:
    """The operating system's message for a failed call, if one failed; `shutil` and Rust code give it as text."""
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
        place = "free some space, or choose another place for the output"
    shown = "" if place is None else f": {os.fsdecode(place) if isinstance(place, bytes) else place}"
    return os.strerror(number) + (shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}...")


def _print_error_line(text: str) -> None:
    """Print in one line why the command ends, even if a name in it has several."""
    print_error("lcm: " + text.replace("\n", "\\n"))


def report_unexpected_error(error: Exception) -> None:
    """Save the traceback of an unexpected exception in a file, and print in one line where that is."""
    import tempfile
    import traceback

    from lexalcm.cli.versions import versions

    with tempfile.NamedTemporaryFile(  # made with O_EXCL, for its owner alone
        "w", prefix="lcm-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as file:
        print(" ".join(sys.argv), *versions(), sep="\n", end="\n\n", file=file)
        traceback.print_exception(error, file=file)
    message = " ".join(f"{type(error).__name__}: {error}".split())
    shown = message if len(message) <= LONGEST_SHOWN else f"{message[:LONGEST_SHOWN]}..."
    _print_error_line(
        f"unexpected {shown}: a bug in lcm or in a package that it uses; please report it and attach {file.name}, "
        "which has the details"
    )


def _split_global_options(arguments: list[str]) -> tuple[list[str], set[str]]:
    """A command line without the global options, which may stand anywhere before `--`; and those."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = {argument for argument in arguments[:end] if argument in GLOBAL_OPTIONS}
    return [argument for argument in arguments[:end] if argument not in GLOBAL_OPTIONS] + arguments[end:], given


def main(stop: "StopRequest | None" = None) -> None:
    """Run `lcm`: 0 when all went well, 1 for a failure while running, 2 for invalid usage or input.

    Args:
        stop: has caught signals since before this module was loaded; see `lexalcm.cli.entry`.
    """
    # Threads that wait by spinning make torch many times slower beside another busy process (8x on two cores); set
    # before torch is loaded, because OpenMP reads it then.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Torch's C++ parts warn, with a stack of addresses, of each connection that another process's end has closed.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    arguments, options = _split_global_options(sys.argv[1:])
    debug = "--debug" in options
    set_verbosity(quiet=bool(options & {"-q", "--quiet"}), verbose=bool(options & {"-v", "--verbose"}))
    try:
        code = app(arguments, prog_name="lcm", standalone_mode=False, obj=stop)
        if code == INTERRUPTED:  # Typer makes a code of Ctrl-C
            raise KeyboardInterrupt
        print_resource_usage()
        sys.exit(code)
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "lcm"
        if error.format_message():  # a group without a command has shown its help instead
            _print_error_line(f"{error.format_message().rstrip('.')}: see {command} --help")
        sys.exit(error.exit_code)
    except LexaError as error:
        if debug:
            raise
        _print_error_line(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has gone, e.g. `lcm ... | head`
        discard_unwritten_output()
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            _print_error_line("out of memory: choose smaller sizes, or a machine with more memory")
            sys.exit(1)
        complaint = _system_error_text(error)
        if complaint is None:
            report_unexpected_error(error)
            sys.exit(1)
        _print_error_line(complaint)
        discard_unwritten_output()
        sys.exit(2)
    except KeyboardInterrupt:
        _print_error_line("interrupted")
        sys.exit(INTERRUPTED)
