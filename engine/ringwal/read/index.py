"""Where in a source a record is.

Offsets of a stream grow with log position, so the segment is found by binary search. What a segment has of a stream is said
by its side file, also of a stream that has nothing in it: then where the record is, before or behind. A segment without a
side file that can be believed is gone through once, extent by extent, and what is found is kept while there is room: an
entry per stream and block (``rw_index_entry``), sorted, so that a question is one binary search in C. Such a segment says
nothing of a stream that it lacks, so the one before is asked. Spans once known are kept when such an index is dropped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError
from ringwal.log.sidefile import Block, SideFile
from ringwal.read.chunk import Chunk, new_walk
from ringwal.read.source import PAGE, Answer, Extent, Source

Asking = Callable[[int, Callable[[SideFile], Any], Any], Any]
"""`Source.ask_side`, or `Source.guess_side`."""

INDEX_BYTES = 32 << 20
"""Indexes of one reader take no more memory than this together, except that the newest one always stays."""

SPANS_MAX = 1 << 16
DOUBTS_MAX = 8
"""So often a search begins anew because side files contradict each other."""
_FIRST_CAPACITY = 1024
NOWHERE = (1 << 64) - 1


class Span(NamedTuple):
    """Offsets of one stream that an extent or a segment holds: first <= offset < next. Where both are the same the stream has
    nothing there, and its next record, wherever it is, has that offset."""

    first: int
    next: int


class Place(NamedTuple):
    """Where to begin to look for a record: at or before its block."""

    position: int
    length: int
    """Of the block that is there, in bytes; 0: nobody knows."""


class Begin(NamedTuple):
    """Where records of a stream go on: the first one's offset, and its block, where that is known."""

    offset: int
    place: Place | None


class SegmentIndex:
    """The index of one extent. It grows at its end while the extent does."""

    def __init__(self, source: Source, extent: Extent) -> None:
        self._source = source
        self._walk = new_walk(source.uuid, extent.epoch, extent.begin)
        self._capacity = _FIRST_CAPACITY
        self._entries: Any = ffi.new("rw_index_entry[]", self._capacity)
        self._count = ffi.new("uint32_t *")
        self.damages: list[CorruptionError] = []
        """In order. Blocks that lie behind damage are indexed, too, unless the rest cannot be read at all."""
        self.stuck = False

    @property
    def bytes(self) -> int:
        """Memory taken."""
        return self._capacity * int(ffi.sizeof("rw_index_entry"))

    @property
    def end(self) -> int:
        """Log position up to which blocks are indexed."""
        return int(self._walk.position)

    def extend(self, limit: int, scratch: Any) -> None:
        """Index what lies between ``end`` and ``limit``. Damage on the way is kept in ``damages``, not raised.

        ``scratch`` is a ``uint32_t[]``, best with a cell per stream.
        """
        chunk = Chunk(self._source)
        while self.end < limit and not self.stuck:
            try:
                self._go(chunk, limit, scratch)
            except CorruptionError as damage:
                self.damages.append(damage)
                self._take_part(chunk, scratch)
                self.stuck = not self._get_over(chunk, limit)
        lib.rw_index_sort(self._entries, self._count[0])

    def _go(self, chunk: Chunk, limit: int, scratch: Any) -> None:
        while self.end < limit:
            chunk.cover(self._walk, limit)
            stop = lib.rw_walk_index(
                chunk.area, self._walk, self._entries, self._capacity, self._count, scratch, len(scratch)
            )
            if stop == lib.RW_WALK_FULL:
                self._grow(self._count[0] + self._walk.need)
            else:
                chunk.stopped(stop, self._walk, limit)

    def _take_part(self, chunk: Chunk, scratch: Any) -> None:
        """What lies before a bad frame in its block."""
        lib.rw_walk_index_part(chunk.area, self._walk, self._entries, self._capacity, self._count, scratch, len(scratch))

    def _get_over(self, chunk: Chunk, limit: int) -> bool:
        """Go on at the next place, behind a block that is damaged, where there is the header of one; False: nothing can be
        read there. Epoch and position in it say that it is one of the log, as everything before the cut is."""
        try:
            chunk.search(self._walk, limit)
        except CorruptionError:
            return False
        return True

    def _grow(self, need: int) -> None:
        capacity = max(2 * self._capacity, need)
        entries = ffi.new("rw_index_entry[]", capacity)
        ffi.memmove(entries, self._entries, self._count[0] * ffi.sizeof("rw_index_entry"))
        self._entries, self._capacity = entries, capacity

    def _before(self, stream: int, offset: int) -> int:
        return int(lib.rw_index_before(self._entries, self._count[0], stream, offset))

    def span(self, stream: int) -> Span | None:
        """What the extent holds of the stream, None if nothing."""
        begin, end = self._before(stream, 0), self._before(stream + 1, 0)
        if begin == end:
            return None
        last = self._entries[end - 1]
        return Span(self._entries[begin].base_offset, last.base_offset + last.count)

    def find(self, stream: int, offset: int) -> int:
        """Position of the block with the record. It must lie in the stream's span.

        Raises CorruptionError: it was where there is damage now, or nothing that should be.
        """
        entry = self._entries[self._before(stream, offset + 1) - 1]
        if offset < entry.base_offset + entry.count:
            return int(entry.position)
        for damage in self.damages:
            if (damage.position or 0) >= entry.position:
                raise damage
        raise self._source.damaged(entry.position, "a hole in the log begins behind this block")

    def here(self, stream: int, offset: int) -> Place | None:
        """The last block with a record of the stream at or before ``offset``."""
        number = self._before(stream, offset + 1)
        return None if number == self._before(stream, 0) else self._place(self._entries[number - 1].position)

    def behind(self, stream: int, offset: int) -> Begin | None:
        """Where the stream goes on behind ``offset``."""
        number = self._before(stream, offset + 1)
        if number == self._before(stream + 1, 0):
            return None
        entry = self._entries[number]
        return Begin(entry.base_offset, self._place(entry.position))

    def _place(self, position: int) -> Place:
        head = bytearray(PAGE)
        self._source.read(position, memoryview(head))
        return Place(int(position), int(ffi.cast("rw_block *", ffi.from_buffer(head)).length))


class LogIndex:
    """Finds records in a source, for any thread, and for a signal handler in the middle of another search.

    A search takes the tables that earlier ones have filled, and puts them back when it is done; one that finds them taken
    makes its own. So nobody waits, and what an interrupted search leaves half done is not used.
    """

    def __init__(self, source: Source, streams: int) -> None:
        self._new = partial(Search, source, streams)
        self._source = source
        self._free: list[Search] = []

    def locate(self, stream: int, offset: int) -> Place:
        """Where in the source a record is which is on disk.

        Raises CorruptionError if it is not there, or if damage lies where it would be.
        """
        return self._using(lambda search: search.locate(stream, offset))

    def _using(self, question: Callable[[Search], Answer]) -> Answer:
        try:
            search = self._free.pop()
        except IndexError:
            search = self._new()
        try:
            found = question(search)
        except CorruptionError:
            self._put_back(search)
            raise
        self._put_back(search)
        return found

    def is_old(self, stream: int, offset: int) -> bool:
        """Does a side file know the record, or one that lies behind it in the stream?"""
        newest = self._source.newest_side()
        return newest >= 0 and offset < (self._source.ask_side(newest, partial(_end, stream), None) or 0)

    def ahead(self, stream: int, offset: int, position: int) -> Place | None:
        """A place behind log position ``position``, and not behind the record, by side files; None if they know of none. The
        record must not lie before ``position``."""
        source = self._source
        low = position // source.segment_bytes  # it is not in there, and has a side file
        if not self._passes(low, stream, offset):
            place = source.ask_side(low, lambda side: side.block_of(stream, offset), None)
            return None if place is None or place.position <= position else _place(place)
        step, high = 1, low + 1
        while self._passes(high, stream, offset):
            low, step = high, 2 * step
            high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            if self._passes(middle, stream, offset):
                low = middle
            else:
                high = middle
        place = source.ask_side(high, lambda side: side.block_of(stream, offset), None)
        return Place(high * source.segment_bytes, 0) if place is None else _place(place)

    def _passes(self, segment: int, stream: int, offset: int) -> bool:
        """Does a side file say that the record lies behind that segment?"""
        return self._source.ask_side(segment, lambda side: (side.end(stream) or 0) <= offset, otherwise=False)

    def behind(self, stream: int, offset: int, damage: CorruptionError) -> int | None:
        """Record ``offset`` of the stream is denied by that damage: the first one behind it that is not; None: there is none
        on disk, or nobody knows."""
        return self._using(lambda search: search.behind(stream, offset, damage))

    def _put_back(self, search: Search) -> None:
        if not self._free:
            self._free.append(search)


class Search:
    """The tables of a search, and the search. For one at a time."""

    def __init__(self, source: Source, streams: int) -> None:
        self._source = source
        self._scratch: Any = ffi.new("uint32_t[]", streams)
        self._indexes: OrderedDict[int, SegmentIndex] = OrderedDict()
        self._spans: dict[tuple[int, int], Span | None] = {}

    def locate(self, stream: int, offset: int) -> Place:
        """As `LogIndex.locate`."""
        found = self._locate(stream, offset, self._source.guess_side)
        for _ in range(DOUBTS_MAX):
            if isinstance(found, Place):
                return found
            found = self._locate(stream, offset, self._source.ask_side)
            # If it was side files that led to nothing, they contradict each other, and are not believed any more.
            if not isinstance(found, Place) and not sum(map(self._source.disbelieve, found)):
                break
        if isinstance(found, Place):
            return found
        segment = max(min(found), self._source.segments().start)
        raise CorruptionError("a hole in the log begins in this segment", segment)

    def _locate(self, stream: int, offset: int, ask: Asking) -> Place | set[int]:
        """The place, or else the segments that say that it is between them (-1: nothing lies before it).

        By guesses it takes fewer reads, and only a place that is found counts: the file that led there has been asked again.
        """
        segments = self._source.segments()
        deciding = {"before": -1, "behind": -1}
        low, high, opened = segments.start, segments.stop, self._source.sides_open()
        suspects: dict[int, CorruptionError] = {}  # the record may lie there, behind the damage
        while low < high:
            middle = probe = _between(low, high, opened)
            # Segments without the stream, or of which damage hides that, say nothing about where to go on: ask the one before.
            while (span := self._span(ask, probe, stream, offset, suspects)) is None and probe > low:
                probe -= 1
            if span is None:
                low = middle + 1
            elif offset >= span.next:
                low, deciding["before"] = middle + 1, probe
            elif offset < span.first:
                high = deciding["behind"] = probe
            elif self._has_side(ask, probe) == self._has_side(self._source.ask_side, probe):
                return self._find(probe, stream, offset)
            else:
                return set()
        if ask == self._source.guess_side:
            return set()
        if hiding := [segment for segment in suspects if deciding["before"] <= segment <= high]:
            raise suspects[min(hiding)]
        return set(deciding.values())

    def behind(self, stream: int, offset: int, damage: CorruptionError) -> int | None:
        """As `LogIndex.behind`: in the same block behind a frame with a good header, or in one of the next blocks."""
        for segment in range(0 if damage.segment is None else damage.segment, self._source.segments().stop):
            for place in self._here(segment, stream, offset):
                if (found := self._goes_on(place, stream, offset + 1)) is not None:
                    return found
            begin = self._behind(segment, stream, offset)
            while begin is not None:
                found = begin.offset if begin.place is None else self._goes_on(begin.place, stream, begin.offset)
                if found is not None:
                    return found
                begin = self._behind(segment, stream, begin.offset)
        return None

    def _here(self, segment: int, stream: int, offset: int) -> list[Place]:
        """The blocks of the segment that have the record, or would have it."""
        nobody_knows: Block | None = Block(-1, 0, 0, 0)
        block = self._source.ask_side(segment, lambda side: side.block_of(stream, offset), nobody_knows)
        if block is not nobody_knows:
            return [] if block is None else [_place(block)]
        places = [self._index_all(extent).here(stream, offset) for extent in self._source.extents(segment)]
        return [place for place in places if place is not None]

    def _behind(self, segment: int, stream: int, offset: int) -> Begin | None:
        """Where the stream goes on behind ``offset``, if in that segment, or if its side file says where without it."""
        nobody_knows: Begin | None = Begin(-1, None)
        found = self._source.ask_side(segment, partial(_behind, stream, offset), nobody_knows)
        return self._behind_by_extents(segment, stream, offset) if found is nobody_knows else found

    def _behind_by_extents(self, segment: int, stream: int, offset: int) -> Begin | None:
        for extent in self._source.extents(segment):
            if (begin := self._index_all(extent).behind(stream, offset)) is not None:
                return begin
        return None

    def _index_all(self, extent: Extent) -> SegmentIndex:
        """The extent's index, of all that it is now."""
        index = self._index(extent)
        if index.end < extent.end and not index.stuck:
            index.extend(extent.end, self._scratch)
        return index

    def _goes_on(self, place: Place, stream: int, offset: int) -> int | None:
        """The first record of the stream from ``offset`` on that can be read in that block."""
        extent = self._source.at(place.position)
        if extent is None:
            return None
        data = bytearray(min(place.length, extent.end - place.position))
        try:
            self._source.read(place.position, memoryview(data))
        except CorruptionError:
            return None
        walk = new_walk(self._source.uuid, extent.epoch, place.position)
        walk.stream, walk.next_offset = stream, offset
        found = int(lib.rw_walk_goes_on(ffi.from_buffer("uint8_t[]", data), len(data), walk))
        return None if found == NOWHERE else found

    def _has_side(self, ask: Asking, segment: int) -> bool:
        return ask(segment, lambda _: True, None) is not None

    def _span(
        self, ask: Asking, segment: int, stream: int, offset: int, suspects: dict[int, CorruptionError]
    ) -> Span | None:
        """What is known of the stream in the segment, and whether damage hides the rest of it."""
        span: Span | None = ask(segment, partial(_span, stream), None)
        if span is not None:
            return span
        found = [
            span
            for extent in self._source.extents(segment)
            if (span := self._extent_span(extent, stream, offset, suspects)) is not None
        ]
        return Span(found[0].first, found[-1].next) if found else None

    def _extent_span(
        self, extent: Extent, stream: int, offset: int, suspects: dict[int, CorruptionError]
    ) -> Span | None:
        key = (extent.begin, stream)
        if key in self._spans:
            return self._spans[key]
        index = self._index(extent)
        span = index.span(stream)
        elsewhere = span is None or not span.first <= offset < span.next
        if elsewhere and index.end < extent.end and not index.stuck:
            index.extend(extent.end, self._scratch)  # the extent has grown since
            return self._extent_span(extent, stream, offset, suspects)
        if elsewhere and index.damages:
            suspects[extent.segment] = index.damages[0 if span and offset < span.first else -1]
        if index.end >= extent.end and not index.damages and not self._source.grows(extent):
            if len(self._spans) >= SPANS_MAX:
                self._spans.clear()
            self._spans[key] = span
        return span

    def _find(self, segment: int, stream: int, offset: int) -> Place:
        """The record's block, which lies in the segment."""
        block = self._source.ask_side(segment, lambda side: side.block_of(stream, offset), None)
        if block is not None:
            return _place(block)
        for extent in reversed(self._source.extents(segment)):
            index = self._index(extent)
            span = index.span(stream)
            if span is not None and span.first <= offset:
                return Place(index.find(stream, offset), 0)
        raise CorruptionError(f"offset {offset} of stream {stream} is confirmed, and not in segment {segment}", segment)

    def _index(self, extent: Extent) -> SegmentIndex:
        """The extent's index. It covers what the extent was when the index was made, or more."""
        index = self._indexes.get(extent.begin)
        if index is None:
            index = self._indexes[extent.begin] = SegmentIndex(self._source, extent)
            index.extend(extent.end, self._scratch)
        self._indexes.move_to_end(extent.begin)
        while len(self._indexes) > 1 and sum(i.bytes for i in self._indexes.values()) > INDEX_BYTES:
            self._indexes.popitem(last=False)
        return index


def _between(low: int, high: int, opened: list[int]) -> int:
    """The segment in the middle of those that are open, or of all if none of them is: low <= it < high."""
    begin, end = bisect_left(opened, low), bisect_left(opened, high)
    return opened[(begin + end) // 2] if begin < end else (low + high) // 2


def _span(stream: int, side: SideFile) -> Span | None:
    """What the side file's segment has of the stream."""
    span = side.span(stream)
    if span is not None:
        return Span(span.first, span.next)
    end = side.end(stream) or 0
    return Span(end, end)


def _behind(stream: int, offset: int, side: SideFile) -> Begin | None:
    """The next block of the side file's segment with a record of the stream behind ``offset``, and that; if it lacks the
    stream, where that goes on; None: not in this segment."""
    span = side.span(stream)
    if span is None:
        end = side.end(stream) or 0
        return Begin(end, None) if end > offset else None
    here = side.block_of(stream, offset)
    low, high = max(offset + 1, span.first), span.next
    while low < high:
        middle = (low + high) // 2
        if here is not None and side.block_of(stream, middle) == here:
            low = middle + 1
        else:
            high = middle
    block = side.block_of(stream, high)
    return None if block is None else Begin(high, _place(block))


def _end(stream: int, side: SideFile) -> int | None:
    return side.end(stream)


def _place(block: Block) -> Place:
    return Place(block.position, block.length)
