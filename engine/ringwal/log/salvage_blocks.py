"""Copying the blocks of a damaged log: whole ones as they are, of others what is proven, and holes for the rest.

A frame's checksums know its epoch, and the position of its block, but neither the block's length nor the log's uuid. So
frames are copied bit by bit, into a block at the same position: one that lost some of its frames becomes a hole that has the
others, and so does one whose header is damaged and whose frames are not.

A frame keeps its timestamp. A block's own says less: it is not before those of its frames, nor before the block in front. So
a hole, of which nobody knows when it was written, gets the earliest time that this allows; a later one might be behind that of
the next block. A whole block keeps its own, unless times went back in the damaged log, too: then it is moved up here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ringwal._native import ffi, lib
from ringwal.log import segment
from ringwal.log.checkpoint import EpochRow
from ringwal.log.directory import Directory
from ringwal.log.files import ANY_LENGTH, PAGE, opened, page_up, sync_directory, write_all
from ringwal.log.manifest import Manifest
from ringwal.log.pages import Pages

HEADER_BYTES, FRAME_BYTES = ffi.sizeof("rw_block"), ffi.sizeof("rw_frame")
_PERSISTED = 5
_PAYLOADS = {
    lib.RW_FRAME_STREAM: range(1, lib.RW_STREAM_NAME_MAX + 1),
    lib.RW_FRAME_TRIM: range(8, 9),
    lib.RW_FRAME_DELETE: range(1),
    lib.RW_FRAME_COMMIT: range(8, 9),
    lib.RW_FRAME_SETTINGS: range(lib.RW_SETTINGS_HEAD, lib.RW_SETTINGS_HEAD + lib.RW_SETTINGS_TEXT + 1),
}


class Frame(NamedTuple):
    """A frame that is proven, with its bytes, padding included."""

    position: int
    kind: int
    stream: int
    base: int
    records: int
    timestamp_ns: int
    payload: bytes
    raw: bytes
    joined: bool
    """It is a part of a joint append, and so is the next one."""


class Blocks:
    """The blocks of a log, as far as they are there."""

    def __init__(self, directory: Directory, manifest: Manifest) -> None:
        self._pages = Pages(directory, manifest.segment_bytes)
        self._uuid, self._size = manifest.uuid, manifest.segment_bytes
        self.segment_bytes = manifest.segment_bytes

    def close(self) -> None:
        """Release the descriptor."""
        self._pages.close()

    def header(self, epoch: int, position: int, end: int) -> Any:
        """A copy of the header of the block there, `rw_block *`; None: there is no valid one, or it goes beyond `end`."""
        page = self._pages.bytes_at(position, HEADER_BYTES)
        if lib.rw_block_check(page, ANY_LENGTH, self._uuid, epoch, position) != lib.RW_OK:
            return None
        head = ffi.new("rw_block *")
        ffi.memmove(head, page, HEADER_BYTES)
        return head if head.span <= min(end, self._segment_end(position)) - position else None

    def next_header(self, epoch: int, position: int, end: int) -> int:
        """The first place from `position` on with a valid header, or the end of the segment, or `end`."""
        end = min(end, self._segment_end(position))
        while position < end and self.header(epoch, position, end) is None:
            position += PAGE
        return min(position, end)

    def is_whole(self, position: int, length: int) -> bool:
        """Is the block, whose header is good, valid?"""
        return bool(lib.rw_block_verify(self._pages.bytes_at(position, length)) == lib.RW_OK)

    def bytes_of(self, position: int, length: int) -> bytearray:
        """A copy."""
        return bytearray(self._pages.bytes_at(position, length))

    def frames(self, epoch: int, position: int, end: int) -> Iterator[Frame]:
        """Those of the block at `position` that are proven, whatever its header is like; up to the first whose own is not."""
        at, seed = position + HEADER_BYTES, lib.rw_frame_seed(epoch, position)
        while at + FRAME_BYTES <= end:
            raw = self._pages.bytes_at(at, FRAME_BYTES)
            head = ffi.new("rw_frame *")
            if lib.rw_frame_check(raw, end - at, 0, seed, head) != lib.RW_OK:
                return
            size = (int(head.payload_bytes) + 7) // 8 * 8
            payload = self._pages.bytes_at(at + FRAME_BYTES, head.payload_bytes) if head.payload_bytes else b""
            if _is_whole(head, payload):
                padded = raw[:_PERSISTED] + b"\0" + raw[_PERSISTED + 1 :] + payload.ljust(size, b"\0")
                numbers = head.kind, head.stream, head.base_offset, head.count, head.timestamp_ns
                yield Frame(at, *numbers, payload, padded, bool(head.flags & lib.RW_JOINED))
            at += FRAME_BYTES + size

    def _segment_end(self, position: int) -> int:
        return (position // self._size + 1) * self._size


def _is_whole(head: Any, payload: bytes) -> bool:
    if lib.rw_xxh3(payload, len(payload)) != head.digest:
        return False
    if head.kind == lib.RW_FRAME_BATCH:
        return bool(lib.rw_batch_check(payload, len(payload), head.count, head.flags) == lib.RW_OK)
    return len(payload) in _PAYLOADS.get(head.kind, range(len(payload) + 1))


class Copy:
    """The log that is made. Nothing of it is durable before `sync`."""

    def __init__(self, directory: Directory, manifest: Manifest) -> None:
        """Makes the files of all segments that `manifest` names; its uuid is the new log's. Raises StorageFull, OSError."""
        self._directory = directory
        self._manifest = manifest
        self._size = manifest.segment_bytes
        self._fd, self._open = -1, -1
        self.number = 0
        """Of the next block that is made here."""
        self.timestamp_ns = 0
        """Of the block that was put last: none behind it may be older."""
        for number in range(manifest.first_segment, manifest.named_end):
            with opened(segment.name_of(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, at=directory.segments) as fd:
                os.ftruncate(fd, segment.HEADER_BYTES + self._size)
                segment.write_header(fd, manifest, number)

    def put(self, position: int, block: bytearray) -> None:
        """That block, which lies behind all that were put before, with this log's uuid. Raises OSError."""
        data = ffi.from_buffer("uint8_t[]", block)
        head = ffi.cast("rw_block *", data)
        ffi.memmove(head.uuid, self._manifest.uuid, len(self._manifest.uuid))
        head.timestamp_ns = self.timestamp_ns = max(self.timestamp_ns, int(head.timestamp_ns))
        lib.rw_block_stamp(head)
        self.number = int(head.number) + 1
        del head
        ffi.release(data)
        number = position // self._size
        if number != self._open:
            self._close()
            flags = os.O_WRONLY | os.O_CLOEXEC
            self._fd = os.open(segment.name_of(number), flags, dir_fd=self._directory.segments)
            self._open = number
        write_all(self._fd, memoryview(block), segment.HEADER_BYTES + position % self._size)

    def hole(self, epoch: int, position: int, span: int, frames: Sequence[Frame]) -> None:
        """What is left of `span` bytes of log. Raises OSError."""
        self.make({"kind": lib.RW_BLOCK_HOLE, "span": span}, epoch, position, frames)

    def first(self, row: EpochRow, previous: EpochRow) -> None:
        """The first block of an epoch, which says what everybody else says of the epoch before. Raises OSError."""
        self.number = 0
        fields = {
            "kind": lib.RW_BLOCK_EPOCH,
            "previous_epoch": previous.epoch,
            "previous_begin": previous.begin,
            "previous_end": previous.end,
        }
        self.make(fields, row.epoch, row.begin, ())

    def make(self, fields: dict[str, int], epoch: int, position: int, frames: Sequence[Frame]) -> None:
        """A block of these frames; as `put`. Raises OSError."""
        body = b"".join(frame.raw for frame in frames)
        used = HEADER_BYTES + len(body)
        head = ffi.new("rw_block *", {"epoch": epoch, "position": position, "number": self.number, **fields})
        head.magic, head.format_version = _MAGIC, lib.RW_FORMAT_VERSION
        head.length, head.used, head.frames = page_up(used), used, len(frames)
        head.span = head.span or head.length
        head.watermark = head.watermark or position
        head.timestamp_ns = max([int(head.timestamp_ns), *(frame.timestamp_ns for frame in frames)])
        self.put(position, bytearray((bytes(ffi.buffer(head)) + body).ljust(page_up(used), b"\0")))

    def sync(self) -> None:
        """Everything is durable, names included. Raises OSError."""
        self._close()
        for number in range(self._manifest.first_segment, self._manifest.named_end):
            with opened(segment.name_of(number), os.O_RDONLY, at=self._directory.segments) as fd:
                os.fsync(fd)
        sync_directory(self._directory.segments)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = self._open = -1

    def close(self) -> None:
        """Release the descriptor."""
        self._close()


_MAGIC = int.from_bytes(b"RWBLOCK1", "little")
