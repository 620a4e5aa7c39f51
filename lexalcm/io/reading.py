"""Reading a file that may be missing, closed or damaged: one line that says which of these it is.

A file that the system does not give is not damaged, and advice to build it again may cost it: the cause that is
reported is the cause. What cannot be read for any other reason does not hold what it should.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lexalcm.errors import DataError, LexaError


@contextmanager
def reading(
    file: Path, advice: str, kind: type[LexaError] = DataError, *, missing: str = "", damaged: str = ""
) -> Iterator[None]:
    """Around what reads a file and makes something of it.

    Args:
        file: the file.
        advice: what to do where it is missing or damaged.
        kind: what to raise.
        missing: what to say where there is no such file, instead of that it is missing.
        damaged: what to say instead of that it is damaged.

    Raises:
        kind: it is missing, damaged, or cannot be read; a `LexaError` from within is left as it is.
    """
    try:
        with file.open("rb"):  # safetensors says of all that it cannot open that there is no such file
            pass
        yield
    except LexaError:
        raise
    except FileNotFoundError as error:
        raise kind(missing or f"{file} is missing: {advice}") from error
    except OSError as error:
        raise kind(f"cannot read {file}: {error.strerror or error}") from error
    except Exception as error:  # readers of damaged files raise nearly anything
        raise kind(damaged or f"{file} is damaged: {advice}") from error
