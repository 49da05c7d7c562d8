"""Checkpoints while the log is written: taken by the WAL process's main thread beside the threads that append.

    take    under the compose lock the threads' own table is copied, and the position that it is about
            (csrc/wal_streams.c)
    name    when all below that position is persisted: the free file is written, then named in the manifest

So no append waits for a file, and the manifest names nothing that a crash could contradict. One is taken after every so many
bytes of log, when the log comes to rest, and at an orderly stop, which also marks the end.
"""

from __future__ import annotations

from typing import Any

from ringwal._native import ffi, lib
from ringwal.errors import StorageFull
from ringwal.log import checkpoint_file
from ringwal.log.checkpoint import OWNER_BYTES, STREAM_BYTES, Checkpoint, living
from ringwal.points import point
from ringwal.processes.context import EngineContext
from ringwal.processes.log_state import LogState

INTERVAL_BYTES = 128 << 20
"""Of log, at most, between one and the next; recovery reads what is behind the last one."""

INTERVAL_SEGMENTS = 2
"""A log with small segments has one more often: it writes its manifest for each segment anyway."""

SIZES = 16
"""A checkpoint that is larger than so small a part of that comes less often."""

WAIT_SECONDS = 0.005
"""How often it is looked whether what was taken is persisted."""


class Checkpoints:
    """What the WAL process knows of them. For its main thread."""

    def __init__(self, context: EngineContext, wal: Any, state: LogState) -> None:
        self._context = context
        self._wal = wal
        self._state = state
        self._control = context.control.pointer
        self.named = checkpoint_file.load(context.directory, state.manifest)
        """In force, as this process has found or written it."""
        self._epochs = self.named.epochs
        self._rows = ffi.new("rw_checkpoint_stream[]", context.config.max_streams)
        self._owners = ffi.new("rw_checkpoint_owner[]", max(context.config.max_producers, 1))
        # so that its memory is there by the first one
        lib.rw_wal_take_snapshot(wal, self._rows, self._owners, ffi.new("rw_wal_snapshot *"))
        self._taken: Checkpoint | None = None
        self.named_cuts = -1 if context.replacement else 0
        """How many of the trims and deletions that this process has composed the named one has, at the least; -1: perhaps not
        even those of its predecessor."""
        self._taken_cuts = self.named_cuts
        self._told_no_room = False
        lib.rw_wal_checkpoint_named(wal, self.named.position)
        self.no_room = 0
        """errno while there is no room for one."""

    @property
    def waits(self) -> bool:
        """One is taken and not named yet."""
        return self._taken is not None

    def cuts_wait(self) -> bool:
        """Are there trims or deletions that neither the named one has nor one that is taken?"""
        return int(lib.rw_wal_cuts(self._wal)) > self._taken_cuts

    def trimmed(self) -> bool:
        """Can anything be free? Else nobody has to look what segments hold."""
        streams = self.named.streams
        with ffi.from_buffer("rw_checkpoint_stream[]", streams) as rows:
            return bool(lib.rw_occupancy_trimmed(rows, len(streams) // STREAM_BYTES, self.named.next_number))

    def allows(self, segment: int) -> bool:
        """May that segment be used before there is another checkpoint? Else recovery would have to read too much."""
        size = self._state.manifest.segment_bytes
        most = max(2 * self._interval(), (self._context.config.segments_ahead + INTERVAL_SEGMENTS) * size)
        return segment * size <= self._state.manifest.checkpoint_position + most

    def work(self, *, wanted: bool = False) -> None:
        """Take one if it is due (or `wanted`), name the one that is taken if it may be.

        Raises OSError: a write or sync failed; end the epoch. LostDirectory.
        """
        end, known = lib.rw_engine_sealed_end(self._control), self._state.manifest.checkpoint_position
        due = wanted or end - known >= self._interval() or lib.rw_wal_rests(self._wal)
        if self._taken is None and end > known and due:
            self._take()
        if self._taken is not None and lib.rw_wal_persisted_end(self._wal) >= self._taken.position:
            taken, self._taken = self._taken, None
            self._name(taken, end=0)

    def finish(self) -> None:
        """The threads have ended in order: all is written, and nobody writes any more. Raises as `work`."""
        self._take()
        assert self._taken is not None
        taken, self._taken = self._taken, None
        if lib.rw_wal_persisted_end(self._wal) == taken.position:  # else a write has failed meanwhile
            self._name(taken, end=taken.position)

    def _interval(self) -> int:
        manifest = self._state.manifest
        usual = min(INTERVAL_BYTES, INTERVAL_SEGMENTS * manifest.segment_bytes)
        return max(usual, SIZES * manifest.checkpoint_bytes)

    def _take(self) -> None:
        manifest, found = self._state.manifest, ffi.new("rw_wal_snapshot *")
        self._epochs = living(self._epochs, manifest.first_segment * manifest.segment_bytes)
        self._taken_cuts = int(lib.rw_wal_cuts(self._wal))  # before: the copy has at least those
        lib.rw_wal_take_snapshot(self._wal, self._rows, self._owners, found)
        self._taken = Checkpoint(
            uuid=self._context.uuid,
            epoch=self._context.epoch,
            position=found.position,
            block_number=found.block_number,
            timestamp_ns=found.timestamp_ns,
            next_number=found.next_number,
            streams=bytes(ffi.buffer(self._rows, found.count * STREAM_BYTES)),
            owners=bytes(ffi.buffer(self._owners, found.owners * OWNER_BYTES)),
            owners_end=found.owners_end,
            epochs=self._epochs,
        )
        point("ckpt.taken")

    def _name(self, what: Checkpoint, *, end: int) -> None:
        cuts = self._taken_cuts
        self._state.check_directory()
        try:
            config = self._context.config
            named = checkpoint_file.put(
                self._context.directory, self._state.manifest, what, config.max_streams, config.max_producers
            )
        except StorageFull as error:  # only where there are more epochs than there was room for
            self.no_room = error.errno
            if not self._told_no_room:
                self._context.log.warning("no checkpoint: %s", error)
            self._told_no_room = True
            return
        self.no_room = 0
        point("ckpt.written")
        self._state.manifest = named
        self._state.store(end=end)
        self.named, self.named_cuts = what, cuts
        lib.rw_wal_checkpoint_named(self._wal, what.position)
        point("ckpt.named")
