"""The verdict: a log that was read back, against the journals of those who wrote it and of those who saw it.

A record begins with b"<writer> <number> "; number counts the writer's records in that stream. Each confirmed record has
to be at its offset, byte for byte. Whatever else is there was submitted, is there once, and in its writer's order. A number
that is missing below one that is there was refused, or its outcome was told to be unknown. A batch is whole or not there.
Records below a start offset are nobody's concern; a start offset is one that somebody asked for, and never below one that
was told. What was deleted does not come back: the stream's next life has none of it.
The oracle asks nothing of the engine and imports nothing of it: it is given what was read.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ringwal.demo.journal import Kind, Row, digest
from ringwal.textio import RecordLike

NOTES_MAX = 20
SPARE = 1024  # items that a table grows by beyond the one that is needed
COUNTS = ("confirmed", "recovered", "lost", "misplaced", "duplicated", "reordered", "invented", "torn", "hung")


@dataclass
class Verdict:
    """Counts. All that must not be is zero, and nobody noted anything: the promise is kept."""

    runs: int = 0
    confirmed: int = 0
    recovered: int = 0
    """Records that were read back and had been submitted."""
    lost: int = 0
    """Confirmed or seen, and now nowhere, or changed."""
    misplaced: int = 0
    """Confirmed or seen at one offset, and now at another."""
    duplicated: int = 0
    reordered: int = 0
    """Against the order of their writer, or after a gap that nobody told of."""
    invented: int = 0
    """Never submitted, or refused."""
    torn: int = 0
    """Batches of which a part is there, or which are not in one piece."""
    hung: int = 0
    longest_ms: float = 0.0
    """The longest wait between two confirmations of one writer."""
    notes: list[str] = field(default_factory=list)
    """Sentences about what is wrong, the first ones."""
    first: dict[str, str] = field(default_factory=dict)
    """The first sentence of each kind."""

    def kept(self) -> bool:
        return not (self.notes or self.hung or any(getattr(self, name) for name in COUNTS[2:]))

    def note(self, kind: str, sentence: str, count: int = 1) -> None:
        """`kind` is the name of a count."""
        setattr(self, kind, getattr(self, kind) + count)
        self.first.setdefault(kind, sentence)
        if len(self.notes) < NOTES_MAX:
            self.notes.append(sentence)

    def add(self, other: Verdict) -> None:
        for name in ("runs", *COUNTS):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest_ms = max(self.longest_ms, other.longest_ms)
        self.notes += other.notes
        self.first = {**other.first, **self.first}

    def expect(self, holds: bool, otherwise: str) -> None:
        """Something that has to hold beside the records; `otherwise` is what is wrong if it does not."""
        if not holds:
            self.notes.append(otherwise)


class _Appends:
    """What one writer did to one stream. Tables by the record's number."""

    def __init__(self) -> None:
        self.digests = array("Q")  # 0: never submitted
        self.places = array("Q")  # 1 + the offset at which it was found; 0: not found
        self.refused: set[int] = set()
        self.unknown: set[int] = set()
        self.batches: list[tuple[int, int]] = []
        self.first = -1  # the first number found
        self.last = -1  # the latest number found
        self.promised = -1  # the latest offset confirmed

    def submit(self, number: int, record_digest: int) -> None:
        _reach(self.digests, number)
        self.digests[number] = record_digest


class _Stream:
    def __init__(self) -> None:
        self.writers: dict[bytes, _Appends] = {}
        self.promises = array("Q")  # digest by offset; 0: nothing was promised
        self.broken: list[tuple[int, int]] = []  # offset and digest of promises that do not hold there
        self.first = 0  # offset of the first record that was read
        self.start = 0  # records below may be there or not
        self.end = 0  # of what was read
        self.told = 0  # the largest start offset that anybody was told
        self.asked = 0  # and that anybody asked for
        self.deleting = False  # somebody asked for its end, and was not told
        self.gone = False  # it was deleted, and nobody has appended to it since


def _reach(table: array[int], index: int) -> None:
    if index >= len(table):
        table.frombytes(bytes(table.itemsize * (index + SPARE - len(table))))


class Oracle:
    """Takes the journals first, then every stream from offset 0, or from where it `begins`; `close` is the end.

    ``drops``: the engine drops records by itself. A stream that is deleted has one writer, and no reader with a journal.
    """

    def __init__(self, *, drops: bool = False) -> None:
        self.verdict = Verdict()
        self._drops = drops
        self._streams: dict[str, _Stream] = {}

    def add_writer(self, writer: str, rows: Iterable[Row]) -> None:
        name, last_ns = writer.encode(), 0
        for kind, stream, number, value, record_digest, when_ns, text in rows:
            if kind == Kind.COMPLAINT:
                self.verdict.notes.append(f"{writer}: {text}")
                continue
            at = self._streams.get(stream) or self._streams.setdefault(stream, _Stream())
            if kind >= Kind.TRIM:
                self._take_end(at, kind, stream, value)
                continue
            of = at.writers.get(name) or at.writers.setdefault(name, _Appends())
            if kind == Kind.SUBMITTED:
                of.submit(number, record_digest)
                at.gone = False
                if value > 1:
                    of.batches.append((number, value))
            elif kind == Kind.CONFIRMED:
                self._promise(at, stream, value, record_digest)
                if value <= of.promised:
                    self.verdict.note("reordered", f"{stream}[{value}] was confirmed after {stream}[{of.promised}]")
                of.promised = value
                self.verdict.confirmed += 1
                if last_ns:
                    self.verdict.longest_ms = max(self.verdict.longest_ms, (when_ns - last_ns) / 1e6)
                last_ns = when_ns
            elif kind == Kind.REFUSED:
                of.refused.add(number)
            elif kind == Kind.UNKNOWN:
                of.unknown.add(number)
            elif kind == Kind.HUNG:
                of.unknown.add(number)
                self.verdict.note("hung", f"number {number} of {writer} in {stream} was neither confirmed nor given up")

    def add_reader(self, reader: str, rows: Iterable[Row]) -> None:
        for row in rows:
            if row.kind == Kind.COMPLAINT:
                self.verdict.notes.append(f"{reader}: {row.text}")
            elif row.kind == Kind.SEEN:
                at = self._streams.setdefault(row.stream, _Stream())
                self._promise(at, row.stream, row.value, row.digest)
            elif row.kind == Kind.TRIMMED:
                self._take_end(self._streams.setdefault(row.stream, _Stream()), row.kind, row.stream, row.value)

    def _take_end(self, at: _Stream, kind: int, stream: str, value: int) -> None:
        """A row about a stream's start offset, or its end."""
        if kind == Kind.TRIM:
            at.asked = max(at.asked, value)
        elif kind == Kind.TRIMMED:
            at.told = max(at.told, value)
        elif kind == Kind.DELETE:
            at.deleting = True
        elif kind == Kind.DELETED:
            self._streams[stream] = after = _Stream()
            after.gone = True

    def _promise(self, at: _Stream, stream: str, offset: int, record_digest: int) -> None:
        _reach(at.promises, offset)
        before = at.promises[offset]
        if before and before != record_digest:
            self.verdict.note("duplicated", f"{stream}[{offset}] was promised to two records")
        at.promises[offset] = record_digest

    def begins(self, stream: str, start: int, first: int | None = None) -> None:
        """The stream has the start offset ``start``, and what is taken next begins at ``first`` (None: there)."""
        at = self._streams.setdefault(stream, _Stream())
        at.start, at.first = start, start if first is None else first
        at.end = at.first

    def take_records(self, stream: str, records: Sequence[RecordLike]) -> None:
        """As `take`, with the offsets that were read with them."""
        at = self._streams.setdefault(stream, _Stream())
        if [record.offset for record in records] != list(range(at.end, at.end + len(records))):
            self.verdict.note("reordered", f"{stream}: the offsets from {at.end} on are not dense")
        self.take(stream, [record.data for record in records])

    def take(self, stream: str, payloads: Sequence[bytes]) -> None:
        """The next records of a stream: a million of them in a few seconds."""
        at = self._streams.setdefault(stream, _Stream())
        if at.gone:
            self.verdict.note("invented", f"{stream} was deleted, and is there")
        at.deleting = False
        first, at.end = at.end, at.end + len(payloads)
        digests = list(map(digest, payloads))
        promised = at.promises[first : at.end]
        at.broken += [(first + i, p) for i, (p, found) in enumerate(zip(promised, digests, strict=False)) if p != found and p]
        for offset, (data, record_digest) in enumerate(zip(payloads, digests, strict=True), first):
            try:
                writer, text, _ = data.split(b" ", 2)
                number, of = int(text), at.writers[writer]
                known = number >= 0 and of.digests[number] == record_digest and number not in of.refused
            except (ValueError, KeyError, IndexError):
                known = False
            if not known:
                self.verdict.note("invented", f"{stream}[{offset}] holds what nobody appended: {data[:40]!r}")
                continue
            self.verdict.recovered += 1
            _reach(of.places, number)
            if of.places[number]:
                self.verdict.note("duplicated", f"{_who(stream, writer, number)} is at {of.places[number] - 1} and at {offset}")
            elif number < of.last:
                self.verdict.note("reordered", f"{_who(stream, writer, number)} comes after number {of.last}")
            of.places[number] = offset + 1
            of.first = number if of.first < 0 else of.first
            of.last = max(of.last, number)

    def close(self) -> Verdict:
        """The log has been read to its end."""
        for stream, at in self._streams.items():
            if at.deleting:
                continue  # and nothing of it was there
            at.broken += [(offset, p) for offset, p in enumerate(at.promises[at.end :], at.end) if p]
            self._judge_start(stream, at)
            self._judge_broken(stream, at)
            for writer, of in at.writers.items():
                self._judge_batches(stream, writer, of, at.first)
                self._judge_gaps(stream, writer, of, of.first if at.first else 0)
        return self.verdict

    def _judge_start(self, stream: str, at: _Stream) -> None:
        self.verdict.expect(at.told <= at.start, f"{stream} begins at {at.start}, and {at.told} was told")
        if at.start > at.asked and not self._drops:
            self.verdict.note("lost", f"{stream} begins at {at.start}, and nobody asked for it", at.start - at.asked)

    def _judge_broken(self, stream: str, at: _Stream) -> None:
        if not at.broken:
            return
        where = {d: (w, n, of.places[n : n + 1]) for w, of in at.writers.items() for n, d in enumerate(of.digests) if d}
        for offset, promised in at.broken:
            writer, number, found = where.get(promised, (b"somebody", 0, None))
            if found and found[0]:
                who = _who(stream, writer, number)
                self.verdict.note("misplaced", f"{who} was promised at {offset} and is at {found[0] - 1}")
            else:
                self.verdict.note("lost", f"{_who(stream, writer, number)}, promised at {offset}, is missing or changed")

    def _judge_batches(self, stream: str, writer: bytes, of: _Appends, begin: int) -> None:
        for first, count in of.batches:
            places = list(of.places[first : first + count])
            places += [0] * (count - len(places))
            if begin and begin + 1 in places:  # what is in front of it in the batch lies below the beginning
                places = places[places.index(begin + 1) :]
                first, count = first + count - len(places), len(places)  # noqa: PLW2901
            if any(places) and (not places[0] or places != list(range(places[0], places[0] + count))):
                offsets = [place - 1 if place else None for place in places]
                self.verdict.note("torn", f"the batch from {_who(stream, writer, first)} on is at {offsets}")

    def _judge_gaps(self, stream: str, writer: bytes, of: _Appends, begin: int) -> None:
        """What is missing below the last one that is there, unless its writer had been told that it may be."""
        gap = False
        for number in range(begin, of.last):
            missing = not of.places[number] and bool(of.digests[number])
            missing = missing and number not in of.refused and number not in of.unknown
            if missing and not gap:
                self.verdict.note("reordered", f"{_who(stream, writer, number)} is missing, and number {of.last} is there")
            gap = missing


def _who(stream: str, writer: bytes, number: int) -> str:
    return f"{stream}: number {number} of {writer.decode('utf-8', 'replace')}"
