"""Holds what the files contain against what the writers' journals say: invariants I1 to I3."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tests.faults.decode import streams
from tests.faults.payload import Origin, origin_of


@dataclasses.dataclass
class Journaled:
    """What the writers know."""

    submitted: set[Origin] = dataclasses.field(default_factory=set)
    confirmed: dict[Origin, int] = dataclasses.field(default_factory=dict)
    batches: list[tuple[Origin, int]] = dataclasses.field(default_factory=list)
    not_written: set[Origin] = dataclasses.field(default_factory=set)
    complaints: list[str] = dataclasses.field(default_factory=list)
    longest_ms: float = 0.0

    def read(self, path: Path, writer: str) -> None:
        """Adds one writer's journal; an unfinished last line never happened."""
        for line in path.read_bytes().split(b"\n")[:-1]:
            kind, *rest = line.decode().split(" ", 3)
            if kind == "g":
                self.longest_ms = max(self.longest_ms, float(rest[0]))
            elif kind == "e":
                self.complaints.append(f"{writer}: {' '.join(rest)}")
            else:
                origin = Origin(rest[0], writer, int(rest[1]))
                if kind == "b":
                    self.batches.append((origin, int(rest[2])))
                elif kind == "s":
                    self.submitted.add(origin)
                elif kind == "c":
                    self.confirmed[origin] = int(rest[2])
                elif kind == "n":
                    self.not_written.add(origin)


@dataclasses.dataclass
class Verdict:
    """Counts of what must not be; all zero is the promise kept."""

    runs: int = 0
    confirmed: int = 0
    recovered: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    invented: int = 0
    hung: int = 0
    longest_ms: float = 0.0
    notes: list[str] = dataclasses.field(default_factory=list)

    def kept(self) -> bool:
        return not (self.lost or self.duplicated or self.reordered or self.invented or self.hung or self.notes)

    def add(self, other: Verdict) -> None:
        for field in ("runs", "confirmed", "recovered", "lost", "duplicated", "reordered", "invented", "hung"):
            setattr(self, field, getattr(self, field) + getattr(other, field))
        self.longest_ms = max(self.longest_ms, other.longest_ms)
        self.notes += other.notes

    def expect(self, holds: bool, otherwise: str) -> None:
        """Something that has to hold beside the records; ``otherwise`` is what is wrong if it does not."""
        if not holds:
            self.notes.append(otherwise)


def judge(
    directory: Path, journals: dict[str, Path], *, strangers: tuple[str, ...] = (), seen: tuple[Path, ...] = ()
) -> Verdict:
    """The verdict on an engine's directory, which no engine has open. ``strangers``: streams of somebody without a journal;
    ``seen``: journals of readers."""
    said = Journaled()
    for writer, path in journals.items():
        if path.exists():
            said.read(path, writer)
    verdict = Verdict(confirmed=len(said.confirmed), longest_ms=said.longest_ms, notes=list(said.complaints))
    at: dict[Origin, int] = {}
    latest: dict[tuple[str, str], int] = {}
    for stream, records in streams(directory).items():
        if stream in strangers:
            continue
        for offset, data in enumerate(records):
            origin = origin_of(data)
            if origin is None or origin.stream != stream or origin not in said.submitted or origin in said.not_written:
                verdict.invented += 1
                verdict.notes.append(f"{stream}[{offset}] holds what nobody appended: {data[:40]!r}")
                continue
            verdict.recovered += 1
            if origin in at:
                verdict.duplicated += 1
                verdict.notes.append(f"{origin} stands at {at[origin]} and at {offset}")
            at[origin] = offset
            key = (stream, origin.writer)
            if latest.get(key, -1) > origin.number:
                verdict.reordered += 1
                verdict.notes.append(f"{origin} comes after number {latest[key]}")
            latest[key] = origin.number
    for first, count in said.batches:
        places = [at.get(first._replace(number=first.number + i)) for i in range(count)]
        begin = places[0]
        if places != [None] * count and (begin is None or places != list(range(begin, begin + count))):
            verdict.notes.append(f"the batch from {first} on is torn: {places}")
    for origin, offset in said.confirmed.items():
        if at.get(origin) != offset:
            verdict.lost += 1
            verdict.notes.append(f"{origin} was confirmed at {offset} and is at {at.get(origin)}")
    for path in seen:
        _hold_against(at, path, verdict)
    del verdict.notes[20:]
    return verdict


def _hold_against(at: dict[Origin, int], path: Path, verdict: Verdict) -> None:
    """What a reader saw is still there, at the same place."""
    for line in path.read_text().split("\n")[:-1]:
        stream, *rest = line.split(" ", 3)
        if stream == "!":
            verdict.notes.append(f"the reader of {path.name}: {' '.join(rest)}")
            continue
        origin, offset = Origin(stream, rest[1], int(rest[0])), int(rest[2])
        if at.get(origin) != offset:
            verdict.lost += 1
            verdict.notes.append(f"{origin} was read at {offset} and is at {at.get(origin)}")
