"""Ordered reads of any stream of a log."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from ringwal import views
from ringwal._native import lib
from ringwal.log.directory import Directory
from ringwal.model import Record
from ringwal.read import moments
from ringwal.read.bounds import Bounds, EngineBounds
from ringwal.read.cursor import Cursor, Log
from ringwal.read.merged import MergedCursor, Wanted
from ringwal.read.records import Header, Origin
from ringwal.read.segments import Segments
from ringwal.read.window import Ring

CURSORS_KEPT = 8
"""Cursors that `Reader.read` keeps so that a read that starts where an earlier one ended needs no search."""


class Reader:
    """Reads the streams of one log. Thread-safe. Not for use in a forked child."""

    def __init__(self, directory: Directory, bounds: Bounds, ring: Ring | None = None) -> None:
        """Of the files below ``directory``, as far as ``bounds`` say; the newest from ``ring``, where there is one."""
        self.bounds = bounds
        self.segments = Segments(directory, bounds)
        self.log = Log(bounds, self.segments, ring)
        self._cursors: OrderedDict[tuple[int, int], Cursor] = OrderedDict()

    @classmethod
    def of_engine(cls, directory: Directory, control: Any, ring: Any) -> Reader:
        """Of a running engine: ``control`` (``rw_control *``) and ``ring`` (``uint8_t *``, mapped twice in a row) may be mapped
        read-only; both must stay mapped while the reader or one of its cursors is in use."""
        return cls(directory, EngineBounds(control), Ring(control, ring, views.engine(control).ring_bytes))

    def release(self) -> None:
        """Let go of what is kept for further reads: files, memory. It may be read on, also meanwhile."""
        self._cursors.clear()
        self.segments.release()

    def confirmed(self, stream: int) -> int:
        """Offset of the next record of the stream of that handle to be confirmed: what is below can be read."""
        found = self.bounds.look(stream)
        return 0 if found is None else found.confirmed_offset

    def offset_at(self, stream: int, timestamp_ns: int) -> int:
        """Offset of the first record of the stream of that handle that was not appended before ``timestamp_ns`` (by the
        engine's clock, nanoseconds since 1970), of those that the stream still has; behind its last confirmed record if all
        are older.

        Raises StreamDeleted, CorruptionError, OSError as `read`.
        """
        return moments.offset_at(self, stream, lib.rw_handle_number(stream), timestamp_ns)

    def cursor(self, stream: int, start: int) -> Cursor:
        """A cursor that stands before offset ``start``, which need not exist yet."""
        return Cursor(self.log, stream, start)

    def merged(self, streams: Mapping[str, Wanted]) -> MergedCursor:
        """A cursor through these streams in log order, each of which begins there. Of a log that has an engine."""
        assert self.log.ring is not None
        return MergedCursor(self.log, self.log.ring, streams)

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
            cursor = self._another(stream, start)
        records = cursor.next(max_records, max_bytes)
        self._cursors[stream, cursor.offset] = cursor
        while len(self._cursors) > CURSORS_KEPT:
            with contextlib.suppress(KeyError):
                self._cursors.popitem(last=False)
        return records

    def timestamp_of(self, stream: int, offset: int) -> int:
        """When record ``offset``, which is confirmed, was appended (nanoseconds since 1970), by its frame and without its
        payload. Raises as `read`."""
        return self.origin_of(stream, offset).timestamp_ns

    def origin_of(self, stream: int, offset: int) -> Origin:
        """What the frame of record ``offset``, which is confirmed, says of it. Raises as `read`."""
        cursor, header = self._another(stream, offset), Header()
        cursor.fill(header, 1)
        self._cursors[stream, offset] = cursor
        if header.origin is None:
            raise IndexError(f"record {offset} is not confirmed")
        return header.origin

    def _another(self, stream: int, start: int) -> Cursor:
        """The one that has not been used for the longest time, if there are as many as are kept: its memory is warm."""
        if len(self._cursors) >= CURSORS_KEPT:
            with contextlib.suppress(KeyError):
                _, cursor = self._cursors.popitem(last=False)
                cursor.seek(stream, start)
                return cursor
        return Cursor(self.log, stream, start)
