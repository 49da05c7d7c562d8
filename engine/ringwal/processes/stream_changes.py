"""What clients ask to be done to whole streams, trims and deletions, on its way into the engine's own lane.

A client does not wait for an answer but looks at memory (removal.py). So a repeated request adds nothing: of one stream
there is at most one trim and one deletion on the way, whatever clients do; a trim that goes further meanwhile is one number
here, and follows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ringwal import views
from ringwal._native import ffi, lib
from ringwal.errors import ConfigError, NoSuchStream
from ringwal.processes.context import LOG
from ringwal.processes.control_lane import ControlLane
from ringwal.processes.streams import StreamTable
from ringwal.protocol.messages import check_own_name


class StreamChanges:
    """Trims and deletions of the streams of one epoch."""

    def __init__(self, control: Any, streams: StreamTable, lane: ControlLane) -> None:
        self._control = control
        self._places = int(views.engine(control).max_streams)
        self._streams = streams
        self._lane = lane
        self._trims: dict[int, int] = {}  # by the number of a stream with a trim in the lane: the furthest offset asked for
        self._deletions: set[int] = set()

    def trim(self, name: object, number: int, before: object) -> None:
        """Of that stream, up to that offset. If it is deleted, or trimmed so far, nothing is done.

        Raises ConfigError: the name is the engine's own, or there is no such offset.
        """
        place = self._place(name, number)
        bounds = ffi.new("rw_stream_bounds *")
        if place is None or lib.rw_stream_look(self._control, lib.rw_handle(place, number), bounds) != lib.RW_OK:
            return
        if not isinstance(before, int) or not 0 <= before <= bounds.confirmed_offset:
            raise ConfigError(f"stream {name!r} ends at {bounds.confirmed_offset}, and cannot be trimmed up to {before!r}")
        if before > bounds.start_offset:
            self._go_on_trimming(place, number, before)

    def trim_place(self, place: int, number: int, before: int) -> None:
        """As the keeper asks: of the stream of that number at that place, which may be deleted meanwhile. What cannot be, or is
        so already, is not done."""
        bounds = ffi.new("rw_stream_bounds *")
        if place >= self._places or lib.rw_stream_look(self._control, lib.rw_handle(place, number), bounds) != lib.RW_OK:
            return
        if bounds.start_offset < before <= bounds.confirmed_offset:
            self._go_on_trimming(place, number, before)

    def delete(self, name: object, number: int) -> None:
        """That stream. If it is deleted, nothing is done. Raises as `trim`."""
        place = self._place(name, number)
        if place is None or number in self._deletions:
            return
        self._deletions.add(number)
        self._lane.delete(place, number, partial(self._deleted, name, number))

    def _place(self, name: object, number: int) -> int | None:
        """Of the stream that has both; None: it is deleted."""
        check_own_name(name)
        try:
            found = self._streams.find(name)
        except NoSuchStream:
            return None
        return found.place if found.number == number else None

    def _go_on_trimming(self, place: int, number: int, before: int) -> None:
        if number in self._trims:
            self._trims[number] = max(self._trims[number], before)
        else:
            self._submit_trim(place, number, before)

    def _submit_trim(self, place: int, number: int, before: int) -> None:
        self._trims[number] = before
        self._lane.trim(place, number, before, partial(self._trimmed, place, number, before))

    def _trimmed(self, place: int, number: int, before: int, code: int) -> None:
        wanted = self._trims.pop(number)
        if code >= 0 and wanted > before:
            self._submit_trim(place, number, wanted)

    def _deleted(self, name: object, number: int, code: int) -> None:
        self._deletions.discard(number)
        if code >= 0:
            LOG.debug("stream %r is deleted", name)
