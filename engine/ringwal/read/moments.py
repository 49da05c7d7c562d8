"""Where in a stream a moment is. Timestamps never go back from one block of the log to the next, nor from one offset of a
stream to the next, so it is a matter of bisecting: segments by their side files, then records. Damage takes no part in it
but where the moment itself lies in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError, OffsetTrimmed, StreamDeleted
from ringwal.log.files import ANY_LENGTH
from ringwal.log.sidefile import Block, SideFile
from ringwal.read.chunk import FIRST_BYTES, Chunk, new_walk
from ringwal.read.source import PAGE

if TYPE_CHECKING:
    from ringwal.read.reader import Reader
    from ringwal.read.source import Extent, Source

GUESSES = 2
"""So many times a segment is guessed as if the log had grown evenly."""


def offset_at(reader: Reader, stream: int, number: int, timestamp_ns: int) -> int:
    """See `Reader.offset_at`; ``number`` is the stream's."""
    found = reader.bounds.look(stream)
    if found is None:
        raise StreamDeleted("the stream was deleted")
    low, high = found
    ages = _Ages(reader, stream, high, timestamp_ns)
    source = reader.segments
    hint = _by_sides(source, number, timestamp_ns)
    offset = min(hint.offset, high)
    if low < offset and not (
        (offset == hint.offset and _blocks_show(source, number, hint, timestamp_ns)) or ages.is_older(offset - 1)
    ):
        high = offset - 1  # so the hint was wrong
    else:
        low, high = _gallop(ages, max(low, offset), high)
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


class _Hint(NamedTuple):
    """What side files say: all records of the stream before `offset` are older. `block` is the first one that is not older,
    `before` its neighbour in front; the record is in `block`, or little behind. None: it is not so, or nobody knows."""

    offset: int
    before: Block | None = None
    block: Block | None = None


def _by_sides(source: Source, number: int, timestamp_ns: int) -> _Hint:
    segment = _segment_at(source, timestamp_ns)
    found: _Hint | None = None
    if segment is None:
        segment = source.newest_side() + 1
    else:
        found = source.ask_side(segment, lambda side: _within(side, number, timestamp_ns), None)
    return found or _Hint(source.ask_side(segment - 1, lambda side: side.end(number), None) or 0)


def _segment_at(source: Source, timestamp_ns: int) -> int | None:
    """The first segment that is not all older, by headers of side files, each of which costs a read; None: all are older.
    Where the log has grown evenly it is guessed at once; or else it takes few more than bisecting alone."""
    low, high = source.segments().start, source.newest_side()
    newest = source.side_times(high)
    if newest is None or newest.newest_ns < timestamp_ns:
        return None
    if newest.oldest_ns < timestamp_ns or low >= high:
        return high
    oldest = source.side_times(low)
    if oldest is not None and oldest.newest_ns >= timestamp_ns:
        return low
    since, until = 0 if oldest is None else oldest.newest_ns, newest.oldest_ns
    guesses, low = 0 if oldest is None else GUESSES, low + 1
    # Segments below `low` are older, by `since`, and those from `high` on are not, by `until`.
    while low < high:
        middle = probe = (low + high) // 2
        if guesses:
            share = (timestamp_ns - since) * (high - low) // max(until - since, 1)
            middle = probe = min(max(low, low + share), high - 1)
            guesses -= 1
        while (times := source.side_times(probe)) is None and probe > low:
            probe -= 1
        if times is None:
            low = middle + 1
        elif times.newest_ns < timestamp_ns:
            low, since = middle + 1, times.newest_ns
        elif times.oldest_ns < timestamp_ns:
            return probe
        else:
            high, until = probe, times.oldest_ns
    return high


def _within(side: SideFile, number: int, timestamp_ns: int) -> _Hint:
    """The same as `_by_sides` of one segment, which is not all older."""
    span, first = side.span(number), side.at_time(timestamp_ns)
    if span is None or first is None:
        return _Hint(side.end(number) or 0)
    low, high = span.first, span.next
    while low < high:
        middle = (low + high) // 2
        block = side.block_of(number, middle)
        if block is not None and block.position < first.position:
            low = middle + 1
        else:
            high = middle
    block = side.block_of(number, low)
    if block is None or block.position - first.position > FIRST_BYTES:
        return _Hint(low)
    return _Hint(low, side.before(first), first)


def _blocks_show(source: Source, number: int, hint: _Hint, timestamp_ns: int) -> bool:
    """Do the blocks themselves show that the record in front of the hint's is older? The neighbour by the time in its header,
    which nothing in it or before it is newer than: that record need not be read there, if it is not behind the neighbour."""
    before, block = hint.before, hint.block
    if before is None or block is None:
        return False
    extent = source.at(before.position)
    if extent is None or not extent.begin <= before.position < block.position < extent.end:
        return False
    head = ffi.new("rw_block *")
    data = ffi.buffer(head)
    try:
        source.read(before.position, memoryview(data))
        page = ffi.from_buffer("uint8_t[]", data)
        good = lib.rw_block_check(page, ANY_LENGTH, source.uuid, extent.epoch, before.position) == lib.RW_OK
        neighbours = good and head.position + head.span == block.position
        older = neighbours and head.timestamp_ns == before.newest_ns < timestamp_ns
        return older and _begins_with(source, extent, number, hint.offset, block)
    except CorruptionError:
        return False


def _begins_with(source: Source, extent: Extent, number: int, offset: int, block: Block) -> bool:
    """Does the stream go on with that record, or behind it, from that block on?"""
    chunk, walk, time = Chunk(source), new_walk(source.uuid, extent.epoch, block.position), ffi.new("uint64_t *")
    walk.stream, walk.next_offset, walk.below = number, offset - 1, offset
    chunk.aim(block.length)
    while walk.position < min(block.position + FIRST_BYTES + PAGE, extent.end):
        chunk.cover(walk, extent.end)
        stop = lib.rw_walk_time_at(chunk.area, walk, time)
        if stop in (lib.RW_WALK_AHEAD, lib.RW_WALK_DONE):
            return bool(stop == lib.RW_WALK_AHEAD)
        chunk.stopped(stop, walk, extent.end)
    return False
