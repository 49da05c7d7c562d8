"""Reads a log from its files, by the format that docs/format.md states and by nothing else.

It shares no code with the engine: own CRC, own walk, the `xxhash` package for digests. What it accepts is what a careful
stranger with the documentation would accept, room for what no engine writes yet included (decode_frames.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from tests.faults import decode_attic, decode_frames, decode_owners
from tests.faults.decode_frames import (
    BATCH,
    DEFINITION,
    DELETE,
    DROP,
    KNOWN,
    NEVER_SET,
    RECORD,
    SETTINGS,
    SETTINGS_HEAD,
    TRIM,
    VERDICT,
    DecodeError,
    Frame,
    Record,
    Settings,
    crc32c,
    dropped,
    records_of,
    settings_of,
    split,
    start_offset,
    text,
)
from tests.faults.decode_owners import Owner, Owners

__all__ = ["BATCH", "DEFINITION", "DELETE", "DROP", "RECORD", "TRIM", "DecodeError", "Record", "crc32c", "records_of", "split"]

PAGE = 4096
MANIFEST = struct.Struct("<8sIIQ16sQQQQQQQQQQIIQQ")
SEGMENT = struct.Struct("<8sII16sQQQQ")
CHECKPOINT = struct.Struct("<8sII16sQQQQIIIIQQIII")
STREAM_ROW = struct.Struct("<IHHQQQQ120s120s")
EPOCH_ROW = struct.Struct("<QQQ")
BLOCK = struct.Struct("<QII16sQQIIIIQQQQQQQQ")
VERSION = 2
BLOCK_MAGIC = 0x314B434F4C425752
DATA, EPOCH, END, HOLE = 1, 2, 3, 4
OPEN = 1


class Manifest(NamedTuple):
    features: int
    uuid: bytes
    epoch: int
    first_segment: int
    named_end: int
    segment_bytes: int
    position: int
    """That the checkpoint is about."""
    bytes: int
    digest: int
    file: int
    backup: bool

    @property
    def begin(self) -> int:
        """Log position of the first byte that is there."""
        return self.first_segment * self.segment_bytes


def manifest(directory: Path) -> Manifest:
    """The copy in force."""
    raw = (directory / "manifest").read_bytes()
    best: tuple[int, Manifest] | None = None
    for copy in (0, 1):
        slot = raw[copy * PAGE :][: MANIFEST.size]
        if len(slot) < MANIFEST.size or MANIFEST.unpack(slot)[-1] != xxhash.xxh3_64_intdigest(slot[:-8]):
            continue
        magic, version, features, counter, uuid, _, epoch, _, first, end, size, _, *rest = MANIFEST.unpack(slot)
        at, length, digest, file, what, _, _ = rest
        if magic != b"RWMANIF1" or version != VERSION or counter % 2 != copy or what > 1:
            continue
        if best is None or counter > best[0]:
            best = counter, Manifest(features, uuid, epoch, first, end, size, at, length, digest, file, what == 1)
    if best is None:
        raise DecodeError("no valid copy of the manifest")
    if unknown := best[1].features & ~KNOWN:
        raise DecodeError(f"the log needs features ({unknown:#x}) that this program does not know")
    return best[1]


class StreamRow(NamedTuple):
    name: str
    next_offset: int
    start_offset: int
    payload_bytes: int
    timestamp_ns: int
    settings: Settings = NEVER_SET


class Checkpoint(NamedTuple):
    """Streams by number, (epoch, begin, end) of every epoch (the last one's end is 0), owners by number."""

    position: int
    next_stream: int
    streams: dict[int, StreamRow]
    epochs: list[tuple[int, int, int]]
    owners: dict[int, Owner]
    next_owner: int


def checkpoint(directory: Path, state: Manifest) -> Checkpoint:
    """The one that the manifest names."""
    raw = (directory / f"checkpoint-{state.file}").read_bytes()[: state.bytes]
    if len(raw) < PAGE:
        raise DecodeError("the checkpoint is too short")
    magic, version, features, uuid, epoch, position, _, _, *rest = CHECKPOINT.unpack_from(raw)
    streams, owners, epochs, next_stream, size, digest, row_bytes, owner_bytes, next_owner = rest
    blank = raw[:88] + bytes(8) + raw[96:]
    if magic != b"RWCHKPT1" or digest != xxhash.xxh3_64_intdigest(blank) or digest != state.digest:
        raise DecodeError("the checkpoint is damaged")
    if (version, uuid, epoch, position) != (VERSION, state.uuid, state.epoch, state.position):
        raise DecodeError("the checkpoint is another one")
    if features & ~state.features:
        raise DecodeError(f"the checkpoint has features ({features:#x}) that the manifest does not name")
    streams_end = PAGE + streams * STREAM_ROW.size
    epochs_end = streams_end + epochs * EPOCH_ROW.size
    draft = next_owner == 0  # an earlier one, which has no owners
    wide = row_bytes == STREAM_ROW.size and owner_bytes == (0 if draft else decode_owners.ROW.size)
    if size != len(raw) or epochs_end + owners * decode_owners.ROW.size != size or not wide or any(raw[CHECKPOINT.size : PAGE]):
        raise DecodeError("the checkpoint's sizes do not add up")
    rows = _stream_rows(raw[PAGE:streams_end], next_stream)
    return Checkpoint(
        position, next_stream, rows, list(EPOCH_ROW.iter_unpack(raw[streams_end:epochs_end])),
        decode_owners.rows_of(raw[epochs_end:], next_owner, rows), max(next_owner, 1),
    )  # fmt: skip


def _stream_rows(raw: bytes, next_stream: int) -> dict[int, StreamRow]:
    rows: dict[int, StreamRow] = {}
    last = -1
    for stream, state, name_bytes, following, start, size, when, name, own in STREAM_ROW.iter_unpack(raw):
        good = last < stream < next_stream and state == OPEN and start <= following
        if not good or not 0 < name_bytes <= len(name) or any(name[name_bytes:]):
            raise DecodeError(f"the checkpoint's row of stream {stream} makes no sense")
        rows[stream] = StreamRow(text(name[:name_bytes]), following, start, size, when, _settings_row(own))
        last = stream
    return rows


def _settings_row(raw: bytes) -> Settings:
    if not any(raw):
        return NEVER_SET
    size = SETTINGS_HEAD.size + int.from_bytes(raw[6:8], "little")
    if any(raw[size:]):
        raise DecodeError("the checkpoint has settings that make no sense")
    return settings_of(raw[:size])


class Block(NamedTuple):
    epoch: int
    position: int
    span: int
    kind: int
    previous: tuple[int, int, int]
    """Epoch, begin, end."""
    frames: list[Frame]
    joints: list[list[Frame]]
    """The parts of each joint append among them."""


@dataclasses.dataclass
class Content:
    """What a log has of one stream, from `first` on; what is below `start` is not of the log any more."""

    number: int
    name: str | None = None
    start: int = 0
    first: int | None = None
    records: list[bytes] = dataclasses.field(default_factory=list)
    extras: dict[int, Record] = dataclasses.field(default_factory=dict)
    """By offset: the records with keys and headers."""
    ended: bool = False
    payload_bytes: int = 0
    newest_ns: int = 0
    settings: Settings = NEVER_SET

    @property
    def next(self) -> int:
        return (self.first or 0) + len(self.records)

    @property
    def kept(self) -> tuple[int, list[bytes]]:
        """Start offset, and the records from there on."""
        return self.start, self.records[self.start - (self.first or 0) :]

    def take(self, frame: Frame) -> None:
        """Raises DecodeError."""
        if self.ended:
            raise DecodeError(f"stream {self.number} goes on behind its end")
        if self.first is None:
            self.first = frame.base
        if frame.base != self.next:
            raise DecodeError(f"stream {self.number}: offset {frame.base} follows {self.next - 1}")
        if frame.kind == DEFINITION:
            name = text(frame.payload)
            if self.name not in (None, name):
                raise DecodeError(f"stream {self.number} is {self.name} and {name}")
            self.name = name
        elif frame.kind == TRIM:
            self.start = max(self.start, start_offset(frame))
        elif frame.kind == DELETE:
            self.ended = True
        elif frame.kind == SETTINGS:
            said = settings_of(frame.payload)
            if said.version <= self.settings.version:
                raise DecodeError(f"stream {self.number}: settings {said.version} follow {self.settings.version}")
            self.settings = said
        elif frame.kind == BATCH:
            self._take_batch(frame)

    def _take_batch(self, frame: Frame) -> None:
        for offset, record in enumerate(records_of(frame), frame.base):
            self.records.append(record.data)
            if record.key is not None or record.headers or record.own_ns is not None:
                self.extras[offset] = record
        self.payload_bytes += len(frame.payload)
        self.newest_ns = frame.timestamp_ns

    def meet(self, row: StreamRow) -> None:
        """The walk has come to the checkpoint: what it found must be what the row says, as far as it is still there."""
        seen = self.first is not None
        if not seen:
            self.first = row.next_offset
        good = self.name in (None, row.name) and self.next == row.next_offset and self.start <= row.start_offset
        if good and self.records:
            good = self.newest_ns == row.timestamp_ns and (self.first != 0 or self.payload_bytes == row.payload_bytes)
        if self.settings.version or self.name is not None:  # all that there were are there, or those before are of no account
            good = good and self.settings == row.settings
        if self.ended or not good:
            raise DecodeError(f"stream {self.number} is another one in the log than in the checkpoint: {row}")
        self.name, self.start, self.settings = row.name, row.start_offset, row.settings


class Log:
    """All epochs of a log, in order."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest = manifest(directory)
        nothing = Checkpoint(0, 0, {}, [], {}, 1)
        self.checkpoint = checkpoint(directory, self.manifest) if self.manifest.epoch else nothing
        self._open: tuple[int, int, bytes] = (-1, 0, b"")
        self._owners = Owners()

    def _segment(self, number: int) -> tuple[int, bytes]:
        """Its features and bytes."""
        if self._open[0] != number:
            raw = (self.directory / "segments" / f"{number:020d}.seg").read_bytes()
            if len(raw) - PAGE != self.manifest.segment_bytes:
                raise DecodeError(f"segment {number} is of the wrong size")
            head = raw[: SEGMENT.size]
            magic, version, features, uuid, found, size, _, digest = SEGMENT.unpack(head)
            if digest != xxhash.xxh3_64_intdigest(head[:-8]) or size != self.manifest.segment_bytes:
                raise DecodeError(f"segment {number} is damaged or of the wrong size")
            if (magic, version, uuid, found) != (b"RWSEGMT1", VERSION, self.manifest.uuid, number):
                raise DecodeError(f"segment {number} has a foreign header")
            if features & ~self.manifest.features:
                raise DecodeError(f"segment {number} has features ({features:#x}) that the manifest does not name")
            self._open = number, features, raw
        return self._open[1:]

    def block(self, position: int, epoch: int | None = None) -> Block | None:
        """The valid block at a log position, or None."""
        size = self.manifest.segment_bytes
        if not self.manifest.first_segment <= position // size < self.manifest.named_end:
            return None
        features, raw = self._segment(position // size)
        return self._block_in(raw, PAGE + position % size, position, epoch, features)

    def _block_in(self, raw: bytes, at: int, position: int, epoch: int | None, features: int) -> Block | None:
        """The valid block that stands at byte `at`, or None."""
        size = self.manifest.segment_bytes
        head = raw[at : at + BLOCK.size]
        magic, crc, version, uuid, own, place, length, used, count, kind, span, _, _, *rest = BLOCK.unpack(head)
        if magic != BLOCK_MAGIC or version != VERSION or uuid != self.manifest.uuid or place != position:
            return None
        if crc != crc32c(head[:8] + bytes(4) + head[12:]) or (epoch is not None and own != epoch):
            return None
        if length % PAGE or span % PAGE or not BLOCK.size <= used <= length <= span <= size - position % size:
            return None
        seed = crc32c(struct.pack("<QQ", own, position))
        frames = decode_frames.frames(raw[at : at + length], BLOCK.size, used, count, seed)
        if frames is None:
            return None
        if any(frame.features & ~features for frame in frames):
            raise DecodeError(f"the block at {position} needs features that its segment does not name")
        cut, before, _, before_begin, _ = rest
        joints = decode_frames.joints(frames, hole=kind == HOLE)
        return Block(own, position, span, kind, (before, before_begin, cut), frames, joints)

    def epochs(self) -> list[tuple[int, int, int | None]]:
        """(epoch, first position, cut) of each; the last one's cut is None. The first block of each says the same of the one
        before, where it is still there."""
        rows, begin = self.checkpoint.epochs, self.manifest.begin
        for before, (epoch, first, _) in zip([None, *rows], rows, strict=False):
            if first < begin:
                continue
            block = self.block(first, epoch)
            known = block is not None and block.kind == EPOCH and (
                block.previous == (before or (0, 0, 0)) or (before is None and 0 < block.previous[2] <= begin)
            )  # fmt: skip
            if not known:
                raise DecodeError(f"epoch {epoch} does not begin at {first}, behind {before}")
        return [(epoch, begin, end or None) for epoch, begin, end in rows]

    def blocks(self) -> Iterator[Block]:
        """Every block of every epoch, as far as each is to be believed and there, in log order."""
        for epoch, begin, cut in self.epochs():
            position = max(begin, self.manifest.begin)
            while cut is None or position < cut:
                block = self.block(position, epoch)
                if block is None:
                    if cut is not None or position < self.checkpoint.position:
                        raise DecodeError(f"epoch {epoch} has no valid block at {position}, before its end")
                    break
                yield block
                position += block.span

    def kept_blocks(self) -> Iterator[Block]:
        """Of segments that are freed, those that the attic has."""
        for position, epoch, raw in decode_attic.blocks(self.directory, self.manifest.uuid):
            if position < self.manifest.begin:
                block = self._block_in(raw, 0, position, epoch, self.manifest.features)
                if block is None:
                    raise DecodeError(f"the attic's block at {position} is damaged")
                yield block

    def joints(self) -> Iterator[list[Frame]]:
        """The parts of each joint append that is there, in log order; parts of streams that were deleted, and of records that
        are trimmed, too. Raises DecodeError."""
        for block in itertools.chain(self.kept_blocks(), self.blocks()):
            yield from block.joints

    def _take_kept(self, found: dict[int, Content]) -> None:
        """What the attic has of records that are not trimmed: the others of its blocks may have gaps."""
        for block in self.kept_blocks():
            for frame in block.frames:
                row = self.checkpoint.streams.get(frame.stream)
                if frame.kind == BATCH and row is not None and frame.base + frame.records > row.start_offset:
                    found.setdefault(frame.stream, Content(frame.stream)).take(frame)
                    self._owners.take_kept(frame)

    def owners(self) -> dict[int, Owner]:
        """By number, those that are not forgotten at the log's end. Raises DecodeError."""
        self.contents()
        return self._owners.known

    def contents(self) -> dict[str, Content]:
        """Every stream that has not been deleted."""
        found: dict[int, Content] = {}
        self._owners = Owners()
        self._take_kept(found)
        met = False
        for block in self.blocks():
            if not met and block.position >= self.checkpoint.position:
                met = self._meet(found)
            for frame in block.frames:
                if frame.kind == DROP:
                    for stream, offset in dropped(frame):
                        of = found.setdefault(stream, Content(stream))
                        of.start = max(of.start, offset)
                elif frame.kind != VERDICT:
                    of = found.setdefault(frame.stream, Content(frame.stream))
                    of.take(frame)
                    self._owners.take(frame)
                    if met and of.name is None:
                        raise DecodeError(f"stream {of.number} has records at {block.position} and no definition")
        if not met:
            self._meet(found)
        living = {of.name: of for of in found.values() if of.name is not None and not of.ended}
        if len(living) != sum(of.name is not None and not of.ended for of in found.values()):
            raise DecodeError("two streams have one name")
        for of in living.values():
            if not (of.first or 0) <= of.start <= of.next:
                raise DecodeError(f"{of.name} begins at {of.start}, and there are records from {of.first} to {of.next}")
        return {name: of for name, of in living.items() if name is not None}

    def _meet(self, found: dict[int, Content]) -> bool:
        """The walk has come to the checkpoint's position."""
        rows = self.checkpoint.streams
        self._owners.meet(self.checkpoint.owners, self.checkpoint.next_owner)
        for number, of in found.items():
            if number >= self.checkpoint.next_stream:
                raise DecodeError(f"stream {number} is there before its number was given out")
            if number not in rows and of.name is not None and not of.ended:
                raise DecodeError(f"stream {number}, {of.name}, is in the log and not in the checkpoint")
        for number, row in rows.items():
            found.setdefault(number, Content(number)).meet(row)
        for number in [number for number in found if number not in rows]:
            if not found[number].ended:  # its end has gone with its segment, or lies in a part that has
                del found[number]
        return True


def contents(directory: Path) -> dict[str, Content]:
    """Every stream that has not been deleted. Raises DecodeError: the files are damaged, or an offset is missing."""
    return Log(directory).contents()


def kept(directory: Path) -> dict[str, list[bytes]]:
    """Of every stream the records from its start offset on. Raises DecodeError."""
    return {name: of.kept[1] for name, of in contents(directory).items()}


def streams(directory: Path) -> dict[str, list[bytes]]:
    """Every stream's records by offset, dense from 0: of a log in which all of them are there.

    Raises:
        DecodeError: an offset is missing, comes twice, or the files are damaged.
    """
    found = contents(directory)
    for name, of in found.items():
        if of.first:
            raise DecodeError(f"{name} begins at {of.first}")
    return {name: of.records for name, of in found.items()}
