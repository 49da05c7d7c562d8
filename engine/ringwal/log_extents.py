"""Which bytes of the segment files are the log: segment after segment, epoch after epoch, each up to its cut.

An epoch begins with a barrier at the start of a segment. The barrier names the log position at which the epoch before
it ends, its cut; bytes of that epoch at or beyond the cut are never believed, whatever they look like. Following the
barriers back from the live epoch gives the extents of the whole history::

    segment        7               8               9              10
            | epoch 3 ......|... cut  xxxxx | xxxxxxxxxxxxx | barrier, epoch 4 ...
    extent     7: all of it    8: to the cut   9: none         10: live, to the end of what is on disk
"""

from __future__ import annotations

import bisect
import os
from typing import Any, NamedTuple

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError, Error, NotRunning
from ringwal.log import manifest as manifests
from ringwal.log import segment as segments
from ringwal.log.directory import Directory

PAGE = 4096
CHUNK_BYTES = 1 << 20
_ANY_LENGTH = (1 << 64) - 1


class Extent(NamedTuple):
    """The part of one segment that belongs to the log: from the segment's start to ``end``, all of one epoch."""

    segment: int
    epoch: int
    end: int


class FirstBlock(NamedTuple):
    """Header fields of the first block of a segment (csrc/layout.h, rw_block)."""

    epoch: int
    kind: int
    previous_end: int


class SegmentFiles:
    """The segment files of one log, read only. Safe to use from several threads: none of them is held open."""

    def __init__(self, directory: Directory, segment_bytes: int, uuid: bytes) -> None:
        self.segment_bytes = segment_bytes
        self.uuid = uuid
        self._directory = directory

    def segment_of(self, position: int) -> int:
        return position // self.segment_bytes

    def start_of(self, segment: int) -> int:
        return segment * self.segment_bytes

    def damaged(self, position: int, why: str) -> CorruptionError:
        """The error for damage at ``position``, to be raised."""
        return CorruptionError(why, self.segment_of(position), position)

    def read(self, position: int, into: memoryview, *, fresh: bool = False) -> None:
        """Fill ``into`` from log position ``position`` on; it must not cross the segment's end.

        ``fresh`` drops what the page cache holds of that range first. The engine writes past the cache; the kernel then
        drops cached pages of the range, but promises no more than to try.

        Raises CorruptionError if the file is missing or too short, NotRunning if it is missing because the log is no longer in
        its directory, OSError if it cannot be read.
        """
        segment = self.segment_of(position)
        at = segments.HEADER_BYTES + position - self.start_of(segment)
        try:
            fd = os.open(segments.name_of(segment), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory.segments)
        except FileNotFoundError:
            raise self._missing(position) from None
        try:
            # No read-ahead: it would cache bytes of the live segment that are still being written.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            if fresh:
                os.posix_fadvise(fd, at, len(into), os.POSIX_FADV_DONTNEED)
            done = 0
            while done < len(into):
                got = os.preadv(fd, [into[done:]], at + done)
                if got == 0:
                    raise self.damaged(position + done, "the segment file is too short")
                done += got
        finally:
            os.close(fd)

    def _missing(self, position: int) -> Error:
        """What it means that the segment's file is not there: only the manifest can tell."""
        try:
            gone = manifests.load(self._directory).uuid != self.uuid
        except FileNotFoundError:
            gone = True
        except CorruptionError:  # of the manifest, too
            gone = False
        if gone:
            return NotRunning(f"the log that this client reads is no longer in {self._directory.path}: deleted or replaced")
        return self.damaged(position, "the segment file is missing")

    def first_block(self, segment: int) -> FirstBlock:
        """What the segment's first block says, whatever its epoch; CorruptionError if it is damaged."""
        position = self.start_of(segment)
        page = bytearray(PAGE)
        block = ffi.from_buffer("uint8_t[]", page)
        header = ffi.cast("const rw_block *", block)
        for fresh in (False, True):
            self.read(position, memoryview(page), fresh=fresh)
            if lib.rw_block_check(block, _ANY_LENGTH, self.uuid, header.epoch, position) == lib.RW_OK:
                return FirstBlock(header.epoch, header.kind, header.previous_end)
        raise self.damaged(position, "the first block of the segment is damaged")


class Extents:
    """All extents of the log below its live end. Older epochs are looked up once, when first asked for. Thread-safe."""

    def __init__(self, files: SegmentFiles, epoch: int, epoch_begin: int) -> None:
        self._files = files
        self._epoch = epoch
        self._epoch_begin = epoch_begin
        self._live = files.segment_of(epoch_begin)
        self._older: list[Extent] | None = None

    def at(self, position: int, disk_end: int) -> Extent | None:
        """The extent that holds the log byte at ``position``, or else the next one; None if there is none.

        ``disk_end`` is how far the live epoch is on disk.
        """
        segment = self._files.segment_of(position)
        if segment >= self._live:
            return self._live_extent(segment, disk_end) if position < disk_end else None
        older = self._history()
        place = bisect.bisect_left(older, segment, key=_segment)
        if place < len(older) and older[place].segment == segment and position >= older[place].end:
            place += 1
        return older[place] if place < len(older) else self._live_extent(self._live, disk_end)

    def all(self, disk_end: int) -> list[Extent]:
        """Every extent, oldest first, with the live epoch ending at ``disk_end``."""
        files = self._files
        live = range(self._live, files.segment_of(max(disk_end, 1) - 1) + 1)
        return self._history() + [self._live_extent(segment, disk_end) for segment in live]

    def grows(self, extent: Extent) -> bool:
        """May the same segment have a longer extent later?"""
        return extent.segment >= self._live and extent.end < self._files.start_of(extent.segment + 1)

    def _live_extent(self, segment: int, disk_end: int) -> Extent:
        return Extent(segment, self._epoch, min(self._files.start_of(segment + 1), disk_end))

    def _history(self) -> list[Extent]:
        older = self._older
        if older is None:
            older = self._older = self._walk_back()  # a signal handler or another thread may do the same: it finds the same
        return older

    def _walk_back(self) -> list[Extent]:
        files = self._files
        found: list[Extent] = []
        epoch, begin = self._epoch, self._epoch_begin
        while (cut := self._cut_before(begin, epoch)) > 0:
            segment, end = files.segment_of(cut - 1), cut
            older = files.first_block(segment).epoch
            if older >= epoch:
                raise files.damaged(files.start_of(segment), f"the segment should be older than epoch {epoch}")
            while True:
                header = files.first_block(segment)
                if header.epoch != older:
                    raise files.damaged(files.start_of(segment), f"a segment of epoch {older} is missing here")
                found.append(Extent(segment, older, end))
                if header.kind == lib.RW_BLOCK_BARRIER:
                    break
                if segment == 0:
                    raise files.damaged(0, f"epoch {older} has no beginning")
                end = files.start_of(segment)
                segment -= 1
            epoch, begin = older, files.start_of(segment)
        found.reverse()
        return found

    def _cut_before(self, begin: int, epoch: int) -> int:
        """Where the epoch before the one that begins at ``begin`` ends; 0: there is none."""
        header = self._files.first_block(self._files.segment_of(begin))
        if header.kind != lib.RW_BLOCK_BARRIER or header.epoch != epoch or header.previous_end > begin:
            raise self._files.damaged(begin, f"the barrier of epoch {epoch} is damaged")
        return header.previous_end


class Chunk:
    """A piece of one segment file in memory, and what to do when a walk through it stops. For one walk at a time."""

    __slots__ = ("_data", "_files", "_fresh", "_memory", "area", "begin", "end", "view")

    def __init__(self, files: SegmentFiles) -> None:
        self._files = files
        self._memory = bytearray()
        self._data: Any = None
        self._fresh = False
        self.view: Any = None
        self.area = ffi.new("rw_area *", {"mask": _ANY_LENGTH})
        self.begin = self.end = 0

    def cover(self, walk: Any, limit: int) -> None:
        """Make sure that the walk's position lies inside; ``limit`` is the end of the extent."""
        if not self.begin <= walk.position < self.end:
            self._load(walk, PAGE, limit, fresh=False)

    def stopped(self, stop: int, walk: Any, limit: int) -> None:
        """Get ready to go on after the walk stopped in here; raise CorruptionError if that cannot help."""
        if stop == lib.RW_WALK_SHORT:
            if walk.need > limit - walk.position:
                raise self._files.damaged(walk.position, "a block runs past the end of its part of the log")
            self._load(walk, walk.need, limit, fresh=False)
        elif stop == lib.RW_WALK_BAD:
            if self._fresh and self.begin == walk.position:
                raise self._files.damaged(walk.position, "a block is damaged")
            self._load(walk, max(walk.need, PAGE), limit, fresh=True)
        elif stop == lib.RW_WALK_AHEAD:
            raise self._files.damaged(walk.position, f"records from {walk.next_offset} on are missing before here")

    def _load(self, walk: Any, need: int, limit: int, *, fresh: bool) -> None:
        begin = walk.position
        size = min(max(need, CHUNK_BYTES), limit - begin)
        self.begin = self.end = 0
        if len(self._memory) < size or len(self._memory) > CHUNK_BYTES >= size:
            self._memory = bytearray(max(size, min(CHUNK_BYTES, self._files.segment_bytes)))
            self._data = ffi.from_buffer("uint8_t[]", self._memory)
            self.view = ffi.buffer(self._data)
        self._files.read(begin, memoryview(self._memory)[:size], fresh=fresh)
        self.area.base, self.area.origin, self.area.end = self._data, begin, begin + size
        self.begin, self.end, self._fresh = begin, begin + size, fresh
        walk.data_at = 0  # what was proven was proven of other bytes


def new_walk(files: SegmentFiles, epoch: int, position: int) -> Any:
    """An ``rw_walk`` of no stream in particular that stands at the start of the block at ``position``."""
    walk = ffi.new("rw_walk *")
    ffi.memmove(walk.uuid, files.uuid, len(files.uuid))
    walk.epoch, walk.position = epoch, position
    return walk


def _segment(extent: Extent) -> int:
    return extent.segment
