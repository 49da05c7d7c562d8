"""Writes and reads logs by hand: the blocks that the WAL process would write, whole or damaged as a test wants them."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from ringwal._native import ffi, lib
from ringwal.config import Config
from ringwal.log import checkpoint_file, segment
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import EpochRow
from ringwal.log.recovery import Recovered
from tests.support.log_place import log_at, path_of

PAGE = 4096
MIB = 1 << 20
CONFIG = Config(
    ring_bytes=MIB, segment_bytes=3 * MIB, max_streams=64, block_bytes=64 << 10, lane_quota_bytes=4096, max_outstanding=16
)
HEADER = struct.Struct("<QII16sQQIIIIQQQQQQQ")  # rw_block up to previous_begin

# What became of a block: on the disk; never written; written but for a byte of its first frame, or of its header.
State: TypeAlias = Literal["whole", "missing", "torn", "header"]


class Control(NamedTuple):
    """A control frame, of a stream or of none."""

    kind: int
    payload: bytes
    stream: int = lib.RW_NO_STREAM


def trim(stream: int, before: int) -> Control:
    return Control(lib.RW_FRAME_TRIM, struct.pack("<Q", before), stream)


def delete(stream: int) -> Control:
    return Control(lib.RW_FRAME_DELETE, b"", stream)


def settings(stream: int, payload: bytes) -> Control:
    return Control(lib.RW_FRAME_SETTINGS, payload, stream)


def claim(stream: int, name: bytes, forgets: int = 0, kind: int = lib.RW_OWNER_PRODUCER) -> Control:
    """The block's field ``owner`` says the rest."""
    return Control(lib.RW_FRAME_CLAIM, struct.pack("<IIQ", kind, forgets, 0) + name, stream)


def consume(stream: int, name: bytes) -> Control:
    """A claim of a consumer; the sequence in the field ``owner`` is where it goes on."""
    return claim(stream, name, kind=lib.RW_OWNER_CONSUMER)


def commit(stream: int, offset: int) -> Control:
    """The consumer in the block's field ``owner`` goes on there; the sequence says the offset before."""
    return Control(lib.RW_FRAME_COMMIT, struct.pack("<Q", offset), stream)


def drop(*rows: tuple[int, int]) -> Control:
    """Of (stream, start offset)."""
    return Control(lib.RW_FRAME_DROP, b"".join(struct.pack("<IIQ", stream, 0, start) for stream, start in rows))


OWNED = (lib.RW_FRAME_BATCH, lib.RW_FRAME_CLAIM, lib.RW_FRAME_COMMIT)
QUEUED = (*OWNED, lib.RW_FRAME_TRIM, lib.RW_FRAME_DELETE, lib.RW_FRAME_SETTINGS)

# A record batch: stream number, and one payload or several.
Batch: TypeAlias = tuple[int, bytes | Sequence[bytes]] | Control


@dataclasses.dataclass(frozen=True)
class Block:
    """Where a block lies in the log."""

    position: int
    end: int


def batch_payload(data: bytes | Sequence[bytes]) -> tuple[bytes, int]:
    """Payload and count of a record batch."""
    if isinstance(data, bytes):
        return data, 1
    if len(data) == 1:
        return data[0], 1
    return b"".join(struct.pack("<I", len(one)) for one in data) + b"".join(data), len(data)


class LogWriter:
    """Appends to a log that was just recovered. Streams get the name `s<id>`."""

    def __init__(self, directory: Path, recovered: Recovered) -> None:
        self.directory = directory
        self.manifest = recovered.manifest
        self.position = recovered.position
        self.number = recovered.block_number
        self.time = recovered.timestamp_ns
        self.begin = recovered.epoch_begin
        self.next = {stream.number: stream.next_offset for stream in recovered.streams}
        self.persisted = recovered.position

    def put(
        self, *batches: Batch, state: State = "whole", watermark: int | None = None, **fields: Any
    ) -> Block:
        """A data block with `batches`, at the next place; `watermark` is where the block in front ends if not given.

        `fields` overrule what would be in the frames: `offset`, `name`, `stream_offset`. `own`: times of each batch's
        records. `owner`: number, epoch and sequence of batches, claims and commits. `joined`: the batches and commits are the
        parts of one append; its batches have no owner.
        """
        frames: list[tuple[Any, bytes]] = []
        definitions: list[tuple[Any, bytes]] = []
        for each in batches:
            if isinstance(each, Control):
                kind, payload, stream = each
                count = 0
            else:
                stream, (payload, count), kind = each[0], batch_payload(each[1]), lib.RW_FRAME_BATCH
            queued = kind in QUEUED
            if queued and stream not in self.next:
                (definitions if fields.get("joined") else frames).append(self._definition(stream, fields))
                self.next[stream] = 0
            offset = fields.get("offset", self.next[stream]) if queued else 0
            own = fields.get("own", ()) if kind == lib.RW_FRAME_BATCH else ()
            frames.append(self._frame(kind, stream, offset, count, payload + struct.pack(f"<{len(own)}Q", *own)))
            record = frames[-1][0]
            record.flags = lib.RW_OWN_TIMES if own else 0
            if kind in OWNED and not (kind == lib.RW_FRAME_BATCH and fields.get("joined")):
                record.producer_id, record.producer_epoch, record.producer_sequence = fields.get("owner", (0, 0, 0))
            if queued:
                self.next[stream] += count
        for record, _ in frames[:-1] if fields.get("joined") else ():
            record.flags |= lib.RW_JOINED
        frames = definitions + frames
        size = sum(88 + (len(payload) + 7) // 8 * 8 for _, payload in frames) + 128
        length = (size + PAGE - 1) // PAGE * PAGE
        if self.position % self.manifest.segment_bytes + length > self.manifest.segment_bytes - PAGE:
            self.end()
        return self._block(frames, length, state, watermark, fields)

    def end(self, state: State = "whole", watermark: int | None = None) -> Block:
        """An END block; the next block goes to the next segment, which is made and named."""
        size = self.manifest.segment_bytes
        fields = {"kind": lib.RW_BLOCK_END, "span": size - self.position % size}
        block = self._block([], PAGE, state, watermark, fields)
        self.manifest = segment.prepare(log_at(self.directory), self.manifest, self.position // size, direct=False)
        return block

    def _definition(self, stream: int, fields: dict[str, Any]) -> tuple[Any, bytes]:
        name = fields.get("name", f"s{stream}").encode()
        return self._frame(lib.RW_FRAME_STREAM, stream, fields.get("stream_offset", 0), 0, name)

    def _frame(self, kind: int, stream: int, offset: int, count: int, payload: bytes) -> tuple[Any, bytes]:
        record = ffi.new("rw_frame *")
        record.kind, record.stream, record.count = kind, stream, count
        record.base_offset, record.payload_bytes = offset, len(payload)
        record.timestamp_ns, record.digest = 1_000 + offset, lib.rw_xxh3(payload, len(payload))
        record.ticket, record.number, record.slot, record.place = 64, 5 << 32 | 7, 3, stream
        return record, payload

    def _block(
        self, frames: list[tuple[Any, bytes]], length: int, state: State, watermark: int | None, fields: dict[str, Any]
    ) -> Block:
        memory = ffi.new("uint8_t[]", length)
        at = 128
        for record, payload in frames:
            seed = lib.rw_frame_seed(self.manifest.epoch, self.position)
            at += lib.rw_frame_put(memory + at, record, payload, seed)
        header = ffi.cast("rw_block *", memory)
        header.magic, header.format_version = int.from_bytes(b"RWBLOCK1", "little"), lib.RW_FORMAT_VERSION
        ffi.memmove(header.uuid, self.manifest.uuid, 16)
        header.epoch, header.position, header.number = self.manifest.epoch, self.position, self.number
        header.length, header.used, header.frames = length, at, len(frames)
        header.kind, header.span = fields.get("kind", lib.RW_BLOCK_DATA), fields.get("span", length)
        header.watermark = self.persisted if watermark is None else watermark
        self.time = max(self.time, 2_000 + self.number)
        header.timestamp_ns = fields.get("block_time", self.time)
        for name in ("epoch", "position"):
            setattr(header, name, fields.get(name, getattr(header, name)))
        lib.rw_block_stamp(header)
        image = bytearray(ffi.buffer(memory))
        if state != "missing":
            if state != "whole":
                image[128 + 24 if state == "torn" and frames else 48] ^= 0x10
            self.write_at(self.position, bytes(image))
        block = Block(self.position, self.position + header.span)
        if state == "whole" and self.persisted == self.position:
            self.persisted = block.end
        self.position, self.number = block.end, self.number + 1
        return block

    def write_at(self, position: int, data: bytes) -> None:
        """Overwrite bytes of the log."""
        with self.file(position // self.manifest.segment_bytes).open("r+b") as file:
            file.seek(PAGE + position % self.manifest.segment_bytes)
            file.write(data)

    def flip(self, position: int, bit: int = 0) -> None:
        """Invert one bit of the log."""
        with self.file(position // self.manifest.segment_bytes).open("r+b") as file:
            file.seek(PAGE + position % self.manifest.segment_bytes)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1 << bit]))

    def file(self, number: int) -> Path:
        """The file of segment `number`."""
        return path_of(self.directory, number)


def _header(data: bytes, at: int) -> dict[str, Any]:
    names = "magic crc version uuid epoch position length used records kind span watermark number previous_end previous_epoch"
    return dict(zip([*names.split(), "timestamp_ns", "previous_begin"], HEADER.unpack_from(data, at), strict=True))


def _log_bytes(directory: Path, state: manifests.Manifest) -> bytes:
    """From log position 0 on; what has been freed is zeros."""
    pieces = [path_of(directory, number).read_bytes()[PAGE:] for number in range(state.first_segment, state.named_end)]
    return bytes(state.first_segment * state.segment_bytes) + b"".join(pieces)


def _epochs(directory: Path, data: bytes, state: manifests.Manifest) -> list[EpochRow]:
    """Of each epoch, from the checkpoint; the first block of each says the same."""
    rows = checkpoint_file.load(log_at(directory), state).epochs
    for previous, row in zip([EpochRow(0, 0, 0), *rows], rows, strict=False):
        if row.begin < state.first_segment * state.segment_bytes or (row is rows[0] and state.first_segment):
            continue
        head = _header(data, row.begin)
        assert (head["kind"], head["epoch"], head["position"]) == (lib.RW_BLOCK_EPOCH, row.epoch, row.begin)
        assert (head["previous_epoch"], head["previous_begin"], head["previous_end"]) == previous
    return list(rows)


def blocks(directory: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Header and bytes of every block that counts, oldest epoch first; each must be valid up to its epoch's cut."""
    state = manifests.load(log_at(directory))
    data = _log_bytes(directory, state)
    for epoch, begin, end in _epochs(directory, data, state):
        at = max(begin, state.first_segment * state.segment_bytes)
        while at < (end or len(data)):
            piece = data[at : at + PAGE]
            good = lib.rw_block_check(piece, 1 << 40, state.uuid, epoch, at) == lib.RW_OK
            head = _header(data, at)
            piece = data[at : at + head["length"]] if good else b""
            if not good or lib.rw_block_verify(piece) != lib.RW_OK:
                assert end == 0, f"epoch {epoch} ends at {at}, not at {end}"
                break
            yield head, piece
            at += head["span"]


def contents(directory: Path) -> dict[str, list[bytes]]:
    """Every record of the streams that live, trimmed or not, by stream name, in order of offsets, which must be dense; from 0
    on, unless something is freed. Names as in the checkpoint then: definitions may be in what is freed."""
    held = manifests.load(log_at(directory))
    names = {row.number: row.name for row in checkpoint_file.load(log_at(directory), held).rows()} if held.first_segment else {}
    behind: dict[int, int] = {}
    records: dict[str, list[bytes]] = {}
    for _, piece in blocks(directory):
        at, seen = ffi.new("uint64_t *", 128), ffi.new("rw_frame_info *")
        while lib.rw_block_frames(piece, at, seen, 1):
            payload = piece[seen.at + 88 : seen.at + 88 + seen.payload_bytes]
            if seen.kind == lib.RW_FRAME_STREAM:
                names[seen.stream] = payload.decode()
                records.setdefault(payload.decode(), [])
            if seen.kind == lib.RW_FRAME_DELETE:
                records.pop(names.get(seen.stream, ""), None)
            if seen.kind != lib.RW_FRAME_BATCH or seen.stream not in names:  # deleted since, and its definition is freed
                continue
            stream = records.setdefault(names[seen.stream], [])
            expected = behind.get(seen.stream, seen.base_offset if held.first_segment else 0)
            assert seen.base_offset == expected
            behind[seen.stream] = expected + seen.count
            stream.extend(_split(payload, seen.count))
    return records


def _split(payload: bytes, count: int) -> list[bytes]:
    if count == 1:
        return [payload]
    lengths, at, parts = struct.unpack_from(f"<{count}I", payload), 4 * count, []
    for length in lengths:
        parts.append(payload[at : at + length])
        at += length
    return parts


def offsets(recovered: Recovered) -> dict[str, int]:
    return {stream.name: stream.next_offset for stream in recovered.streams}
