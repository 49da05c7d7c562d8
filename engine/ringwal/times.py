"""Times and lengths of time, as people write them, and as nanoseconds.

A point in time is a number of nanoseconds since 1970 (UTC), as the engine gives it to records. In Python a point is an
aware ``datetime``: a naive one is refused, as nobody can tell whether it was meant as local time or as UTC. On the command
line a time without a zone is local time, as people who type it mean it there, and as journalctl and date take it.
It is always a ValueError that says what is taken.
"""

from __future__ import annotations

import array
import dataclasses
import datetime
import re
import time
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from ringwal.limits import shown, whole

TIMESTAMP_MAX = (1 << 63) - 1
"""The latest point in time, in the year 2262."""

DURATION_HELP = "a length of time as 90s, 1h30m or 30d"
TIME_HELP = (
    f"{DURATION_HELP} before now, or ISO 8601 as 2027-01-31T09:30:00Z (without a zone: local time), or @SECONDS since 1970"
)

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_SECOND_NS = 1_000_000_000
_UNITS = {
    "w": 7 * 86400 * _SECOND_NS,
    "d": 86400 * _SECOND_NS,
    "h": 3600 * _SECOND_NS,
    "m": 60 * _SECOND_NS,
    "s": _SECOND_NS,
    "ms": 1_000_000,
    "us": 1_000,
    "ns": 1,
}
_NUMBER = r"[0-9]{1,19}(?:\.[0-9]{1,9})?"  # so exact in Decimal's 28 digits
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in _UNITS))
_SINCE_1970 = re.compile(r"@([0-9]{1,11}(?:\.[0-9]{1,9})?)")
_WITH_FRACTION = re.compile(r"([^T ]+[T ][0-9]{2}:?[0-9]{2}:?[0-9]{2})[.,]([0-9]{1,9})((?![0-9]).*)")


def duration_ns(value: str | datetime.timedelta, name: str = "the duration", *, error: type[ValueError] = ValueError) -> int:
    """Nanoseconds of a length of time: ``90s``, ``1h30m``, ``30d``, ``1.5h``, or a timedelta.

    Units are w, d, h, m, s, ms, us and ns, the largest first, each once; a day has 24 hours. ``0s`` is legal; a number
    without a unit is not.

    Raises ``error``: it is none, it has parts of a nanosecond, or it is longer than `TIMESTAMP_MAX`.
    """
    if isinstance(value, datetime.timedelta):
        length = Decimal(value // _MICROSECOND) * 1000
    else:
        match = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
        if match is None:
            raise error(f"{name} is {shown(value)}; write {DURATION_HELP}")
        length = sum((Decimal(number) * _UNITS[unit] for unit, number in match.groupdict().items() if number), Decimal(0))
    if length != int(length) or not 0 <= length <= TIMESTAMP_MAX:
        raise error(f"{name} is {shown(value)}; it must be whole nanoseconds from 0 to 292 years")
    return int(length)


def duration_text(length_ns: int) -> str:
    """The shortest that `duration_ns` takes for it, without fractions: ``1h30m``, ``30d``."""
    parts = []
    for unit, size in _UNITS.items():
        if unit == "w":  # days are what people count in
            continue
        count, length_ns = divmod(length_ns, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def point_ns(text: str, name: str = "the time", now_ns: int | None = None, *, error: type[ValueError] = ValueError) -> int:
    """Nanoseconds since 1970 of a time that a person wrote: see `TIME_HELP`; ``now`` is one, too.

    ISO 8601 is what ``datetime.fromisoformat`` takes, with up to nine digits of a second; a date alone is its midnight. What
    lies before 1970 because it is so long ago is 1970.

    Raises ``error``: it is none, or lies before 1970 or behind `TIMESTAMP_MAX`.
    """
    now_ns = time.time_ns() if now_ns is None else now_ns
    if text == "now":
        return now_ns
    if _DURATION.fullmatch(text) and text:
        return max(0, now_ns - duration_ns(text, name, error=error))
    if match := _SINCE_1970.fullmatch(text):
        return _checked(int(Decimal(match[1]) * _SECOND_NS), text, name, error)
    plain, fraction = text, 0
    if match := _WITH_FRACTION.fullmatch(text):  # fromisoformat keeps six digits
        plain, fraction = match[1] + match[3], int(match[2].ljust(9, "0"))
    try:
        when = datetime.datetime.fromisoformat(plain)
        found = _exact(when if when.tzinfo is not None else when.astimezone())
    except (ValueError, OverflowError):
        raise error(f"{name} is {shown(text)}; write {TIME_HELP}") from None
    return _checked(found + fraction, text, name, error)


def datetime_ns(when: datetime.datetime, name: str = "the time") -> int:
    """Nanoseconds since 1970 of an aware datetime.

    Raises ValueError: it has no zone, or lies before 1970 or behind `TIMESTAMP_MAX`. TypeError: it is no datetime.
    """
    if not isinstance(when, datetime.datetime):
        raise TypeError(f"{name} is {shown(when)}; it must be a datetime with a zone")
    if when.utcoffset() is None:
        raise ValueError(
            f"{name} is {shown(when)}, which has no zone: if it is local time, pass it as .astimezone();"
            " if it is UTC, as .replace(tzinfo=timezone.utc)"
        )
    return _checked(_exact(when), when, name, ValueError)


def timestamp_ns(value: Any, name: str = "timestamp_ns") -> int:
    """Nanoseconds since 1970, given as such. Raises ValueError."""
    return whole(value, name, 0, TIMESTAMP_MAX)


def timestamps_ns(value: int | Iterable[int], count: int, name: str = "timestamp_ns") -> array.array[int]:
    """One such time for each of ``count`` records: one for all, or as many. Raises ValueError."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | bytearray):
        return array.array("Q", [timestamp_ns(value, name)]) * count
    found = array.array("Q", [timestamp_ns(each, name) for each in value])
    if len(found) != count:
        raise ValueError(f"{name} has {len(found)} times for {count} records; give one for each, or one for all")
    return found


def iso(point: int) -> str:
    """A point in time as ISO 8601 in UTC, to the nanosecond where it is not whole seconds; `point_ns` gives it back."""
    seconds, rest = divmod(point, _SECOND_NS)
    text = (_EPOCH + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest:09d}".rstrip("0") + "Z" if rest else text + "Z"


def _exact(when: datetime.datetime) -> int:
    """datetime.timestamp() is a float, which has no room for microseconds."""
    return (when - _EPOCH) // _MICROSECOND * 1000


def _checked(point: int, given: object, name: str, error: type[ValueError]) -> int:
    if not 0 <= point <= TIMESTAMP_MAX:
        raise error(f"{name} is {shown(given)}; it must lie from {iso(0)} to {iso(TIMESTAMP_MAX)}")
    return point


@dataclasses.dataclass(frozen=True, slots=True, order=True, init=False, repr=False)
class At:
    """A place in a stream, said as a time: before the first record that the engine took at or after it.

    Args:
        when: an aware datetime.

    Raises:
        ValueError: it has no zone, or lies before 1970 or behind the year 2262.
        TypeError: it is no datetime.
    """

    timestamp_ns: int
    """Nanoseconds since 1970."""

    def __init__(self, when: datetime.datetime) -> None:
        object.__setattr__(self, "timestamp_ns", datetime_ns(when, "when"))

    @classmethod
    def from_ns(cls, timestamp_ns: int) -> At:
        """Of nanoseconds since 1970, as records have them, which a datetime has no room for. Raises ValueError."""
        made = object.__new__(cls)
        object.__setattr__(made, "timestamp_ns", whole(timestamp_ns, "timestamp_ns", 0, TIMESTAMP_MAX))
        return made

    def __repr__(self) -> str:
        return f"At({iso(self.timestamp_ns)})"
