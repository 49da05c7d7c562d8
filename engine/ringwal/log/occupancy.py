"""What a segment holds: for each stream with a record in it, the offset behind the last one (csrc/occupancy.h).

A segment is free when none of that is left: every row lies at or below the start offset that the checkpoint has for its
stream, or the checkpoint does not have the stream. Definitions do not count, as checkpoints have the names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from collections.abc import Callable, Sequence
from typing import Any

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError
from ringwal.log.checkpoint import STREAM_BYTES, EpochRow, extents
from ringwal.log.directory import Directory
from ringwal.log.files import ANY_LENGTH, PAGE
from ringwal.log.manifest import Manifest
from ringwal.log.sidefile import SideFile, Unproven
from ringwal.log.window import Window

_ROW = struct.Struct("<IIQ")
ROW_BYTES = _ROW.size
_ENTRIES = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True)
class Live:
    """What of a segment somebody may still read."""

    rows: bytes
    """As `read` gives them."""
    count: int
    reserved: int | None
    """Number of a stream of the engine's own that is among them."""


def live(rows: bytes, streams: bytes) -> Live:
    """Those `rows` of a segment that have a record at or behind the start offset of their stream in `streams`: rows as a
    checkpoint has them, of a position behind the segment."""
    count = len(rows) // ROW_BYTES
    found, reserved = ffi.new("rw_occupant[]", max(count, 1)), ffi.new("uint32_t *")
    known = len(streams) // STREAM_BYTES
    with ffi.from_buffer("rw_occupant[]", rows) as held, ffi.from_buffer("rw_checkpoint_stream[]", streams) as table:
        left = lib.rw_occupancy_live(held, count, table, known, found, reserved)
    named = None if reserved[0] == lib.RW_NO_STREAM else int(reserved[0])
    return Live(bytes(ffi.buffer(found, left * ROW_BYTES)), int(left), named)


def read(
    directory: Directory,
    manifest: Manifest,
    epochs: Sequence[EpochRow],
    number: int,
    *,
    direct: bool,
    meanwhile: Callable[[], None] | None = None,
) -> bytes:
    """The rows of segment `number`, in order of stream numbers: from its side file, else from its blocks, as far as `epochs`
    reach. `meanwhile` is called after every few MiB.

    What is damaged denies its own records only: a block that is not valid, or a file that is missing, counts for nothing.

    Raises OSError: it cannot be opened.
    """
    if (rows := _from_side(directory, manifest, number)) is not None:
        return rows
    begin, end = number * manifest.segment_bytes, (number + 1) * manifest.segment_bytes
    window, scan = Window(directory, manifest, direct=direct), _Scan(manifest)
    try:
        for extent in extents(epochs, begin, end, manifest.segment_bytes):
            scan.extent(window, extent, meanwhile)
    except CorruptionError:  # of the file as a whole, or the disk cannot read it
        pass
    finally:
        window.close()
    return scan.rows


def _from_side(directory: Directory, manifest: Manifest, number: int) -> bytes | None:
    side = SideFile.open(directory, manifest.uuid, manifest.segment_bytes, number)
    with contextlib.suppress(Unproven):
        return None if side is None else side.occupants()
    return None


def merged(pieces: list[bytes]) -> bytes:
    """The rows of several segments together."""
    if len(pieces) == 1:
        return pieces[0]
    ends: dict[int, int] = {}
    for piece in pieces:
        for stream, _, end in _ROW.iter_unpack(piece):
            ends[stream] = max(end, ends.get(stream, 0))
    return b"".join(_ROW.pack(stream, 0, end) for stream, end in sorted(ends.items()))


class _Scan:
    """Goes through the blocks of one segment."""

    def __init__(self, manifest: Manifest) -> None:
        self.rows = b""
        self._manifest = manifest
        self._entries: Any = ffi.new("rw_index_entry[]", _ENTRIES)
        self._capacity = _ENTRIES
        self._count = ffi.new("uint32_t *")
        self._last: Any = ffi.new("uint32_t[]", 1 << 10)
        self._area = ffi.new("rw_area *", {"mask": ANY_LENGTH})

    def extent(self, window: Window, extent: EpochRow, meanwhile: Callable[[], None] | None) -> None:
        """What the segment has of one epoch. Raises CorruptionError: the disk cannot read it."""
        walk, end = ffi.new("rw_walk *", {"epoch": extent.epoch, "position": extent.begin}), extent.end
        ffi.memmove(walk.uuid, self._manifest.uuid, len(self._manifest.uuid))
        need = PAGE
        while walk.position < end:
            at = walk.position
            skip, held = window.show(at, min(need, end - at))
            with ffi.from_buffer("uint8_t[]", window.memory) as memory:
                self._area.base, self._area.origin = memory + skip, at
                self._area.end = min(at + held, end)
                stop = lib.rw_walk_index(
                    self._area, walk, self._entries, self._capacity, self._count, self._last, len(self._last)
                )
            need = PAGE
            if stop == lib.RW_WALK_FULL:
                self._grow(walk.need)
            elif stop == lib.RW_WALK_SHORT and at + walk.need <= end and walk.need > held:
                need = walk.need
            elif stop == lib.RW_WALK_BAD or walk.position == at:
                walk.position += PAGE
            self._fold()
            if meanwhile is not None:
                meanwhile()

    def _grow(self, need: int) -> None:
        if self._capacity < need:
            self._capacity = need
            grown = ffi.new("rw_index_entry[]", need)
            ffi.memmove(grown, self._entries, self._count[0] * ffi.sizeof("rw_index_entry"))
            self._entries = grown

    def _fold(self) -> None:
        had, more = len(self.rows) // ROW_BYTES, self._count[0]
        if more:
            into = ffi.new("rw_occupant[]", had + more)
            with ffi.from_buffer("rw_occupant[]", self.rows) as held:
                count = lib.rw_occupancy_fold(held, had, self._entries, more, into)
            self.rows = bytes(ffi.buffer(into, count * ROW_BYTES))
            self._count[0] = 0
