"""How far the log and its streams reach, for readers: as an engine's memory says while it runs, or as a table says of a log
that has no engine. Nothing else of a reader knows which of the two it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ringwal import views
from ringwal._native import ffi, lib
from ringwal.errors import OffsetTrimmed
from ringwal.log.checkpoint import EpochRow


class StreamBounds(NamedTuple):
    """Records start_offset <= offset < confirmed_offset of a stream can be read."""

    start_offset: int
    confirmed_offset: int


class Bounds(Protocol):
    """What is there to be read. Thread-safe.

    A *handle* stands for a stream: its number, and above it the place in memory, where there is one.
    """

    uuid: bytes
    segment_bytes: int
    epoch: int
    """The last one of the log: the live one, if an engine runs."""
    epoch_begin: int
    """Its first log position."""
    max_streams: int

    def check(self, handle: int) -> None:
        """Raises ValueError: no stream can have that handle."""

    def look(self, handle: int) -> StreamBounds | None:
        """Both offsets, of one moment. None: the stream is deleted."""

    def name(self, handle: int) -> str:
        """The stream's name, for people."""

    def disk_end(self) -> int:
        """All blocks of the last epoch below this log position are on disk."""

    def first_segment(self) -> int:
        """The first segment that there still is."""

    def epochs(self) -> Sequence[EpochRow] | None:
        """The epochs before the last one that have a byte in the log, oldest first. None: the files say which."""


class EngineBounds:
    """Of a running engine, or one that has just ended: by its control area (``rw_control *``), which must stay mapped."""

    def __init__(self, control: Any) -> None:
        engine = views.engine(control)
        self.uuid = bytes(ffi.buffer(engine.uuid))
        self.segment_bytes = int(engine.segment_bytes)
        self.epoch, self.epoch_begin = int(engine.epoch), int(engine.epoch_begin)
        self.max_streams = int(engine.max_streams)
        self._control = control

    def check(self, handle: int) -> None:
        place = lib.rw_handle_place(handle)
        if not 0 <= place < self.max_streams:
            raise ValueError(f"there is no place {place} for a stream")

    def look(self, handle: int) -> StreamBounds | None:
        seen = ffi.new("rw_stream_bounds *")
        if lib.rw_stream_look(self._control, handle, seen) != lib.RW_OK:
            return None
        return StreamBounds(int(seen.start_offset), int(seen.confirmed_offset))

    def name(self, handle: int) -> str:
        seen = views.stream(self._control, lib.rw_handle_place(handle))
        return bytes(ffi.buffer(seen.name, seen.name_bytes)).decode(errors="replace")

    def disk_end(self) -> int:
        return int(lib.rw_log_disk_end(self._control))

    def first_segment(self) -> int:
        return int(lib.rw_engine_first_segment(self._control))

    def epochs(self) -> None:
        return None


class TableBounds:
    """Of a log whose bounds are known and do not change: what a checkpoint or a recovery in memory has found.

    A stream's handle is its number.
    """

    def __init__(
        self, *, uuid: bytes, segment_bytes: int, epochs: Sequence[EpochRow], streams: Mapping[int, StreamBounds],
        first_segment: int = 0, names: Mapping[int, str] | None = None,
    ) -> None:
        """``epochs``: all that have a byte in the log, oldest first; the last one with its end, too. One may be there in
        several parts: what lies between them is not read. ``streams``: by number; others are deleted. ``names``: theirs, for
        messages."""
        last = epochs[-1]
        self.uuid, self.segment_bytes = uuid, segment_bytes
        self.epoch, self.epoch_begin = last.epoch, last.begin
        self.max_streams = max(streams, default=0) + 1
        self._names = dict(names or {})
        self._end, self._older, self._streams, self._first = last.end, tuple(epochs[:-1]), dict(streams), first_segment

    def check(self, handle: int) -> None:
        pass

    def look(self, handle: int) -> StreamBounds | None:
        return self._streams.get(handle)

    def name(self, handle: int) -> str:
        return self._names.get(handle, str(handle))

    def disk_end(self) -> int:
        return self._end

    def first_segment(self) -> int:
        return self._first

    def epochs(self) -> Sequence[EpochRow]:
        return self._older


def check_trimmed(offset: int, start_offset: int) -> None:
    """Raises OffsetTrimmed: the stream begins behind ``offset``."""
    if offset < start_offset:
        raise OffsetTrimmed(
            f"offset {offset} has been trimmed; the stream begins at {start_offset}: go on from there, or from the earliest",
            start_offset,
        )
