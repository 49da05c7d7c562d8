"""Ordered reading: confirmed records of one stream, newest from the log ring, the rest from the segment files.

Both hold the same blocks at the same log positions. A cursor stands at a log position and walks forward block by block,
in whichever of the two has it; it searches only when it has no position yet. C does the work per record (csrc/scan.h,
which also says why reading the ring under the WAL process's hands is safe); this module decides where to read.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import Any, NamedTuple

from ringwal import views
from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError, OffsetTrimmed, StreamDeleted
from ringwal.log.directory import Directory
from ringwal.read.extents import Chunk, Extents, SegmentFiles, new_walk
from ringwal.read.index import LogIndex

CURSORS_KEPT = 8
"""Cursors that `Reader.read` keeps so that a read that starts where an earlier one ended needs no search."""

_NO_LIMIT = (1 << 64) - 1
_RECORDS_MAX = (1 << 32) - 1
_ring_next = lib.rw_log_ring_next
_DONE = lib.RW_WALK_DONE


class Record(NamedTuple):
    """One record: its offset in the stream, its bytes, and when it was appended (wall clock, nanoseconds).

    Records of one batch share their timestamp.
    """

    offset: int
    data: bytes
    timestamp_ns: int


class Reader:
    """Reads the streams of one engine through its control area, its log ring and its segment files.

    ``control`` (``rw_control *``) and ``ring`` (``uint8_t *``, mapped twice in a row) may be mapped read-only; both
    must stay mapped while the reader or one of its cursors is in use. Thread-safe. Not for use in a forked child.
    """

    def __init__(self, directory: Directory, control: Any, ring: Any) -> None:
        self.control = control
        self.ring = ring
        engine = views.engine(control)
        self.epoch, self.max_streams = int(engine.epoch), int(engine.max_streams)
        self.ring_view = ffi.buffer(ring, 2 * engine.ring_bytes)
        self.files = SegmentFiles(directory, engine.segment_bytes, bytes(ffi.buffer(engine.uuid)))
        self.extents = Extents(self.files, self.epoch, engine.epoch_begin, lambda: int(lib.rw_engine_first_segment(control)))
        self.index = LogIndex(self.files, self.extents, self.max_streams)
        self._cursors: OrderedDict[tuple[int, int], Cursor] = OrderedDict()

    def look_again(self, stream: int, offset: int, damage: CorruptionError) -> None:
        """The place where confirmed record ``offset`` of stream number ``stream`` was looked for is missing or damaged, and by
        memory it is neither trimmed nor deleted. Returns if the place has been freed meanwhile, and the record is elsewhere.

        Memory is asked first, whose engine frees nothing before it says so; then the files: the memory may be that of an engine
        that has ended, and another one has freed since.

        Raises OffsetTrimmed, StreamDeleted or ``damage``.
        """
        if damage.segment is not None and damage.segment < self.extents.begins():
            return
        try:
            first, checkpoint = self.files.look()
        except CorruptionError:  # of what says it, too
            raise damage from None
        if checkpoint.epoch == self.epoch:
            raise damage
        start_offset = next((row.start_offset for row in checkpoint.rows() if row.number == stream), None)
        if start_offset is None:
            raise StreamDeleted("the stream was deleted")
        _check_trimmed(offset, start_offset)
        known = self.extents.begins()
        self.extents.begin_at(first)
        if damage.segment is None or not known <= damage.segment < first:
            raise damage

    def confirmed(self, stream: int) -> int:
        """Offset of the next record of the stream of that handle to be confirmed: what is below can be read."""
        return int(lib.rw_stream_confirmed(self.control, stream))

    def cursor(self, stream: int, start: int) -> Cursor:
        """A cursor that stands before offset ``start``, which need not exist yet."""
        return Cursor(self, stream, start)

    def read(self, stream: int, start: int, max_records: int = 1000, max_bytes: int | None = None) -> list[Record]:
        """Confirmed records of the stream of that handle from offset ``start`` on, dense; [] if none is there yet.

        At most ``max_records``, and at most ``max_bytes`` of data (None: no limit), but always one if there is any.

        Raises ValueError for a negative start or limit, OffsetTrimmed for a start below the stream's start offset,
        StreamDeleted for one that is deleted, CorruptionError with segment and position where stored bytes are damaged, OSError
        where they cannot be read.
        """
        key = (stream, start)
        # By calls that nothing can come between: a signal handler may be reading, too, and then each has a cursor of its own.
        cursor = self._cursors.pop(key, None)
        if cursor is None:
            cursor = Cursor(self, stream, start)
        records = cursor.next(max_records, max_bytes)
        self._cursors[stream, cursor.offset] = cursor
        while len(self._cursors) > CURSORS_KEPT:
            with contextlib.suppress(KeyError):
                self._cursors.popitem(last=False)
        return records


class Cursor:
    """A place in one stream. For one thread at a time."""

    __slots__ = (
        "_area", "_bounds", "_chunk", "_handle", "_in_ring", "_placed", "_reader", "_slices", "_walk", "_walk_before",
    )  # fmt: skip

    def __init__(self, reader: Reader, stream: int, start: int) -> None:
        if start < 0:
            raise ValueError(f"start is {start}; offsets begin at 0")
        place = lib.rw_handle_place(stream)
        if not 0 <= place < reader.max_streams:
            raise ValueError(f"there is no place {place} for a stream")
        self._reader = reader
        self._walk = new_walk(reader.files, reader.epoch, 0)
        self._handle = stream
        self._walk.stream, self._walk.place, self._walk.next_offset = lib.rw_handle_number(stream), place, start
        self._bounds = ffi.new("rw_stream_bounds *")
        self._walk_before = ffi.new("rw_walk *")
        self._slices = ffi.new("rw_slices *")
        self._area = ffi.new("rw_area *")
        self._chunk: Chunk | None = None
        self._placed = False
        self._in_ring = False

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
            return self._few(max_records, max_bytes) or self._many(max_records, max_bytes)
        except BaseException:
            self._walk.next_offset, self._placed = start, False
            raise

    def _few(self, max_records: int, max_bytes: int | None) -> list[Record]:
        """What a tail is woken for, by one call of C; [] if this is not such a case."""
        if not (self._in_ring and self._placed and max_bytes is None):
            return []
        walk, before, reader = self._walk, self._walk_before, self._reader
        if _ring_next(reader.control, reader.ring, walk, before, self._slices, min(max_records, _RECORDS_MAX)) != _DONE:
            return []
        records = self._taken(reader.ring_view)
        if lib.rw_log_holds(reader.control, before.position):  # PAIR: reserve_end
            return records
        walk[0] = before[0]
        return []

    def _many(self, max_records: int, max_bytes: int | None) -> list[Record]:
        """The general way, which also says what is wrong."""
        walk, slices = self._walk, self._slices
        self._look()
        if walk.next_offset >= walk.below or max_records == 0:
            return []
        slices.records_left = min(max_records, _RECORDS_MAX)
        slices.bytes_left = _NO_LIMIT if max_bytes is None else min(max_bytes, _NO_LIMIT)
        slices.must = 1
        records: list[Record] = []
        while not self._collect(records):
            pass
        return records

    def _look(self) -> None:
        """How far the stream reaches now. Raises StreamDeleted, OffsetTrimmed."""
        walk, bounds = self._walk, self._bounds
        if lib.rw_stream_look(self._reader.control, self._handle, bounds) != lib.RW_OK:
            raise StreamDeleted("the stream was deleted")
        walk.below = bounds.confirmed_offset
        _check_trimmed(walk.next_offset, bounds.start_offset)

    def _collect(self, records: list[Record]) -> bool:
        """Collect until the request is satisfied; False: it has to be tried again, as what was looked at has been freed."""
        try:
            while not self._step(records):
                pass
        except CorruptionError as damage:
            self._placed = False
            if not records:  # else: what lies before the damage is good; the next call meets it again
                self._look()
                self._reader.look_again(self._walk.stream, self._walk.next_offset, damage)
                return False
        return True

    def _step(self, records: list[Record]) -> bool:
        """Collect from one place. True when the request is satisfied."""
        control, walk = self._reader.control, self._walk
        if not self._placed:
            self._place()
        stop = self._step_ring(records) if walk.position >= lib.rw_log_low(control) else self._step_segments(records)
        if stop == lib.RW_WALK_FULL:
            return bool(self._slices.count < lib.RW_SLICES or self._slices.records_left == 0)
        return bool(stop == lib.RW_WALK_DONE)

    def _place(self) -> None:
        """Find the block with the next record: in the ring, else in the segments, where it is then for sure."""
        reader, walk = self._reader, self._walk
        position = ffi.new("uint64_t *")
        if lib.rw_log_find(reader.control, reader.ring, walk.stream, walk.next_offset, position) != lib.RW_OK:
            position[0] = reader.index.locate(walk.stream, walk.next_offset, lib.rw_log_disk_end(reader.control))
        walk.position, walk.frame_at, walk.data_at = position[0], 0, 0
        self._placed = True

    def _step_ring(self, records: list[Record]) -> int:
        """Collect from the ring. What was overwritten meanwhile is dropped, and the walk set back: the next step finds
        it in the segments.                                                                     PAIR: reserve_end"""
        reader, walk, slices = self._reader, self._walk, self._slices
        if not self._in_ring:
            walk.epoch, walk.data_at, self._in_ring = reader.epoch, 0, True
        self._walk_before[0] = walk[0]
        limits = slices.bytes_left, slices.records_left, slices.must
        lib.rw_log_area(reader.control, reader.ring, self._area)
        stop = int(lib.rw_walk_collect(self._area, walk, slices))
        found = self._taken(reader.ring_view)
        if not lib.rw_log_holds(reader.control, self._walk_before.position):
            walk[0] = self._walk_before[0]
            slices.bytes_left, slices.records_left, slices.must = limits
            return int(lib.RW_WALK_SHORT)
        if stop not in (lib.RW_WALK_DONE, lib.RW_WALK_FULL):
            what = f"the log ring does not hold record {walk.next_offset} of stream {walk.stream}, which is confirmed"
            raise CorruptionError(what, reader.files.segment_of(walk.position), walk.position)
        records += found
        return stop

    def _step_segments(self, records: list[Record]) -> int:
        """Collect from one chunk of a segment file, reading it if need be."""
        reader, walk = self._reader, self._walk
        extent = reader.extents.at(walk.position, lib.rw_log_disk_end(reader.control))
        if extent is None:
            what = f"record {walk.next_offset} of stream {walk.stream} is confirmed, and not on disk"
            raise reader.files.damaged(walk.position, what)
        if walk.position < extent.begin:  # the walk has come to a cut
            walk.position, walk.frame_at = extent.begin, 0
        if self._in_ring or walk.epoch != extent.epoch:
            walk.epoch, walk.data_at, self._in_ring = extent.epoch, 0, False
        if self._chunk is None:
            self._chunk = Chunk(reader.files)
        self._chunk.cover(walk, extent.end)
        stop = int(lib.rw_walk_collect(self._chunk.area, walk, self._slices))
        records += self._taken(self._chunk.view)
        self._chunk.stopped(stop, walk, extent.end)
        return stop

    def _taken(self, view: Any) -> list[Record]:
        """The records of the last collect, copied out of ``view``."""
        slices = self._slices
        count = slices.count
        if count == 0:
            return []
        end = self._walk.next_offset
        if count == 1:  # what a tail sees that is awake for each record; the general way takes four times as long
            return [Record(end - 1, view[slices.begin[0] : slices.end[0]], slices.timestamp_ns[0])]
        places = zip(ffi.unpack(slices.begin, count), ffi.unpack(slices.end, count), strict=True)
        data = [view[begin:stop] for begin, stop in places]
        return list(map(Record, range(end - count, end), data, ffi.unpack(slices.timestamp_ns, count)))


def _check_trimmed(offset: int, start_offset: int) -> None:
    if offset < start_offset:
        raise OffsetTrimmed(
            f"offset {offset} has been trimmed; the stream begins at {start_offset}: go on from there, or from the earliest",
            start_offset,
        )
