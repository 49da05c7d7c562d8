"""Showing an epoch's segments to the core, piece by piece, through a window of bounded size."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError
from ringwal.log import segment
from ringwal.log.directory import Directory
from ringwal.log.files import page_buffer, page_up, read_all
from ringwal.log.manifest import Manifest

WINDOW_BYTES = 4 << 20


class Walk:
    """One scan of the last epoch of a log (csrc/recover.h) and the files it reads. A context manager.

    `damage` is what is wrong with a named segment's file (None: nothing); no bytes may be walked then.
    """

    def __init__(self, directory: Directory, manifest: Manifest, max_streams: int, *, direct: bool) -> None:
        self._directory = directory
        self._manifest = manifest
        self._direct = direct
        self._fds: dict[int, int] = {}
        self._window = page_buffer(WINDOW_BYTES)
        self._base = 0  # log position of the window's first byte
        self._held = 0  # bytes of the log in the window
        self.damage: CorruptionError | None = None
        self.size = manifest.segment_bytes
        self.begin = manifest.epoch_segment * self.size
        self.end = manifest.named_end * self.size
        self.scan: Any = lib.rw_recovery_open(
            manifest.uuid, manifest.epoch, self.begin, manifest.segment_bytes, max_streams
        )
        if self.scan == ffi.NULL:
            raise MemoryError("no memory for the table of streams")

    def __enter__(self) -> Walk:
        try:
            for number in range(self._manifest.first_segment, self._manifest.named_end):
                fd = segment.open_for_reading(self._directory, self._manifest, number, direct=self._direct)
                if number < self._manifest.epoch_segment:
                    os.close(fd)  # older epochs are for readers; here they only have to be there
                else:
                    self._fds[number] = fd
        except CorruptionError as damage:
            self.damage = damage
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release files and memory; may be called again."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        if self.scan != ffi.NULL:
            lib.rw_recovery_close(self.scan)
            self.scan = ffi.NULL

    def run(self, draft: Any = ffi.NULL, on_full: Callable[[], None] | None = None) -> bool:
        """Walk on to the end of the named segments; True if it was reached, False at a finding (`scan.finding`).

        `draft` takes the records of a CARRY pass; `on_full` has to replace it when it is full.

        Raises:
            CorruptionError: the disk cannot read a place.
        """
        while self.scan.position < self.end:
            status = self._step(draft)
            if status == lib.RW_BAD:
                return False
            if status == lib.RW_FULL:
                assert on_full is not None
                on_full()
        return True

    def offsets(self) -> list[int]:
        """Every stream's next offset, by id."""
        streams = range(self.scan.stream_end)
        return [lib.rw_recovery_stream_of(self.scan, stream).next_offset for stream in streams]

    def name_of(self, stream: int) -> str:
        """The name of a defined stream. Raises CorruptionError: it is not UTF-8."""
        entry = lib.rw_recovery_stream_of(self.scan, stream)
        raw = bytes(ffi.buffer(entry.name)[: entry.name_bytes])
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise CorruptionError(f"stream {stream} has a name that is not UTF-8: {raw!r}") from None

    def _step(self, draft: Any) -> int:
        position = self.scan.position
        self._show(position, self.scan.wanted)
        skip = position - self._base
        with ffi.from_buffer("uint8_t[]", self._window) as window:
            return int(lib.rw_recovery_step(self.scan, window + skip, self._held - skip, draft))

    def _show(self, position: int, wanted: int) -> None:
        """Bring at least `wanted` bytes from `position` on into the window, and as many more as it takes."""
        if self._base <= position and position + wanted <= self._base + self._held:
            return
        kept = max(0, self._base + self._held - position) if position >= self._base else 0
        if wanted > len(self._window):
            self._window = page_buffer(page_up(wanted) + WINDOW_BYTES)
            kept = 0
        if kept:
            self._window.move(0, position - self._base, kept)
        self._base, self._held = position, kept
        room = min(len(self._window), self.size - position % self.size)
        if kept < room:
            self._held += self._read(position + kept, memoryview(self._window)[kept:room])
        if self._held < wanted:
            raise CorruptionError("the segment ends early", *self.place(position))

    def _read(self, position: int, view: memoryview) -> int:
        try:
            return read_all(self._fds[position // self.size], view, segment.HEADER_BYTES + position % self.size)
        except OSError as error:
            raise CorruptionError(f"the disk cannot read it: {error.strerror}", *self.place(position)) from error

    def place(self, position: int) -> tuple[int, int]:
        """Segment and position, as CorruptionError takes them."""
        return position // self.size, position
