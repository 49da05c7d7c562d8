"""The stream table: names to numbers and places, and the supervisor's half of each place in shared memory (csrc/stream.h)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from ringwal import views
from ringwal._native import ffi, lib
from ringwal.errors import NoSuchStream, ShmUnavailable
from ringwal.protocol.messages import check_stream_name


class KnownStream(Protocol):
    """What recovery says of a stream: a row of a checkpoint."""

    @property
    def number(self) -> int: ...
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
    @property
    def settings(self) -> bytes: ...


class Key(NamedTuple):
    """What a stream is called by everybody but people: a number that no other stream of the log ever has, and the place in
    memory where its words are, which is another stream's after it is deleted."""

    number: int
    place: int


class StreamTable:
    """All streams of one epoch. A deleted one is noticed when somebody looks (`DELETE` confirmed): its name is free then."""

    def __init__(self, control: Any, recovered: Iterable[KnownStream], next_number: int) -> None:
        """Fill the table of fresh memory (`rw_control *`) with what recovery found, in order of numbers."""
        self._control = control
        self._limit = int(views.engine(control).max_streams)
        self._keys: dict[str, Key] = {}
        self._free: list[int] = []
        row = ffi.new("rw_checkpoint_stream *")
        for place, stream in enumerate(recovered):
            name = stream.name.encode()
            row.number, row.name_bytes, row.name = stream.number, len(name), name.ljust(len(row.name), b"\0")
            row.next_offset, row.start_offset = stream.next_offset, stream.start_offset
            row.payload_bytes, row.timestamp_ns = stream.payload_bytes, stream.timestamp_ns
            row.settings = stream.settings.ljust(len(row.settings), b"\0")
            lib.rw_stream_restore(control, place, row)
            self._keys[stream.name] = Key(stream.number, place)
        # A stream that was opened and never appended to left no trace: its number is free.
        self._next_number = next_number
        lib.rw_set_next_number(control, next_number)
        self._next_place = len(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, name: object) -> Key:
        """The stream `name`. Raises NoSuchStream: there is none; ConfigError: not a legal name."""
        check_stream_name(name)
        known = self._known(name)
        if known is None:
            raise NoSuchStream(f"there is no stream {name!r}: nobody has appended to it yet, or it was deleted")
        return known

    def open(self, name: object) -> Key:
        """The stream `name`, which is made if need be.

        Raises:
            ConfigError: not a legal name.
            ShmUnavailable: the table is full.
        """
        known = self._known(name)
        if known is not None:
            return known
        encoded = check_stream_name(name)
        key = Key(self._next_number, self._take_place())
        self._next_number += 1
        lib.rw_stream_open(self._control, key.place, key.number, encoded, len(encoded))
        self._keys[encoded.decode()] = key
        return key

    def look(self, name: str) -> Key | None:
        """The stream `name`, if there is one."""
        return self._known(name)

    def by_number(self, number: int) -> tuple[str, Key] | None:
        """Name and key of the stream of that number; None: there is none any more."""
        for name, key in list(self._keys.items()):
            if key.number == number:
                return None if self._known(name) is None else (name, key)
        return None

    def forget_deleted(self) -> None:
        """Look at all of them: names and places of those that are gone are free."""
        for name in list(self._keys):
            self._known(name)

    def _known(self, name: object) -> Key | None:
        known = self._keys.get(name) if isinstance(name, str) else None
        if known is None or not lib.rw_stream_gone(self._control, known.place):
            return known
        assert isinstance(name, str)
        del self._keys[name]
        self._free.append(known.place)
        return None

    def _take_place(self) -> int:
        if not self._free and self._next_place >= self._limit:
            self.forget_deleted()
        if self._free:
            return self._free.pop()
        if self._next_place >= self._limit:
            raise ShmUnavailable(
                f"the stream table is full: this engine holds at most {self._limit} streams;"
                " delete some, or start it with a larger max_streams"
            )
        self._next_place += 1
        return self._next_place - 1
