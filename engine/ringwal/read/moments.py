"""Where in a stream a moment is. Timestamps never go back from one block of the log to the next, nor from one offset of a
stream to the next, so it is a matter of bisecting: segments by their side files, then records. Damage takes no part in it but where the moment itself lies in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringwal.errors import CorruptionError, OffsetTrimmed, StreamDeleted
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
    ages = _Ages(reader, stream, high, timestamp_ns)
    hint = min(_by_sides(reader.segments, number, timestamp_ns), high)
    if low < hint and not ages.is_older(hint - 1):
        high = hint - 1  # so the hint was wrong
    else:
        low, high = _gallop(ages, max(low, hint), high)
    while low < high:
        middle = (low + high) // 2
        if ages.is_older(middle):
            low = middle + 1
        else:
            high = middle
    ages.check(low)
    return low


def _gallop(ages: _Ages, low: int, high: int) -> tuple[int, int]:
    """Narrower limits of an offset that probably is not far behind ``low``."""
    step = 1
    while low < high and ages.is_older(min(low + step, high) - 1):
        low = min(low + step, high)
        step *= 8
    return low, min(low + step - 1, high)


class _Ages:
    """Which records of a stream are older than a moment; those that damage denies by the next one behind them."""

    def __init__(self, reader: Reader, stream: int, end: int, timestamp_ns: int) -> None:
        """``end``: behind the last record that is asked about."""
        self._reader, self._stream, self._end, self._timestamp_ns = reader, stream, end, timestamp_ns
        self._older_below = 0
        self._denied: dict[int, CorruptionError] = {}

    def is_older(self, offset: int) -> bool:
        """Is the record? Of one that is denied, True is certain: what comes behind it is older."""
        if offset < self._older_below:
            return True
        asked, denied = offset, None
        while True:
            try:
                older = self._reader.timestamp_of(self._stream, offset) < self._timestamp_ns
            except OffsetTrimmed:  # meanwhile
                older = True
            except CorruptionError as damage:
                denied = denied or damage
                if damage.next_offset is not None and damage.next_offset < self._end:
                    offset = damage.next_offset
                    continue
                older = False
            break
        if older:
            self._older_below = max(self._older_below, offset + 1)
        elif denied is not None:
            self._denied[asked] = denied
        return older

    def check(self, offset: int) -> None:
        """Raises CorruptionError if the record, the first one that is not known to be older, is denied: then nobody can say
        whether it is the one."""
        if offset in self._denied:
            raise self._denied[offset]


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
