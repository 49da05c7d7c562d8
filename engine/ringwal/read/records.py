"""What a read gives: records."""

from __future__ import annotations

from itertools import repeat
from typing import Any, NamedTuple

from ringwal._native import ffi, lib
from ringwal.model import Record
from ringwal.read.window import Window

RECORDS_MAX = (1 << 32) - 1
NO_LIMIT = (1 << 64) - 1
_new = tuple.__new__


class Origin(NamedTuple):
    """What the frame of a record says of it."""

    timestamp_ns: int
    first: int
    """Offset of the frame's first record."""
    count: int  # type: ignore[assignment]  # the field wins over tuple.count
    """Records of the frame."""
    producer: int
    """Number of the owner that numbers them; 0: nobody does."""
    sequence: int
    """That of the first record, by that owner."""
    epoch: int
    """Of the owner's claim that was in force."""


class Header:
    """Takes the header of one record's frame from a walk, and not the record; see `Records` for the steps."""

    __slots__ = ("_frame", "_taken", "origin")

    def __init__(self) -> None:
        self._frame = ffi.new("rw_frame *")
        self._taken = False
        self.origin: Origin | None = None

    def take(self, window: Window, walk: Any) -> int:
        """Returns the ``rw_walk_stop`` of the walk in that window."""
        stop = int(lib.rw_walk_frame_at(window.area, walk, self._frame))
        self._taken = stop == lib.RW_WALK_DONE
        return stop

    def keep(self) -> None:
        """What was taken last is good."""
        if self._taken:
            r = self._frame
            self.origin = Origin(r.timestamp_ns, r.base_offset, r.count, r.producer_id, r.producer_sequence, r.producer_epoch)

    def undo(self) -> None:
        """What was taken last is void."""

    def full(self) -> bool:
        """It never is."""
        return True

    def any(self) -> bool:
        """Is it known?"""
        return self.origin is not None


class Records:
    """Takes records from a walk, up to the limits of a request. One step at a time: `take`, then `keep` or `undo`."""

    __slots__ = ("_found", "_limits", "_taken", "slices")

    def __init__(self) -> None:
        self.slices = ffi.new("rw_slices *")
        self._found: list[Record] = []
        self._taken: list[Record] = []
        self._limits = (0, 0, 0)

    def begin(self, max_records: int, max_bytes: int | None) -> None:
        """A new request; one record is taken whatever its size."""
        slices = self.slices
        slices.records_left = min(max_records, RECORDS_MAX)
        slices.bytes_left = NO_LIMIT if max_bytes is None else min(max_bytes, NO_LIMIT)
        slices.must = 1
        self._found = []

    def take(self, window: Window, walk: Any) -> int:
        """What the walk comes upon in the window, copied. Returns its ``rw_walk_stop``."""
        slices = self.slices
        self._limits = slices.bytes_left, slices.records_left, slices.must
        stop = int(lib.rw_walk_collect(window.area, walk, slices))
        self._taken = self.copied(window.view, walk)
        return stop

    def keep(self) -> None:
        """What was taken last is good."""
        self._found += self._taken

    def undo(self) -> None:
        """What was taken last is void."""
        slices = self.slices
        slices.bytes_left, slices.records_left, slices.must = self._limits

    def full(self) -> bool:
        """When the walk stopped for want of room: is that all that was wanted?"""
        return bool(self.slices.count < lib.RW_SLICES or self.slices.records_left == 0)

    def any(self) -> bool:
        """Has something been kept?"""
        return bool(self._found)

    def end(self) -> list[Record]:
        """What has been kept."""
        found, self._found, self._taken = self._found, [], []
        return found

    def copied(self, view: Any, walk: Any) -> list[Record]:
        """The records of the last collect, copied out of ``view``."""
        slices = self.slices
        count = slices.count
        if count == 0:
            return []
        end = walk.next_offset
        if slices.timed:
            return self._copied_timed(view, end - count, count)
        if count == 1:  # what a tail sees that is awake for each record; the general way takes four times as long
            return [Record(end - 1, view[slices.begin[0] : slices.end[0]], slices.timestamp_ns[0])]
        places = zip(ffi.unpack(slices.begin, count), ffi.unpack(slices.end, count), strict=True)
        data = [view[begin:stop] for begin, stop in places]
        rows = zip(range(end - count, end), data, ffi.unpack(slices.timestamp_ns, count), repeat(None), strict=False)
        return list(map(_new, repeat(Record), rows))  # as Record(...) does, without its frame

    def _copied_timed(self, view: Any, first: int, count: int) -> list[Record]:
        """The same where some have times of their own."""
        out = self.slices
        own = [None if time == lib.RW_NO_TIME else time for time in ffi.unpack(out.own_ns, count)]
        return [Record(first + i, view[out.begin[i] : out.end[i]], out.timestamp_ns[i], own[i]) for i in range(count)]
