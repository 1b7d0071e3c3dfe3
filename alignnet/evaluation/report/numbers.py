"""Numbers out of metrics, whatever is there, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

MISSING = "–"
_HUGE = 1e300
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def at(metrics: Any, *keys: str) -> Any:
    """What stands under nested keys; None where there is nothing."""
    for key in keys:
        metrics = metrics.get(key) if isinstance(metrics, Mapping) else None
    return metrics


def table(metrics: Any, *keys: str) -> Mapping[str, Any]:
    """The table under nested keys; an empty one where there is none."""
    found = at(metrics, *keys)
    return found if isinstance(found, Mapping) else {}


def finite(value: Any) -> float | None:
    """A finite number, else None."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and abs(value) < _HUGE else None


def known(values: Any) -> list[float]:
    """The finite numbers of a list; none where it is no list."""
    listed = values if isinstance(values, Iterable) and not isinstance(values, str | Mapping) else ()
    return [number for value in listed if (number := finite(value)) is not None]


def count(value: Any) -> int | None:
    """A number of things: finite and not negative."""
    number = finite(value)
    return None if number is None or number < 0 else round(number)


def short(value: Any, digits: int = 3) -> str:
    """A number in so many significant digits, with thousands apart; a dash where there is none."""
    number = finite(value)
    if number is None:
        return MISSING
    if number == 0:
        return "0"
    size = math.floor(math.log10(abs(number)))
    if not -4 <= size < 9:
        mantissa, _, exponent = f"{number:.{digits - 1}e}".partition("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(_RAISED)}".replace("-", "−")
    return f"{number:,.{max(digits - 1 - size, 0)}f}".replace("-", "−")


def alike(value: Any, error: Any, digits: int = 3) -> tuple[str, str]:
    """A number and its error with the same decimals, so many that the error has two digits: 1,116.20, 0.87.

    Args:
        value, error: in one unit.
        digits: significant ones of the number where there is no error.
    """
    number, width = finite(value), finite(error)
    if number is None or not width or max(abs(number), abs(width)) >= 1e9:
        return short(value, digits), short(error, 2)
    decimals = min(max(1 - math.floor(math.log10(abs(width))), 0), 9)
    said = [f"{x:,.{decimals}f}".replace("-", "−") for x in (number, width)]
    return said[0], said[1]


def whole(value: Any) -> str:
    """A number of things."""
    number = count(value)
    return MISSING if number is None else f"{number:,}"


def span(values: Iterable[float], digits: int = 2) -> str:
    """The smallest and the largest, for example "0.43–5.5"; one of them where they read alike."""
    found = sorted(values)
    if not found:
        return MISSING
    low, high = short(found[0], digits), short(found[-1], digits)
    return low if low == high else f"{low}–{high}"


def duration(seconds: Any) -> str:
    """Seconds as a reader says them."""
    number = finite(seconds)
    if number is None:
        return MISSING
    if number < 100:
        return f"{short(number)} s"
    minutes, left = divmod(round(number), 60)
    return f"{minutes} min {left} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(megabytes: Any) -> str:
    """Megabytes, or gigabytes where that is shorter."""
    number = finite(megabytes)
    if number is None:
        return MISSING
    return f"{short(number / 1024)} GiB" if number >= 1024 else f"{short(number)} MiB"


def plural(number: int, one: str, several: str | None = None) -> str:
    """A number and its noun."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"
