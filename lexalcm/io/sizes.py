"""Sizes in bytes as people write them."""

from lexalcm.errors import ConfigError

_UNITS = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("", 1024), ("b", 1000), ("ib", 1024))
}


def parse_size(text: str) -> int:
    """Bytes of a size like `256MiB`, `1GB` or `4096`.

    Raises:
        ConfigError: no number, an unknown unit, or zero.
    """
    digits = text.strip().rstrip("BKMGTbkmgti ")
    unit = text.strip()[len(digits) :].strip()
    try:
        size = int(float(digits) * _UNITS[unit.lower()])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise ConfigError(f"{text!r} is not a size: write it like 256MiB or 1GB")
    return size
