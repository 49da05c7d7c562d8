"""A place in a stream: confirmed records in order, the newest from the log ring, the rest from a source.

Both hold the same blocks at the same log positions. A cursor stands at a log position and walks forward block by block,
in whichever of the two has it; it searches only when it has no position yet. C does the work per record (csrc/scan.h,
which also says why reading the ring under the WAL process's hands is safe); this module decides where to read.
"""

from __future__ import annotations

from typing import Any, Protocol

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError, StreamDeleted
from ringwal.model import Record
from ringwal.read.bounds import Bounds, check_trimmed
from ringwal.read.chunk import new_walk
from ringwal.read.index import LogIndex, Place
from ringwal.read.records import NO_LIMIT, RECORDS_MAX, Records
from ringwal.read.source import Source
from ringwal.read.window import Ring, RingWindow, SourceWindow, Window

_ring_next = lib.rw_log_ring_next
_DONE = lib.RW_WALK_DONE
_ON = (lib.RW_WALK_END, lib.RW_WALK_SHORT)


class Sink(Protocol):
    """What takes from a walk: see `Records`."""

    def take(self, window: Window, walk: Any) -> int: ...
    def keep(self) -> None: ...
    def undo(self) -> None: ...
    def full(self) -> bool: ...
    def any(self) -> bool: ...


class Log:
    """Everything that a cursor reads from: how far things reach, the ring if there is one, and what has the rest."""

    def __init__(self, bounds: Bounds, source: Source, ring: Ring | None) -> None:
        self.bounds, self.source, self.ring = bounds, source, ring
        self.index = LogIndex(source, bounds.max_streams)


class Cursor:
    """A place in one stream. For one thread at a time."""

    __slots__ = (
        "_before", "_disk", "_handle", "_length", "_log", "_met", "_placed", "_records", "_ring", "_until", "_walk", "_window",
    )  # fmt: skip

    def __init__(self, log: Log, stream: int, start: int) -> None:
        self._log = log
        self._walk = new_walk(log.source.uuid, log.bounds.epoch, 0)
        self._before = ffi.new("rw_walk *")
        self._records = Records()
        self._ring = None if log.ring is None else RingWindow(log.ring, log.bounds.epoch, log.source)
        self._disk: SourceWindow | None = None
        self._window: Window | None = None
        self._until = 0
        self._met: set[tuple[int | None, int | None]] = set()  # places of damage, by this request
        self._length = 0  # of the block where it was placed
        self._placed = False
        self.seek(stream, start)

    def seek(self, stream: int, start: int) -> None:
        """Stand before offset ``start`` of the stream of that handle from now on."""
        if start < 0:
            raise ValueError(f"start is {start}; offsets begin at 0")
        self._log.bounds.check(stream)
        self._handle, walk = stream, self._walk
        walk.stream, walk.place, walk.next_offset = lib.rw_handle_number(stream), lib.rw_handle_place(stream), start
        self._placed = False

    @property
    def offset(self) -> int:
        """Offset of the record that comes next."""
        return int(self._walk.next_offset)

    def next(self, max_records: int = 1000, max_bytes: int | None = None) -> list[Record]:
        """The next confirmed records, and move behind them; [] if none is there yet.

        Limits, order and errors are those of `Reader.read`. Records that lie before damage are returned first, and the
        next call raises. After an error the cursor stands where it stood.
        """
        if max_records < 0 or (max_bytes is not None and max_bytes < 0):
            raise ValueError("max_records and max_bytes must not be negative")
        start = self.offset
        try:
            if few := self._few(max_records, max_bytes):
                return few
            self._records.begin(max_records, max_bytes)
            self._fill(self._records, max_records)
            return self._records.end()
        except BaseException:
            self._walk.next_offset, self._placed = start, False
            raise

    def fill(self, sink: Sink, max_records: int) -> None:
        """Give the next confirmed records to ``sink`` until it is full or has all, and move behind them. As `next`."""
        start = self.offset
        try:
            self._fill(sink, max_records)
        except BaseException:
            self._walk.next_offset, self._placed = start, False
            raise

    def _few(self, max_records: int, max_bytes: int | None) -> list[Record]:
        """What a tail is woken for, by one call of C; [] if this is not such a case."""
        ring = self._log.ring
        if ring is None or not self._placed or self._window is not self._ring:
            return []
        walk, before, records = self._walk, self._before, self._records
        limit, most = min(max_records, RECORDS_MAX), NO_LIMIT if max_bytes is None else min(max_bytes, NO_LIMIT)
        if _ring_next(ring.control, ring.pointer, walk, before, records.slices, limit, most) != _DONE:
            return []
        found = records.copied(ring.view, walk)
        if lib.rw_log_holds(ring.control, before.position):  # PAIR: reserve_end
            return found
        walk[0] = before[0]
        return []

    def _look(self) -> bool:
        """How far the stream reaches now; is there anything to read? Raises StreamDeleted, OffsetTrimmed."""
        walk, bounds = self._walk, self._log.bounds.look(self._handle)
        if bounds is None:
            raise StreamDeleted("the stream was deleted")
        walk.below = min(bounds.confirmed_offset, self._until)
        check_trimmed(walk.next_offset, bounds.start_offset)
        return bool(walk.next_offset < walk.below)

    def _fill(self, sink: Sink, max_records: int) -> None:
        """The general way, which also says what is wrong."""
        # The walk ends behind the last record that is wanted, and does not look for the next one.
        self._until = self.offset + max_records
        self._met.clear()
        if not self._look():
            return
        while not self._collect(sink):
            pass

    def _collect(self, sink: Sink) -> bool:
        """Collect until the request is satisfied; False: it has to be tried again.

        What was looked at may have been freed, or the damage, which the walk has come upon, may not have the record: so it is
        searched for before it is given up.
        """
        try:
            while not self._step(sink):
                pass
        except CorruptionError as damage:
            self._placed = False
            place = (damage.segment, damage.position)
            if sink.any() and place in self._met:
                return True  # what lies before the damage is good; the next call meets it again
            if not sink.any():
                self._look()
                freed = self._log.source.look_again(self._walk.stream, self._walk.next_offset, damage)
                if not freed and place in self._met:
                    self._deny(damage)
            self._met.add(place)
            return False
        return True

    def _deny(self, damage: CorruptionError) -> None:
        """Raises ``damage``, and says what it takes."""
        log, first = self._log, self.offset
        behind = log.index.behind(self._walk.stream, first, damage)
        if behind is None and damage.segment is not None:
            behind = self._first_in_ring(first + 1)
        raise damage.denying(log.bounds.name(self._handle), first, behind) from None

    def _first_in_ring(self, low: int) -> int:
        """The first offset from ``low`` on that the ring has, or else that of the next record to come."""
        ring, seen = self._log.ring, self._log.bounds.look(self._handle)
        high = low if seen is None else seen.confirmed_offset
        while ring is not None and low < high:
            middle = (low + high) // 2
            if ring.find(self._walk.stream, middle) is None:
                low = middle + 1
            else:
                high = middle
        return high

    def _step(self, sink: Sink) -> bool:
        """Collect from one place. True when the request is satisfied. What was overwritten in the ring meanwhile is dropped,
        and the walk set back: the next step finds it in the source.                             PAIR: reserve_end"""
        walk, before = self._walk, self._before
        if not self._placed:
            self._place()
        window = self._enter()
        before[0] = walk[0]
        stop = sink.take(window, walk)
        if not window.holds(before.position):
            walk[0] = before[0]
            sink.undo()
            return False
        sink.keep()
        if window is not self._disk:
            self._length = 0
        elif self._is_misled(stop) or (stop in _ON and self._skip()):
            return False
        window.stopped(stop, walk)
        return stop == lib.RW_WALK_DONE or (stop == lib.RW_WALK_FULL and sink.full())

    def _place(self) -> None:
        """Find the block with the next record: in the ring, else in the source, where it is then for sure. A search through
        the ring takes longer than one by side files, so they are asked first whether it is an old one."""
        walk, log = self._walk, self._log
        stream, offset = walk.stream, walk.next_offset
        found = None
        if log.ring is not None and not log.index.is_old(stream, offset):
            found = log.ring.find(stream, offset)
        self._stand(log.index.locate(stream, offset) if found is None else Place(found, 0))

    def _is_misled(self, stop: int) -> bool:
        """Has the block where a side file has the record not got it? Then that is not believed any more."""
        walk, before = self._walk, self._before
        if self._length == 0 or walk.next_offset != before.next_offset:
            self._length = 0
            return False
        if walk.position == before.position and stop != lib.RW_WALK_AHEAD:
            return False  # it has not been gone through
        self._length, self._placed = 0, False
        return self._log.source.disbelieve(before.position // self._log.source.segment_bytes)

    def _skip(self) -> bool:
        """If nothing that was gone through in this step was of the stream: side files are asked where it goes on, before more
        of the same is read."""
        walk, before = self._walk, self._before
        if walk.next_offset != before.next_offset or walk.position == before.position:
            return False
        place = self._log.index.ahead(walk.stream, walk.next_offset, before.position)
        if place is None or place.position <= walk.position:
            return False
        self._stand(place)
        return True

    def _stand(self, place: Place) -> None:
        walk = self._walk
        walk.position, walk.frame_at, walk.data_at = place.position, 0, 0
        if self._disk is not None:
            self._disk.aim(place.length)
        self._length = place.length
        self._placed = True

    def _enter(self) -> Window:
        """The window that has the walk's position."""
        walk, ring = self._walk, self._log.ring
        window: Window | None = self._ring
        if ring is None or window is None or not ring.has(walk.position):
            if self._disk is None:
                self._disk = SourceWindow(self._log.source)
                self._disk.aim(self._length)
            window = self._disk
        if window is not self._window:  # what was proven was proven of other bytes
            self._window, walk.data_at = window, 0
        window.cover(walk)
        return window
