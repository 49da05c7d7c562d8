"""The bytes of a log as they are, for whoever looks for damage: what cannot be read is zeros, and the reason is kept.

Zeros are nothing that anybody takes for a block. So whoever walks over a missing file, one that ends early, or a page that
the disk cannot read, meets there what he meets at a damaged one.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from ringwal._native import ffi
from ringwal.errors import CorruptionError
from ringwal.log import segment
from ringwal.log.directory import Directory
from ringwal.log.files import PAGE, open_synced, page_buffer, page_up, read_all

PIECE_BYTES = 4 << 20
_UNREADABLE = (errno.EIO, errno.EUCLEAN, errno.EILSEQ, errno.ENODATA, errno.EREMOTEIO)


class Pages:
    """Reads the segments of one log piece by piece; changes nothing. `close` when done. For one thread at a time."""

    def __init__(self, directory: Directory, segment_bytes: int) -> None:
        self._directory = directory
        self._size = segment_bytes
        self._fd = -1
        self._segment = -1
        self._base = self._held = 0
        self._piece = PAGE
        self._memory = page_buffer(PIECE_BYTES)
        self._whys: list[tuple[int, int, str]] = []

    def show(self, position: int, wanted: int) -> tuple[Any, int, int]:
        """At least `wanted` bytes from log position `position` on, which must not cross the segment's end: a `uint8_t *`, the
        log position of its first byte, and how many there are. Good until the next call. Raises OSError."""
        if not (self._base <= position and position + wanted <= self._base + self._held):
            self._move(position, wanted)
        # The mapping outlives the view, and is never resized: the address stays good when the view is released.
        with ffi.from_buffer("uint8_t[]", self._memory) as memory:
            return memory + 0, self._base, self._held

    def bytes_at(self, position: int, size: int) -> bytes:
        """A copy of these bytes. Raises OSError."""
        self.show(position, size)
        begin = position - self._base
        return self._memory[begin : begin + size]

    def why(self, begin: int, end: int) -> str | None:
        """Why something of what was shown there is zeros; None: because it is what the file has."""
        return next((why for first, last, why in self._whys if first < end and begin < last), None)

    def close(self) -> None:
        """Release the descriptor; may be called again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = self._segment = -1

    def _move(self, position: int, wanted: int) -> None:
        base = position // PAGE * PAGE
        # Who goes on where the last piece ended reads on and on; who has jumped over something may do so again.
        goes_on = self._base <= base <= self._base + self._held and self._held
        self._piece = min(4 * self._piece, PIECE_BYTES) if goes_on else PAGE
        room = self._size - base % self._size
        size = min(max(page_up(position + wanted - base), self._piece), room)
        if size > len(self._memory):
            self._memory = page_buffer(size)
        self._base, self._held = base, 0
        self._read(base, size)
        self._held = size

    def _read(self, base: int, size: int) -> None:
        number = base // self._size
        if number != self._segment:
            self.close()
            self._segment = number
            self._open(number)
        view = memoryview(self._memory)[:size]
        done = self._fill(view, base) if self._fd >= 0 else 0
        if done < size:
            view[done:] = bytes(size - done)
            if self._fd >= 0:
                self._note(base + done, (number + 1) * self._size, "the segment's file ends here")

    def _open(self, number: int) -> None:
        try:
            self._fd = open_synced(segment.name_of(number), at=self._directory.segments)
        except FileNotFoundError:
            self._note(number * self._size, (number + 1) * self._size, "the segment's file is missing")
        except CorruptionError:
            self._note(number * self._size, (number + 1) * self._size, "it is a directory or a special file, and no segment")
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            self._note(number * self._size, (number + 1) * self._size, f"the disk cannot read it: {error.strerror}")

    def _fill(self, view: memoryview, base: int) -> int:
        """How many bytes the file has of what was asked for; those that the disk cannot read are zeros."""
        at = segment.HEADER_BYTES + base % self._size
        try:
            return read_all(self._fd, view, at)
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
        for begin in range(0, len(view), PAGE):
            page = view[begin : begin + PAGE]
            try:
                done = read_all(self._fd, page, at + begin)
            except OSError as error:
                page[:] = bytes(len(page))
                self._note(base + begin, base + begin + PAGE, f"the disk cannot read it: {error.strerror}")
            else:
                if done < len(page):
                    return begin + done
        return len(view)

    def _note(self, begin: int, end: int, why: str) -> None:
        if self._whys and self._whys[-1][1] == begin and self._whys[-1][2] == why:
            begin = self._whys.pop()[0]
        if (begin, end, why) not in self._whys:
            self._whys.append((begin, end, why))
