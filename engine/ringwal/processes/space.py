"""Room for segments: what may be freed is freed, and no file is made beyond the limits.

    a trim is composed  ->  a checkpoint has the new start offsets  ->  it is named, in both copies of the manifest  ->  the
    oldest segments, as far as nothing in them is live by that checkpoint, are freed (log/freeing.py)

For the WAL process's main thread. Oldest first, so one segment with a live record keeps all behind it, until the keeper has
said in memory that what is alive in there is in the attic (log/attic.py).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any

from ringwal._native import ffi, lib
from ringwal.config import PAGE, Config, format_size
from ringwal.errors import StorageFull
from ringwal.log import freeing, occupancy
from ringwal.log.files import free_bytes
from ringwal.processes.checkpoints import WAIT_SECONDS, Checkpoints
from ringwal.processes.context import EngineContext
from ringwal.processes.log_state import LogState

TRIMS_SECONDS = 1.0
"""How long a trim may wait for a checkpoint when no room is wanted: one serves many."""

SEGMENTS_MAX = 1 << 40
DROPPED_AT_ONCE = 8
"""Segments: a limit that was lowered is reached step by step."""

CONTROL_LEFT_BYTES = 16 * PAGE
"""When no more is left of the room that is kept for trims, a full log gets one segment more, for them alone."""

NO_LIMIT = (1 << 64) - 1

ROWS_BYTES = 16 << 20
"""As much is kept of what segments hold. The rest is read from them when they are about to be freed."""


class Space:
    """What the segments take, and which of them can go."""

    def __init__(
        self, context: EngineContext, wal: Any, state: LogState, checkpoints: Checkpoints, meanwhile: Callable[[], None]
    ) -> None:
        """`meanwhile` is called again and again while a segment is read."""
        self._context = context
        self._config: Config = context.config
        self._wal = wal
        self._state = state
        self._checkpoints = checkpoints
        self._meanwhile = meanwhile
        self._file_bytes = PAGE + state.manifest.segment_bytes
        self._rows: dict[int, bytes] = {}
        self._looked: tuple[int, int] | None = None  # at the checkpoint of that position, with so many trims in it
        self._held = False  # by a live record in the first segment
        self._attic_looked = 0  # what is alive in segments below was in the attic
        self._since: float | None = None  # trims wait for a checkpoint
        self._dropping = False  # a drop is being composed
        self._dropped: int | None = None  # it waits for its checkpoint, which has so many cuts
        self._told_hindered = -1
        self._told_dropping = False
        cut_short = context.replacement and bool(freeing.left_over(context.directory, state.manifest))
        if cut_short:
            state.store()  # the predecessor may have died before both copies said that those are freed
        # Of what a predecessor has freed it may have died before it said so; 0: before it said where the log begins.
        told = lib.rw_engine_first_segment(context.control.pointer)
        lib.rw_wal_first_segment(wal, state.manifest.first_segment, context.replacement and told > 0)
        if cut_short:
            freeing.clear(context.directory, state.manifest)
        self._data_end = NO_LIMIT
        self._limit_data(state.manifest.first_segment)

    @property
    def makes_room(self) -> bool:
        """The oldest records are being dropped: there will be room in a moment."""
        return self._dropping or self._dropped is not None

    def make_room(self) -> bool:
        """A segment cannot be made, and may be wanted only since `work`. Returns `makes_room`. Raises as `work`."""
        self._drop()
        return self.makes_room

    @property
    def look_again(self) -> float | None:
        """In so many seconds, whether or not anything is asked for."""
        if self.makes_room or self._new_to_look_at():  # at the beginning, and until what the checkpoint has is confirmed
            return WAIT_SECONDS
        if self._since is None:
            return None
        return max(0.0, self._since + TRIMS_SECONDS - time.monotonic())

    def check(self) -> None:
        """Raises StorageFull if one more segment would be beyond a limit."""
        least = self._config.min_free_bytes
        if self._held_segments() >= self._allowed() and not self._needed_to_trim():
            raise self._at_limit()
        if least and (free := free_bytes(self._context.directory.segments)) < least + self._file_bytes:
            raise StorageFull(
                f"{free >> 20} MiB are free on the file system, and another segment would leave less than min_free_bytes"
                f" ({format_size(least)}): free space there, trim or delete streams, or lower it",
                errno.ENOSPC,
            )

    def full(self) -> StorageFull | None:
        """Why no data is taken, though there is a segment: it is beyond the limit, and for trims alone."""
        if lib.rw_engine_sealed_end(self._context.control.pointer) < self._data_end:
            return None
        return self._at_limit()

    def _held_segments(self) -> int:
        return self._state.manifest.named_end - self._state.manifest.first_segment

    def _at_limit(self) -> StorageFull:
        most = format_size(self._config.max_log_bytes or 0)
        return StorageFull(
            f"the log has {self._held_segments()} segments, and one more would be beyond max_log_bytes ({most}): trim or delete"
            " streams, or raise it",
            errno.EDQUOT,
        )

    def _needed_to_trim(self) -> bool:
        """Is that better than a log that cannot be trimmed any more? Data stays below the limit (`_limit_data`)."""
        size, end = self._state.manifest.segment_bytes, lib.rw_engine_sealed_end(self._context.control.pointer)
        refuses = self._config.on_full == "refuse"
        return bool(refuses and self._held_segments() == self._allowed() and size - end % size <= CONTROL_LEFT_BYTES)

    def _limit_data(self, first: int) -> None:
        """`first` is the first segment of the log. Where the oldest go, they make room before any limit is met."""
        if self._config.max_log_bytes is not None and self._config.on_full == "refuse":
            self._data_end = (first + self._allowed()) * self._state.manifest.segment_bytes
            lib.rw_wal_limit_data(self._wal, self._data_end)

    def work(self) -> None:
        """Free what can be freed. Raises OSError: end the epoch. LostDirectory."""
        self._gather()
        self._ask()
        self._free()
        self._drop()

    def short(self) -> bool:
        """Is a segment wanted for which there is no room?"""
        if self._state.manifest.named_end >= self._wanted():
            return False
        try:
            self.check()
        except StorageFull:
            return True
        return lib.rw_engine_storage_full(self._context.control.pointer) != 0

    def _wanted(self) -> int:
        """Segments below should be there."""
        return int(lib.rw_wal_segment(self._wal)) + self._config.segments_ahead + 1

    def _gather(self) -> None:
        segment, rows, count = ffi.new("uint64_t *"), ffi.new("const rw_occupant **"), ffi.new("uint32_t *")
        if lib.rw_wal_fetch_occupancy(self._wal, segment, rows, count) == lib.RW_OK:
            self._keep(int(segment[0]), bytes(ffi.buffer(rows[0], count[0] * occupancy.ROW_BYTES)))

    def _keep(self, segment: int, rows: bytes) -> None:
        """The oldest are wanted first."""
        self._rows[segment] = rows
        while len(self._rows) > 1 and sum(map(len, self._rows.values())) > ROWS_BYTES:
            del self._rows[max(self._rows)]

    def _ask(self) -> None:
        """See to it that trims get into a checkpoint."""
        if not self._checkpoints.cuts_wait():
            self._since = None
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now >= self._since + TRIMS_SECONDS or self.short():
            self._checkpoints.work(wanted=True)

    def _free(self) -> None:
        known = self._checkpoints.named
        if not self._new_to_look_at():
            return
        control = self._context.control.pointer
        if lib.rw_engine_released_end(control) < known.position:  # readers are told of a trim when it is confirmed
            return
        attic_end = self._attic_looked = int(lib.rw_engine_attic_end(control))
        self._looked = known.position, self._checkpoints.named_cuts
        state, end = self._state, self._state.manifest.first_segment
        limit, self._held, read = known.position // state.manifest.segment_bytes, False, False
        if self._checkpoints.trimmed():
            end = min(max(end, attic_end), limit)
            while end < limit and not self._held:
                if read and end not in self._rows:
                    self._looked = None  # one is read a call, which takes long enough
                    break
                read = read or end not in self._rows
                self._held = self._live(end).count > 0
                end += not self._held
        if end > state.manifest.first_segment:
            self._let_go(end)

    def _new_to_look_at(self) -> bool:
        position, trims = self._checkpoints.named.position, self._checkpoints.named_cuts
        if self._looked is None or lib.rw_engine_attic_end(self._context.control.pointer) > self._attic_looked:
            return True
        return trims > self._looked[1] or (position > self._looked[0] and not self._held)

    def _drop(self) -> None:
        """Where there is no room for a segment that is wanted, the records of the oldest ones are dropped. Then it goes the way
        of every trim: a checkpoint, and they are free."""
        if self._dropping and lib.rw_wal_drop_left(self._wal) == 0:
            self._dropping, self._dropped = False, int(lib.rw_wal_cuts(self._wal))
        if self._dropped is not None and self._looked is not None and self._looked[1] >= self._dropped:
            self._dropped = None
        if self._config.on_full != "drop_oldest" or self.makes_room or not self.short():
            return
        manifest = self._state.manifest
        first, end = manifest.first_segment, manifest.first_segment + min(self._too_many(), DROPPED_AT_ONCE)
        if end * manifest.segment_bytes > self._checkpoints.named.position:
            self._checkpoints.work(wanted=True)  # nothing above it is dropped
            return
        rows = []
        for segment in range(first, end):
            found = self._live(segment)
            if found.reserved is not None:
                self._say_hindered(segment, found.reserved)
                return
            rows.append(found.rows)
        merged = occupancy.merged(rows)
        with ffi.from_buffer("rw_drop_row[]", merged) as held:
            self._dropping = lib.rw_wal_compose_drop(self._wal, held, len(merged) // occupancy.ROW_BYTES) == lib.RW_OK
        if self._dropping and merged:
            lib.rw_wal_count_used_again(self._wal, 0, end - first)
            self._say_dropping()

    def _too_many(self) -> int:
        """Segments that have to go, so that those that are wanted can be made; one at the least."""
        return max(1, self._wanted() - self._state.manifest.first_segment - self._allowed())

    def _allowed(self) -> int:
        """Segments that the log may have."""
        most = self._config.max_log_bytes
        return SEGMENTS_MAX if most is None else most // self._file_bytes

    def _say_dropping(self) -> None:
        """Once: under load there is a drop with every segment, and they are counted."""
        if not self._told_dropping:
            self._context.log.warning(
                "there is no more room: from now on the oldest records are dropped; `ringwal status` counts their segments"
                " (segments_dropped)"
            )
        self._told_dropping = True

    def _say_hindered(self, segment: int, stream: int) -> None:
        if segment > self._told_hindered:
            name = next((row.name for row in self._checkpoints.named.rows() if row.number == stream), "")
            told = "the oldest records cannot be dropped: segment %d has some of stream %r, which is the engine's own"
            self._context.log.error(told, segment, name)
        self._told_hindered = segment

    def _live(self, segment: int) -> occupancy.Live:
        known = self._checkpoints.named
        rows = self._rows.get(segment)
        if rows is None:
            context, epochs = self._context, known.epochs_up_to(known.position)
            rows = occupancy.read(
                context.directory, self._state.manifest, epochs, segment, direct=context.direct, meanwhile=self._meanwhile
            )
            self._keep(segment, rows)
        return occupancy.live(rows, known.streams)

    def _let_go(self, end: int) -> None:
        state, first, named_end = self._state, self._state.manifest.first_segment, self._state.manifest.named_end
        state.check_directory()
        state.manifest = freeing.free(
            self._context.directory,
            state.manifest,
            end,
            wanted=min(self._wanted(), end + self._allowed()),
            direct=self._context.direct,
            announce=self._announce,
            manifest_fd=self._context.ownership.manifest,
            attic_end=self._attic_looked,
        )
        lib.rw_wal_count_used_again(self._wal, state.manifest.named_end - named_end, 0)
        for segment in range(first, end):
            self._rows.pop(segment, None)

    def _announce(self, first: int) -> None:
        lib.rw_wal_first_segment(self._wal, first, True)  # noqa: FBT003
        self._limit_data(first)
