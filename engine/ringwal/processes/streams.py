"""The stream table: names to ids, and the supervisor's half of each row in shared memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from ringwal import views
from ringwal._native import ffi, lib
from ringwal.errors import NoSuchStream, ShmUnavailable
from ringwal.protocol.messages import check_stream_name


class KnownStream(Protocol):
    """What recovery says of a stream: a row of a checkpoint."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def next_offset(self) -> int: ...
    @property
    def start_offset(self) -> int: ...
    @property
    def payload_bytes(self) -> int: ...
    @property
    def timestamp_ns(self) -> int: ...


class StreamTable:
    """All streams of one epoch. Ids are small, dense where recovery left no gap, and never change."""

    def __init__(self, control: Any, recovered: Iterable[KnownStream]) -> None:
        """Fill the table of fresh memory (`rw_control *`) with what recovery found."""
        self._control = control
        self._limit = int(views.engine(control).max_streams)
        self._ids: dict[str, int] = {}
        row = ffi.new("rw_checkpoint_stream *")
        for stream in recovered:
            name = stream.name.encode()
            row.id, row.name_bytes, row.name = stream.id, len(name), name.ljust(len(row.name), b"\0")
            row.next_offset, row.start_offset = stream.next_offset, stream.start_offset
            row.payload_bytes, row.timestamp_ns = stream.payload_bytes, stream.timestamp_ns
            lib.rw_stream_restore(control, row)
            self._ids[stream.name] = stream.id
        # A stream that was opened and never appended to left no trace; its id is free again.
        self._next = max(self._ids.values(), default=-1) + 1

    def __len__(self) -> int:
        return len(self._ids)

    def find(self, name: object) -> int:
        """The id of the stream `name`. Raises NoSuchStream: there is none; ConfigError: not a legal name."""
        check_stream_name(name)
        known = self._ids.get(name) if isinstance(name, str) else None
        if known is None:
            raise NoSuchStream(f"there is no stream {name!r}: nobody has appended to it yet")
        return known

    def open(self, name: object) -> int:
        """The id of the stream `name`, which is made if need be.

        Raises:
            ConfigError: not a legal name.
            ShmUnavailable: the table is full.
        """
        known = self._ids.get(name) if isinstance(name, str) else None
        if known is not None:
            return known
        encoded = check_stream_name(name)
        if self._next >= self._limit:
            raise ShmUnavailable(
                f"the stream table is full: this engine holds at most {self._limit} streams;"
                " start it with a larger max_streams"
            )
        stream, self._next = self._next, self._next + 1
        lib.rw_stream_open(self._control, stream, encoded, len(encoded))
        self._ids[encoded.decode()] = stream
        return stream
