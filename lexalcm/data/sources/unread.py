"""Files of a folder that are passed over: counted and named, so that nobody takes a part for the whole."""

import logging
from collections.abc import Sequence
from pathlib import Path

_NAMED = 8

logger = logging.getLogger(__name__)


def describe_unread(names: Sequence[str]) -> str:
    """How many files they are, and the names of the first ones: `3 files are not read: a.csv, b.md, c.md`."""
    return f"{len(names):,} files are not read: {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"


def report_unread(folder: Path, names: Sequence[str]) -> None:
    """Log a warning that names files of a folder that are not read, if there are any."""
    if names:
        logger.warning("%s: %s", folder, describe_unread(names))
