"""Reads a log from its files, by the format that docs/format.md states and by nothing else.

It shares no code with the engine: own CRC, own walk, the `xxhash` package for digests. What it accepts is what a careful
stranger with the documentation would accept.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

PAGE = 4096
MANIFEST = struct.Struct("<8sIIQ16sQQQQQQQQQQIIQQ")
SEGMENT = struct.Struct("<8sII16sQQQQ")
CHECKPOINT = struct.Struct("<8sII16sQQQQIIIIQQ")
STREAM_ROW = struct.Struct("<IHHQQQQ120s")
EPOCH_ROW = struct.Struct("<QQQ")
BLOCK = struct.Struct("<QII16sQQIIIIQQQQQQQQ")
RECORD = struct.Struct("<IBBHIIIIQQQQQQQII")
VERSION = 2
BLOCK_MAGIC = 0x314B434F4C425752
DATA, EPOCH, END = 1, 2, 3
BATCH, DEFINITION, TRIM, DELETE, VERDICT, DROP = KINDS = 1, 2, 3, 4, 5, 6
OPEN = 1


def _crc_table() -> list[int]:
    table = []
    for i in range(256):
        c = i
        for _ in range(8):
            c = (c >> 1) ^ (0x82F63B78 if c & 1 else 0)
        table.append(c)
    return table


_TABLE = _crc_table()


def _wide_table() -> list[int]:
    """The effect of two bytes at once."""
    wide = []
    for i in range(1 << 16):
        c = (i >> 8) ^ _TABLE[i & 0xFF]
        wide.append((c >> 8) ^ _TABLE[c & 0xFF])
    return wide


_WIDE = _wide_table()


@functools.lru_cache(1 << 15)  # logs that are judged again and again, each time with another ending
def crc32c(data: bytes, seed: int = 0) -> int:
    """CRC-32C of an even number of bytes, continuing from ``seed``."""
    c = ~seed & 0xFFFFFFFF
    for pair in struct.unpack(f"<{len(data) // 2}H", data):
        c = (c >> 16) ^ _WIDE[(c ^ pair) & 0xFFFF]
    return ~c & 0xFFFFFFFF


class DecodeError(Exception):
    """The files are not what the format says."""


class Manifest(NamedTuple):
    uuid: bytes
    epoch: int
    named_end: int
    segment_bytes: int
    position: int
    """That the checkpoint is about."""
    bytes: int
    digest: int
    file: int


class Frame(NamedTuple):
    """One record of a stream, as found."""

    stream: str
    offset: int
    data: bytes


def manifest(directory: Path) -> Manifest:
    """The slot in force."""
    raw = (directory / "manifest").read_bytes()
    best: tuple[int, Manifest] | None = None
    for at in (0, PAGE):
        slot = raw[at : at + MANIFEST.size]
        magic, version, features, counter, uuid, _, epoch, _, _, end, size, _, *named, _, _, digest = MANIFEST.unpack(slot)
        if magic != b"RWMANIF1" or version != VERSION or features or digest != xxhash.xxh3_64_intdigest(slot[:-8]):
            continue
        if best is None or counter > best[0]:
            best = counter, Manifest(uuid, epoch, end, size, *named)
    if best is None:
        raise DecodeError("no valid copy of the manifest")
    return best[1]


class StreamRow(NamedTuple):
    name: str
    next_offset: int
    start_offset: int
    payload_bytes: int
    timestamp_ns: int


class Checkpoint(NamedTuple):
    """Streams by number, and (epoch, begin, end) of every epoch; the last one's end is 0."""

    position: int
    streams: dict[int, StreamRow]
    epochs: list[tuple[int, int, int]]


def checkpoint(directory: Path, state: Manifest) -> Checkpoint:
    """The one that the manifest names."""
    raw = (directory / f"checkpoint-{state.file}").read_bytes()[: state.bytes]
    if len(raw) < PAGE:
        raise DecodeError("the checkpoint is too short")
    magic, version, features, uuid, epoch, position, _, _, *sizes, digest = CHECKPOINT.unpack_from(raw)
    streams, owners, epochs, next_number, size = sizes
    blank = raw[: CHECKPOINT.size - 8] + bytes(8) + raw[CHECKPOINT.size :]
    if magic != b"RWCHKPT1" or digest != xxhash.xxh3_64_intdigest(blank) or digest != state.digest:
        raise DecodeError("the checkpoint is damaged")
    if (version, features, uuid, epoch, position, owners) != (VERSION, 0, state.uuid, state.epoch, state.position, 0):
        raise DecodeError("the checkpoint is another one")
    rows_end = PAGE + streams * STREAM_ROW.size
    if size != len(raw) or size != rows_end + epochs * EPOCH_ROW.size:
        raise DecodeError("the checkpoint's sizes do not add up")
    rows = {}
    for stream, row_state, name_bytes, *numbers, name in STREAM_ROW.iter_unpack(raw[PAGE:rows_end]):
        if row_state != OPEN or stream in rows or stream >= next_number or not 0 < name_bytes <= len(name):
            raise DecodeError(f"the checkpoint's row of stream {stream} makes no sense")
        rows[stream] = StreamRow(_name(name[:name_bytes]), *numbers)
    return Checkpoint(position, rows, list(EPOCH_ROW.iter_unpack(raw[rows_end:])))


class Block(NamedTuple):
    epoch: int
    position: int
    span: int
    kind: int
    previous: tuple[int, int, int]  # epoch, begin, end
    frames: list[tuple[int, int, int, int, bytes]]  # kind, stream number, base offset, count, payload


class Log:
    """All epochs of a log, in order."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest = manifest(directory)
        self.checkpoint = checkpoint(directory, self.manifest) if self.manifest.epoch else Checkpoint(0, {}, [])
        self._open: tuple[int, bytes] = (-1, b"")

    def _segment(self, number: int) -> bytes:
        if self._open[0] != number:
            raw = (self.directory / "segments" / f"{number:020d}.seg").read_bytes()
            head = raw[: SEGMENT.size]
            magic, version, _, uuid, found, size, _, digest = SEGMENT.unpack(head)
            if (magic, version, uuid, found) != (b"RWSEGMT1", VERSION, self.manifest.uuid, number):
                raise DecodeError(f"segment {number} has a foreign header")
            if digest != xxhash.xxh3_64_intdigest(head[:-8]) or not len(raw) - PAGE == size == self.manifest.segment_bytes:
                raise DecodeError(f"segment {number} is damaged or of the wrong size")
            self._open = number, raw
        return self._open[1]

    def block(self, position: int, epoch: int | None = None) -> Block | None:
        """The valid block at a log position, or None."""
        size = self.manifest.segment_bytes
        if position // size >= self.manifest.named_end:
            return None
        raw, at = self._segment(position // size), PAGE + position % size
        head = raw[at : at + BLOCK.size]
        magic, crc, version, uuid, own, place, length, used, count, kind, span, _, _, *rest = BLOCK.unpack(head)
        if magic != BLOCK_MAGIC or version != VERSION or uuid != self.manifest.uuid or place != position:
            return None
        if crc != crc32c(head[:8] + bytes(4) + head[12:]) or (epoch is not None and own != epoch):
            return None
        frames = self._frames(raw[at : at + length], used, count, crc32c(struct.pack("<QQ", own, position)))
        cut, before, _, before_begin, _ = rest
        return None if frames is None else Block(own, position, span, kind, (before, before_begin, cut), frames)

    def _frames(self, raw: bytes, used: int, count: int, seed: int) -> list[tuple[int, int, int, int, bytes]] | None:
        frames, at = [], BLOCK.size
        for _ in range(count):
            head = raw[at : at + RECORD.size]
            if len(head) < RECORD.size:
                return None
            crc, kind, _, _, size, records, stream, flags, base, _, digest, *_ = RECORD.unpack(head)
            payload = raw[at + RECORD.size : at + RECORD.size + size]
            if crc != crc32c(bytes(4) + head[4:5] + bytes(1) + head[6:], seed) or len(payload) != size:
                return None
            if digest != xxhash.xxh3_64_intdigest(payload) or flags or kind not in KINDS:
                return None
            frames.append((kind, stream, base, records, payload))
            at += RECORD.size + (size + 7) // 8 * 8
        return frames if at == used else None

    def epochs(self) -> list[tuple[int, int, int | None]]:
        """(epoch, first position, cut) of each; the last one's cut is None. The first block of each says the same of the one
        before."""
        rows = self.checkpoint.epochs
        for before, (epoch, begin, _) in zip([(0, 0, 0), *rows], rows, strict=False):
            first = self.block(begin, epoch)
            if first is None or first.kind != EPOCH or first.previous != before:
                raise DecodeError(f"epoch {epoch} does not begin at {begin}, behind {before}")
        return [(epoch, begin, end or None) for epoch, begin, end in rows]

    def records(self) -> Iterator[Frame]:
        """Every record of every epoch, as far as each is to be believed, in log order."""
        names: dict[int, str] = {}
        for epoch, begin, cut in self.epochs():
            position = begin
            while cut is None or position < cut:
                block = self.block(position, epoch)
                if block is None:
                    if cut is not None or position < self.checkpoint.position:
                        raise DecodeError(f"epoch {epoch} has no valid block at {position}, before its end")
                    break
                for kind, stream, base, count, payload in block.frames:
                    if kind == DEFINITION:
                        names[stream] = _name(payload)
                    if kind != BATCH:
                        continue
                    if stream not in names:
                        raise DecodeError(f"stream {stream} has records at {position} and no definition")
                    for i, data in enumerate(split(payload, count)):
                        yield Frame(names[stream], base + i, data)
                position += block.span
        for stream, row in self.checkpoint.streams.items():
            if names.get(stream, row.name) != row.name:
                raise DecodeError(f"stream {stream} is {names[stream]} in the log and {row.name} in the checkpoint")


def _name(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"the name of a stream is not UTF-8: {payload!r}") from error


def split(payload: bytes, count: int) -> list[bytes]:
    """The records of a batch."""
    if count == 1:
        return [payload]
    if 4 * count > len(payload):
        raise DecodeError("a batch has no room for its lengths")
    lengths = struct.unpack_from(f"<{count}I", payload)
    parts, at = [], 4 * count
    for length in lengths:
        parts.append(payload[at : at + length])
        at += length
    if at != len(payload):
        raise DecodeError("a batch's lengths do not add up")
    return parts


def streams(directory: Path) -> dict[str, list[bytes]]:
    """Every stream's records by offset, dense from 0.

    Raises:
        DecodeError: an offset is missing, comes twice, or the files are damaged.
    """
    found: dict[str, list[bytes]] = {}
    for frame in Log(directory).records():
        records = found.setdefault(frame.stream, [])
        if frame.offset != len(records):
            raise DecodeError(f"{frame.stream}: offset {frame.offset} follows {len(records) - 1}")
        records.append(frame.data)
    return found
