"""`ringwal salvage`: a new log of everything in a damaged one that can be proven. The damaged one is only read.

Log positions and offsets stay what they were. What is lost becomes holes (docs/format.md): blocks that say how much of the log
they stand for, so that a reader finds the blocks behind them, and an offset that is missing is missing, and no other record's.

    1  what the log says of itself, or what its blocks say where it does not (premise.py)
    2  what is damaged, and what it takes (verify.py)
    3  each epoch up to its cut, block by block (salvage_blocks.py). An epoch whose cut nobody states ends at the first place
       behind its last watermark without a valid block: what is behind may have been dropped by a start
    4  behind the last watermark what a start would keep: there a missing block is one that was never written
    5  the new log's own blocks are gone through, and say what its checkpoint says
    6  checkpoint, then manifest: until then it is no log, and a note in it says so

The uuid is new, as for a restored backup (restore.py): a client that knows of appends that are lost must not go on in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

from ringwal._native import lib
from ringwal.config import Config
from ringwal.errors import ConfigError, CorruptionError
from ringwal.log import attic_copy, checkpoint_file, verify_attic
from ringwal.log import manifest as manifests
from ringwal.log.audit import TAKES, Audit, Finding, begin_of, ends_epoch, name_in, packed_rows, settings_in
from ringwal.log.checkpoint import Checkpoint, EpochRow, StreamRow, pack
from ringwal.log.directory import Directory
from ringwal.log.files import PAGE
from ringwal.log.manifest import Manifest
from ringwal.log.new_log import new_log
from ringwal.log.pages import Pages
from ringwal.log.premise import Premise, gather
from ringwal.log.salvage_blocks import Blocks, Copy
from ringwal.log.salvage_tail import Tail
from ringwal.log.verify import Loss, Place, Report, Verifier
from ringwal.log.verify_attic import Held

_DROPPED = (
    lib.RW_AUDIT_EARLY,
    lib.RW_AUDIT_REPEAT,
    lib.RW_AUDIT_RENAMED,
    lib.RW_AUDIT_DELETED,
    lib.RW_AUDIT_TRIM,
)
_REWRITTEN = (
    lib.RW_AUDIT_FRAME,
    lib.RW_AUDIT_PAYLOAD,
    lib.RW_AUDIT_PADDING,
    lib.RW_AUDIT_MISPLACED,
    lib.RW_AUDIT_USED,
    lib.RW_AUDIT_JOINED,
)


_FORGOTTEN = 1 << 20
"""The next owner number is so far beyond all that are known (docs/format.md): of claims that are lost nobody knows the numbers,
and a client may still have one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Salvaged:
    """What was made. `found` says what was damaged, `made` what the new log has: its holes say what is lost."""

    found: Report
    made: Report
    streams: tuple[StreamRow, ...]
    nameless: tuple[str, ...]
    """Names that were given to streams whose own is lost."""
    leads: tuple[Loss, ...] = ()
    """What streams have lost before the first record that is left: they begin there now, as if it had been trimmed."""

    @property
    def holes(self) -> list[Place]:
        """Where records are lost, and which."""
        return [place for place in self.made.holes if place.losses]


def salvage(source: Directory, path: Path) -> Salvaged:
    """Make a log in `path`, which is empty or does not exist. Nobody may write the one in `source` meanwhile.

    Raises:
        FileError: there is no log (ENOENT).
        ConfigError: `path` is not empty, or is in the damaged log.
        CorruptionError: nothing of the log can be proven; nothing was made.
        VersionMismatch, StorageFull, OSError.
    """
    premise = gather(source)
    verifier = Verifier(source, premise, deep=True, running=False)
    found = verifier.run()
    if not premise.epochs and premise.manifest.epoch == 0 and not premise.whole:
        raise CorruptionError(f"{source.path} has no block of which it can be said where it belongs: nothing can be salvaged")
    if source.path.resolve() in (path.resolve(), *path.resolve().parents):
        raise ConfigError(f"{path} is in the log that is damaged, of which nothing is changed: choose another directory")
    with new_log(path, "salvage") as directory:
        making = _Making(source, directory, premise, verifier.vouched)
        streams, nameless = making.run()
        made = Verifier(directory, gather(directory), deep=True, running=False).run()
    return Salvaged(found, made, streams, nameless, making.leads)


class _Making:
    """One new log."""

    def __init__(self, source: Directory, directory: Directory, premise: Premise, vouched: int) -> None:
        self._source, self._directory, self._premise = source, directory, premise
        state = premise.manifest
        self._size = state.segment_bytes
        self._vouched = vouched
        self._manifest = Manifest(
            uuid=os.urandom(16),
            segment_bytes=state.segment_bytes,
            window_bytes=state.window_bytes or Config().ring_bytes,
            first_segment=state.first_segment,
            named_end=state.named_end,
            claimed=max([state.claimed, *(row.epoch for row in premise.epochs)]),
        )
        self._timestamp_ns = 0
        """The newest that was met, be it lost now: what the new log is continued with is not older."""
        self._end = 0
        self.leads: tuple[Loss, ...] = ()
        self._lost_at = 0
        """Log position behind the last place where something is lost for certain."""

    def run(self) -> tuple[tuple[StreamRow, ...], tuple[str, ...]]:
        """Make it. Raises StorageFull, OSError."""
        premise = self._premise
        if not premise.epochs:  # no engine has ever been there
            manifests.create(self._directory, dataclasses.replace(self._manifest, first_segment=0, named_end=0))
            return (), ()
        blocks, copy = Blocks(self._source, premise.manifest), Copy(self._directory, self._manifest)
        try:
            epochs = self._copy(blocks, copy)
            copy.sync()
            begin = self._manifest.first_segment * self._size
            attic_copy.renamed(self._source, self._directory, premise.manifest.uuid, begin, self._manifest.uuid, whole=False)
        finally:
            blocks.close()
            copy.close()
        return self._name(epochs)

    # ------------------------------------------------------------------------------------------------------- blocks

    def _copy(self, blocks: Blocks, copy: Copy) -> tuple[EpochRow, ...]:
        """Copies everything. Returns the epochs, the last one with its end."""
        premise = self._premise
        rows: list[EpochRow] = []
        pages = Pages(self._source, self._size)
        with Audit(pages, premise.manifest.uuid, self._size, deep=True) as audit:
            try:
                for row in premise.epochs:
                    end, findings = self._look(audit, row)
                    self._timestamp_ns = max(self._timestamp_ns, int(audit.state.timestamp_ns))
                    before = rows[-1] if rows else EpochRow(0, 0, 0)
                    self._copy_epoch(blocks, copy, EpochRow(row.epoch, row.begin, end), before, findings)
                    if row.epoch in premise.open and end < row.end:  # what its last blocks held may be lost there
                        until = min(row.end, (end // self._size + 1) * self._size)
                        copy.hole(row.epoch, end, until - end, ())
                        end = until
                    rows.append(EpochRow(row.epoch, row.begin, end))
                    self._end = max(self._end, end)
                last = premise.epochs[-1]
                tail = Tail(blocks, copy, audit, last.epoch, self._lost_at)
                self._end = tail.copy(self._end, self._tail_end())
                self._timestamp_ns = max(self._timestamp_ns, copy.timestamp_ns)
            finally:
                pages.close()
        rows[-1] = rows[-1]._replace(end=self._end)
        return tuple(rows)

    def _tail_end(self) -> int:
        return self._end if self._premise.manifest.end else self._premise.end

    def _look(self, audit: Audit, row: EpochRow) -> tuple[int, list[Finding]]:
        """Where the epoch ends that is to be copied as it is, and what is wrong with it up to there."""
        premise = self._premise
        begin = max(row.begin, premise.begin)
        end = row.end or max(self._vouched, row.begin + PAGE)
        if begin >= end:
            return end, []
        audit.begin(row.epoch, row.begin, begin)
        known, findings = premise.checkpoint, list[Finding]()
        if known is not None and begin <= known.position < end:
            findings += audit.walk(known.position)
            for raw in packed_rows(known.streams):
                audit.meet(raw)
        for finding in audit.walk(end):
            if row.epoch in premise.open and ends_epoch(finding, premise.open[row.epoch]):
                return begin_of(finding), findings
            findings.append(finding)
        return end, findings

    def _copy_epoch(self, blocks: Blocks, copy: Copy, row: EpochRow, before: EpochRow, findings: list[Finding]) -> None:
        wrong: dict[int, list[Finding]] = {}
        for finding in findings:
            if finding.kind in TAKES:
                self._lost_at = max(self._lost_at, finding.until)
            wrong.setdefault(finding.block, []).append(finding)
        position, end = max(row.begin, self._premise.begin), row.end
        while position < end:
            head = blocks.header(row.epoch, position, end)
            if head is not None:
                self._copy_block(blocks, copy, row.epoch, head, wrong.get(position, []))
                position += int(head.span)
                continue
            if position == row.begin:
                copy.first(row, before)
                position += PAGE
                if blocks.header(row.epoch, position, end) is not None:
                    continue
            until = blocks.next_header(row.epoch, position, end)
            if until > position:
                frames = list(blocks.frames(row.epoch, position, until))  # its header is damaged, they may not be
                copy.hole(row.epoch, position, until - position, frames)
            position = until

    def _copy_block(self, blocks: Blocks, copy: Copy, epoch: int, head: Any, wrong: list[Finding]) -> None:
        position, length = int(head.position), int(head.length)
        kinds = {finding.kind for finding in wrong}
        unexplained = lib.RW_AUDIT_LOST in kinds and not self._lost_at
        if not unexplained and not kinds & {*_REWRITTEN, *_DROPPED}:
            copy.put(position, blocks.bytes_of(position, length))
            return
        dropped = {finding.place for finding in wrong if finding.kind in _DROPPED}
        frames = [
            frame for frame in blocks.frames(epoch, position, position + int(head.used)) if frame.position not in dropped
        ]
        fields = {"timestamp_ns": int(head.timestamp_ns), "watermark": int(head.watermark), "span": int(head.span)}
        copy.number = int(head.number)
        if kinds <= {lib.RW_AUDIT_PADDING}:
            previous = {"previous_epoch": head.previous_epoch, "previous_begin": head.previous_begin}
            fields |= {"kind": int(head.kind), **previous, "previous_end": head.previous_end}
        else:
            fields["kind"] = lib.RW_BLOCK_HOLE
        copy.make(fields, epoch, position, frames)

    # -------------------------------------------------------------------------------------------------------- names

    def _name(self, epochs: tuple[EpochRow, ...]) -> tuple[tuple[StreamRow, ...], tuple[str, ...]]:
        """Checkpoint and manifest of what was copied."""
        end = self._end
        streams, nameless, next_number, owners_end = self._streams(epochs)
        known = self._premise.checkpoint
        made = Checkpoint(
            uuid=self._manifest.uuid,
            epoch=epochs[-1].epoch,
            position=end,
            block_number=0,
            timestamp_ns=max(self._timestamp_ns, known.timestamp_ns if known else 0),
            next_number=next_number,
            streams=pack(streams),
            epochs=(*epochs[:-1], epochs[-1]._replace(end=0)),
            # How far producers are cannot be proven, so all are forgotten: they are fenced, and claim anew.
            owners_end=max(known.owners_end if known else 1, owners_end) + _FORGOTTEN,
        )
        own = dataclasses.replace(
            self._manifest,
            epoch=epochs[-1].epoch,
            epoch_begin=epochs[-1].begin,
            claimed=max(self._manifest.claimed, epochs[-1].epoch),
        )
        own = checkpoint_file.put(self._directory, own, made, len(streams))
        manifests.create(self._directory, dataclasses.replace(own, end=end))
        return streams, nameless

    def _streams(self, epochs: tuple[EpochRow, ...]) -> tuple[tuple[StreamRow, ...], tuple[str, ...], int, int]:
        """The rows of the new log's checkpoint, the names that had to be made up, the next stream number, and an owner number
        that no frame has."""
        known = self._premise.checkpoint
        pages = Pages(self._directory, self._size)
        with Audit(pages, self._manifest.uuid, self._size, deep=False) as audit, contextlib.closing(pages):
            table = _Table(audit, known)
            for row in epochs:
                begin = max(row.begin, self._premise.begin)
                if begin < row.end:
                    audit.begin(row.epoch, row.begin, begin)
                    table.walk(row.end)
            table.meet()
            kept = verify_attic.look(self._directory, self._manifest)
            table.begins = {number: kept.before(number, offset) for number, offset in table.begins.items()}
            entries = [entry for entry in audit.streams() if entry.number not in table.gone]
            living = [entry for entry in entries if entry.state == lib.RW_RECOVERY_STREAM_DEFINED]
            next_number = max([known.next_number if known else 0, *(entry.number + 1 for entry in audit.streams())])
            streams, nameless = _named(living, table.begins)
            begun = [_begin(row, table.lost.get(row.number, []), kept) for row in streams]
            self.leads = tuple(loss for _, loss in begun if loss is not None)
            return tuple(row for row, _ in begun), nameless, next_number, int(audit.state.owners_end)


class _Table:
    """The streams of the new log, as its own blocks and an old checkpoint say."""

    def __init__(self, audit: Audit, known: Checkpoint | None) -> None:
        self._audit, self._known = audit, known
        self._hole = self._met = False
        self.gone: set[int] = set()
        """Numbers of streams that had been deleted when the checkpoint was written."""
        self.begins: dict[int, int] = {}
        """By number: the first offset that is there, where nothing before it is lost. What is not there was freed, so it had
        been trimmed, whatever an older checkpoint says."""
        self.lost: dict[int, list[tuple[int, int]]] = {}
        """By number, in order: offsets that are not there, first <= offset < next."""

    def walk(self, end: int) -> None:
        """Go on to there, in an epoch. Raises OSError."""
        if not self._met and self._known is not None and self._known.position < end:
            self._walk(self._known.position)
            self.meet()
        self._walk(end)

    def _walk(self, end: int) -> None:
        for finding in self._audit.walk(end):
            self._hole = self._hole or finding.kind == lib.RW_AUDIT_HOLE
            if finding.kind == lib.RW_AUDIT_LOST and finding.stream is not None:
                if finding.since == 0 and not self._hole:
                    self.begins[finding.stream] = finding.next
                self.lost.setdefault(finding.stream, []).append((finding.first, finding.next))

    def meet(self) -> None:
        """The walk has come to the checkpoint: what it says is what is known from here on. Again, it does nothing."""
        if self._met or self._known is None:
            return
        self._met = True
        rows = {row.number: row for row in self._known.rows()}
        met = {int(entry.number): int(entry.next_offset) for entry in self._audit.streams()}
        self.gone = met.keys() - rows.keys()
        for number, row in rows.items():
            self.lost.setdefault(number, []).append((met.get(number, 0), row.next_offset))
        if not self._hole:
            self.begins.update((number, row.next_offset) for number, row in rows.items() if number not in met)
        for raw in packed_rows(self._known.streams):
            self._audit.meet(raw)


def _named(living: list[Any], begins: dict[int, int]) -> tuple[tuple[StreamRow, ...], tuple[str, ...]]:
    """Each with a name of its own, and where it begins at the least (`begins`, by number). Of two with one name the older was
    deleted, and what said so is lost."""
    found: dict[str, StreamRow] = {}
    nameless: list[str] = []
    for entry in sorted(living, key=lambda one: int(one.number)):
        name = name_in(entry)
        if name is None:
            name = f"stream-{entry.number}"
            nameless.append(name)
        following = int(entry.next_offset)
        start = min(max(int(entry.start_offset), begins.get(int(entry.number), 0)), following)
        numbers = following, start, int(entry.payload_bytes), int(entry.timestamp_ns)
        found[name] = StreamRow(int(entry.number), name, *numbers, settings_in(entry))
    return tuple(sorted(found.values(), key=lambda row: row.number)), tuple(nameless)


def _begin(row: StreamRow, lost: list[tuple[int, int]], kept: Held) -> tuple[StreamRow, Loss | None]:
    """The row with its start offset behind what is lost from there on, and what that is. The hole in its place has no record,
    so its segment is freed as soon as nobody else needs it: then nothing would say why they are missing."""
    start = row.start_offset
    for first, following in lost:
        if first <= start < following and kept.behind(row.number, start) == start:
            start = following
    start = min(start, row.next_offset)
    loss = Loss(row.number, row.name, row.start_offset, start) if start > row.start_offset else None
    return row._replace(start_offset=start), loss
