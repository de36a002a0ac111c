"""Amounts as people read them: bytes, and times."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def amount(number: float) -> str:
    """`number` of bytes in three digits, as 999 B, 1.50 MB, 12.3 GB."""
    unit = 0
    # Rounded up to 1000 it is one of the next unit.
    while number >= 999.5 and unit < len(_UNITS) - 1:
        number /= 1000
        unit += 1
    if unit == 0:
        return f"{number:.0f} B"
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """`seconds` as minutes and seconds, or as hours, minutes and seconds: 00:15, 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
