"""Where in a source a record is: one index per extent (what a segment has of one epoch), made by one pass over it,
kept while there is room.

An index has one entry per stream and block (``rw_index_entry``), sorted, so that a question is one binary search in C.
Offsets of a stream grow with log position, so the right extent is found by binary search too: each probe asks one
index for the span of offsets that its extent has of the stream. Spans once known are kept when the index is dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any, NamedTuple

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError
from ringwal.read.chunk import Chunk, new_walk
from ringwal.read.source import Extent, Source

INDEX_BYTES = 32 << 20
"""Indexes of one reader take no more memory than this together, except that the newest one always stays."""

SPANS_MAX = 1 << 16
_FIRST_CAPACITY = 1024


class Span(NamedTuple):
    """Offsets of one stream that one extent holds: first <= offset < next."""

    first: int
    next: int


class SegmentIndex:
    """The index of one extent. It grows at its end while the extent does."""

    def __init__(self, source: Source, extent: Extent) -> None:
        self._source = source
        self._walk = new_walk(source.uuid, extent.epoch, extent.begin)
        self._capacity = _FIRST_CAPACITY
        self._entries: Any = ffi.new("rw_index_entry[]", self._capacity)
        self._count = ffi.new("uint32_t *")
        self.damage: CorruptionError | None = None

    @property
    def bytes(self) -> int:
        """Memory taken."""
        return self._capacity * int(ffi.sizeof("rw_index_entry"))

    @property
    def end(self) -> int:
        """Log position up to which blocks are indexed."""
        return int(self._walk.position)

    def extend(self, limit: int, scratch: Any) -> None:
        """Index what lies between ``end`` and ``limit``. Damage on the way is kept in ``damage``, not raised.

        ``scratch`` is a ``uint32_t[]``, best with a cell per stream.
        """
        chunk = Chunk(self._source)
        try:
            while self.end < limit and self.damage is None:
                chunk.cover(self._walk, limit)
                stop = lib.rw_walk_index(
                    chunk.area, self._walk, self._entries, self._capacity, self._count, scratch, len(scratch)
                )
                if stop == lib.RW_WALK_FULL:
                    self._grow(self._count[0] + self._walk.need)
                else:
                    chunk.stopped(stop, self._walk, limit)
        except CorruptionError as damage:
            self.damage = damage
        lib.rw_index_sort(self._entries, self._count[0])

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
        """Position of the block with the record. It must lie in the stream's span."""
        return int(self._entries[self._before(stream, offset + 1) - 1].position)


class LogIndex:
    """Finds records in a source, for any thread, and for a signal handler in the middle of another search.

    A search takes the tables that earlier ones have filled, and puts them back when it is done; one that finds them taken
    makes its own. So nobody waits, and what an interrupted search leaves half done is not used.
    """

    def __init__(self, source: Source, streams: int) -> None:
        self._new = partial(Search, source, streams)
        self._free: list[Search] = []

    def locate(self, stream: int, offset: int) -> int:
        """Log position of the block that holds a record which is on disk.

        Raises CorruptionError if it is not there, or if damage lies where it would be.
        """
        try:
            search = self._free.pop()
        except IndexError:
            search = self._new()
        try:
            found = search.locate(stream, offset)
        except CorruptionError:
            self._put_back(search)
            raise
        self._put_back(search)
        return found

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

    def locate(self, stream: int, offset: int) -> int:
        """As `LogIndex.locate`."""
        extents = self._source.all()
        low, high = 0, len(extents)
        suspects: dict[int, CorruptionError] = {}  # the record may lie there, behind the damage
        while low < high:
            middle = probe = (low + high) // 2
            # Extents without the stream, or of which damage hides that, say nothing about where to go on: ask the one before.
            while (span := self._span(extents[probe], probe, stream, offset, suspects)) is None and probe > low:
                probe -= 1
            if span is None or offset >= span.next:
                low = middle + 1
            elif offset < span.first:
                high = probe
            else:
                return self._index(extents[probe]).find(stream, offset)
        if hiding := [place for place in suspects if place < high]:
            raise suspects[max(hiding)]
        raise CorruptionError(f"offset {offset} of stream {stream} is confirmed, and in no segment")

    def _span(
        self, extent: Extent, place: int, stream: int, offset: int, suspects: dict[int, CorruptionError]
    ) -> Span | None:
        """What is known of the extent, which is the one at `place`, and whether damage hides the rest of it."""
        key = (extent.begin, stream)
        if key in self._spans:
            return self._spans[key]
        index = self._index(extent)
        span = index.span(stream)
        if (span is None or offset >= span.next) and index.end < extent.end:
            if index.damage is None:
                index.extend(extent.end, self._scratch)  # the extent has grown since
                return self._span(extent, place, stream, offset, suspects)
            suspects[place] = index.damage
        if index.end >= extent.end and not self._source.grows(extent):
            if len(self._spans) >= SPANS_MAX:
                self._spans.clear()
            self._spans[key] = span
        return span

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
