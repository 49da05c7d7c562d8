"""Which bytes of the segment files are the log: epoch after epoch, each up to its cut.

A checkpoint has a row for every epoch: where it begins, and where it ends, its cut; bytes of an epoch at or beyond its cut
are never believed, whatever they look like. Epochs begin anywhere in a segment, so a segment may have parts of several;
an *extent* is what one segment has of one epoch::

    segment        7               8                       9
            | epoch 3 ......|... cut  xxxx | epoch 4 .|... epoch 4, live ...
    extents    (7, 3)        (8, 3)          (8, 4)     (9, 4): to the end of what is on disk
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError, Error, NotRunning
from ringwal.log import checkpoint_file
from ringwal.log import manifest as manifests
from ringwal.log import segment as segments
from ringwal.log.checkpoint import Checkpoint, EpochRow
from ringwal.log.directory import Directory

PAGE = 4096
CHUNK_BYTES = 1 << 20
_ANY_LENGTH = (1 << 64) - 1


class Extent(NamedTuple):
    """The part of one segment that belongs to one epoch: log positions begin <= position < end. It begins with a block."""

    segment: int
    epoch: int
    begin: int
    end: int


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

    def epochs(self) -> tuple[EpochRow, ...]:
        """The epochs with a byte in the log, as the checkpoint in force has them.

        Raises CorruptionError if manifest or checkpoint are damaged, NotRunning if the log is no longer in its directory.
        """
        return self.look()[1].epochs

    def look(self) -> tuple[int, Checkpoint]:
        """The first segment that there still is, and the checkpoint in force, as the files have them. Raises as `epochs`."""
        try:
            first = manifests.load(self._directory).first_segment  # before: the checkpoint is at least as new
            found = checkpoint_file.look(self._directory, self.uuid)
        except FileNotFoundError:
            found = None
        if found is None:
            raise self._gone()
        return first, found

    def _missing(self, position: int) -> Error:
        """What it means that the segment's file is not there: only the manifest can tell."""
        try:
            gone = manifests.load(self._directory).uuid != self.uuid
        except FileNotFoundError:
            gone = True
        except CorruptionError:  # of the manifest, too
            gone = False
        return self._gone() if gone else self.damaged(position, "the segment file is missing")

    def _gone(self) -> NotRunning:
        return NotRunning(f"the log that this client reads is no longer in {self._directory.path}: deleted or replaced")


class Extents:
    """All extents of the log from its first segment to its live end. Older epochs are looked up once, when first asked for.
    Thread-safe."""

    def __init__(self, files: SegmentFiles, epoch: int, epoch_begin: int, first: Callable[[], int] = lambda: 0) -> None:
        """``first`` says which segment is the first one by the memory of the engine."""
        self._first = first
        self._known = 0  # by the files
        self._files = files
        self._epoch = epoch
        self._epoch_begin = epoch_begin
        self._older: tuple[list[EpochRow], list[Extent]] | None = None

    def begins(self) -> int:
        """The first segment that there still is, as far as this reader knows. Nothing below it is looked for."""
        return max(self._known, self._first())

    def begin_at(self, segment: int) -> None:
        """What is below has been freed, as the files say."""
        self._known = max(self._known, segment)

    def at(self, position: int, disk_end: int) -> Extent | None:
        """The extent that holds the log byte at ``position``, or else the next one; None if there is none.

        ``disk_end`` is how far the live epoch is on disk.
        """
        if position < self._epoch_begin:
            rows, _ = self._history()
            place = bisect.bisect_right(rows, position, key=_begin) - 1
            if place < 0 or position >= rows[place].end:
                place, position = place + 1, 0
            if place < len(rows):
                row = rows[place]
                return self._extent(row.epoch, row.begin, row.end, max(position, row.begin))
        position = max(position, self._epoch_begin)
        return self._extent(self._epoch, self._epoch_begin, disk_end, position) if position < disk_end else None

    def all(self, disk_end: int) -> list[Extent]:
        """Every extent, oldest first, with the live epoch ending at ``disk_end``."""
        _, older = self._history()
        first = self.begins()
        living = older[bisect.bisect_left(older, first, key=_segment) :]
        return living + self._extents(self._epoch, max(self._epoch_begin, self._files.start_of(first)), disk_end)

    def grows(self, extent: Extent) -> bool:
        """May the same extent be longer later?"""
        return extent.epoch == self._epoch and extent.end < self._files.start_of(extent.segment + 1)

    def _extent(self, epoch: int, begin: int, end: int, position: int) -> Extent:
        """The one that has `position`, of an epoch from begin to end."""
        segment = self._files.segment_of(position)
        first, behind = self._files.start_of(segment), self._files.start_of(segment + 1)
        return Extent(segment, epoch, max(begin, first), min(end, behind))

    def _extents(self, epoch: int, begin: int, end: int) -> list[Extent]:
        segment_of, start_of = self._files.segment_of, self._files.start_of
        segments = range(segment_of(begin), segment_of(end - 1) + 1) if begin < end else ()
        return [self._extent(epoch, begin, end, max(begin, start_of(segment))) for segment in segments]

    def _history(self) -> tuple[list[EpochRow], list[Extent]]:
        """The epochs before the live one, with their limits, and their extents."""
        older = self._older
        if older is None:  # a signal handler or another thread may do the same: it finds the same
            rows = [row for row in self._files.epochs() if row.epoch < self._epoch]
            if rows and not rows[-1].begin < rows[-1].end <= self._epoch_begin:
                raise CorruptionError(f"the checkpoint does not know epoch {self._epoch}, which is live")
            older = self._older = rows, [extent for row in rows for extent in self._extents(*row)]
        return older


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


def _begin(row: EpochRow) -> int:
    return row.begin
