"""Where a read begins and ends: what callers say, as offsets. The one place that knows every way of saying it."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeAlias

from ringwal.limits import WHOLE_MAX, shown, whole
from ringwal.model import LATEST, Edge, Last, Record
from ringwal.read.range import Range
from ringwal.read.reader import Reader
from ringwal.times import At, datetime_ns

Position: TypeAlias = int | Edge | Last | At | datetime.datetime
Checked: TypeAlias = int | Edge | Last | At
"""A position that `checked` has let pass."""


class Readable(Protocol):
    """What streams are read from: an attachment to an engine, or the files of a log (offline.py)."""

    reader: Reader

    @property
    def reading(self) -> AbstractContextManager[None]:
        """Says what an OSError of a read means."""

    def handle_of(self, name: str, *, look: bool = ...) -> int: ...
    def bounds(self, handle: int) -> tuple[int, int]: ...


def checked(position: Position, name: str = "start") -> Checked:
    """Raises ValueError: neither an offset, nor one of the words for one, nor a time with a zone."""
    if isinstance(position, Edge | Last):
        return position
    if isinstance(position, At | datetime.datetime):
        return moment(position, name)
    try:
        return whole(position, name, 0)
    except ValueError:
        wanted = f"an offset from 0 to {WHOLE_MAX}, EARLIEST, LATEST, Last(n), At(t), or a datetime with a zone"
        back = position if isinstance(position, int) and not isinstance(position, bool) else 0
        hint = f"; the last {shown(-back)} records are Last({shown(-back)})" if back < 0 else ""
        raise ValueError(f"{name} is {shown(position)}; it must be {wanted}{hint}") from None


def moment(when: At | datetime.datetime, name: str = "when") -> At:
    """Raises ValueError: no zone, or out of range. TypeError: neither of the two."""
    return when if isinstance(when, At) else At.from_ns(datetime_ns(when, name))


def offset(attachment: Readable, handle: int, position: Checked) -> int:
    """The offset that a `checked` position means in that stream, now. Raises StreamDeleted."""
    if isinstance(position, At):
        with attachment.reading:
            return attachment.reader.offset_at(handle, position.timestamp_ns)
    if isinstance(position, Last):
        start, end = attachment.bounds(handle)
        return max(start, end - position.count)
    if isinstance(position, Edge):
        return attachment.bounds(handle)[1 if position is LATEST else 0]
    return position


def read(
    attached: Callable[[], Readable], name: str, start: Position, max_records: int, max_bytes: int | None, until: Position
) -> list[Record]:
    """As `Stream.read` of the stream of that name, in what `attached` gives. What is asked for is checked first."""
    wanted = asked(start, max_records, max_bytes, until)
    log = attached()
    return read_at(log, log.handle_of(name, look=True), wanted)[2]


class Asked(NamedTuple):
    """What is asked of a read, checked."""

    start: Checked
    max_records: int
    max_bytes: int | None
    until: Checked


def asked(start: Position, max_records: int, max_bytes: int | None, until: Position) -> Asked:
    """Raises ValueError."""
    return Asked(
        checked(start),
        whole(max_records, "max_records", 0),
        None if max_bytes is None else whole(max_bytes, "max_bytes", 0),
        checked(until, "until"),
    )


def read_at(log: Readable, handle: int, wanted: Asked) -> tuple[int, int, list[Record]]:
    """The offset that was meant, how many records there may be up to the other one, and those that are there."""
    with log.reading:
        begin, most = offset(log, handle, wanted.start), wanted.max_records
        if wanted.until is not LATEST:
            most = min(most, max(0, offset(log, handle, wanted.until) - begin))
        return begin, most, log.reader.read(handle, begin, most, wanted.max_bytes)


def range_at(log: Readable, handle: int, start: Checked, until: Checked, *, from_earliest: bool = False) -> Range:
    """The records between two `checked` positions of that stream, as far as they are confirmed now; ``from_earliest``: what is
    trimmed, now or meanwhile, is passed over."""
    end = min(offset(log, handle, until), offset(log, handle, LATEST))
    return Range(log.reader, handle, offset(log, handle, start), end, log.reading, from_earliest=from_earliest)


def range_of(attachment: Readable, name: str, start: Checked, until: Checked) -> Range:
    """As `range_at`, of the stream of that name. Raises NoSuchStream."""
    return range_at(attachment, attachment.handle_of(name, look=True), start, until)
