"""What a demo writer was told: one entry per confirmed record, in a file of its own outside the engine's directory.

An entry is written only after the confirmation arrived, so every entry is a promise that the engine made. The file is
appended to with plain write(2): it outlives a SIGKILL of the writer, and an entry cut short by one is not counted.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import xxhash

_ENTRY = struct.Struct("<QQQQ")


class Entry(NamedTuple):
    """One confirmed record: place of its stream in `corpus.streams`, offset, digest of its bytes, and when."""

    stream: int
    offset: int
    digest: int
    confirmed_ns: int  # time.monotonic_ns(), one clock for all processes of a host


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

    def add(self, stream: int, offset: int, record_digest: int, confirmed_ns: int) -> None:
        self._held.append(_ENTRY.pack(stream, offset, record_digest, confirmed_ns))

    def push(self) -> None:
        data = b"".join(self._held)
        while data:
            data = data[os.write(self._fd, data) :]
        self._held.clear()


def entries(path: Path) -> Iterator[Entry]:
    """The whole entries of a journal, in the order in which they were written."""
    data = path.read_bytes()
    whole = len(data) - len(data) % _ENTRY.size
    return map(Entry._make, _ENTRY.iter_unpack(memoryview(data)[:whole]))
