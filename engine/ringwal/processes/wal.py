"""The WAL process: a Python process around the threads of csrc/wal.c.

The threads take, compose and write without the GIL. This file does the housekeeping they ask for through the maintenance
eventfd: lanes that come and go, segments prepared ahead, an orderly end.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import select
import signal
import threading
import time
from typing import Any

from ringwal import memory, views
from ringwal._native import ffi, lib
from ringwal.config import Config
from ringwal.errors import Error, StorageFull
from ringwal.log import manifest, segment
from ringwal.log.pace import Pace
from ringwal.processes.checkpoints import WAIT_SECONDS, Checkpoints
from ringwal.processes.context import FINISH, EngineContext

IDLE_WATERMARK_NS = 1_000_000_000
"""How long nothing is written before an empty block vouches for the last one."""

RETRY_SECONDS = 1.0
"""How often a segment is tried again while the disk is full."""

LOOK_SECONDS = 0.05
"""How often it is looked whether the disk can be spared, while fewer segments are ahead than there should be."""


class WalProcess:
    """One life of the WAL process. Everything that outlives it is in shared memory and on disk."""

    def __init__(self, context: EngineContext) -> None:
        self.context = context
        self.config: Config = context.config
        self.control = context.control.pointer
        self.manifest = manifest.load(context.directory)
        assert context.intake is not None
        self.intake = context.intake
        self.lanes: dict[int, tuple[int, memory.Mapping | None]] = {}  # slot -> (generation, its lane; None: refused)
        self.membership_seen = 0
        self.stopping = False
        self.pace = Pace()
        self.segments_end = 0  # segments below are with the threads, or behind them
        self.look_again: float | None = None  # in so many seconds, whether or not anything is asked for
        self.told_no_room = self.told_full = False
        self.finishing = False  # the threads have been told to end when the lanes are empty
        self.direct = context.direct
        options = ffi.new(
            "rw_wal_options *",
            {
                "block_bytes": self.config.block_limit,
                "quota_bytes": self.config.lane_quota_bytes,
                "pipeline_bytes": self.config.pipeline_bytes,
                "spin_ns": int(self.config.wal_spin * 1e9),
                "idle_watermark_ns": IDLE_WATERMARK_NS,
                "direct": self.direct,
                "threads": self.config.blocks_in_flight,
            },
        )
        self.requests = select.poll()
        self.requests.register(context.maintenance_fd, select.POLLIN)
        self.wal = lib.rw_wal_open(self.control, context.ring.pointer, options, context.doorbell_fd, context.maintenance_fd)
        if self.wal == ffi.NULL:
            raise MemoryError("no memory for the WAL process")
        self.checkpoints = Checkpoints(context, self.wal, self.manifest, self._check_directory)
        self.threads = [
            threading.Thread(target=lib.rw_wal_work, args=(self.wal, i), name=f"wal-{i}", daemon=True)
            for i in range(self.config.blocks_in_flight)
        ]

    def run(self) -> int:
        """Works until FINISH or a failed write. Returns the exit code of the process."""
        self._follow_membership()
        if self.manifest.end:  # a predecessor died after it had marked the end; the log may go on now
            self.manifest = manifest.store(
                self.context.directory, dataclasses.replace(self.manifest, end=0), fd=self.context.ownership.manifest
            )
        if self.context.replacement and lib.rw_wal_restore(self.wal) < 0:
            return os.EX_SOFTWARE  # shared memory is not what it should be: only the disk is to be believed
        self._add_segments(early=False)
        if self.context.replacement and lib.rw_wal_rewrite(self.wal) != lib.RW_OK:
            return os.EX_IOERR
        signal.signal(FINISH, self._on_stop)
        for thread in self.threads:
            thread.start()
        while not self.finishing or any(thread.is_alive() for thread in self.threads):
            self._wait_for_requests()
            if lib.rw_engine_wal_error(self.control):
                return os.EX_IOERR
            self._maintain()
        self.manifest = self.checkpoints.finish(self.manifest)
        return os.EX_IOERR if lib.rw_engine_wal_error(self.control) else os.EX_OK

    def _on_stop(self, number: int, frame: object) -> None:
        self.stopping = True
        os.eventfd_write(self.context.maintenance_fd, 1)  # the main thread may be about to sleep on it

    def _wait_for_requests(self) -> None:
        timeout = 0.01 if self.stopping or self._closing() else self.look_again
        if self.checkpoints.waits:
            timeout = min(timeout or WAIT_SECONDS, WAIT_SECONDS)
        if self.requests.poll(None if timeout is None else timeout * 1e3):
            os.eventfd_read(self.context.maintenance_fd)

    def _maintain(self) -> None:
        stopping = self.stopping  # before the look: no lane is given out any more by then, so all that there are are met
        self._follow_membership()
        if stopping and not self.finishing:
            self.finishing = True
            lib.rw_wal_finish(self.wal)
        self.manifest = self.checkpoints.work(self.manifest)
        self._add_segments(early=not self.stopping)
        self._drop_segments()

    def _drop_segments(self) -> None:
        """Close those that nothing in flight belongs to any more."""
        fds = ffi.new("int[]", self.config.blocks_in_flight)
        while lib.rw_wal_drop_segment(self.wal, fds) == lib.RW_OK:
            for fd in fds:
                os.close(fd)

    # ------------------------------------------------------------------------------------------------- lanes

    def _closing(self) -> bool:
        return any(lib.rw_slot_state(lib.rw_slot_of(self.control, k)) == lib.RW_SLOT_CLOSING for k in self.lanes)

    def _follow_membership(self) -> None:
        # Before the look: what changes during it is looked at again.
        self.membership_seen = lib.rw_engine_membership(self.control)
        for k in range(self.config.max_clients):
            slot = views.slot(self.control, k)
            if slot.state == lib.RW_SLOT_ACTIVE or (slot.state == lib.RW_SLOT_CLOSING and slot.wal_done != slot.generation):
                self._attach(k, slot)
            if slot.state == lib.RW_SLOT_CLOSING and slot.wal_done != slot.generation:
                self._let_go(k)

    def _while_filling(self) -> None:
        """Clients that come and go do not wait for a whole segment, which a slow disk takes a second for; nor do those whose
        records could not be written."""
        if lib.rw_engine_wal_error(self.control):
            raise WriteFailed
        if lib.rw_engine_membership(self.control) != self.membership_seen or self._closing():
            self._follow_membership()

    def _attach(self, k: int, slot: Any) -> None:
        if k in self.lanes and self.lanes[k][0] == slot.generation:
            return
        try:
            lane = self.intake.attach(self.context.control, k, slot.generation)
        except Error as error:  # its client can write all of it, the header too; that must harm nobody else
            self.context.log.warning("lane %d of process %d is refused: %s", k, slot.pid, error)
            self.lanes[k] = (slot.generation, None)
            lib.rw_wal_refuse_lane(self.wal, k, slot.generation)
        else:
            self.lanes[k] = (slot.generation, lane)
            lib.rw_wal_attach_lane(self.wal, k, lane.pointer, slot.generation)

    def _let_go(self, k: int) -> None:
        """The writer is gone for certain. What it had completely published is taken first."""
        if k in self.lanes and not lib.rw_wal_lane_idle(self.wal, k):
            os.eventfd_write(self.context.doorbell_fd, 1)  # it may have been killed between publishing and ringing
            return
        lib.rw_wal_detach_lane(self.wal, k)
        _, lane = self.lanes.pop(k, (0, None))
        if lane is not None:
            lane.close()
        lib.rw_nudge(self.control)  # the drain lets go after us

    # ---------------------------------------------------------------------------------------------- segments

    def _add_segments(self, *, early: bool) -> None:
        """Hands the threads every segment from the one in use to `segments_ahead` behind it.

        The next one is made at once if need be. Of the others one a call is made (``early``), if the disk can be spared: so
        other requests for maintenance wait for one at the most, and lanes that come and go for a part of one.
        """
        first = lib.rw_wal_segment(self.wal)
        if self.context.replacement:
            first = min(first, self._oldest_unfinished())
        self.segments_end = max(self.segments_end, first)
        self.look_again = None
        self.pace.look(lib.rw_wal_segment(self.wal), lib.rw_engine_sealed_end(self.control))
        while self.segments_end <= (current := lib.rw_wal_segment(self.wal)) + self.config.segments_ahead:
            missing, needed = self.segments_end >= self.manifest.named_end, self.segments_end <= current + 1
            if not self.checkpoints.allows(self.manifest, self.segments_end):
                self.manifest = self.checkpoints.work(self.manifest, wanted=True)
                if not self.checkpoints.allows(self.manifest, self.segments_end):
                    self.look_again = RETRY_SECONDS if self.checkpoints.no_room else LOOK_SECONDS
                    lib.rw_wal_storage_full(self.wal, self.checkpoints.no_room if needed else 0)
                    return
            if missing and not needed:
                self.look_again = LOOK_SECONDS
                if not early or not self.pace.can_be_spared():
                    break
                early = False
            self._drop_segments()  # first, so that the descriptors are no more than the supervisor has reckoned
            try:
                fds, filled = self._open_segment(self.segments_end, needed=needed)
            except StorageFull as error:
                self.look_again = RETRY_SECONDS
                if needed:
                    self._say_full(error)
                    return
                if not self.told_no_room:
                    ahead = self.segments_end - 1 - current
                    self.context.log.warning("%d of %d segments ahead: %s", ahead, self.config.segments_ahead, error)
                self.told_no_room = True
                break
            added = lib.rw_wal_add_segment(self.wal, self.segments_end, fds, filled)
            assert added == lib.RW_OK, f"no place for segment {self.segments_end}"
            self.segments_end += 1
        self._say_full(None)

    def _say_full(self, error: StorageFull | None) -> None:
        """In memory, and in the log when it begins and when it ends."""
        if error is not None and not self.told_full:
            self.context.log.error("%s; appends wait until there is room", error)
        elif error is None and self.told_full:
            self.context.log.warning("there is room for segments again")
        self.told_full = error is not None
        lib.rw_wal_storage_full(self.wal, error.errno if error is not None else 0)

    def _check_directory(self) -> None:
        """Raises LostDirectory."""
        if what := self.context.ownership.check(range(self._oldest_unfinished(), self.segments_end)):
            raise LostDirectory(what)

    def _oldest_unfinished(self) -> int:
        return int(lib.rw_engine_released_end(self.control)) // self.manifest.segment_bytes

    def _open_segment(self, number: int, *, needed: bool) -> tuple[list[int], bool]:
        """A descriptor for each thread, of an open of its own (why is said at `rw_wal_add_segment`), and whether the segment is
        filled. One that is not ``needed`` yet is made only if it is filled."""
        self._check_directory()
        fill = True  # what a predecessor made and did not fill counts as filled: too many blocks at once cost time only
        if number >= self.manifest.named_end:
            began, fill = time.monotonic(), not needed or self.pace.worth_filling()
            self.manifest = segment.prepare(
                self.context.directory,
                self.manifest,
                number,
                direct=self.direct,
                fill=fill,
                meanwhile=self._while_filling,
                manifest_fd=self.context.ownership.manifest,
            )
            self._check_directory()  # filling takes long
            if fill:
                self.pace.filled(time.monotonic() - began)
        count = self.config.blocks_in_flight
        fds = segment.open_for_writing(self.context.directory, self.manifest, number, count, direct=self.direct)
        self.context.ownership.opened(number, fds[0])
        return fds, fill


class WriteFailed(Exception):
    """A thread has found out while this one was busy; the memory says with what error."""


class LostDirectory(Exception):
    """What has happened to the directory (ownership.py)."""


def main(context: EngineContext) -> int:
    """The body of the WAL process, after the fork. Returns its exit code."""
    try:
        if what := context.ownership.check():  # before its manifest is believed
            raise LostDirectory(what)
        return WalProcess(context).run()
    except LostDirectory as lost:
        context.log.error("WAL process: %s %s", context.directory.path, lost)
        return os.EX_OSFILE
    except WriteFailed:
        return os.EX_IOERR
    except OSError as error:  # a segment cannot be made or opened, or the directory not be read: as a failed write
        context.log.error("WAL process: %s", error)
        lib.rw_set_wal_error(context.control.pointer, error.errno or errno.EIO)
        return os.EX_IOERR
    except Error as error:
        context.log.error("WAL process: %s", error)
        return os.EX_SOFTWARE
