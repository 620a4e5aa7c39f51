"""Arrow columns as numpy and Python see them, and what kind they are. Arrow's own ways to numpy load pandas."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lexalcm.errors import DataError


def open_parquet(path: Path, **options: Any) -> pq.ParquetFile:
    """Open a parquet file, also one whose name is not UTF-8, which Arrow cannot open itself.

    Raises:
        DataError: it is not parquet.
        OSError: it cannot be read.
    """
    try:
        str(path).encode()
        source: Any = path
    except UnicodeEncodeError:
        source = pa.PythonFile(path.open("rb"))
    try:
        return pq.ParquetFile(source, **options)
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from error


def check_unique(schema: pa.Schema, wanted: Collection[str], path: Path) -> None:
    """Raise a `DataError` if a column that is wanted is there more than once."""
    found = Counter(schema.names)
    for name in wanted:
        if found[name] > 1:
            raise DataError(f"{path} has the column {name!r} more than once: rename the others")


def list_lengths(column: pa.Array) -> np.ndarray:
    """How long each list is, 0 where there is none: int64."""
    return or_zero(pc.list_value_length(column))


def or_zero(lengths: pa.Array) -> np.ndarray:
    """Whole numbers with 0 for those that are missing: int64. `pc.fill_null` would load pandas."""
    if not lengths.null_count:
        return as_array(lengths).astype(np.int64)
    found = np.zeros(len(lengths), np.int64)
    found[as_array(pc.indices_nonzero(lengths.is_valid()))] = as_array(lengths.drop_null())
    return found


def as_array(column: pa.Array) -> np.ndarray:
    """Numbers without a missing one as numpy sees them, not copied; arrow's own way to it loads pandas."""
    return np.from_dlpack(column) if len(column) else np.empty(0, column.type.to_pandas_dtype())


def as_python(column: pa.Array) -> list[Any]:
    """Values as `to_pylist` gives them; also where text is not UTF-8 (its bytes are replaced) or a time is too fine."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        kind = scalar.type
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind):
        return _value(scalar.value)
    if pa.types.is_struct(kind):
        return {kind.field(i).name: _value(scalar[i]) for i in range(kind.num_fields)}
    if is_list(kind) or pa.types.is_map(kind):
        return [_value(item) for item in scalar.values]
    if is_text(kind):
        return scalar.as_buffer().to_pybytes().decode(errors="replace")
    return str(scalar.cast(pa.string()))


def rows_not_utf8(column: pa.Array) -> dict[int, str]:
    """The rows with text that is not UTF-8, and the first byte of each that is wrong. Arrow reads such files."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        found = {}
        for row, scalar in enumerate(column):
            try:
                scalar.as_py()
            except UnicodeDecodeError as error:
                found[row] = f"byte 0x{error.object[error.start]:02x}"
            except (ValueError, OverflowError):
                continue
        return found
    return {}


def is_list(kind: pa.DataType) -> bool:
    """Lists, whatever their length and the width of their offsets."""
    types = pa.types
    return any(
        is_kind(kind)
        for is_kind in (
            types.is_list,
            types.is_large_list,
            types.is_fixed_size_list,
            types.is_list_view,
            types.is_large_list_view,
        )
    )


def is_bytes(kind: pa.DataType) -> bool:
    """Bytes of any length, however they are laid out."""
    types = pa.types
    return (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
        or (types.is_dictionary(kind) and is_bytes(kind.value_type))
    )


def is_text(kind: pa.DataType) -> bool:
    """Text of any length, however it is laid out, also as categories."""
    types = pa.types
    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or (types.is_dictionary(kind) and is_text(kind.value_type))
    )


def is_plain(kind: pa.DataType) -> bool:
    """Text, numbers, and true or false: what Python has as `str`, `int`, `float` and `bool`."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return is_plain(kind.storage_type)
    if types.is_dictionary(kind):
        return is_plain(kind.value_type)
    return is_text(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)


def plain_bytes(column: pa.Array) -> pa.Array:
    """Bytes of any layout as Arrow can measure and slice them: binary or large binary."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    measurable = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    return column if measurable else column.cast(pa.large_binary())
