"""Showing the blocks of the epoch in force to the core, from its checkpoint on, piece by piece."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError
from ringwal.log import segment
from ringwal.log.checkpoint import OWNER_BYTES, STREAM_BYTES, Checkpoint
from ringwal.log.directory import Directory
from ringwal.log.files import ANY_LENGTH, PAGE, page_up
from ringwal.log.manifest import Manifest
from ringwal.log.window import Window
from ringwal.points import point


class Walk:
    """One scan of the last epoch of a log (csrc/recover.h). A context manager.

    `damage` is what is wrong with a segment's file that may be needed (None: nothing); no bytes may be walked then.
    """

    def __init__(
        self,
        directory: Directory,
        manifest: Manifest,
        checkpoint: Checkpoint | None,
        tell: Callable[[int, int], object],
        *,
        direct: bool,
    ) -> None:
        """`checkpoint` is the one that `manifest` names; None: there is no epoch. `tell` is called with the bytes that were
        walked and those that there are to walk, before what is carried over."""
        self._directory = directory
        self._manifest = manifest
        self._direct = direct
        self._tell = tell
        self._window = Window(directory, manifest, direct=direct)
        self.limit = 0
        """How far the tail goes, once it has begun."""
        self.damage: CorruptionError | None = None
        self.size = manifest.segment_bytes
        self.begin = manifest.checkpoint_position
        self.end = manifest.named_end * self.size
        self.scan: Any = lib.rw_recovery_open(manifest.uuid, manifest.epoch, self.begin, self.size)
        if self.scan == ffi.NULL:
            raise MemoryError("no memory for a recovery")
        if checkpoint is not None:
            self.scan.timestamp_ns = checkpoint.timestamp_ns
            with ffi.from_buffer("rw_checkpoint_stream[]", checkpoint.streams) as rows:
                count = len(checkpoint.streams) // STREAM_BYTES
                if lib.rw_recovery_seed(self.scan, rows, count, checkpoint.next_number) != lib.RW_OK:
                    raise MemoryError("no memory for the table of streams")
            with ffi.from_buffer("rw_checkpoint_owner[]", checkpoint.owners) as owners:
                count = len(checkpoint.owners) // OWNER_BYTES
                if lib.rw_recovery_seed_owners(self.scan, owners, count, checkpoint.owners_end) != lib.RW_OK:
                    raise MemoryError("no memory for the table of owners")
        else:
            self.scan.owners_end = 1

    def owners(self) -> bytes:
        """Rows of all owners, with what is carried over counted in: `Checkpoint.owners`."""
        rows = ffi.new("rw_checkpoint_owner[]", max(self.scan.owner_end, 1))
        return bytes(ffi.buffer(rows, lib.rw_recovery_owner_rows(self.scan, rows) * OWNER_BYTES))

    def __enter__(self) -> Walk:
        try:
            for number in range(self.begin // self.size, self._manifest.named_end):
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
        """Release file and memory; may be called again."""
        self._window.close()
        if self.scan != ffi.NULL:
            lib.rw_recovery_close(self.scan)
            self.scan = ffi.NULL

    def run_prefix(self) -> bool:
        """Walk on to the end of the named segments; True if it was reached, False at a finding (`scan.finding`).

        Raises:
            CorruptionError: the disk cannot read a place.
        """
        return self._run(self.end, ffi.NULL, None)

    def begin_tail(self) -> None:
        """The cut is where the walk stands."""
        lib.rw_recovery_cut(self.scan)
        # Two windows: what was in flight together, and a block that begins at the end of it. To the end of that segment: where
        # damage has eaten more of it than could be in flight, what follows must not be overwritten as if nothing were there.
        last = self.scan.position + 2 * self._manifest.window_bytes
        self.limit = min(self.end, (page_up(last) // self.size + 1) * self.size)

    def run_tail(self, draft: Any = ffi.NULL, on_full: Callable[[], None] | None = None) -> bool:
        """Walk on from the cut, as far as a block can lie that was in flight with what is missing there. True: done, False: a
        finding.

        `draft` takes the records of a CARRY pass; `on_full` has to replace it when it is full. Raises as `run_prefix`.
        """
        return self._run(self.limit, draft, on_full)

    def first_beyond(self) -> int | None:
        """Log position of a valid block at the beginning, as far as one read goes, of a segment that the tail does not reach.

        None: there is none. Raises CorruptionError: the disk cannot read a place.
        """
        uuid, epoch = self._manifest.uuid, self._manifest.epoch
        for begin in range(self.limit, self.end, self.size):
            skip, held = self._window.show(begin, PAGE)
            with ffi.from_buffer("uint8_t[]", self._window.memory) as memory:
                for at in range(0, held, PAGE):
                    if lib.rw_block_check(memory + skip + at, ANY_LENGTH, uuid, epoch, begin + at) == lib.RW_OK:
                        return begin + at
        return None

    def offsets(self) -> list[int]:
        """Every stream's next offset, in the order in which they were met."""
        streams = range(self.scan.stream_end)
        return [lib.rw_recovery_stream_of(self.scan, stream).next_offset for stream in streams]

    def name_of(self, entry: Any) -> str:
        """The name of a defined stream. Raises CorruptionError: it is not UTF-8."""
        raw = bytes(ffi.buffer(entry.name)[: entry.name_bytes])
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise CorruptionError(f"stream {entry.number} has a name that is not UTF-8: {raw!r}") from None

    def _run(self, end: int, draft: Any, on_full: Callable[[], None] | None) -> bool:
        while self.scan.position < end:
            status = self._step(draft)
            if draft == ffi.NULL:
                self._tell(self.scan.position - self.begin, self.end - self.begin)
                point("rec.walked")
            if status == lib.RW_BAD:
                return False
            if status == lib.RW_FULL:
                assert on_full is not None
                on_full()
        return True

    def _step(self, draft: Any) -> int:
        skip, held = self._window.show(self.scan.position, self.scan.wanted)
        with ffi.from_buffer("uint8_t[]", self._window.memory) as memory:
            return int(lib.rw_recovery_step(self.scan, memory + skip, held, draft))

    def place(self, position: int) -> tuple[int, int]:
        """Segment and position, as CorruptionError takes them."""
        return position // self.size, position
