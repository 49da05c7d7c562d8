"""What a disk may hold after a power cut, from the log of `recorder_server`, and what was promised by then.

A cut at event k is the disk at the instant before k happens. Then

- a write is **safe** if it was answered before a flush came in that was answered before k. Not if the flush came in while
  it was under way, answered or not: that is what the kernel's dm-log-writes holds to, too;
- every other write that came in before k may be there, or not, or in part: a disk promises whole sectors of 512 bytes only.
  Those that were answered, but never flushed, too: they are in the disk's cache. Of two of them in the same place the one
  that was answered later wins, if it is there.

**Promised** is what a journal says with a stamp before k's. That is not too much: a writer takes the stamp after it saw
the confirmation, the server takes k's before k happens, and the clock is one and never goes back. So the confirmation
was seen before k happened, and whatever it rests on was answered before k. And a record on the disk at k was sent in a
write that came in before k, stamped after it came in; its writer journalled it as submitted before its append. So what is
there without a line before k was invented. Between the true instants and their stamps lie microseconds, in which a record
may be confirmed and not yet count as promised: that loses a little sharpness at one cut, and the next one has it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import NamedTuple

from tests.faults.recorder_device import clone
from tests.faults.recorder_server import DONE, EVENT, FLUSH, WRITE

SECTOR = 512
VARIANTS = ("nothing", "prefix", "subset", "torn")
"""Of the writes that are not safe: none; all that were answered; some of them, some of those torn; all, the last one torn."""


class Event(NamedTuple):
    kind: int
    number: int
    """Of the request."""
    offset: int
    nanoseconds: int
    data: memoryview


class Piece(NamedTuple):
    """Bytes that reach the disk."""

    offset: int
    data: memoryview


def events(log: Path) -> list[Event]:
    """All of them, in order."""
    raw = memoryview(log.read_bytes())
    found, at = [], 0
    while at < len(raw):
        kind, size, number, offset, nanoseconds = EVENT.unpack_from(raw, at)
        at += EVENT.size
        found.append(Event(kind, number, offset, nanoseconds, raw[at : at + size]))
        at += size
    return found


class Disk:
    """The disk just before an event. Only forward: what is safe stays safe."""

    def __init__(self, fresh: int, happened: list[Event], broken: frozenset[int] = frozenset()) -> None:
        """``fresh`` is the content before the first event; ``broken`` are writes that never arrive, whatever is answered."""
        self.safe = clone(fresh)
        self.at = 0
        self._events, self._broken = happened, broken
        self._flying: dict[int, Piece] = {}
        self._answered: dict[int, Piece] = {}
        self._flushes: dict[int, list[int]] = {}
        """Writes that were answered when the flush came in."""

    def close(self) -> None:
        os.close(self.safe)

    def advance(self, to: int) -> None:
        """To just before event ``to``."""
        for event in self._events[self.at : to]:
            if event.kind == WRITE:
                self._flying[event.number] = Piece(event.offset, event.data)
            elif event.kind == FLUSH:
                self._flushes[event.number] = list(self._answered)
            elif event.number in self._flying:
                self._answered[event.number] = self._flying.pop(event.number)
            else:
                self._flushed(self._flushes.pop(event.number))
        self.at = to

    def _flushed(self, numbers: list[int]) -> None:
        for number in numbers:
            piece = self._answered.pop(number, None)  # two flushes may cover the same write
            if piece is not None and number not in self._broken:
                os.pwrite(self.safe, piece.data, piece.offset)

    def unsafe(self, variant: str, chance: random.Random) -> list[Piece]:
        """Of the writes that are not safe, those that reach the disk."""
        answered = [piece for number, piece in self._answered.items() if number not in self._broken]
        everything = answered + list(self._flying.values())
        if variant == "prefix":
            return answered
        if variant == "torn":
            return everything[:-1] + [part for piece in everything[-1:] for part in torn(piece, chance)]
        if variant == "subset":
            share = chance.choice((0.25, 0.5, 0.75))
            some = [piece for piece in everything if chance.random() < share]
            return [part for piece in some for part in (torn(piece, chance) if chance.random() < 0.25 else [piece])]
        return []

    def image(self, variant: str, chance: random.Random) -> int:
        """A descriptor of what the disk holds when the power is back."""
        content = clone(self.safe)
        for piece in self.unsafe(variant, chance):
            os.pwrite(content, piece.data, piece.offset)
        return content


def torn(piece: Piece, chance: random.Random) -> list[Piece]:
    """Some of its sectors: the first ones, the last ones, or any."""
    sectors = range(len(piece.data) // SECTOR)
    edge, share, way = chance.randrange(len(sectors)), chance.random(), chance.choice(("first", "last", "any"))
    if way == "any":
        kept = [i for i in sectors if chance.random() < share]
    else:
        kept = list(sectors[:edge] if way == "first" else sectors[edge:])
    return [Piece(piece.offset + i * SECTOR, piece.data[i * SECTOR : (i + 1) * SECTOR]) for i in kept]


def cuts(happened: list[Event], begin: int, end: int) -> list[int]:
    """Every event between two instants that a cut can come before and make a difference: a request is answered."""
    return [i for i, event in enumerate(happened) if event.kind == DONE and begin <= event.nanoseconds < end]
