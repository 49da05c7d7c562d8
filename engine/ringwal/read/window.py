"""Where a walk of C (csrc/scan.h) stands while it goes: in the log ring, or in a chunk of a source."""

from __future__ import annotations

from typing import Any, Protocol

from ringwal._native import ffi, lib
from ringwal.read.chunk import Chunk
from ringwal.read.source import Extent, Source


class Window(Protocol):
    """Bytes of the log in memory. For one walk at a time."""

    area: Any
    """``rw_area *``, for C; places that C finds are relative to its ``base``."""

    @property
    def view(self) -> Any:
        """The same bytes, for Python."""

    def cover(self, walk: Any) -> None:
        """Make sure that the walk's position lies inside, or else the first one behind it that is in the log."""

    def holds(self, position: int) -> bool:
        """Was everything from ``position`` on, and was looked at since `cover`, what the log has there?"""

    def stopped(self, stop: int, walk: Any) -> None:
        """Get ready to go on after the walk stopped in here. Raises CorruptionError if nothing can help."""


class Ring:
    """The log ring of an engine: ``control`` (``rw_control *``) and ``pointer`` (``uint8_t *``, mapped twice in a row)."""

    def __init__(self, control: Any, pointer: Any, ring_bytes: int) -> None:
        self.control, self.pointer = control, pointer
        self.view = ffi.buffer(pointer, 2 * ring_bytes)

    def has(self, position: int) -> bool:
        """Has it the log byte at ``position``, if it is in the log at all?"""
        return bool(position >= lib.rw_log_low(self.control))

    def find(self, stream: int, offset: int) -> int | None:
        """Position of a block at or behind which the record is; None if it is not in the ring."""
        position = ffi.new("uint64_t *")
        found = lib.rw_log_find(self.control, self.pointer, stream, offset, position)
        return int(position[0]) if found == lib.RW_OK else None


class RingWindow:
    """The ring as it is in memory, while the WAL process writes it.                              PAIR: reserve_end"""

    def __init__(self, ring: Ring, epoch: int, source: Source) -> None:
        self.area = ffi.new("rw_area *")
        self._ring, self._epoch, self._source = ring, epoch, source

    @property
    def view(self) -> Any:
        return self._ring.view

    def cover(self, walk: Any) -> None:
        walk.epoch = self._epoch
        lib.rw_log_area(self._ring.control, self._ring.pointer, self.area)

    def end_at(self, limit: int) -> None:
        """Until the next `cover`, nothing at or behind that log position lies inside."""
        self.area.end = min(self.area.end, limit)

    def holds(self, position: int) -> bool:
        return bool(lib.rw_log_holds(self._ring.control, position))

    def stopped(self, stop: int, walk: Any) -> None:
        if stop not in (lib.RW_WALK_DONE, lib.RW_WALK_FULL):
            what = f"the log ring does not hold record {walk.next_offset} of stream {walk.stream}, which is confirmed"
            raise self._source.damaged(walk.position, what)


class SourceWindow:
    """A chunk of a source, the next one where the walk has come to its end."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._chunk = Chunk(source)
        self._extent: Extent | None = None
        self.area = self._chunk.area

    @property
    def view(self) -> Any:
        return self._chunk.view

    def aim(self, size: int) -> None:
        """The walk begins anew at a block of that size; 0: nobody knows."""
        self._chunk.aim(size)

    def cover(self, walk: Any) -> None:
        extent = self._extent = self._source.at(walk.position)
        if extent is None:
            what = f"record {walk.next_offset} of stream {walk.stream} is confirmed, and not on disk"
            raise self._source.damaged(walk.position, what)
        if walk.position < extent.begin:  # the walk has come to a cut
            walk.position, walk.frame_at = extent.begin, 0
        if walk.epoch != extent.epoch:
            walk.epoch, walk.data_at = extent.epoch, 0
        self._chunk.cover(walk, extent.end)

    def end_at(self, limit: int) -> None:
        """As of the ring's window."""
        self.area.end = min(self._chunk.end, limit)

    def holds(self, position: int) -> bool:
        return True

    def stopped(self, stop: int, walk: Any) -> None:
        assert self._extent is not None
        self._chunk.stopped(stop, walk, self._extent.end)
