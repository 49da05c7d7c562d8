"""The segments that the WAL process writes into: prepared ahead, opened for its threads, closed again.

For its main thread. The threads ask through the maintenance eventfd when they begin a segment; this file sees to it that
the next ones are there before they are needed, and says so in shared memory when they cannot be had.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from ringwal._native import ffi, lib
from ringwal.config import Config
from ringwal.errors import StorageFull
from ringwal.log import segment
from ringwal.log.pace import Pace
from ringwal.processes.checkpoints import Checkpoints
from ringwal.processes.context import EngineContext
from ringwal.processes.log_state import LogState
from ringwal.processes.space import Space

RETRY_SECONDS = 1.0
"""How often a segment is tried again while the disk is full."""

LOOK_SECONDS = 0.05
"""How often it is looked whether the disk can be spared, while fewer segments are ahead than there should be."""


class SegmentSupply:
    """Segments, from the one in use to the last one ahead."""

    def __init__(
        self,
        context: EngineContext,
        wal: Any,
        state: LogState,
        checkpoints: Checkpoints,
        space: Space,
        meanwhile: Callable[[], None],
    ) -> None:
        """`meanwhile` is called again and again while a segment is filled."""
        self.look_again: float | None = None
        """In so many seconds, whether or not anything is asked for."""
        self._context = context
        self._config: Config = context.config
        self._control = context.control.pointer
        self._wal = wal
        self._state = state
        self._checkpoints = checkpoints
        self._space = space
        self._meanwhile = meanwhile
        self._pace = Pace()
        self._told_no_room = self._told_full = False

    def add(self, *, early: bool) -> None:
        """Hands the threads every segment from the one in use to `segments_ahead` behind it.

        The next one is made at once if need be. Of the others one a call is made (``early``), if the disk can be spared: so
        other requests for maintenance wait for one at the most, and lanes that come and go for a part of one.
        """
        state, current = self._state, lib.rw_wal_segment(self._wal)
        first = min(current, state.oldest_unfinished()) if self._context.replacement else current
        state.segments_end = max(state.segments_end, first)
        self.look_again = None
        self._pace.look(current, lib.rw_engine_sealed_end(self._control))
        while state.segments_end <= (current := lib.rw_wal_segment(self._wal)) + self._config.segments_ahead:
            missing, needed = state.segments_end >= state.manifest.named_end, state.segments_end <= current + 1
            if not self._covered(needed=needed):
                return
            if missing and not needed:
                self.look_again = LOOK_SECONDS
                if not early or not self._pace.can_be_spared():
                    break
                early = False
            self.drop()  # first, so that the descriptors are no more than the supervisor has reckoned
            try:
                fds, filled = self._open_segment(state.segments_end, needed=needed)
            except StorageFull as error:
                if self._space.make_room():
                    return
                self.look_again = RETRY_SECONDS
                if needed:
                    self._say_full(error)
                    return
                if not self._told_no_room:
                    ahead = state.segments_end - 1 - current
                    self._context.log.warning("%d of %d segments ahead: %s", ahead, self._config.segments_ahead, error)
                self._told_no_room = True
                break
            added = lib.rw_wal_add_segment(self._wal, state.segments_end, fds, filled)
            assert added == lib.RW_OK, f"no place for segment {state.segments_end}"
            state.segments_end += 1
        self._say_full(self._space.full())

    def _covered(self, *, needed: bool) -> bool:
        """Is there a checkpoint near enough to the next segment? Else one is asked for, and the segment looked at again."""
        if self._checkpoints.allows(self._state.segments_end):
            return True
        self._checkpoints.work(wanted=True)
        if self._checkpoints.allows(self._state.segments_end):
            return True
        self.look_again = RETRY_SECONDS if self._checkpoints.no_room else LOOK_SECONDS
        lib.rw_wal_storage_full(self._wal, self._checkpoints.no_room if needed else 0)
        return False

    def drop(self) -> None:
        """Close those that nothing in flight belongs to any more."""
        fds = ffi.new("int[]", self._config.blocks_in_flight)
        while lib.rw_wal_drop_segment(self._wal, fds) == lib.RW_OK:
            for fd in fds:
                os.close(fd)

    def _say_full(self, error: StorageFull | None) -> None:
        """In memory, and in the log when it begins and when it ends."""
        if error is not None and not self._told_full:
            self._context.log.error("%s; appends wait until there is room", error)
        elif error is None and self._told_full:
            self._context.log.warning("there is room for segments again")
        self._told_full = error is not None
        lib.rw_wal_storage_full(self._wal, error.errno if error is not None else 0)

    def _open_segment(self, number: int, *, needed: bool) -> tuple[list[int], bool]:
        """A descriptor for each thread, of an open of its own (why is said at `rw_wal_add_segment`), and whether the segment is
        filled. One that is not ``needed`` yet is made only if it is filled."""
        self._state.check_directory()
        fill = True  # what a predecessor made and did not fill counts as filled: too many blocks at once cost time only
        if number >= self._state.manifest.named_end:
            self._space.check()
            began, fill = time.monotonic(), not needed or self._pace.worth_filling()
            self._state.manifest = segment.prepare(
                self._context.directory,
                self._state.manifest,
                number,
                direct=self._context.direct,
                fill=fill,
                meanwhile=self._meanwhile,
                manifest_fd=self._context.ownership.manifest,
            )
            self._state.check_directory()  # filling takes long
            if fill:
                self._pace.filled(time.monotonic() - began)
        count = self._config.blocks_in_flight
        fds = segment.open_for_writing(
            self._context.directory, self._state.manifest, number, count, direct=self._context.direct
        )
        self._context.ownership.opened(number, fds[0])
        return fds, fill
