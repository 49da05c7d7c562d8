"""Where in a stream a moment is. Timestamps never go back from one block of the log to the next, nor from one offset of a
stream to the next, so it is a matter of bisecting: segments by their side files, then records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringwal.errors import OffsetTrimmed, StreamDeleted
from ringwal.log.sidefile import SideFile

if TYPE_CHECKING:
    from ringwal.read.reader import Reader
    from ringwal.read.source import Source


def offset_at(reader: Reader, stream: int, number: int, timestamp_ns: int) -> int:
    """See `Reader.offset_at`; ``number`` is the stream's."""
    found = reader.bounds.look(stream)
    if found is None:
        raise StreamDeleted("the stream was deleted")
    low, high = found
    hint = _by_sides(reader.segments, number, timestamp_ns)
    if low < hint <= high and not _is_older(reader, stream, hint - 1, timestamp_ns):
        high = hint - 1  # so the hint was wrong
    else:
        low, high = _gallop(reader, stream, min(max(low, hint), high), high, timestamp_ns)
    while low < high:
        middle = (low + high) // 2
        if _is_older(reader, stream, middle, timestamp_ns):
            low = middle + 1
        else:
            high = middle
    return low


def _gallop(reader: Reader, stream: int, low: int, high: int, timestamp_ns: int) -> tuple[int, int]:
    """Narrower limits of an offset that probably is not far behind ``low``."""
    step = 1
    while low < high and _is_older(reader, stream, min(low + step, high) - 1, timestamp_ns):
        low = min(low + step, high)
        step *= 8
    return low, min(low + step - 1, high)


def _is_older(reader: Reader, stream: int, offset: int, timestamp_ns: int) -> bool:
    try:
        return reader.timestamp_of(stream, offset) < timestamp_ns
    except OffsetTrimmed:  # meanwhile
        return True


def _by_sides(source: Source, number: int, timestamp_ns: int) -> int:
    """An offset of the stream before which all are older; 0 where side files do not say more."""
    low, high = source.segments().start, source.newest_side() + 1
    before = within = -1
    while low < high:
        middle = probe = (low + high) // 2
        while (newest := source.ask_side(probe, _newest, None)) is None and probe > low:
            probe -= 1
        if newest is None:
            low = middle + 1
        elif newest < timestamp_ns:
            before, low = probe, middle + 1
        else:
            within = high = probe
    return max(
        source.ask_side(before, lambda side: side.end(number), None) or 0,
        source.ask_side(within, lambda side: _within(side, number, timestamp_ns), 0),
    )


def _newest(side: SideFile) -> int | None:
    return side.newest_ns


def _within(side: SideFile, number: int, timestamp_ns: int) -> int:
    """The same as `_by_sides` of one segment, which is not all older."""
    span, first = side.span(number), side.at_time(timestamp_ns)
    if span is None or first is None:
        return 0
    low, high = span.first, span.next
    while low < high:
        middle = (low + high) // 2
        block = side.block_of(number, middle)
        if block is not None and block.position < first.position:
            low = middle + 1
        else:
            high = middle
    return low
