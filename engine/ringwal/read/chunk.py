"""A piece of a source in memory, for a walk of C (csrc/scan.h)."""

from __future__ import annotations

from typing import Any

from ringwal._native import ffi, lib
from ringwal.log.files import ANY_LENGTH
from ringwal.read.source import PAGE, Source

CHUNK_BYTES = 1 << 20
FIRST_BYTES = 64 << 10
"""How much is read at a place of which nothing is known; twice as much each time that the walk goes on from there."""
# Clearing a chunk of which a single record needs little would take longer than all the rest of reading it.
_allocate = ffi.new_allocator(should_clear_after_alloc=False)


class Chunk:
    """A piece of one extent in memory, and what to do when a walk through it stops. For one walk at a time."""

    __slots__ = ("_data", "_fresh", "_memory", "_size", "_source", "area", "begin", "end", "view")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._memory = memoryview(b"")
        self._data: Any = None
        self._fresh = False
        self._size = CHUNK_BYTES
        self.view: Any = None
        self.area = ffi.new("rw_area *", {"mask": ANY_LENGTH})
        self.begin = self.end = 0

    def aim(self, size: int) -> None:
        """The walk begins anew at a block of that size; 0: nobody knows. What is loaded next is not more than that."""
        self._size = min(size or FIRST_BYTES, FIRST_BYTES)

    def cover(self, walk: Any, limit: int) -> None:
        """Make sure that the walk's position lies inside; ``limit`` is the end of the extent."""
        if not self.begin <= _wanted(walk) < self.end:
            self._load(walk, PAGE, limit, fresh=False)

    def stopped(self, stop: int, walk: Any, limit: int) -> None:
        """Get ready to go on after the walk stopped in here; raise CorruptionError if that cannot help."""
        if stop == lib.RW_WALK_SHORT:
            if walk.need > limit - _wanted(walk):
                raise self._source.damaged(walk.position, "a block runs past the end of its part of the log")
            self._load(walk, walk.need, limit, fresh=False)
        elif stop == lib.RW_WALK_BAD:
            if self._fresh and self.begin == _page(_wanted(walk)):
                raise self._source.damaged(walk.position, "a block is damaged")
            self._load(walk, max(walk.need, PAGE), limit, fresh=True)
        elif stop == lib.RW_WALK_AHEAD:
            raise self._source.damaged(walk.position, "a hole in the log ends in this block")

    def search(self, walk: Any, limit: int) -> None:
        """The block at the walk's position is damaged: move it to the next place with the header of one, or to the end."""
        while True:
            walk.position = min(walk.position + PAGE, limit)
            walk.frame_at = 0
            if walk.position == limit:
                return
            self.cover(walk, limit)
            at = walk.position - self.begin
            left = self.end - walk.position
            found = lib.rw_block_search(self._data + at, left, walk.uuid, walk.epoch, walk.position)
            walk.position += min(found, left) if found < left else left - PAGE
            if found < left:
                return

    def _load(self, walk: Any, need: int, limit: int, *, fresh: bool) -> None:
        begin = _page(_wanted(walk))
        most = max(_wanted(walk) - begin + need, min(self._size, CHUNK_BYTES))
        size = min(most, limit - begin)
        self._size = max(2 * self._size, FIRST_BYTES)
        self.begin = self.end = 0
        if len(self._memory) < size or len(self._memory) > CHUNK_BYTES >= size:
            self._data = _allocate("uint8_t[]", max(size, min(CHUNK_BYTES, self._source.segment_bytes)))
            self.view = ffi.buffer(self._data)
            self._memory = memoryview(self.view)
        ahead = min(size, limit - begin - size) if self._size > CHUNK_BYTES else 0
        self._source.read(begin, self._memory[:size], fresh=fresh, ahead=ahead)
        self.area.base, self.area.origin, self.area.end = self._data, begin, begin + size
        self.begin, self.end, self._fresh = begin, begin + size, fresh
        walk.data_at = 0  # what was proven was proven of other bytes


def _wanted(walk: Any) -> int:
    """Log position from which on the walk needs bytes: the rest of a block whose header it knows, or all of it."""
    return int(walk.position + (walk.frame_at if walk.used else 0))


def _page(position: int) -> int:
    return position - position % PAGE


def new_walk(uuid: bytes, epoch: int, position: int) -> Any:
    """An ``rw_walk`` of no stream in particular that stands at the start of the block at ``position``."""
    walk = ffi.new("rw_walk *")
    ffi.memmove(walk.uuid, uuid, len(uuid))
    walk.epoch, walk.position = epoch, position
    return walk
