"""Showing an epoch's blocks to the core, piece by piece."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError
from ringwal.log import segment
from ringwal.log.directory import Directory
from ringwal.log.manifest import Manifest
from ringwal.log.window import Window


class Walk:
    """One scan of the last epoch of a log (csrc/recover.h) and the files it reads. A context manager.

    `damage` is what is wrong with a named segment's file (None: nothing); no bytes may be walked then.
    """

    def __init__(self, directory: Directory, manifest: Manifest, max_streams: int, *, direct: bool) -> None:
        self._directory = directory
        self._manifest = manifest
        self._direct = direct
        self._window = Window(directory, manifest, direct=direct)
        self.damage: CorruptionError | None = None
        self.size = manifest.segment_bytes
        self.begin = manifest.epoch_begin
        self.end = manifest.named_end * self.size
        self.scan: Any = lib.rw_recovery_open(
            manifest.uuid, manifest.epoch, self.begin, manifest.segment_bytes, max_streams
        )
        if self.scan == ffi.NULL:
            raise MemoryError("no memory for the table of streams")

    def __enter__(self) -> Walk:
        try:
            for number in range(self._manifest.first_segment, self._manifest.named_end):
                os.close(segment.open_for_reading(self._directory, self._manifest, number, direct=self._direct))
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
        self._window.close()
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
        skip, held = self._window.show(self.scan.position, self.scan.wanted)
        with ffi.from_buffer("uint8_t[]", self._window.memory) as memory:
            return int(lib.rw_recovery_step(self.scan, memory + skip, held, draft))

    def place(self, position: int) -> tuple[int, int]:
        """Segment and position, as CorruptionError takes them."""
        return position // self.size, position
