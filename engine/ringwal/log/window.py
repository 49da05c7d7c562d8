"""One moving window over the blocks of a log: a piece of one segment at a time, read from the disk, not from the page cache.

    log      ---- segment 7 ----|------------ segment 8 ------------|---- segment 9 ----
    window                                |== held ==|
                                          ^ `position`, moves forward

It holds one descriptor, that of the segment it is in, however many segments are read.
"""

from __future__ import annotations

import os

from ringwal.errors import CorruptionError
from ringwal.log import segment
from ringwal.log.directory import Directory
from ringwal.log.files import page_buffer, page_up, read_all
from ringwal.log.manifest import Manifest

WINDOW_BYTES = 4 << 20


class Window:
    """Reads named segments piece by piece. `memory` has the bytes; `close` when done. Segments have `segment_bytes` of data."""

    def __init__(self, directory: Directory, manifest: Manifest, *, direct: bool) -> None:
        self._directory = directory
        self._manifest = manifest
        self._direct = direct
        self._size = self.segment_bytes = manifest.segment_bytes
        self._fd = -1
        self._segment = -1  # what `_fd` is open on
        self._base = 0  # log position of the first byte of `memory`
        self._held = 0  # bytes of the log in `memory`
        self.memory = page_buffer(WINDOW_BYTES)

    def show(self, position: int, wanted: int) -> tuple[int, int]:
        """Bring at least `wanted` bytes from log position `position` on into `memory`, and as many more as it takes. They must
        not reach past the segment's end. Returns where in `memory` they begin, and how many there are.

        Raises:
            CorruptionError: the segment is missing or damaged, or the disk cannot read a place.
            VersionMismatch, OSError: as `segment.open_for_reading`.
        """
        if not (self._base <= position and position + wanted <= self._base + self._held):
            self._move(position, wanted)
        skip = position - self._base
        return skip, self._held - skip

    def close(self) -> None:
        """Release the descriptor; may be called again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = self._segment = -1

    def _move(self, position: int, wanted: int) -> None:
        kept = max(0, self._base + self._held - position) if position >= self._base else 0
        if wanted > len(self.memory):
            self.memory = page_buffer(page_up(wanted) + WINDOW_BYTES)
            kept = 0
        if kept:
            self.memory.move(0, position - self._base, kept)
        self._base, self._held = position, kept
        room = min(len(self.memory), self._size - position % self._size)
        if kept < room:
            self._held += self._read(position + kept, memoryview(self.memory)[kept:room])
        if self._held < wanted:
            raise CorruptionError("the segment ends early", position // self._size, position)

    def _read(self, position: int, view: memoryview) -> int:
        number = position // self._size
        if number != self._segment:
            self.close()
            self._fd = segment.open_for_reading(self._directory, self._manifest, number, direct=self._direct)
            self._segment = number
        try:
            return read_all(self._fd, view, segment.HEADER_BYTES + position % self._size)
        except OSError as error:
            raise CorruptionError(f"the disk cannot read it: {error.strerror}", number, position) from error
