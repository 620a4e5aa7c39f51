"""Arrow columns as numpy sees them, and what kind they are. Arrow's own ways to numpy load pandas."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


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


def is_list(kind: pa.DataType) -> bool:
    """Lists, whatever their length and the width of their offsets."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Bytes of any length."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def is_text(kind: pa.DataType) -> bool:
    """Text of any length."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
