"""Writing the beginning of an epoch: its first block, the records carried over from beyond the cut, its first checkpoint.

    segment m                                                              m + 1, if need be
    ------------------- - - --+-------+----------------+------ - -    ----+-----+ +----------------
     ... the epoch before     | EPOCH | carried records| appends ...      | END | | ...
    ------------------- - - --+-------+----------------+------ - -    ----+-----+ +----------------
                  ^ its cut   ^ begin                  ^ the checkpoint's position

An epoch begins at the next page behind every block of the one before, whole or torn, in the same segment where there is
room: a start costs a page. Behind *everything*, so that a recovery that is cut short leaves what it saw to the next one.

The order: a fresh epoch number is claimed in the manifest; carried records are written and synced; the EPOCH block, whose
watermark covers them; the checkpoint, whose position is behind them. Then one write of the manifest puts epoch and
checkpoint in force. Until then nothing of the epoch counts, and what an attempt has left is told from everything else
by its epoch, which is in every checksum and which nobody ever claims again.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError
from ringwal.log import attic, checkpoint_file, freeing, segment, sidefile
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import STREAM_BYTES, Checkpoint, EpochRow, living
from ringwal.log.directory import Directory
from ringwal.log.files import PAGE, page_buffer, page_up, write_all
from ringwal.log.manifest import Manifest
from ringwal.log.walk import Walk
from ringwal.points import point

BLOCK_BYTES = 256 << 10
_BLOCK_HEADER_BYTES = 128


class EpochWriter:
    """Writes the first blocks of the epoch after `walk`'s, and puts it in force."""

    def __init__(
        self, directory: Directory, manifest: Manifest, walk: Walk, cut: int, epochs: tuple[EpochRow, ...], *, direct: bool
    ) -> None:
        """`epochs` are the rows up to the one that ends at `cut`, which may still say that it is in force."""
        self.manifest = manifest
        self._directory = directory
        self._walk = walk
        self._cut = cut
        self._epochs = epochs
        self._direct = direct
        self._size = manifest.segment_bytes
        self.begin = begin_of(directory, manifest, walk.scan.taken_end)
        self.position = self.begin
        self.block_number = 0
        self._fds: dict[int, int] = {}
        self._draft = ffi.new("rw_draft *")
        largest = page_up(_BLOCK_HEADER_BYTES + walk.scan.largest_frame)
        self._memory = page_buffer(max(BLOCK_BYTES, largest))

    def write(self, window_bytes: int, max_streams: int, max_owners: int) -> Manifest:
        """Write everything, then make the epoch the one in force. Returns the manifest that does.

        Raises:
            CorruptionError: the disk does not give the same bytes twice.
            StorageFull: a segment or a checkpoint's file is needed and there is no room for it.
            OSError: a write or sync failed.
        """
        checkpoint_file.prepare(self._directory, max_streams, max_owners)
        # Before anything is written: no other attempt, before or after, has this number.
        claimed = dataclasses.replace(self.manifest, claimed=self.manifest.claimed + 1, end=0)
        self.manifest = manifests.store(self._directory, claimed)
        point("rec.claimed")
        freeing.clear(self._directory, self.manifest)  # now both copies of the manifest say that it is gone
        kept = attic.segments_of(self._directory, self.manifest.uuid, self._size)
        sidefile.clear(self._directory, self.manifest, kept)
        try:
            self._open_segment(self.begin // self._size)
            self.position, self.block_number = self.begin + PAGE, 1
            if self._walk.scan.largest_frame:  # anything, records or not
                self._carry()
            self._sync()
            point("rec.carried")
            self._write_epoch_block()
            self._sync()
            point("rec.epoch")
        finally:
            self._close()
        named = checkpoint_file.put(self._directory, self.manifest, self._checkpoint(), max_streams, max_owners)
        point("rec.checkpoint")
        in_force = dataclasses.replace(
            named,
            epoch=self.manifest.claimed,
            epoch_begin=self.begin,
            window_bytes=window_bytes,
        )
        point("rec.synced")
        return manifests.store(self._directory, in_force)

    def _write_epoch_block(self) -> None:
        end, number = self.position, self.block_number
        self.position, self.block_number = self.begin, 0
        previous = self._epochs[-1] if self._epochs else EpochRow(0, 0, 0)
        self._draft_block(PAGE)
        header = {
            "kind": lib.RW_BLOCK_EPOCH,
            "watermark": end,
            "previous_epoch": previous.epoch,
            "previous_begin": previous.begin,
            "previous_end": self._cut,
        }
        self._seal(header)
        self.position, self.block_number = end, number

    def _checkpoint(self) -> Checkpoint:
        """Of the position behind what was carried over, which it has counted in."""
        scan = self._walk.scan
        rows = ffi.new("rw_checkpoint_stream[]", max(scan.stream_end, 1))
        count = lib.rw_recovery_rows(scan, rows)
        cut = tuple(row._replace(end=self._cut) if row.end == 0 else row for row in self._epochs)
        return Checkpoint(
            uuid=self.manifest.uuid,
            epoch=self.manifest.claimed,
            position=self.position,
            block_number=self.block_number,
            timestamp_ns=scan.timestamp_ns,
            next_number=scan.next_number,
            streams=bytes(ffi.buffer(rows, count * STREAM_BYTES)),
            owners=self._walk.owners(),
            owners_end=scan.owners_end,
            epochs=(*living(cut, self.manifest.first_segment * self._size), EpochRow(self.manifest.claimed, self.begin, 0)),
        )

    def _carry(self) -> None:
        """Compose and write the records that are still in order beyond the cut."""
        decided = self._walk.offsets()
        lib.rw_recovery_carry(self._walk.scan, self._cut)
        self._draft_block(self._room())
        self._walk.run_tail(self._draft, self._next_block)
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
            self._seal({"kind": lib.RW_BLOCK_END, "span": rest, "watermark": self.begin})
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
        self._seal({"kind": lib.RW_BLOCK_DATA, "watermark": self.begin})

    def _seal(self, header: dict[str, Any]) -> None:
        like = ffi.new("rw_block *", header)
        like.number = self.block_number
        like.timestamp_ns = self._walk.scan.timestamp_ns
        length = lib.rw_draft_seal(self._draft, self.manifest.uuid, like)
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


def begin_of(directory: Directory, manifest: Manifest, taken_end: int) -> int:
    """Where the next epoch begins: at once, if there is room for its first block and an END, and nobody else has this file."""
    size = manifest.segment_bytes
    number, used = divmod(taken_end, size)
    if used == 0:
        return taken_end
    if size - used < 2 * PAGE or segment.is_shared(directory, number):
        return (number + 1) * size
    return taken_end
