"""Where a read begins and ends: what callers say, as offsets. The one place that knows every way of saying it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

from ringwal.limits import WHOLE_MAX, shown, whole
from ringwal.model import EARLIEST, LATEST, Record
from ringwal.read.range import Range
from ringwal.read.reader import Reader
from ringwal.times import At, datetime_ns

Position: TypeAlias = int | At | datetime.datetime


class Readable(Protocol):
    """What streams are read from: an attachment to an engine, or the files of a log (offline.py)."""

    reader: Reader

    @property
    def reading(self) -> AbstractContextManager[None]:
        """Says what an OSError of a read means."""

    def handle_of(self, name: str, *, look: bool = ...) -> int: ...
    def bounds(self, handle: int) -> tuple[int, int]: ...


def checked(position: Position, name: str = "start") -> int | At:
    """Raises ValueError: neither an offset, nor one of the two words for one, nor a time with a zone."""
    if isinstance(position, At | datetime.datetime):
        return moment(position, name)
    try:
        return whole(position, name, EARLIEST)
    except ValueError:
        wanted = f"an offset from 0 to {WHOLE_MAX}, EARLIEST or LATEST, or a datetime with a zone"
        raise ValueError(f"{name} is {shown(position)}; it must be {wanted}") from None


def moment(when: At | datetime.datetime, name: str = "when") -> At:
    """Raises ValueError: no zone, or out of range. TypeError: neither of the two."""
    return when if isinstance(when, At) else At.from_ns(datetime_ns(when, name))


def offset(attachment: Readable, handle: int, position: int | At) -> int:
    """The offset that a `checked` position means in that stream, now. Raises StreamDeleted."""
    if isinstance(position, At):
        with attachment.reading:
            return attachment.reader.offset_at(handle, position.timestamp_ns)
    return position if position >= 0 else attachment.bounds(handle)[1 if position == LATEST else 0]


def read(
    attached: Callable[[], Readable], name: str, start: Position, max_records: int, max_bytes: int | None, until: Position
) -> list[Record]:
    """As `Stream.read` of the stream of that name, in what `attached` gives. What is asked for is checked first."""
    first, end = checked(start), checked(until, "until")
    max_records = whole(max_records, "max_records", 0)
    max_bytes = None if max_bytes is None else whole(max_bytes, "max_bytes", 0)
    log = attached()
    handle = log.handle_of(name, look=True)
    with log.reading:
        begin = offset(log, handle, first)
        if end != LATEST:
            max_records = min(max_records, max(0, offset(log, handle, end) - begin))
        return log.reader.read(handle, begin, max_records, max_bytes)


def not_before(position: int | At, records: Iterator[Record]) -> Iterator[Record]:
    """For what follows a stream: a time that lay ahead of the stream's end is not an offset yet."""
    return _not_before(position.timestamp_ns, records) if isinstance(position, At) else records


def _not_before(timestamp_ns: int, records: Iterator[Record]) -> Iterator[Record]:
    for record in records:
        if record.timestamp_ns >= timestamp_ns:
            yield record
            break
    yield from records


def range_of(attachment: Readable, name: str, start: int | At, until: int | At) -> Range:
    """The records between two `checked` positions of the stream of that name, as far as they are confirmed now.

    Raises NoSuchStream.
    """
    handle = attachment.handle_of(name, look=True)
    end = min(offset(attachment, handle, until), offset(attachment, handle, LATEST))
    return Range(attachment.reader, handle, offset(attachment, handle, start), end, attachment.reading)
