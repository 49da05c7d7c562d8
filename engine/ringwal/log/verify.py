"""`ringwal verify`: the files of a log, held against its format, every byte of it that means something. Changes nothing.

    1  both copies of the manifest, the checkpoint that it names, the header of every segment that it names
    2  every epoch from its begin to its cut, block by block and frame by frame (audit.py)
    3  at the checkpoint: what was met must be what its rows say
    4  behind it the epoch in force, up to where a start would cut it: what recovery decides, in memory

What a crash leaves behind the end is no damage, and neither is anything that a start would drop. Where an engine runs, the
log ends at the checkpoint that is named just now: what is behind is still being written.

A damaged place takes records where a stream goes on behind it at a later offset than it had before it. So the offsets are
known, whichever block it was that held them. Where no later frame and no checkpoint says how far a stream went, that cannot be
told.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import os
from collections.abc import Iterable
from typing import Any

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError, VersionMismatch
from ringwal.log import backup_note, checkpoint_file, segment, verify_attic, verify_side
from ringwal.log.audit import TAKES, WHAT, Audit, Finding, ends_epoch, name_in, packed_rows, settings_in
from ringwal.log.checkpoint import EpochRow, StreamRow
from ringwal.log.directory import SEGMENTS, Directory
from ringwal.log.files import ANY_LENGTH, PAGE
from ringwal.log.pages import Pages
from ringwal.log.premise import Fault, Premise, gather
from ringwal.log.recovery import accepted
from ringwal.log.walk import Walk

_CUTS_MAX = 8
_LOOKS_MAX = 100
"""How often a manifest is read anew that changes while it is read: not twice, unless this is held up."""


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """Records of one stream that cannot be read: first_offset <= offset < next_offset."""

    number: int
    name: str | None
    """None: its definition is lost, too."""
    first_offset: int
    next_offset: int


@dataclasses.dataclass(slots=True)
class Place:
    """One place that is not as the format says."""

    what: str
    file: str
    """Relative to the directory."""
    offset: int
    """The first bad byte of the file."""
    segment: int | None = None
    position: int | None = None
    """Log position of that byte."""
    until: int | None = None
    """Log position behind what is lost with it."""
    losses: list[Loss] = dataclasses.field(default_factory=list)
    """What it takes. Where several places lie close together, each has what one of them takes."""
    idle: bool = False
    """It takes records that are trimmed, or of a stream that is deleted."""


@dataclasses.dataclass(slots=True)
class Report:
    """What was found. `places` and `holes` are in the order of the log."""

    uuid: str
    deep: bool
    running: bool
    """An engine held the log, so it was looked at up to the checkpoint only."""
    end: int = 0
    """Log position up to which it was looked at."""
    segments: int = 0
    blocks: int = 0
    frames: int = 0
    records: int = 0
    bytes: int = 0
    streams: int = 0
    places: list[Place] = dataclasses.field(default_factory=list)
    holes: list[Place] = dataclasses.field(default_factory=list)
    """What a salvage has left. They are as they should be, and no damage."""

    @property
    def clean(self) -> bool:
        """No damage."""
        return not self.places


def verify(directory: Directory, *, deep: bool = False, running: bool = False) -> Report:
    """Look at everything. `deep` also reads the payloads of all batches, and bytes that have to be zeros; `running`: an engine
    holds the log.

    Raises:
        FileError: there is no log (ENOENT).
        CorruptionError: nothing says enough to read any of it.
        VersionMismatch: it is of another format.
        OSError: a file may not be read.
    """
    premise = _settled(directory) if running else gather(directory)
    report = Verifier(directory, premise, deep=deep, running=running).run()
    if not report.clean:  # an engine may have freed segments meanwhile
        first = gather(directory).manifest.first_segment
        report.places = [place for place in report.places if place.segment is None or place.segment >= first]
    return report


def _settled(directory: Directory) -> Premise:
    """What manifest and checkpoint say while an engine may be writing them: a fault is one that is still there."""
    found = gather(directory)
    for _ in range(_LOOKS_MAX):
        if not found.faults:
            break
        before, found = found, gather(directory)
        if found.manifest.counter == before.manifest.counter and found.faults == before.faults:
            break
    return found


class Verifier:
    """One look at one log."""

    def __init__(self, directory: Directory, premise: Premise, *, deep: bool, running: bool) -> None:
        self._directory = directory
        self._premise = premise
        self._size = premise.manifest.segment_bytes
        self._running = running
        self._files: dict[int, Place] = {}  # segments that are missing, or whose file is wrong
        self._cuts: list[Place] = []  # where a part of the log is gone
        self._rows: dict[int, StreamRow] = {}
        self._met = False
        self.vouched = premise.manifest.checkpoint_position
        """Everything below this log position was on the disk once."""
        self.pages = Pages(directory, self._size)
        self.report = Report(premise.manifest.uuid.hex(), deep, running)

    def run(self) -> Report:
        """Look at everything; once. Raises OSError."""
        premise, report = self._premise, self.report
        report.places += [_place_of(fault) for fault in premise.faults]
        self._check_headers()
        self._check_unnamed()
        if premise.checkpoint is not None and premise.whole:
            self._attic = verify_attic.look(self._directory, premise.manifest)
            report.places += [_place_of(fault) for fault in self._attic.faults]
        with Audit(self.pages, premise.manifest.uuid, self._size, deep=report.deep) as audit:
            try:
                self._check_blocks(audit)
            finally:
                self.pages.close()
            self._check_names(audit)
            self._check_sides()
            self._keep_kept(audit)
            report.streams = sum(entry.state == lib.RW_RECOVERY_STREAM_DEFINED for entry in audit.streams())
            state = audit.state
            report.blocks, report.frames, report.records = int(state.blocks), int(state.frames), int(state.records)
            report.bytes = int(state.bytes)
        order = lambda place: (place.position is not None, place.position or 0, place.file, place.offset)  # noqa: E731
        report.places.sort(key=order)
        report.holes.sort(key=order)
        return report

    # ------------------------------------------------------------------------------------------------------ headers

    def _check_headers(self) -> None:
        manifest = self._premise.manifest
        for number in range(manifest.first_segment, manifest.named_end):
            self.report.segments += 1
            try:
                os.close(segment.open_for_reading(self._directory, manifest, number))
            except VersionMismatch as error:
                self._add_file(number, str(error), None)
            except CorruptionError as damage:
                self._add_file(number, _said(damage), damage.position)

    def _add_file(self, number: int, what: str, position: int | None) -> None:
        begin = number * self._size
        offset = 0 if position in (None, begin) else segment.HEADER_BYTES + (position or 0) - begin
        place = Place(what, f"{SEGMENTS}/{segment.name_of(number)}", offset, number, position or begin)
        self._files[number] = place
        self.report.places.append(place)

    def _check_sides(self) -> None:
        """A segment that is damaged says nothing of its side file: but for the file's own pages, that is not looked at."""
        premise = self._premise
        if premise.checkpoint is None or not premise.whole:
            return
        bad = {place.segment for place in self.report.places}
        faults = verify_side.check(self._directory, premise.manifest, premise.checkpoint, bad, deep=self.report.deep)
        self.report.places += [Place(fault.what, fault.file, fault.offset, number) for number, fault in faults]

    def _check_unnamed(self) -> None:
        """A file beyond those that are named was never used, or the manifest is an older one. In a backup it is of the next
        one, which was cut short."""
        manifest = self._premise.manifest
        try:
            note = backup_note.load(self._directory)
            if note is None and manifest.backup:
                raise CorruptionError(f"{self._directory.path / backup_note.NAME} is lost")
            if not self._directory.has_segments() or self._running or note is not None:
                return
        except CorruptionError as damage:
            self.report.places.append(Place(str(damage), backup_note.NAME, 0, None, None))
            return
        for number in segment.numbers(self._directory):
            if number >= manifest.named_end and segment.block_at(self._directory, manifest, number * self._size) is not None:
                self._add_file(number, "the manifest is older than the log: it does not name this segment, which is used", None)

    # ------------------------------------------------------------------------------------------------------- blocks

    def _check_blocks(self, audit: Audit) -> None:
        premise = self._premise
        known = premise.checkpoint
        self._rows = {row.number: row for row in known.rows()} if known is not None else {}
        before = EpochRow(0, 0, 0)
        for row in premise.epochs:
            begin = max(row.begin, premise.begin)
            end = self._end() if row.end == 0 else row.end
            self.report.end = max(self.report.end, end)
            if begin < end:
                if begin == row.begin:
                    self._check_first(row, before)
                audit.begin(row.epoch, row.begin, begin)
                self._walk(audit, row, end)
            before = row
        if known is not None and not self._met:
            self._meet(audit)

    def _walk(self, audit: Audit, row: EpochRow, end: int) -> None:
        known = self._premise.checkpoint
        if known is not None and not self._met and (row.end == 0 or known.position < row.end):
            audit.state.number_limit = known.next_number
            self._take(audit, audit.walk(known.position))
            self._meet(audit)
        sure = max(self._premise.manifest.checkpoint_position, known.position if known else 0)
        if row.end == 0 and audit.state.position < sure:
            self._take(audit, audit.walk(sure))
        if row.end == 0 and end > sure:
            self._take_tail(audit, end)
        elif row.epoch in self._premise.open:
            self._take_open(audit, self._premise.open[row.epoch], end)
        else:
            self._take(audit, audit.walk(end))

    def _end(self) -> int:
        """Where the epoch in force ends."""
        premise = self._premise
        manifest = premise.manifest
        if self._running or manifest.end:
            return manifest.checkpoint_position
        if not premise.whole:
            return premise.end
        assert premise.checkpoint is not None
        with Walk(self._directory, manifest, premise.checkpoint, lambda _done, _total: None, direct=True) as walk:
            try:
                return accepted(self._directory, walk, manifest)
            except CorruptionError as refusal:
                self._refusal = refusal
                return premise.end

    _attic = verify_attic.Held()
    _refusal: CorruptionError | None = None
    """Why a start would refuse the log."""

    def _check_first(self, row: EpochRow, before: EpochRow) -> None:
        """Does the first block of an epoch say of the one before what everybody else says? Where it is not valid, the walk
        will tell."""
        window, base, _ = self.pages.show(row.begin, PAGE)
        at = window + (row.begin - base)
        head = ffi.cast("const rw_block *", at)
        uuid = self._premise.manifest.uuid
        if lib.rw_block_check(at, ANY_LENGTH, uuid, row.epoch, row.begin) != lib.RW_OK or head.kind != lib.RW_BLOCK_EPOCH:
            return
        stated = (int(head.previous_epoch), int(head.previous_begin), int(head.previous_end))
        freed = before.epoch == 0 and 0 < stated[2] <= self._premise.begin
        if stated != tuple(before) and not freed and before.epoch not in self._premise.open:
            what = f"the first block of epoch {row.epoch} states another epoch before it than the checkpoint"
            self.report.places.append(self._place(row.begin, what))

    # ----------------------------------------------------------------------------------------------------- findings

    def _take(self, audit: Audit, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self._add(audit, finding)

    def _take_open(self, audit: Audit, watermark: int, end: int) -> None:
        """Of an epoch of which nobody states the cut: up to where it ends."""
        for finding in audit.walk(end):
            if ends_epoch(finding, watermark):
                return
            self._add(audit, finding)

    def _take_tail(self, audit: Audit, end: int) -> None:
        """Behind the checkpoint damage is what lies below a watermark: that was on the disk. What is behind may never have been
        there, unless a start refuses it."""
        known = self._premise.checkpoint
        sure = max(self._premise.manifest.checkpoint_position, known.position if known else 0)
        findings = list(audit.walk(end))
        self.vouched = max(sure, int(audit.state.watermark))
        if self._refusal is None and self._premise.whole:
            self._take(audit, findings)
            return
        for finding in findings:
            lost = finding.kind == lib.RW_AUDIT_LOST and self._cuts_between(finding.since, finding.place)
            if finding.place < self.vouched or lost:
                self._add(audit, finding)
        told = any(place.segment is not None and place.segment >= sure // self._size for place in self.report.places)
        if self._refusal is not None and not told:
            self._take(audit, findings)
            told = any(place.segment is not None and place.segment >= sure // self._size for place in self.report.places)
        if self._refusal is not None and not told:
            self.report.places.append(self._place(self._refusal.position or 0, _said(self._refusal)))
        self.report.end = max(self.vouched, self._last_valid(findings, end))

    def _last_valid(self, findings: list[Finding], end: int) -> int:
        """Log position behind the last block that is valid."""
        for finding in reversed(findings):
            if finding.kind != lib.RW_AUDIT_REGION or finding.until != end:
                break
            end = finding.place
        return end

    def _add(self, audit: Audit, finding: Finding) -> None:
        if finding.kind == lib.RW_AUDIT_LOST:
            assert finding.stream is not None
            self._lose(audit, finding.stream, finding.first, finding.next, finding.since, finding.place)
            return
        why = self.pages.why(finding.place, max(finding.until, finding.place + 1))
        place = self._files.get(finding.place // self._size) if why is not None else None
        if place is None:
            place = self._place(finding.place, why or WHAT[finding.kind])
            (self.report.holes if finding.kind == lib.RW_AUDIT_HOLE else self.report.places).append(place)
        if finding.kind in TAKES:
            self._cuts.append(place)
        if finding.kind in TAKES and finding.kind != lib.RW_AUDIT_PAYLOAD:
            place.until = max(place.until or 0, finding.until)
        if finding.kind == lib.RW_AUDIT_PAYLOAD and finding.stream is not None:
            self._note(audit, [place], finding.stream, finding.first, finding.next)

    def _place(self, position: int, what: str) -> Place:
        number = position // self._size
        at = segment.HEADER_BYTES + position % self._size
        return Place(what, f"{SEGMENTS}/{segment.name_of(number)}", at, number, position)

    # ------------------------------------------------------------------------------------------------------- losses

    def _lose(self, audit: Audit, number: int, first: int, following: int, since: int, place: int) -> None:
        """Records of a stream are missing between two log positions. Trimmed ones are not, nor those of one that is gone."""
        row = self._rows.get(number)
        seen = audit.stream(number)
        if row is None and self._premise.checkpoint is not None and not self._met:
            return  # deleted since
        start = max(row.start_offset if row else 0, int(seen.start_offset) if seen is not None else 0)
        first = self._attic.behind(number, max(first, start))
        if first >= following:
            return
        cuts = self._cuts_between(since, place)
        if not cuts:
            if not self._premise.whole and since == 0:
                return  # what is freed was trimmed, and what says so may be lost
            cuts = [self._place(place, WHAT[lib.RW_AUDIT_LOST])]
            self.report.places += cuts
        self._note(audit, cuts, number, first, following)

    def _cuts_between(self, since: int, place: int) -> list[Place]:
        """The first few of them: what is lost was in one."""
        first = bisect.bisect_right(self._cuts, since, key=_end_of)
        found = itertools.takewhile(lambda one: (one.position or 0) <= place, itertools.islice(self._cuts, first, None))
        return list(itertools.islice(found, _CUTS_MAX))

    def _note(self, audit: Audit, places: list[Place], number: int, first: int, following: int) -> None:
        entry, row = audit.stream(number), self._rows.get(number)
        name = row.name if row else name_in(entry) if entry is not None else None
        if first < following:
            for place in {id(place): place for place in places}.values():
                place.losses.append(Loss(number, name, first, following))

    def _keep_kept(self, audit: Audit) -> None:
        """A loss is one of what is kept: a trim or a deletion may have come long behind the place."""
        for place in (*self.report.places, *self.report.holes):
            losses, place.losses = place.losses, []
            for loss in losses:
                entry, row = audit.stream(loss.number), self._rows.get(loss.number)
                start = max(row.start_offset if row else 0, int(entry.start_offset) if entry is not None else 0)
                gone = entry is not None and entry.state == lib.RW_RECOVERY_STREAM_DELETED
                if gone or start >= loss.next_offset:
                    place.idle = True
                else:
                    place.losses.append(dataclasses.replace(loss, first_offset=max(loss.first_offset, start)))

    def _meet(self, audit: Audit) -> None:
        """The walk has come to the checkpoint: what was met must be what it says, as far as it is still there."""
        known = self._premise.checkpoint
        assert known is not None
        met: dict[int, Any] = {entry.number: entry for entry in audit.streams()}
        for row, raw in zip(self._rows.values(), packed_rows(known.streams), strict=True):
            entry = met.pop(row.number, None)
            if entry is None:
                self._lose(audit, row.number, 0, row.next_offset, 0, known.position)
            else:
                self._compare(audit, row, entry)
            audit.meet(raw)
        for entry in met.values():
            if entry.state != lib.RW_RECOVERY_STREAM_DELETED and entry.name_bytes and not self._cuts:
                self._contradiction(int(entry.number), "is in the log and not in the checkpoint")
        self._met = True
        audit.state.number_limit = (1 << 32) - 1

    def _check_names(self, audit: Audit) -> None:
        names: dict[str, int] = {}
        for entry in audit.streams():
            name = name_in(entry)
            if name is None or entry.state != lib.RW_RECOVERY_STREAM_DEFINED or (self._rows and not self._lives(entry)):
                continue
            if name in names:
                self._contradiction(int(entry.number), f"has the name {name!r}, as stream {names[name]} has")
            names[name] = int(entry.number)

    def _lives(self, entry: Any) -> bool:
        """Its end may be lost."""
        known = self._premise.checkpoint
        return known is None or entry.number in self._rows or entry.number >= known.next_number

    def _compare(self, audit: Audit, row: StreamRow, entry: Any) -> None:
        if entry.next_offset < row.next_offset:
            at = known.position if (known := self._premise.checkpoint) else 0
            self._lose(audit, row.number, int(entry.next_offset), row.next_offset, int(entry.seen_at), at)
        same = entry.next_offset <= row.next_offset and entry.start_offset <= row.start_offset
        same = same and entry.state == lib.RW_RECOVERY_STREAM_DEFINED and name_in(entry) in (None, row.name)
        if same and not self._cuts and entry.first_offset == 0:
            same = (entry.payload_bytes, entry.timestamp_ns) == (row.payload_bytes, row.timestamp_ns)
        if same and not self._cuts and (held := settings_in(entry)):
            same = held == row.settings
        if not same:
            self._contradiction(row.number, "is another one in the log than in the checkpoint")

    def _contradiction(self, number: int, what: str) -> None:
        state = self._premise.manifest
        row = self._rows.get(number)
        name = f" {row.name!r}" if row else ""
        file = checkpoint_file.name_of(state.checkpoint_file)
        self.report.places.append(Place(f"stream {number}{name} {what}", file, 0))


def _end_of(place: Place) -> int:
    return place.until or place.position or 0


def _place_of(fault: Fault) -> Place:
    return Place(fault.what, fault.file, fault.offset)


def _said(damage: CorruptionError) -> str:
    """Its message without the place, which is told apart."""
    return str(damage.args[0]).rpartition(" (segment ")[0] or str(damage.args[0])
