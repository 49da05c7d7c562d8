"""The WAL process: a Python process around the threads of csrc/wal_threads.c.

The threads take, compose and write without the GIL. This file does the housekeeping they ask for through the maintenance
eventfd: lanes that come and go, segments prepared ahead, an orderly end.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
from typing import Any

from ringwal import memory, views
from ringwal._native import ffi, lib
from ringwal.config import Config
from ringwal.errors import Error
from ringwal.file_errors import NO_MORE, advice
from ringwal.processes.checkpoints import WAIT_SECONDS, Checkpoints
from ringwal.processes.context import FINISH, EngineContext
from ringwal.processes.log_state import LogState, LostDirectory
from ringwal.processes.segment_supply import SegmentSupply
from ringwal.processes.space import Space

IDLE_WATERMARK_NS = 1_000_000_000
"""How long nothing is written before an empty block vouches for the last one."""


class WalProcess:
    """One life of the WAL process. Everything that outlives it is in shared memory and on disk."""

    def __init__(self, context: EngineContext) -> None:
        self.context = context
        self.config: Config = context.config
        self.control = context.control.pointer
        self.state = LogState(context)
        assert context.intake is not None
        self.intake = context.intake
        self.lanes: dict[int, tuple[int, memory.Mapping | None]] = {}  # slot -> (generation, its lane; None: refused)
        self.membership_seen = 0
        self.stopping = False
        self.finishing = False  # the threads have been told to end when the lanes are empty
        options = ffi.new(
            "rw_wal_options *",
            {
                "block_bytes": self.config.block_limit,
                "quota_bytes": self.config.lane_quota_bytes,
                "pipeline_bytes": self.config.pipeline_bytes,
                "spin_ns": int(self.config.wal_spin * 1e9),
                "idle_watermark_ns": IDLE_WATERMARK_NS,
                "linger_ns": self.config.linger_us * 1000,
                "direct": context.direct,
                "threads": self.config.blocks_in_flight,
            },
        )
        self.requests = select.poll()
        self.requests.register(context.maintenance_fd, select.POLLIN)
        eventfds = context.doorbell_fd, context.inner_fd, context.maintenance_fd
        self.wal = lib.rw_wal_open(self.control, context.ring.pointer, options, *eventfds)
        if self.wal == ffi.NULL:
            raise MemoryError("no memory for the WAL process")
        self.checkpoints = Checkpoints(context, self.wal, self.state)
        self.space = Space(context, self.wal, self.state, self.checkpoints, self._while_filling)
        self.supply = SegmentSupply(context, self.wal, self.state, self.checkpoints, self.space, self._while_filling)
        self.threads = [
            threading.Thread(target=lib.rw_wal_work, args=(self.wal, i), name=f"wal-{i}", daemon=True)
            for i in range(self.config.blocks_in_flight)
        ]

    def run(self) -> int:
        """Works until FINISH or a failed write. Returns the exit code of the process."""
        self._follow_membership()
        if self.state.manifest.end:  # a predecessor died after it had marked the end; the log may go on now
            self.state.store(end=0)
        if self.context.replacement and lib.rw_wal_restore(self.wal) < 0:
            return os.EX_SOFTWARE  # shared memory is not what it should be: only the disk is to be believed
        self.supply.add(early=False)
        if self.context.replacement and lib.rw_wal_rewrite(self.wal) != lib.RW_OK:
            return os.EX_IOERR
        signal.signal(FINISH, self._on_stop)
        for number, thread in enumerate(self.threads, 1):
            try:
                thread.start()
            except RuntimeError as error:  # as Python tells it
                raise MemoryError(f"thread {number} of {len(self.threads)} cannot be had") from error
        while not self.finishing or any(thread.is_alive() for thread in self.threads):
            self._wait_for_requests()
            if lib.rw_engine_wal_error(self.control):
                return os.EX_IOERR
            self._maintain()
        self.checkpoints.finish()
        if lib.rw_engine_storage_full(self.control):
            self.context.log.warning("there was no room for what appends still wait for: it is not in the log")
        return os.EX_IOERR if lib.rw_engine_wal_error(self.control) else os.EX_OK

    def _on_stop(self, number: int, frame: object) -> None:
        self.stopping = True
        os.eventfd_write(self.context.maintenance_fd, 1)  # the main thread may be about to sleep on it

    def _wait_for_requests(self) -> None:
        due = [self.supply.look_again, self.space.look_again]
        due += [0.01 if self.stopping or self._closing() else None, WAIT_SECONDS if self.checkpoints.waits else None]
        timeout = min((seconds for seconds in due if seconds is not None), default=None)
        if self.requests.poll(None if timeout is None else timeout * 1e3):
            os.eventfd_read(self.context.maintenance_fd)

    def _maintain(self) -> None:
        stopping = self.stopping  # before the look: no lane is given out any more by then, so all that there are are met
        self._follow_membership()
        if stopping and not self.finishing:
            self.finishing = True
            lib.rw_wal_finish(self.wal)
        self.checkpoints.work()
        self.space.work()
        self.supply.add(early=not self.stopping)
        self.supply.drop()

    # ------------------------------------------------------------------------------------------------- lanes

    def _closing(self) -> bool:
        return any(lib.rw_slot_state(lib.rw_slot_of(self.control, k)) == lib.RW_SLOT_CLOSING for k in self.lanes)

    def _follow_membership(self) -> None:
        # Before the look: what changes during it is looked at again.
        self.membership_seen = lib.rw_engine_membership(self.control)
        for k in range(self.config.max_clients + memory.ENGINE_SLOTS):
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
            lane = self.intake.attach(self.context.control, k, slot.generation).mapping
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
            os.eventfd_write(self.context.inner_fd, 1)  # it may have been killed between publishing and ringing
            return
        lib.rw_wal_detach_lane(self.wal, k)
        _, lane = self.lanes.pop(k, (0, None))
        if lane is not None:
            lane.close()
        lib.rw_nudge(self.control)  # the drain lets go after us


class WriteFailed(Exception):
    """A thread has found out while this one was busy; the memory says with what error."""


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
        context.log.error("WAL process: %s%s", error, advice(error.errno or 0))
        if error.errno in NO_MORE:
            return os.EX_OSERR
        lib.rw_set_wal_error(context.control.pointer, error.errno or errno.EIO)
        return os.EX_IOERR
    except Error as error:
        context.log.error("WAL process: %s", error)
        return os.EX_SOFTWARE
