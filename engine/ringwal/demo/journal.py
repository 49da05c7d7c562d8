"""What a demo writer was told: one entry per confirmed record, in a file of its own outside the engine's directory.

An entry is written only after the confirmation arrived, so every entry is a promise that the engine made. The file is
appended to with plain write(2): it outlives a SIGKILL of the writer, and an entry cut short by one is not counted.
"""

from __future__ import annotations

import os
import struct
from array import array
from pathlib import Path
from typing import NamedTuple, Self

import xxhash

_ENTRY = struct.Struct("=QQQQ")
ENTRY_BYTES = _ENTRY.size


class Notes(NamedTuple):
    """The entries of a journal as columns, in the order in which they were written: one item for each record."""

    places: array[int]
    """Of the record's stream in `corpus.streams`."""
    offsets: array[int]
    digests: array[int]
    confirmed_ns: array[int]
    """When the writer knew: time.monotonic_ns(), one clock for all processes of a host."""


def digest(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data)


class Journal:
    """The writing end. Entries gather until `push`."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._held: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.push()
        os.close(self._fd)

    def add(self, place: int, offset: int, record_digest: int, confirmed_ns: int) -> None:
        self._held.append(_ENTRY.pack(place, offset, record_digest, confirmed_ns))

    def push(self) -> None:
        data = b"".join(self._held)
        while data:
            data = data[os.write(self._fd, data) :]
        self._held.clear()


def notes(path: Path) -> Notes:
    """The whole entries of a journal."""
    data = path.read_bytes()
    flat = array("Q", data[: len(data) - len(data) % ENTRY_BYTES])
    return Notes(flat[0::4], flat[1::4], flat[2::4], flat[3::4])
