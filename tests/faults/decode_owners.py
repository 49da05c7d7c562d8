"""Owners, by docs/format.md and nothing else: who numbers records, what claims say of them, and the checkpoint's rows."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from typing import NamedTuple

from tests.faults.decode_frames import (
    BATCH,
    CLAIM,
    COMMIT,
    CONSUMER,
    DELETE,
    FORGET,
    PRODUCER,
    DecodeError,
    Frame,
    claim_of,
    committed_in,
    text,
)

ROW = struct.Struct("<IIIIQQQQII120s")
SALVAGED = 1 << 20
"""So far beyond every number that it met is a salvage's next one."""


class Owner(NamedTuple):
    """As of one place in the log. What the frames that are there do not say is None."""

    stream: int
    epoch: int
    next: int
    last: int | None
    """Sequence of the first record of the newest batch, as the next ones: 0 if there is none."""
    offset: int | None
    """Of that record."""
    timestamp_ns: int
    name: str | None
    sure: bool = True
    """All claims of it that were later are there, too."""
    kind: int = PRODUCER


def rows_of(raw: bytes, end: int, streams: Collection[int]) -> dict[int, Owner]:
    """The checkpoint's rows by number; `end` is the next owner number. Raises DecodeError."""
    rows: dict[int, Owner] = {}
    names, before = set(), 0
    for number, kind, epoch, stream, following, last, offset, when, size, zero, name in ROW.iter_unpack(raw):
        good = before < number < end and kind in (PRODUCER, CONSUMER) and epoch and stream in streams and not zero
        good = good and (last <= following if kind == PRODUCER else last == offset == 0)
        if not good or not 0 < size <= len(name) or any(name[size:]) or (kind, stream, name) in names:
            raise DecodeError(f"the checkpoint's row of owner {number} makes no sense")
        rows[number] = Owner(stream, epoch, following, last, offset, when, text(name[:size]), kind=kind)
        names.add((kind, stream, name))
        before = number
    return rows


class Owners:
    """Those of a log, while it is walked."""

    def __init__(self) -> None:
        self.known: dict[int, Owner] = {}
        self._gone: set[int] = set()
        self._end = 0
        """No number that was claimed is so large, or larger."""
        self._lost = 0
        """The newest number that a claim before the present one has had, and that the log does not have: whom it forgot, and
        nobody else, may have a namesake."""
        self._met = False

    def take(self, frame: Frame) -> None:
        """The next frame of the log. Raises DecodeError."""
        if frame.kind == CLAIM:
            self._claim(frame)
        elif frame.kind == COMMIT:
            self._commit(frame)
        elif frame.kind == BATCH and frame.producer[0]:
            self._batch(frame, kept=False)
        elif frame.kind == DELETE:
            self._forget([number for number, owner in self.known.items() if owner.stream == frame.stream])

    def take_kept(self, batch: Frame) -> None:
        """A batch of the attic: claims before, between and behind may be freed. Raises DecodeError."""
        if batch.producer[0]:
            self._batch(batch, kept=True)

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if self.known.pop(number, None) is not None:
                self._gone.add(number)

    def _called(self, kind: int, stream: int, name: str) -> list[int]:
        wanted = kind, stream, name
        return [number for number, owner in self.known.items() if (owner.kind, owner.stream, owner.name) == wanted]

    def _claim(self, frame: Frame) -> None:
        number, epoch, sequence = frame.producer
        kind, forgets, name = claim_of(frame)
        owner = self.known.get(number)
        if owner is not None:
            same = (owner.kind, owner.stream) == (kind, frame.stream) and owner.name in (None, name) and owner.next == sequence
            if not same or epoch <= owner.epoch:
                raise DecodeError(f"a claim of owner {number}, {epoch}/{sequence}, does not follow {owner}")
            found = owner._replace(epoch=epoch, timestamp_ns=frame.timestamp_ns, name=name, sure=True)
        else:
            new = epoch == 1 and (sequence == 0 if kind == PRODUCER else sequence <= frame.base)
            if number in self._gone or (new and number < self._end) or (self._met and not new):
                raise DecodeError(f"a claim of {number}, {epoch}/{sequence}, which is not of a new owner")
            if new:
                self._forget((forgets,))
                self._lost = number - 1 if number > self._end else self._lost
                self._forget([one for one in self._called(kind, frame.stream, name) if one < self._lost])
            last = 0 if new or kind == CONSUMER else None
            found = Owner(frame.stream, epoch, sequence, last, last, frame.timestamp_ns, name, kind=kind)
        if any(number <= one + SALVAGED for one in self._called(kind, frame.stream, name) if one != number):
            raise DecodeError(f"a claim of {name}, owner {number} of stream {frame.stream}, while another one has that name")
        self.known[number] = found
        self._end = max(self._end, number + 1)

    def _commit(self, frame: Frame) -> None:
        number, epoch, before = frame.producer
        offset, owner = committed_in(frame), self.known.get(number)
        if owner is None:
            if self._met or number in self._gone:
                raise DecodeError(f"stream {frame.stream}: a commit of consumer {number}, which nobody has claimed")
            owner = Owner(frame.stream, epoch, before, 0, 0, 0, None, kind=CONSUMER)
        if (owner.kind, owner.stream, owner.epoch, owner.next) != (CONSUMER, frame.stream, epoch, before):
            raise DecodeError(f"stream {frame.stream}: a commit of {number}, {epoch}/{before}, does not follow {owner}")
        self.known[number] = owner._replace(next=offset, timestamp_ns=frame.timestamp_ns)
        if offset == FORGET:
            self._forget((number,))

    def _batch(self, frame: Frame, *, kept: bool) -> None:
        number, epoch, sequence = frame.producer
        owner = self.known.get(number)
        if owner is None:
            if self._met or number in self._gone:
                raise DecodeError(f"stream {frame.stream}: {epoch}/{sequence} of producer {number}, which nobody has claimed")
            owner = Owner(frame.stream, epoch, sequence, None, None, 0, None)
        follows = owner.epoch <= epoch if not owner.sure else owner.epoch == epoch
        if not follows or (owner.kind, owner.stream, owner.next) != (PRODUCER, frame.stream, sequence):
            raise DecodeError(f"stream {frame.stream}: {epoch}/{sequence} of producer {number} does not follow {owner}")
        self.known[number] = owner._replace(
            epoch=epoch, next=sequence + frame.records, last=sequence, offset=frame.base, timestamp_ns=frame.timestamp_ns,
            sure=not kept,
        )  # fmt: skip

    def meet(self, rows: dict[int, Owner], end: int) -> None:
        """The walk has come to the checkpoint: what it found must be what the rows say, as far as it is still there."""
        for number, row in rows.items():
            if number in self._gone:
                raise DecodeError(f"owner {number} is forgotten in the log, and in the checkpoint it is not")
            self._compare(number, row)
        for number, owner in self.known.items():
            if number >= end:
                raise DecodeError(f"owner {number} is there before its number was given out")
            if number not in rows and owner.sure and number + SALVAGED >= end:
                raise DecodeError(f"owner {number}, {owner.name}, is in the log and not in the checkpoint")
        self.known, self._end, self._met = dict(rows), end, True

    def _compare(self, number: int, row: Owner) -> None:
        owner = self.known.get(number)
        if owner is None:
            return
        good = (owner.kind, owner.next, owner.stream) == (row.kind, row.next, row.stream) and owner.name in (None, row.name)
        good = good and owner.last in (None, row.last) and owner.offset in (None, row.offset)
        late = (owner.epoch, owner.timestamp_ns), (row.epoch, row.timestamp_ns)
        if not good or (late[0] != late[1] if owner.sure else owner.epoch > row.epoch or late[0] > late[1]):
            raise DecodeError(f"owner {number} is another one in the log, {owner}, than in the checkpoint: {row}")
