"""When a field of a foreign record counts as not there.

Records that were put together in columns have the fields of all of them, filled with null, NaN or nothing where they do
not apply. None of these is an id, a title, a language or a role.
"""

import math
from collections.abc import Mapping
from typing import Any


def is_absent(value: Any) -> bool:
    """Whether a field's value says nothing: null, NaN, white space alone, or an empty list or object."""
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, list | tuple | Mapping) and not value)


def first_present(record: Mapping[str, Any], *names: str) -> Any:
    """The value of the first of these fields that is there, or None."""
    return next((record[name] for name in names if not is_absent(record.get(name))), None)
