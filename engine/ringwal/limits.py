"""Numbers and paths that a caller gives: what is taken, and what is said of the rest.

It is always a ValueError that says what is taken: numbers that are none, endless where that means nothing, negative, a truth
value, or more than the words of the system can count; paths that no file can have.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
from pathlib import Path
from typing import Any

SECONDS_MAX = 1_000_000_000
"""The longest wait that may be asked for: some 30 years. All clocks and waits of the system can count so far."""
WHOLE_MAX = (1 << 63) - 1
"""The largest offset, and the largest count."""

_SHOWN_BITS_MAX = 128


def seconds(value: Any, name: str = "timeout") -> float | None:
    """A wait that was asked for; None, for ever, also where that was written as `math.inf`. Raises ValueError."""
    if value is None or (isinstance(value, float) and value == math.inf):
        return None
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not 0 <= value <= SECONDS_MAX:
        raise ValueError(f"{name} is {shown(value)}; it must be seconds from 0 to {SECONDS_MAX}, or None for ever")
    return float(value)


def whole(value: Any, name: str, least: int, most: int = WHOLE_MAX, *, error: type[ValueError] = ValueError) -> int:
    """A count, a size or an offset within these limits. Raises ``error``."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise error(f"{name} is {shown(value)}; it must be a whole number from {least} to {most}")
    return number


def path(value: str | os.PathLike[str], *, error: type[ValueError] = ValueError) -> Path:
    """The path of a file that there could be. Raises ``error``; TypeError: it is no path."""
    made = Path(value)
    try:
        encoded = os.fsencode(made)
    except UnicodeEncodeError as unwritten:
        why = f"has a character that {unwritten.encoding} cannot write"
    else:
        if b"\0" not in encoded:
            return made
        why = "contains a NUL character"
    raise error(f"the path {shown(str(made))} {why}, so no file can have it; remove it")


def shown(value: object) -> str:
    """The value in a message, however long it is."""
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS_MAX:  # Python refuses to print some
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}..."
