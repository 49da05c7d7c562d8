"""The demo's verdict: what was read back against what the writers were promised.

A record of the demo is b"<writer> <number> <line>"; number counts the writer's records in that stream from 0. So each
stream must hold, for each writer, exactly 0, 1, 2, ... in this order and without a gap. Records beyond the confirmed
ones may follow (they were written, but the engine died before it could say so); they obey the same order.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from ringwal.demo.journal import Notes, digest
from ringwal.textio import RecordLike

SPARE = 1024  # offsets that a table of digests grows by beyond the one that is needed


@dataclass
class Findings:
    """Counts of records; `first` holds a sentence about the first thing of each kind that is wrong."""

    confirmed: int = 0
    recovered: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    first: dict[str, str] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.out_of_order)

    def note(self, kind: str, sentence: str, count: int = 1) -> None:
        setattr(self, kind, getattr(self, kind) + count)
        self.first.setdefault(kind, sentence)


class Promises:
    """The confirmed records of all writers: for each stream a digest by offset, 0 where nothing was confirmed."""

    def __init__(self, streams: Sequence[str], findings: Findings) -> None:
        self._streams = streams
        self._findings = findings
        self._digests = [array("Q") for _ in streams]

    def add_writer(self, notes: Notes) -> None:
        """Takes in one writer's journal; its offsets of a stream must grow, and no two records may share an offset."""
        last = [-1] * len(self._streams)
        for place, offset, record_digest in zip(notes.places, notes.offsets, notes.digests, strict=True):
            digests = self._digests[place]
            if offset >= len(digests):
                digests.frombytes(bytes(digests.itemsize * (offset + SPARE - len(digests))))
            if digests[offset]:
                self._findings.note("duplicated", f"{self._streams[place]}[{offset}] was confirmed for two records")
            elif offset <= last[place]:
                name = self._streams[place]
                self._findings.note("out_of_order", f"{name}[{offset}] was confirmed after {name}[{last[place]}]")
            digests[offset] = record_digest
            last[place] = offset
        self._findings.confirmed += len(notes.offsets)

    def of(self, place: int) -> array[int]:
        return self._digests[place]


class StreamCheck:
    """Checks one stream as it is read back, batch by batch, from offset 0."""

    def __init__(self, name: str, promised: array[int], findings: Findings) -> None:
        self._name = name
        self._promised = promised
        self._findings = findings
        self._kept = 0
        self._offset = 0
        self._next: dict[bytes, int] = {}
        self._skipped: dict[bytes, set[int]] = {}

    def take(self, records: Sequence[RecordLike]) -> None:
        """The next records of the stream, as `Stream.read` gave them: a million of them in a few seconds."""
        first, after = self._offset, self._offset + len(records)
        self._offset = after
        self._findings.recovered += len(records)
        if [record.offset for record in records] != list(range(first, after)):
            self._findings.note("out_of_order", f"{self._name}: the offsets from {first} on are not dense")
        payloads = [record.data for record in records]
        self._kept += sum(map(operator.eq, map(digest, payloads), self._promised[first:after]))
        following = self._next
        for offset, data in enumerate(payloads, first):
            try:
                writer, number_text, _ = data.split(b" ", 2)
                number = int(number_text)
            except ValueError:
                self._findings.note("out_of_order", f"{self._name}[{offset}] is not a record of any writer")
                continue
            if following.get(writer, 0) == number:
                following[writer] = number + 1
            else:
                self._disorder(writer, number, offset)

    def _disorder(self, writer: bytes, number: int, offset: int) -> None:
        due = self._next.get(writer, 0)
        skipped = self._skipped.setdefault(writer, set())
        where = f"{self._name}[{offset}]: number {number} of writer {writer.decode('ascii', 'replace')}"
        if number > due:
            skipped.update(range(due, number))
            self._next[writer] = number + 1
            self._findings.note("out_of_order", f"{where} comes before its number {due}")
        elif number in skipped:
            skipped.remove(number)  # counted when it was skipped
        else:
            self._findings.note("duplicated", f"{where} is there twice")

    def close(self) -> None:
        """The stream has been read to its end: what was promised and not seen, or seen changed, is lost."""
        if missing := len(self._promised) - self._promised.count(0) - self._kept:
            self._findings.note("lost", f"{self._name}: {missing} confirmed records are missing or changed", missing)
