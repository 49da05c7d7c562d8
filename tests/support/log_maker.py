"""Writes a log by hand, in the role of every engine process at once: control area, log ring and segment files.

Position, order and damage of every block are the test's choice, and no process runs.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ringwal._native import ffi, lib
from ringwal.log import checkpoint_file
from ringwal.log import manifest as manifests
from ringwal.log import segment as segments
from ringwal.log.checkpoint import Checkpoint, EpochRow, StreamRow, pack
from ringwal.log.directory import SEGMENTS
from ringwal.log.manifest import Manifest
from ringwal.model import Record
from ringwal.read.cursor import Cursor
from ringwal.read.reader import Reader
from tests.support.log_place import log_at, path_of

PAGE = 4096
UUID = bytes(range(16))


class Frame(NamedTuple):
    """A record batch: `data` one or more payloads from offset `base` on."""

    stream: int
    base: int
    data: Sequence[bytes]
    timestamp_ns: int = 0
    own: Sequence[int] = ()
    """Times of the records' own, if any."""


def handle_of(stream: int) -> int:
    """Of the stream of that number; a handle is left as it is."""
    return stream if stream >> 32 else int(lib.rw_handle(stream, stream))


class NumberReader(Reader):
    """Streams by their number, which here is that of their place."""

    def cursor(self, stream: int, start: int) -> Cursor:
        return super().cursor(handle_of(stream), start)

    def offset_at(self, stream: int, timestamp_ns: int) -> int:
        return super().offset_at(handle_of(stream), timestamp_ns)

    def read(
        self, stream: int, start: int, max_records: int = 1000, max_bytes: int | None = None
    ) -> list[Record]:
        return super().read(handle_of(stream), start, max_records, max_bytes)


def payload_of(data: Sequence[bytes]) -> bytes:
    if len(data) == 1:
        return data[0]
    return b"".join(len(item).to_bytes(4, "little") for item in data) + b"".join(data)


def block_bytes(
    frames: Sequence[Frame],
    *,
    epoch: int,
    position: int,
    number: int = 0,
    kind: int = lib.RW_BLOCK_DATA,
    span: int = 0,
    previous: EpochRow | None = None,
) -> bytes:
    """One block as it stands in the ring and on disk."""
    block = ffi.new("rw_block *")
    payloads = [payload_of(frame.data) + struct.pack(f"<{len(frame.own)}Q", *frame.own) for frame in frames]
    used = ffi.sizeof("rw_block") + sum(ffi.sizeof("rw_frame") + (len(payload) + 7) // 8 * 8 for payload in payloads)
    length = (used + PAGE - 1) // PAGE * PAGE
    memory = ffi.new("uint8_t[]", length)
    at = ffi.sizeof("rw_block")
    for frame, payload in zip(frames, payloads, strict=True):
        record = ffi.new("rw_frame *")
        record.kind, record.stream, record.count = lib.RW_FRAME_BATCH, frame.stream, len(frame.data)
        record.base_offset, record.timestamp_ns = frame.base, frame.timestamp_ns
        record.flags = lib.RW_OWN_TIMES if frame.own else 0
        record.payload_bytes, record.digest = len(payload), lib.rw_xxh3(payload, len(payload))
        at += lib.rw_frame_put(memory + at, record, payload, lib.rw_frame_seed(epoch, position))
    block.magic, block.format_version, block.epoch, block.position = BLOCK_MAGIC, lib.RW_FORMAT_VERSION, epoch, position
    block.length, block.used, block.frames, block.kind = length, used, len(frames), kind
    block.span, block.number = span or length, number
    block.timestamp_ns = max((frame.timestamp_ns for frame in frames), default=0)
    if previous is not None:
        block.previous_epoch, block.previous_begin, block.previous_end = previous
    ffi.memmove(block.uuid, UUID, len(UUID))
    lib.rw_block_stamp(block)
    ffi.memmove(memory, block, ffi.sizeof("rw_block"))
    return bytes(ffi.buffer(memory))


BLOCK_MAGIC = int.from_bytes(b"RWBLOCK1", "little")


class LogMaker:
    """A log that grows by `add`. `begin_epoch` makes its memory; older epochs are only files."""

    def __init__(
        self, directory: Path, *, ring_bytes: int = 1 << 16, segment_bytes: int = 1 << 18, streams: int = 16
    ) -> None:
        self.directory = directory
        self.segment_bytes = segment_bytes
        self.ring_bytes = ring_bytes
        self.streams = streams
        self.position = 0
        self.number = 0
        self.epoch = 0
        self.next_offset = [0] * streams
        self.control: Any = None
        self.ring: Any = None
        self._memory: mmap.mmap | None = None
        self._epochs: list[EpochRow] = []
        (directory / SEGMENTS).mkdir(parents=True)
        made = Manifest(uuid=UUID, segment_bytes=segment_bytes, window_bytes=ring_bytes)
        self._manifest = manifests.create(log_at(directory), made)

    def close(self) -> None:
        if self.ring is not None:
            assert lib.rw_unmap(self.ring, 0, self.ring_bytes) == 0
        self.ring = self.control = None

    def begin_epoch(
        self, *, previous_end: int | None = None, segment: int | None = None, carried: Sequence[Frame] = ()
    ) -> None:
        """The epoch's first block, here or at the start of `segment`, what is carried over, a checkpoint, and fresh memory."""
        previous = self._epochs[-1]._replace(end=previous_end or self.position) if self._epochs else EpochRow(0, 0, 0)
        if segment is not None:
            self.position = segment * self.segment_bytes
        elif self.segment_bytes - self.position % self.segment_bytes < 2 * PAGE:
            self.position += self.segment_bytes - self.position % self.segment_bytes
        self.epoch += 1
        begin = self.position
        self._epochs = [*self._epochs[:-1], *([previous] if self._epochs else []), EpochRow(self.epoch, begin, 0)]
        self._put([], kind=lib.RW_BLOCK_EPOCH, previous=previous)
        if carried:
            self._put(carried)
        self._store_checkpoint(begin)
        self._create_memory(begin)

    def checkpoint(self) -> None:
        """One of everything so far, in the files."""
        self._store_checkpoint(self._epochs[-1].begin)

    def _store_checkpoint(self, begin: int) -> None:
        rows = [StreamRow(stream, f"s{stream}", offset, 0, 0, 0) for stream, offset in enumerate(self.next_offset)]
        made = Checkpoint(
            uuid=UUID, epoch=self.epoch, position=self.position, block_number=self.number, timestamp_ns=0, streams=pack(rows),
            next_number=len(rows), epochs=tuple(self._epochs),
        )  # fmt: skip
        log = log_at(self.directory)
        named = checkpoint_file.put(log, self._manifest, made, self.streams)
        end = self.position // self.segment_bytes + 1
        self._manifest = manifests.store(
            log, dataclasses.replace(named, epoch=self.epoch, claimed=self.epoch, epoch_begin=begin, named_end=end)
        )

    def _create_memory(self, begin: int) -> None:
        self.close()
        geometry = ffi.new("rw_geometry *", (2, 0, 64, self.streams, 0, self.ring_bytes, self.segment_bytes))
        self._memory = mmap.mmap(-1, lib.rw_control_bytes(geometry))
        self.control = ffi.cast("rw_control *", ffi.from_buffer(self._memory))
        lib.rw_control_create(self.control, geometry, UUID, self.epoch, begin, self.position, self.number)
        for stream, offset in enumerate(self.next_offset):
            name = f"s{stream}".encode()
            row = {"number": stream, "name": name, "name_bytes": len(name), "next_offset": offset}
            lib.rw_stream_restore(self.control, stream, ffi.new("rw_checkpoint_stream *", row))
        fd = os.memfd_create("ring")
        os.truncate(fd, self.ring_bytes)
        self.ring = ffi.cast("uint8_t *", lib.rw_map(fd, 0, self.ring_bytes, 1))
        os.close(fd)
        assert self.ring != ffi.NULL

    def reader(self) -> Reader:
        return NumberReader.of_engine(log_at(self.directory), self.control, self.ring)

    def segment_file(self, segment: int) -> Path:
        return path_of(self.directory, segment)

    def write_file(self, position: int, data: bytes) -> None:
        """Bytes at a log position of the segment files, and nothing else."""
        number = position // self.segment_bytes
        path = self.segment_file(number)
        made = not path.exists()
        with path.open("w+b" if made else "r+b") as file:
            if made:
                segments.write_header(file.fileno(), self._manifest, number)
            file.truncate(segments.HEADER_BYTES + self.segment_bytes)
            file.seek(segments.HEADER_BYTES + position % self.segment_bytes)
            file.write(data)

    def damage(self, position: int, byte: int) -> None:
        """Flip one bit of the byte `byte` of the block at `position`, on disk."""
        with self.segment_file(position // self.segment_bytes).open("r+b") as file:
            file.seek(segments.HEADER_BYTES + position % self.segment_bytes + byte)
            old = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([old ^ 1]))

    def _put(
        self, frames: Sequence[Frame], *, kind: int = lib.RW_BLOCK_DATA, span: int = 0, previous: EpochRow | None = None
    ) -> bytes:
        """A block at the end of the log, on disk only."""
        where = {"epoch": self.epoch, "position": self.position, "number": self.number}
        block = block_bytes(frames, kind=kind, span=span, previous=previous, **where)
        self.write_file(self.position, block)
        self.position += span or len(block)
        self.number += 1
        return block

    def add(self, *frames: tuple[int, Sequence[bytes]], confirm: bool = True, timestamp_ns: int = 0) -> int:
        """A block with a batch per (stream, payloads), sealed and on disk. Returns its position."""
        batches = []
        next_offset = list(self.next_offset)
        for stream, data in frames:
            batches.append(Frame(stream, next_offset[stream], data, timestamp_ns))
            next_offset[stream] += len(data)
        size = len(block_bytes(batches, epoch=self.epoch, position=self.position))
        left = self.segment_bytes - self.position % self.segment_bytes
        if size > left - PAGE:
            self._seal([], kind=lib.RW_BLOCK_END, span=left)
            if confirm:
                self.confirm()  # of what was sealed so far: the END block releases its ring space
        position = self.position
        self._seal(batches)
        self.next_offset = next_offset
        if confirm:
            self.confirm()
        return position

    def _seal(self, frames: Sequence[Frame], *, kind: int = lib.RW_BLOCK_DATA, span: int = 0) -> None:
        control, position, number = self.control, self.position, self.number
        block = self._put(frames, kind=kind, span=span)
        control.reserve_end = max(control.reserve_end, position + len(block))
        ffi.memmove(self.ring + position % self.ring_bytes, block, len(block))
        entry = lib.rw_block_entry_of(control, number)
        entry.number, entry.position, entry.span, entry.length = number, position, span or len(block), len(block)
        control.sealed_end, control.sealed = self.position, self.number

    def confirm(self) -> None:
        """All that is sealed is confirmed, and its ring space may be used again."""
        for stream, offset in enumerate(self.next_offset):
            lib.rw_stream_of(self.control, stream).confirmed_offset = offset
        self.control.released_end, self.control.released = self.position, self.number


def data_of(stream: int, offset: int, size: int | None = None) -> bytes:
    """What every test writes at that place; the size varies, and is often 0."""
    size = (offset * 7919 + stream) % 13 * 40 if size is None else size
    return (f"{stream}:{offset};".encode() * (size // 3 + 1))[:size]


def add(log: LogMaker, stream: int, count: int = 1, *, size: int | None = None, confirm: bool = True) -> int:
    base = log.next_offset[stream]
    return log.add((stream, [data_of(stream, base + i, size) for i in range(count)]), confirm=confirm)


def fill_ring(log: LogMaker, stream: int = 9) -> None:
    """Moves the log on until nothing written before is in the ring."""
    end = log.position
    while lib.rw_log_low(log.control) < end:
        add(log, stream, size=PAGE)


def offsets(records: list[Record]) -> list[int]:
    return [record.offset for record in records]


def check(records: list[Record], stream: int, first: int, count: int, size: int | None = None) -> None:
    assert offsets(records) == list(range(first, first + count))
    assert [record.data for record in records] == [data_of(stream, first + i, size) for i in range(count)]
