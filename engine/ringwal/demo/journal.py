"""What a writer did and was told, or a reader saw: rows of one size in a file of its own, outside the engine's directory.

A row that announces an append is written before the append, a row that repeats an answer after it. Rows are appended with
plain write(2): they outlive a SIGKILL of who wrote them, and a row cut short by one never happened. The demo, the tests
and the fault campaign keep no other journal, and `oracle` holds a log against it.
"""

from __future__ import annotations

import contextlib
import enum
import os
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import xxhash

_ROW = struct.Struct("=BxxxIQQQQ")
ROW_BYTES = _ROW.size
_TEXT = struct.Struct("=BxxxI32s")  # a row that holds a piece of text
_PIECE = 32


class Kind(enum.IntEnum):
    """What a row says; in brackets what its `value` is."""

    STREAM = 1  # text: the name that stands behind a place from here on
    SUBMITTED = 2  # a record is about to be appended (how many of a batch begin with it; 0: it is a later one of a batch)
    CONFIRMED = 3  # a record's confirmation has been seen (its offset)
    REFUSED = 4  # a record was certainly not appended
    UNKNOWN = 5  # a record's outcome was told to be unknown
    HUNG = 6  # a record's outcome was not told in time
    SEEN = 7  # a reader saw a record (its offset)
    COMPLAINT = 8  # text: what went wrong with who keeps this journal
    TRIM = 9  # a trim is about to be asked for (the offset below which records go)
    TRIMMED = 10  # a start offset was told, by a trim or to a reader (it)
    DELETE = 11  # the stream is about to be deleted
    DELETED = 12  # it was told to be gone


class Row(NamedTuple):
    """One row. `number` counts the writer's records in that stream; `text` is a complaint's."""

    kind: int
    stream: str
    number: int
    value: int
    digest: int
    when_ns: int
    """When it was noted: time.monotonic_ns(), one clock for all processes of a host. 0 in rows of text."""
    text: str = ""


def digest(data: bytes) -> int:
    """Stands for the record's bytes. Never 0, which stands for none."""
    return xxhash.xxh3_64_intdigest(data) or 1


class Journal:
    """The writing end. Rows gather until `push`; a complaint is written at once, from whatever thread."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._held: list[bytes] = []
        self._places: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.push()
        os.close(self._fd)

    def submitted(self, stream: str, first: int, digests: Sequence[int]) -> None:
        """Records `first` and following, which go to `stream` in one append."""
        for i, each in enumerate(digests):
            self._add(Kind.SUBMITTED, stream, first + i, 0 if i else len(digests), each)

    def confirmed(self, stream: str, first: int, offset: int, digests: Sequence[int]) -> None:
        for i, each in enumerate(digests):
            self._add(Kind.CONFIRMED, stream, first + i, offset + i, each)

    def ended(self, kind: Kind, stream: str, first: int, digests: Sequence[int]) -> None:
        """Without a confirmation: REFUSED, UNKNOWN or HUNG."""
        for i, each in enumerate(digests):
            self._add(kind, stream, first + i, 0, each)

    def seen(self, stream: str, offset: int, record_digest: int) -> None:
        self._add(Kind.SEEN, stream, 0, offset, record_digest)

    def trim(self, stream: str, before: int) -> None:
        self._add(Kind.TRIM, stream, 0, before, 0)

    def trimmed(self, stream: str, start: int) -> None:
        self._add(Kind.TRIMMED, stream, 0, start, 0)

    def delete(self, stream: str) -> None:
        self._add(Kind.DELETE, stream, 0, 0, 0)

    def deleted(self, stream: str) -> None:
        self._add(Kind.DELETED, stream, 0, 0, 0)

    def complain(self, sentence: str) -> None:
        self._write(b"".join(_text(Kind.COMPLAINT, None, sentence)))

    def push(self) -> None:
        held, self._held = self._held, []
        self._write(b"".join(held))

    def _add(self, kind: Kind, stream: str, number: int, value: int, record_digest: int) -> None:
        place = self._places.get(stream)
        if place is None:
            place = self._places[stream] = len(self._places)
            self._held += _text(Kind.STREAM, place, stream)
        self._held.append(_ROW.pack(kind, place, number, value, record_digest, time.monotonic_ns()))

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._fd, data) :]


def _text(kind: Kind, place: int | None, text: str) -> list[bytes]:
    """`place` of the stream that is named; without it each row says how many of the text are still to come."""
    data = text.encode() or b" "
    pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)]
    return [_TEXT.pack(kind, len(pieces) - 1 - i if place is None else place, piece) for i, piece in enumerate(pieces)]


def rows(data: bytes) -> Iterator[Row]:
    """The whole rows of a journal's bytes, in the order in which they were written; names are put in their places."""
    names: dict[int, bytes] = {}
    known: dict[int, str] = {}
    complaint, naming = b"", -1
    for kind, place, number, value, record_digest, when_ns in _ROW.iter_unpack(data[: len(data) // ROW_BYTES * ROW_BYTES]):
        if kind in (Kind.STREAM, Kind.COMPLAINT):
            piece = struct.pack("=QQQQ", number, value, record_digest, when_ns).rstrip(b"\0")
            if kind == Kind.STREAM:  # a journal that is opened again counts its places again
                names[place] = (names[place] if naming == place else b"") + piece
                known[place] = names[place].decode(errors="replace")
                naming = place
                continue
            complaint += piece
            if place == 0:
                yield Row(kind, "", 0, 0, 0, 0, complaint.decode(errors="replace"))
                complaint = b""
            continue
        naming = -1
        yield Row(kind, known[place], number, value, record_digest, when_ns)


def read(path: Path) -> Iterator[Row]:
    """The rows of a journal; none, if there is no such file: its writer did not come that far."""
    return rows(path.read_bytes() if path.exists() else b"")


class Tally:
    """How many rows of a kind a journal holds that grows meanwhile."""

    def __init__(self, path: Path, kind: Kind) -> None:
        self._path, self._kind = path, bytes([kind])
        self._read = self._found = 0

    def count(self) -> int:
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
            whole = len(data) // ROW_BYTES * ROW_BYTES
            self._found += data[:whole:ROW_BYTES].count(self._kind)
            self._read += whole
        return self._found


def before(data: bytes, when_ns: int) -> bytes:
    """A journal as it was at an instant: its rows up to the first one that was noted then or later."""
    end = 0
    for kind, _, _, _, _, noted_ns in _ROW.iter_unpack(data[: len(data) // ROW_BYTES * ROW_BYTES]):
        if kind not in (Kind.STREAM, Kind.COMPLAINT) and noted_ns >= when_ns:
            break
        end += ROW_BYTES
    return data[:end]
