"""Several streams in log order: one walk through the log for all of them.

It ends at the log position below which everything is confirmed, whatever a single stream has confirmed beyond it: so what a
reader has seen is a prefix of what was written to these streams, as the log has it. Where records lie is searched for only
when the walk is placed: at the beginning, and after damage. From there it goes on block by block, in the log ring or in the
source; where blocks have nothing of any of the streams, side files say how far.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any, NamedTuple

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError, OffsetTrimmed, StreamDeleted
from ringwal.model import StreamRecord
from ringwal.read.bounds import check_trimmed
from ringwal.read.chunk import new_walk
from ringwal.read.cursor import Log
from ringwal.read.index import Place
from ringwal.read.records import RECORDS_MAX
from ringwal.read.window import Ring, RingWindow, SourceWindow, Window

_new = tuple.__new__
_ON = (lib.RW_WALK_END, lib.RW_WALK_SHORT)


class Wanted(NamedTuple):
    """A stream: its handle, and the offset of the record that is wanted next."""

    handle: int
    offset: int


class MergedCursor:
    """A place in the log, for these streams. For one thread at a time. Of a log that has an engine."""

    def __init__(self, log: Log, ring: Ring, streams: Mapping[str, Wanted]) -> None:
        self._log, self._ring = log, ring
        self._walk = new_walk(log.source.uuid, log.bounds.epoch, 0)
        self._before = ffi.new("rw_walk *")
        self._in_ring = RingWindow(ring, log.bounds.epoch, log.source)
        self._on_disk: SourceWindow | None = None
        self._window: Window | None = None
        self._merged = ffi.new("rw_merged *")
        self._length = 0  # of the block where it was placed
        self._reach = 0
        self._names: list[str] = []
        self._wants = self._known = self._stood = ffi.new("rw_want[]", 0)
        self._met: set[tuple[int | None, int | None]] = set()
        self._placed = False
        self._set(streams)

    def _set(self, streams: Mapping[str, Wanted]) -> None:
        number = lib.rw_handle_number
        ordered = sorted(streams, key=lambda name: number(streams[name].handle))
        wants, self._known, self._stood = (ffi.new("rw_want[]", len(ordered)) for _ in range(3))
        for place, name in enumerate(ordered):
            want, wanted = wants[place], streams[name]
            want.stream, want.place = number(wanted.handle), lib.rw_handle_place(wanted.handle)
            want.next_offset = wanted.offset
        self._names, self._wants = ordered, wants
        self._merged.wants, self._merged.count = wants, len(ordered)

    def add(self, name: str, wanted: Wanted) -> None:
        """From now on that stream, too. None of its records that are wanted may lie before the walk's place: it has been made
        since `end` was looked up that was given to the `next` before."""
        streams = {name: Wanted(lib.rw_handle(want.place, want.stream), want.next_offset) for name, want in self._each()}
        self._set({**streams, name: wanted})

    def _each(self) -> list[tuple[str, Any]]:
        return [(name, self._wants[place]) for place, name in enumerate(self._names)]

    def offsets(self) -> dict[str, int]:
        """Of each stream, the record that is wanted next."""
        return {name: int(want.next_offset) for name, want in self._each()}

    def pass_over(self, name: str, offset: int) -> None:
        """What lies before that record of the stream is not wanted."""
        want = self._wants[self._names.index(name)]
        want.next_offset = max(want.next_offset, offset)
        self._walk.data_at = 0

    def next(self, max_records: int, max_bytes: int, limit: int) -> list[StreamRecord]:
        """The next records that are confirmed below log position ``limit``, up to so many, or so many bytes of data, but one
        in any case; [] if there is none yet.

        Raises StreamDeleted; OffsetTrimmed, whose `stream` says which; CorruptionError, OSError as `Reader.read`. After an
        error it stands where it stood.
        """
        slices = self._merged.slices
        slices.records_left, slices.bytes_left, slices.must = min(max_records, RECORDS_MAX), max_bytes, 1
        self._met.clear()
        self._copy(self._stood, self._wants)
        try:
            self._look(limit)
            return self._collect(limit)
        except BaseException:
            self._copy(self._wants, self._stood)
            self._placed = False
            raise

    def _collect(self, limit: int) -> list[StreamRecord]:
        found: list[StreamRecord] = []
        while True:
            try:
                while not self._step(found, limit):
                    pass
            except CorruptionError as damage:
                self._placed = False
                if not found:
                    self._doubt(damage, limit)
                    continue
            return found  # what lies before damage is good; the next call meets it again

    def _look(self, limit: int) -> None:
        """How far each stream reaches, and the log as a whole. Raises StreamDeleted, OffsetTrimmed."""
        # Streams that may still be added have nothing before the limit, and the log may have grown since that was looked up.
        self._reach = min(int(lib.rw_merged_look(self._ring.control, self._merged)), limit)
        for name, want in self._each():
            if want.deleted:
                raise StreamDeleted(f"stream {name!r} was deleted")
            if want.next_offset < want.start_offset:
                try:
                    check_trimmed(int(want.next_offset), int(want.start_offset))
                except OffsetTrimmed as trimmed:
                    trimmed.stream = name
                    raise

    def _behind(self) -> dict[str, Any]:
        """The streams of which something was confirmed when they were looked at that is still wanted."""
        return {name: want for name, want in self._each() if want.next_offset < want.confirmed_offset}

    def _place(self) -> None:
        """Before everything that is wanted. What was not confirmed when it was looked at lies at or behind `_reach`."""
        found = [self._find(want) for want in self._behind().values()]
        self._stand(min([*found, Place(self._reach, 0)], key=_position))

    def _find(self, want: Any) -> Place:
        log, found = self._log, None
        if not log.index.is_old(want.stream, want.next_offset):
            found = self._ring.find(want.stream, want.next_offset)
        return log.index.locate(want.stream, want.next_offset) if found is None else Place(found, 0)

    def _stand(self, place: Place) -> None:
        walk = self._walk
        walk.position, walk.frame_at, walk.data_at = place.position, 0, 0
        self._length = place.length
        if self._on_disk is not None:
            self._on_disk.aim(place.length)
        self._placed = True

    def _step(self, found: list[StreamRecord], limit: int) -> bool:
        """Takes what one window has. True: that is all, or enough.                              PAIR: reserve_end"""
        walk, before, slices = self._walk, self._before, self._merged.slices
        if not self._placed:
            self._place()
        if walk.position >= limit:
            return True
        window = self._enter(limit)
        before[0] = walk[0]
        self._copy(self._known, self._wants)
        limits = slices.records_left, slices.bytes_left, slices.must
        stop = lib.rw_merged_collect(window.area, walk, self._merged)
        taken = self._copied(window.view)
        if not window.holds(before.position):
            walk[0] = before[0]
            self._copy(self._wants, self._known)
            slices.records_left, slices.bytes_left, slices.must = limits
            return False
        found += taken
        if stop == lib.RW_WALK_AHEAD:
            self._log.source.disbelieve(before.position // self._log.source.segment_bytes)
            raise self._log.source.damaged(walk.position, "a hole in the log ends in this block")
        if window is self._on_disk:
            if not taken and stop in _ON and self._skip():
                return False
        elif stop == lib.RW_WALK_END:
            return True
        window.stopped(stop, walk)
        return bool(stop == lib.RW_WALK_FULL and (slices.count < lib.RW_SLICES or slices.records_left == 0))

    def _doubt(self, damage: CorruptionError, limit: int) -> None:
        """It may not have what is wanted, or have been freed: so that is searched for before it is given up. Raises the damage,
        and as `_look`."""
        self._look(limit)
        behind, source, place = self._behind(), self._log.source, (damage.segment, damage.position)
        freed = [source.look_again(want.stream, want.next_offset, damage) for want in behind.values()]
        if not any(freed) and place in self._met:
            raise damage.denying(*self._denied(list(behind), damage)) from None
        self._met.add(place)

    def _denied(self, behind: list[str], damage: CorruptionError) -> tuple[str, int, int | None]:
        """Of which stream, from which offset on, and up to which one."""
        name = min(behind, key=self._where, default=self._names[0])
        want = self._wants[self._names.index(name)]
        return name, int(want.next_offset), self._log.index.behind(want.stream, want.next_offset, damage)

    def _where(self, name: str) -> int:
        try:
            return self._find(self._wants[self._names.index(name)]).position
        except CorruptionError:
            return -1

    def _skip(self) -> bool:
        """Nothing that was gone through in this step was wanted: side files say where the next record is, of whichever stream.
        What was not confirmed when it was looked at lies at or behind `_reach`."""
        walk, before = self._walk, self._before
        if walk.position == before.position:
            return False
        nearest = Place(self._reach, 0)
        for want in self._behind().values():
            place = self._log.index.ahead(want.stream, want.next_offset, before.position)
            if place is None:
                return False
            nearest = min(nearest, place, key=_position)
        if nearest.position <= walk.position:
            return False
        self._stand(nearest)
        return True

    def _copy(self, into: Any, of: Any) -> None:
        ffi.memmove(into, of, len(self._names) * ffi.sizeof("rw_want"))

    def _copied(self, view: Any) -> list[StreamRecord]:
        merged, names = self._merged, self._names
        slices, count = merged.slices, merged.slices.count
        if count == 0:
            return []
        places = zip(ffi.unpack(slices.begin, count), ffi.unpack(slices.end, count), strict=True)
        data = [view[begin:end] for begin, end in places]
        own: Iterable[int | None] = repeat(None)
        if slices.timed:
            own = [None if time == lib.RW_NO_TIME else time for time in ffi.unpack(slices.own_ns, count)]
        streams: Iterable[str] = repeat(names[0])
        if len(names) > 1:
            streams = [names[want] for want in ffi.unpack(merged.want, count)]
        times = ffi.unpack(slices.timestamp_ns, count)
        rows = zip(ffi.unpack(merged.offset, count), data, times, own, streams, strict=False)
        return list(map(_new, repeat(StreamRecord), rows))  # as StreamRecord(...) does, without its frame

    def _enter(self, limit: int) -> Window:
        """The window that has the walk's position, and nothing behind ``limit``."""
        walk = self._walk
        window: RingWindow | SourceWindow = self._in_ring
        if not self._ring.has(walk.position):
            if self._on_disk is None:
                self._on_disk = SourceWindow(self._log.source)
                self._on_disk.aim(self._length)
            window = self._on_disk
        if window is not self._window:  # what was proven was proven of other bytes
            self._window, walk.data_at = window, 0
        window.cover(walk)
        window.end_at(limit)
        return window


def _position(place: Place) -> int:
    return place.position
