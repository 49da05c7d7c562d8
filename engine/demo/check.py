"""The demo's verdict: what was read back against what the writers were promised.

A record of the demo is b"<writer> <number> <line>"; number counts the writer's records in that stream from 0. So each
stream must hold, for each writer, exactly 0, 1, 2, ... in this order and without a gap. Records beyond the confirmed
ones may follow (they were written, but the engine died before it could say so); they obey the same order.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engine.demo.journal import Entry, digest
from engine.textio import RecordLike


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


class Promise:
    """The confirmed records of one stream: a digest for each offset, 0 where nothing was confirmed."""

    def __init__(self) -> None:
        self.digests = array("Q")
        self.count = 0

    def add(self, offset: int, record_digest: int) -> bool:
        """Whether the offset was free."""
        if offset >= len(self.digests):
            self.digests.frombytes(bytes(self.digests.itemsize * (offset + 1024 - len(self.digests))))
        if self.digests[offset]:
            return False
        self.digests[offset] = record_digest
        self.count += 1
        return True


class Promises:
    """All confirmed records of all writers, by stream."""

    def __init__(self, streams: Sequence[str], findings: Findings) -> None:
        self._streams = streams
        self._findings = findings
        self._by_stream = [Promise() for _ in streams]

    def add_writer(self, entries: Iterable[Entry]) -> None:
        """Takes in one writer's journal; its offsets of a stream must grow, and no two records may share an offset."""
        last = [-1] * len(self._streams)
        for place, offset, record_digest, _ in entries:
            self._findings.confirmed += 1
            if not self._by_stream[place].add(offset, record_digest):
                self._findings.note("duplicated", f"{self._streams[place]}[{offset}] was confirmed for two records")
            elif offset <= last[place]:
                name = self._streams[place]
                self._findings.note("out_of_order", f"{name}[{offset}] was confirmed after {name}[{last[place]}]")
            last[place] = max(last[place], offset)

    def of(self, place: int) -> Promise:
        return self._by_stream[place]


class StreamCheck:
    """Checks one stream as it is read back, batch by batch, from offset 0."""

    def __init__(self, name: str, promise: Promise, findings: Findings) -> None:
        self._name = name
        self._promise = promise
        self._findings = findings
        self._kept = 0
        self._offset = 0
        self._next: dict[bytes, int] = {}
        self._skipped: dict[bytes, set[int]] = {}

    def take(self, records: Sequence[RecordLike]) -> None:
        """The next records of the stream, as `Stream.read` gave them."""
        digests, following = self._promise.digests, self._next
        self._findings.recovered += len(records)
        for record in records:
            data, offset = record.data, record.offset
            if offset != self._offset:
                self._findings.note("out_of_order", f"{self._name}: offset {offset} follows {self._offset - 1}")
            self._offset = offset + 1
            if offset < len(digests) and digests[offset] == digest(data):
                self._kept += 1
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
        if missing := self._promise.count - self._kept:
            self._findings.note("lost", f"{self._name}: {missing} confirmed records are missing or changed", missing)
