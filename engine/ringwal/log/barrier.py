"""Writing the beginning of an epoch: its barrier, and the records carried over from beyond the cut.

    segment m                                                                          m + 1, if need be
    +-----------+-----------+---+----------------+----------------+---+------ - - ----+----------------
    | BARRIER 0 | BARRIER 1 |...| BARRIER n LAST | carried records    ... appends      |
    +-----------+-----------+---+----------------+----------------+---+------ - - ----+----------------

Carried records are written and synced first, then the barrier, whose watermark covers them; only then does the manifest
name the epoch. So no crash can leave a torn barrier or a torn carried block in an epoch that the manifest names, and
recovery takes either for damage. Until the manifest names it, nothing of the epoch counts: the next recovery claims
another number, which is in every checksum, and writes over it.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from ringwal._native import ffi, lib
from ringwal.errors import ConfigError, CorruptionError
from ringwal.log import manifest as manifests
from ringwal.log import segment
from ringwal.log.directory import Directory
from ringwal.log.files import PAGE, page_buffer, page_up, write_all
from ringwal.log.manifest import Manifest
from ringwal.log.walk import Walk
from ringwal.points import point

BLOCK_BYTES = 256 << 10
_BLOCK_HEADER_BYTES = 128


class EpochWriter:
    """Writes the first blocks of the epoch after `walk`'s, from the beginning of segment `first` on."""

    def __init__(
        self, directory: Directory, manifest: Manifest, walk: Walk, cut: int, first: int, *, direct: bool
    ) -> None:
        self.manifest = manifest
        self._directory = directory
        self._walk = walk
        self._cut = cut
        self._first = first
        self._direct = direct
        self._size = manifest.segment_bytes
        self.begin = first * self._size
        self.position = self.begin
        self.block_number = 0
        self._fds: dict[int, int] = {}
        self._draft = ffi.new("rw_draft *")
        largest = page_up(_BLOCK_HEADER_BYTES + walk.scan.largest_frame)
        self._memory = page_buffer(max(BLOCK_BYTES, largest))

    def write(self, window_bytes: int) -> Manifest:
        """Write everything, then make the epoch the one in force. Returns the manifest that does.

        Raises:
            CorruptionError: the disk does not give the same bytes twice.
            StorageFull: a segment is needed and there is no room for it.
            ConfigError: the barrier does not fit into a segment.
            OSError: a write or sync failed.
        """
        # Before anything is written: no other attempt, before or after, has this number, so whatever one leaves behind is
        # told from the rest by its checksums.
        claimed = dataclasses.replace(self.manifest, claimed=self.manifest.claimed + 1)
        self.manifest = manifests.store(self._directory, claimed)
        point("rec.claimed")
        try:
            self._open_segment(self._first)
            self._barrier(watermark=0, write=False)
            if self._walk.scan.kept:
                self._carry()
            end, number = self.position, self.block_number
            self._sync()
            self.position, self.block_number = self.begin, 0
            point("rec.carried")
            self._barrier(watermark=end, write=True)
            point("rec.barrier")
            self._sync()
            self.position, self.block_number = end, number
        finally:
            self._close()
        switched = dataclasses.replace(
            self.manifest,
            epoch=self.manifest.claimed,
            epoch_begin=self.begin,
            checkpoint_position=self.begin,
            window_bytes=window_bytes,
        )
        point("rec.synced")
        return manifests.store(self._directory, switched)

    def _barrier(self, watermark: int, *, write: bool) -> None:
        """Compose the barrier at `begin`; without `write` only to learn where it ends."""
        scan = self._walk.scan
        stream = sequence = 0
        while sequence == 0 or stream < scan.stream_end:
            self._draft_block(BLOCK_BYTES)
            stream = lib.rw_draft_definitions(self._draft, scan, stream)
            last = lib.RW_BARRIER_LAST if stream == scan.stream_end else 0
            header = {
                "kind": lib.RW_BLOCK_BARRIER,
                "watermark": watermark,
                "previous_end": self._cut,
                "sequence": sequence | last,
            }
            self._seal(header, write=write)
            if self.position > self.begin + self._size - PAGE:
                raise ConfigError(
                    f"the definitions of {scan.stream_end} streams do not fit into a segment of {self._size} bytes"
                )
            sequence += 1

    def _carry(self) -> None:
        """Compose and write the records that are still in order beyond the cut."""
        decided = self._walk.offsets()
        lib.rw_recovery_carry(self._walk.scan, self._cut)
        self._draft_block(self._room())
        self._walk.run(self._draft, self._next_block)
        if self._draft.frames:
            self._seal_data()
        if self._walk.offsets() != decided:
            raise CorruptionError("the disk does not give the same bytes twice", *self._walk.place(self._cut))

    def _next_block(self) -> None:
        """Write the draft and begin another one, in the next segment if this one has no room for the next record."""
        if self._draft.frames:
            self._seal_data()
        if self._draft.frames == 0 or self._room() < PAGE:
            self._draft_block(PAGE)
            rest = self._size - self.position % self._size
            self._seal({"kind": lib.RW_BLOCK_END, "span": rest, "watermark": self.begin}, write=True)
            self._open_segment(self.position // self._size)
        self._draft_block(self._room())

    def _room(self) -> int:
        """Bytes that the next block may have: the last page of a segment is kept for its END block."""
        return min(len(self._memory), self._size - PAGE - self.position % self._size)

    def _draft_block(self, capacity: int) -> None:
        # The memory outlives the draft, and is never resized: the address stays good when the view is released.
        with ffi.from_buffer("uint8_t[]", self._memory) as base:
            lib.rw_draft_begin(self._draft, base, capacity, self.manifest.claimed, self.position)

    def _seal_data(self) -> None:
        # What lies before is not on the disk yet, except for what the old epoch left.
        self._seal({"kind": lib.RW_BLOCK_DATA, "watermark": self.begin}, write=True)

    def _seal(self, header: dict[str, Any], *, write: bool) -> None:
        like = ffi.new("rw_block *", header)
        like.number = self.block_number
        like.timestamp_ns = self._walk.scan.timestamp_ns
        length = lib.rw_draft_seal(self._draft, self.manifest.uuid, like)
        if write:
            offset = segment.HEADER_BYTES + self.position % self._size
            write_all(self._fds[self.position // self._size], memoryview(self._memory)[:length], offset)
        self.position += like.span or length
        self.block_number += 1

    def _open_segment(self, number: int) -> None:
        """Make sure that the segment exists and is named; open it."""
        if number >= self.manifest.named_end:
            self.manifest = segment.prepare(self._directory, self.manifest, number, direct=self._direct)
        (self._fds[number],) = segment.open_for_writing(self._directory, self.manifest, number, 1, direct=self._direct)

    def _sync(self) -> None:
        for fd in self._fds.values():
            os.fdatasync(fd)

    def _close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
