"""Side files: what says where each stream's records are in a segment, so that nobody has to go through it (csrc/sidefile.h).

`DIR/segments/<number, 20 digits>.side` stands beside the segment of that number, once that lies wholly below the checkpoint
that the manifest names: before, a start might still cut the log there. Written under another name, synced, renamed, never
changed; so it is whole or not there. Everything in it can be made again from the segment. A damaged one, or one of another
log, counts as missing, and costs time only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError
from ringwal.log import segment
from ringwal.log.checkpoint import STREAM_BYTES, Checkpoint, EpochRow, extents
from ringwal.log.directory import Directory
from ringwal.log.files import ANY_LENGTH, PAGE, opened, sync_directory, unlink, write_all
from ringwal.log.manifest import Manifest
from ringwal.log.window import Window
from ringwal.points import point

DRAFT_SUFFIX = ".draft"
ROW_BYTES = 16
"""Of a row of what a segment holds (occupancy.py), and of an end."""
_NAME = re.compile(r"(\d{20})\.side")
_DRAFT = re.compile(r"\d{20}\.side" + re.escape(DRAFT_SUFFIX))


class Unproven(Exception):
    """A page of a side file is not what was written: the file counts as missing from now on."""


class Span(NamedTuple):
    """Records of one stream in one segment: offsets first <= offset < next, and their payload, lengths included."""

    first: int
    next: int
    payload_bytes: int


class Block(NamedTuple):
    """A block of the segment. No block up to it is newer than `newest_ns`."""

    position: int
    length: int
    frames: int
    newest_ns: int


class Times(NamedTuple):
    """When the first and the newest block of a segment were composed (wall clock, ns)."""

    oldest_ns: int
    newest_ns: int


def name_of(number: int) -> str:
    """The name of the side file of segment `number` in the directory of segments."""
    return f"{number:020d}.side"


def numbers(directory: Directory) -> list[int]:
    """Numbers of all side files, in order. Raises OSError."""
    return sorted(int(match[1]) for name in _names(directory) if (match := _NAME.fullmatch(name)))


def _names(directory: Directory) -> list[str]:
    with opened(".", os.O_RDONLY | os.O_DIRECTORY, at=directory.segments) as fd:
        return os.listdir(fd)


def limit(manifest: Manifest) -> int:
    """Segments below this number lie wholly below the checkpoint that `manifest` names: they may have a side file."""
    return manifest.checkpoint_position // manifest.segment_bytes


# ---------------------------------------------------------------------------------------------------------- reading


class SideFile:
    """The side file of one segment, open for reading; it holds one descriptor. Thread-safe.

    Every question may raise Unproven: then it is as if there were no file.
    """

    __slots__ = ("_at", "_side", "checked", "number")

    def __init__(self, side: Any, number: int) -> None:
        """By `open`."""
        self._side = side
        self.number = number
        self.checked = False
        """For who has opened it: has `is_of` said yes?"""
        self._at: Any = lib.rw_side_header_of(side)

    @classmethod
    def open(cls, directory: Directory, uuid: bytes, segment_bytes: int, number: int) -> SideFile | None:
        """That of segment `number`; None: there is none, or none to be believed. Raises FileNotFoundError: no DIR/segments."""
        side = lib.rw_side_open(directory.segments, name_of(number).encode(), uuid, number, segment_bytes)
        return None if side == ffi.NULL else cls(ffi.gc(side, lib.rw_side_close), number)

    @property
    def newest_ns(self) -> int:
        """When the newest block was composed (wall clock); nothing in the segment is newer."""
        return int(self._at.newest_ns)

    @property
    def oldest_ns(self) -> int:
        """When the first block was composed (wall clock)."""
        return int(self._at.oldest_ns)

    @property
    def streams(self) -> int:
        """How many have records in the segment."""
        return int(self._at.streams)

    @property
    def blocks(self) -> int:
        """How many there are in the segment."""
        return int(self._at.blocks)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return int(self._at.bytes)

    @property
    def bytes_read(self) -> int:
        """Of the file, so far."""
        return int(lib.rw_side_read(self._side))

    def close(self) -> None:
        """Give its memory and descriptor back before the last reference goes. Nothing may be asked afterwards, by no thread."""
        ffi.release(self._side)

    def prove(self) -> bool:
        """Read all of it: can every page be believed?"""
        return bool(lib.rw_side_prove(self._side) == lib.RW_OK)

    def is_of(self, directory: Directory, *, every: bool = False) -> bool:
        """Is its last block with frames in the segment, by that block's header? With `every`, all blocks are looked for.

        uuid and number do not say so: a log that was copied and went on twice has two histories. A segment that cannot be
        read, or is freed, says nothing against it.
        """
        rows, blocks = self.epochs(), self.blocks
        if not rows or not blocks:
            return True
        looked_at = blocks if every else self._blocks_behind_frames()
        try:
            with opened(segment.name_of(self.number), os.O_RDONLY, at=directory.segments) as fd:
                if 1 < looked_at < blocks:
                    self._ask_for(fd, range(blocks - looked_at, blocks))
                for i in reversed(range(blocks - looked_at, blocks)):
                    block = self._block_at(i)
                    newest = self._block_at(i - 1).newest_ns if i else 0
                    epoch = next((row.epoch for row in rows if block.position < row.end), 0)
                    if not self._is_there(fd, epoch, block, newest):
                        return False
        except OSError:
            return True
        return True

    def _blocks_behind_frames(self) -> int:
        """How many blocks there are from the last one with frames on; all, if none has any."""
        found = 1
        while found < self.blocks and not self._block_at(self.blocks - found).frames:
            found += 1
        return found

    def _ask_for(self, fd: int, numbers: range) -> None:
        """Their headers lie far apart: the device fetches them together, not one after the other."""
        for i in numbers:
            os.posix_fadvise(fd, self._place_of(self._block_at(i)), int(ffi.sizeof("rw_block")), os.POSIX_FADV_WILLNEED)

    def _place_of(self, block: Block) -> int:
        """In the segment's file, bytes."""
        return segment.HEADER_BYTES + block.position - self.number * int(self._at.segment_bytes)

    def _block_at(self, i: int) -> Block:
        found = ffi.new("rw_side_block *")
        _there(lib.rw_side_block_of(self._side, i, found))
        return _block(found)

    def _is_there(self, fd: int, epoch: int, block: Block, newest_ns: int) -> bool:
        """`newest_ns`: of the block before. Raises OSError."""
        head = ffi.new("rw_block *")
        data = ffi.buffer(head)
        at = self._place_of(block)
        for again in (False, True):
            if again:  # the engine writes past the page cache
                os.posix_fadvise(fd, at, len(data), os.POSIX_FADV_DONTNEED)
            if os.preadv(fd, [data], at) < len(data):
                continue
            page = ffi.from_buffer("uint8_t[]", data)
            if lib.rw_block_check(page, ANY_LENGTH, self._at.uuid, epoch, block.position) == lib.RW_OK:
                same = (head.length, head.frames) == (block.length, block.frames)
                return bool(same and max(head.timestamp_ns, newest_ns) == block.newest_ns)
        return False

    def span(self, stream: int) -> Span | None:
        """What the segment has of the stream of that number; None: nothing."""
        found = ffi.new("rw_side_stream *")
        if not _there(lib.rw_side_span(self._side, stream, found)):
            return None
        return Span(found.first_offset, found.next_offset, found.payload_bytes)

    def find(self, stream: int, offset: int) -> int | None:
        """Log position of the block with that record; None: it is not in the segment."""
        found = ffi.new("rw_side_block *")
        return int(found.position) if _there(lib.rw_side_find(self._side, stream, offset, found)) else None

    def block_of(self, stream: int, offset: int) -> Block | None:
        """The block with that record; None: it is not in the segment."""
        found = ffi.new("rw_side_block *")
        return _block(found) if _there(lib.rw_side_find(self._side, stream, offset, found)) else None

    def end(self, stream: int) -> int | None:
        """The offset behind the stream's last record in this segment or before; None: up to here it has nothing that is not
        freed."""
        found = ffi.new("uint64_t *")
        return int(found[0]) if _there(lib.rw_side_end(self._side, stream, found)) else None

    def at_time(self, ns: int) -> Block | None:
        """The first block that is not older: every record before it is. None: all of the segment is older."""
        found = ffi.new("rw_side_block *")
        return _block(found) if _there(lib.rw_side_at_time(self._side, ns, found)) else None

    def before(self, block: Block) -> Block | None:
        """The one in front of that block of this segment; None: it is the first."""
        low, high = 0, self.blocks
        while low < high:
            middle = (low + high) // 2
            if self._block_at(middle).position < block.position:
                low = middle + 1
            else:
                high = middle
        return self._block_at(low - 1) if low else None

    def each_block(self) -> Iterator[Block]:
        """All of them, in log order."""
        found = ffi.new("rw_side_block *")
        for i in range(self.blocks):
            _there(lib.rw_side_block_of(self._side, i, found))
            yield _block(found)

    def epochs(self) -> list[EpochRow]:
        """What the segment has of each epoch, oldest first."""
        rows, found = [], ffi.new("rw_side_epoch *")
        for i in range(self._at.epochs):
            _there(lib.rw_side_epoch_of(self._side, i, found))
            rows.append(EpochRow(found.epoch, found.begin, found.end))
        return rows

    def occupants(self) -> bytes:
        """For each stream with records here the offset behind the last one (`rw_occupant`), in order of numbers."""
        return self._rows(self.streams, lib.rw_side_occupants)

    def live(self, streams: bytes) -> tuple[int, list[Block]]:
        """The blocks with a record at or behind the start offset of its stream in `streams`, rows as a checkpoint has them, and
        how many bytes they take."""
        live, size = ffi.new("uint8_t[]", max(self.blocks, 1)), ffi.new("uint64_t *")
        with ffi.from_buffer("rw_checkpoint_stream[]", streams) as rows:
            _there(lib.rw_side_live(self._side, rows, len(streams) // STREAM_BYTES, live, size))
        found = ffi.new("rw_side_block *")
        blocks = []
        for i, alive in enumerate(ffi.buffer(live)[: self.blocks]):
            if alive:
                _there(lib.rw_side_block_of(self._side, i, found))
                blocks.append(_block(found))
        return int(size[0]), blocks

    def ends(self) -> bytes:
        """`end` of all streams (`rw_occupant`), in order of numbers."""
        return self._rows(int(self._at.ends), lib.rw_side_ends)

    def _rows(self, count: int, fill: Callable[[Any, Any], int]) -> bytes:
        rows = ffi.new("rw_occupant[]", max(count, 1))
        _there(fill(self._side, rows))
        return bytes(ffi.buffer(rows, count * ROW_BYTES))


def times(directory: Directory, uuid: bytes, segment_bytes: int, number: int) -> Times | None:
    """Of segment `number`, by the header of its side file alone, which costs one read. It is not looked for in the segment
    (`is_of`), so it is a hint. None: it has no block, or there is no such file, or none to be believed."""
    found = ffi.new("rw_side_header *")
    if lib.rw_side_peek(directory.segments, name_of(number).encode(), uuid, number, segment_bytes, found) != lib.RW_OK:
        return None
    return Times(int(found.oldest_ns), int(found.newest_ns)) if found.blocks else None


def _there(code: int) -> bool:
    if code == lib.RW_BAD:
        raise Unproven
    return bool(code == lib.RW_OK)


def _block(found: Any) -> Block:
    return Block(found.position, found.length, found.frames, found.newest_ns)


# ----------------------------------------------------------------------------------------------------------- making


class Maker:
    """What is gathered of one segment, in log order, until its side file can be written."""

    def __init__(self) -> None:
        """Raises MemoryError."""
        made = lib.rw_side_maker_open()
        if made == ffi.NULL:
            raise MemoryError("no memory for a side file")
        self.pointer = ffi.gc(made, lib.rw_side_maker_close)
        """For `rw_side_follow`."""

    @property
    def size(self) -> int:
        """Bytes of memory that it takes, about."""
        return int(lib.rw_side_maker_bytes(self.pointer))

    def clear(self) -> None:
        """Begin anew."""
        lib.rw_side_maker_clear(self.pointer)


def gather(
    directory: Directory,
    manifest: Manifest,
    epochs: list[EpochRow],
    number: int,
    *,
    direct: bool,
    meanwhile: Callable[[int], None] | None = None,
) -> Maker:
    """Go through segment `number`, of which `epochs` are the extents (`extents_of`). Every block is checked, payloads too.
    `meanwhile` is called with how many bytes were read since the last call.

    Raises:
        CorruptionError: a block is damaged or the file is missing: there can be no side file, unless it was gathered before.
        MemoryError, OSError.
    """
    maker, window = Maker(), Window(directory, manifest, direct=direct)
    try:
        for epoch, begin, end in epochs:
            walk = ffi.new("rw_walk *", {"epoch": epoch, "position": begin})
            ffi.memmove(walk.uuid, manifest.uuid, len(manifest.uuid))
            _gather_extent(window, walk, maker, number, end, meanwhile)
    finally:
        window.close()
    return maker


def _gather_extent(
    window: Window, walk: Any, maker: Maker, number: int, end: int, meanwhile: Callable[[int], None] | None
) -> None:
    area, need = ffi.new("rw_area *", {"mask": ANY_LENGTH}), PAGE
    while walk.position < end:
        at = int(walk.position)
        skip, held = window.show(at, min(need, end - at))
        with ffi.from_buffer("uint8_t[]", window.memory) as memory:
            area.base, area.origin, area.end = memory + skip, at, min(at + held, end)
            stop = lib.rw_side_gather(area, walk, maker.pointer)
        if meanwhile is not None:
            meanwhile(int(walk.position) - at)
        if stop == lib.RW_WALK_FULL:
            raise MemoryError(f"segment {number} has more than a side file can say")
        if stop == lib.RW_WALK_BAD or (stop == lib.RW_WALK_SHORT and walk.position + walk.need > end):
            raise CorruptionError("a block is damaged", number, int(walk.position))
        need = int(walk.need) if stop == lib.RW_WALK_SHORT else PAGE
    if walk.position != end:
        raise CorruptionError("a block runs past the end of its part of the log", number, end)


def extents_of(checkpoint: Checkpoint, segment_bytes: int, number: int) -> list[EpochRow]:
    """What segment `number`, which lies below the checkpoint, has of each epoch, oldest first."""
    begin, end = number * segment_bytes, (number + 1) * segment_bytes
    return list(extents(checkpoint.epochs, begin, end, segment_bytes))


def write(
    directory: Directory, manifest: Manifest, checkpoint: Checkpoint, number: int, maker: Maker, before: bytes
) -> bytes:
    """Write the side file of segment `number`, of which `maker` has everything, durably. `before` are the ends of the segment
    before, b"" if it was the first. Returns the ends of this one.

    The file's name may be lost with the power until the directory is synced, which is left to the caller (`sync`).

    Raises:
        ValueError: the segment does not lie below the checkpoint that the manifest names.
        MemoryError, OSError: nothing is left behind but a draft, which the next one writes over.
    """
    if number >= limit(manifest) or checkpoint.position < manifest.checkpoint_position:
        raise ValueError(f"segment {number} is not below the checkpoint")
    ends = _fold(maker, before, checkpoint)
    epochs = extents_of(checkpoint, manifest.segment_bytes, number)
    data = _render(maker, manifest, number, epochs, ends)
    draft, at = name_of(number) + DRAFT_SUFFIX, directory.segments
    unlink(draft, at=at)
    with opened(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, at=at) as fd:
        write_all(fd, memoryview(data), 0)
        point("k.side.written")
        os.fsync(fd)
    os.rename(draft, name_of(number), src_dir_fd=at, dst_dir_fd=at)
    point("k.side.renamed")
    return ends


def sync(directory: Directory) -> None:
    """Make the names of side files durable. Raises OSError."""
    sync_directory(directory.segments)


def _fold(maker: Maker, before: bytes, checkpoint: Checkpoint) -> bytes:
    count, known = len(before) // ROW_BYTES, len(checkpoint.streams) // STREAM_BYTES
    out = ffi.new("rw_occupant[]", count + int(lib.rw_side_maker_streams(maker.pointer)) + 1)
    with (
        ffi.from_buffer("rw_occupant[]", before) as rows,
        ffi.from_buffer("rw_checkpoint_stream[]", checkpoint.streams) as streams,
    ):
        made = int(lib.rw_side_fold_ends(maker.pointer, rows, count, streams, known, out))
    if made < 0:
        raise MemoryError("no memory for a side file")
    return bytes(ffi.buffer(out, made * ROW_BYTES))


def _render(maker: Maker, manifest: Manifest, number: int, epochs: list[EpochRow], ends: bytes) -> bytearray:
    data = bytearray(lib.rw_side_size(maker.pointer, len(epochs), len(ends) // ROW_BYTES))
    rows = ffi.new("rw_side_epoch[]", [tuple(row) for row in epochs])
    with ffi.from_buffer("rw_occupant[]", ends) as held, ffi.from_buffer("uint8_t[]", data) as out:
        code = lib.rw_side_render(
            maker.pointer, manifest.uuid, number, manifest.segment_bytes, rows, len(epochs), held, len(ends) // ROW_BYTES, out
        )
    if code != lib.RW_OK:
        raise MemoryError("no memory for a side file")
    return data


# --------------------------------------------------------------------------------------------------------- removing


def remove(directory: Directory, number: int) -> None:
    """That of segment `number`, if there is one. Raises OSError."""
    unlink(name_of(number), at=directory.segments)


def clear(directory: Directory, manifest: Manifest, kept: Collection[int] = ()) -> None:
    """For a start: remove what is left over, drafts, and what has no business to be there. Those of segments that are `kept`
    stay, though the segment is freed. Raises OSError."""
    end = limit(manifest)
    for name in _names(directory):
        match = _NAME.fullmatch(name)
        number = int(match[1]) if match else None
        stays = number is None or number in kept or manifest.first_segment <= number < end
        if _DRAFT.fullmatch(name) or not stays:
            unlink(name, at=directory.segments)
