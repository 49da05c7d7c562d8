"""Writer slots and their lanes: granted to a client, reclaimed on the kernel's word that it is gone.

    FREE -> ACTIVE (a new generation, a new lane) -> CLOSING (end of file) -> FREE (WAL and drain have let go)

Nothing but the end of the client's connection closes a slot, and nothing but WAL's and drain's own words free it.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import NamedTuple

from ringwal import memory, views
from ringwal._native import lib
from ringwal.errors import ShmUnavailable
from ringwal.points import point
from ringwal.processes.context import EngineContext
from ringwal.processes.lanes import LaneFile, Lanes, make_bell
from ringwal.protocol.messages import LaneGrant

POLL_SECONDS_MIN = 0.005
POLL_SECONDS_MAX = 0.5


class Grant(NamedTuple):
    """A slot that is set aside, and the lane that is being made for it."""

    slot: int
    draft: memory.LaneDraft


class SlotTable:
    """The slots of one epoch."""

    def __init__(self, context: EngineContext, lanes: Lanes) -> None:
        self._context = context
        self._lanes = lanes
        self._control = context.control.pointer
        self._free = list(range(context.config.max_clients - 1, -1, -1))
        self._closing: set[int] = set()
        self._poll_seconds = POLL_SECONDS_MIN

    def generation(self, k: int) -> int:
        """Of the slot's present owner, or of the last one."""
        return int(views.slot(self._control, k).generation)

    def coming(self) -> bool:
        """Whether whoever asks for a slot now does well to wait: none is free but some are closing, or WAL or drain are behind
        with taking lanes."""
        return bool(self._closing) if not self._free else not self._lanes.room()

    def begin(self, lane_bytes: int) -> Grant:
        """Set a slot aside and begin a new lane of at least `lane_bytes` for it: `step`, then `grant` or `abandon`.

        Raises:
            ConfigError: no lane may have that size.
            ShmUnavailable: no slot is free, no memory for the lane, or WAL or drain do not take lanes.
        """
        size = memory.lane_size(lane_bytes)
        if not self._free:
            closing = f" ({len(self._closing)} of them are closing)" if self._closing else ""
            raise ShmUnavailable(
                f"all {self._context.config.max_clients} places for clients are taken{closing};"
                " start the engine with a larger max_clients"
            )
        self._check_room()
        draft = memory.LaneDraft(f"lane {self._free[-1]}", size)
        return Grant(self._free.pop(), draft)

    def grant(self, begun: Grant, pid: int, *, bell: bool) -> tuple[LaneGrant, int, select.epoll | None]:
        """That slot for the client `pid`; the descriptor of its lane, which has had its last `step`, and is kept here; and if
        it wants a bell, what it listens with, which is the caller's.

        Raises ShmUnavailable: WAL or drain do not take lanes; `begun` is to be abandoned then, as after any other error.
        OSError: the system has no descriptor for the bell, or no place for the packets.
        """
        self._check_room()
        k, size = begun.slot, begun.draft.bytes
        generation = self.generation(k) + 1
        rung, heard = make_bell() if bell else (None, None)
        lane = LaneFile(begun.draft.finish(self._context.control, k, generation), generation, size, rung)
        point("s.lane.created")
        try:
            self._lanes.put(k, lane)
        except OSError:
            lane.close()
            raise
        lib.rw_slot_open(self._control, k, generation, pid, size)
        self.announce()
        return LaneGrant(k, generation, size), lane.fd, heard

    def abandon(self, begun: Grant) -> None:
        """Nobody wants what was begun any more, or it cannot be had: the slot is free again."""
        if (fd := begun.draft.take()) >= 0:
            self._lanes.discard(fd)
        self._free.append(begun.slot)

    def _check_room(self) -> None:
        if not self._lanes.room():
            raise ShmUnavailable("the WAL or drain process does not take new lanes; is it stopped, or does the disk hang?")

    def close(self, slots: list[int]) -> None:
        """The client that had these slots is gone."""
        for k in slots:
            lib.rw_slot_set(self._control, k, lib.RW_SLOT_CLOSING)
            self._closing.add(k)
        if slots:
            self._poll_seconds = POLL_SECONDS_MIN
            self.announce()

    def collect(self) -> float | None:
        """Free the closing slots that WAL and drain have let go, and some of their memory. Seconds until the next look is due;
        None: no need."""
        for k in [k for k in self._closing if lib.rw_slot_released(self._control, k)]:
            self._lanes.drop(k)
            point("s.reclaim.mid")
            self._closing.remove(k)
            lib.rw_slot_set(self._control, k, lib.RW_SLOT_FREE)
            self._free.append(k)
        if self._lanes.free_some():
            return 0.0
        if not self._closing and self._lanes.room():
            return None
        self.announce()
        self._poll_seconds = min(self._poll_seconds * 2, POLL_SECONDS_MAX)
        return self._poll_seconds

    def announce(self) -> None:
        """Make WAL and drain look at the slots. A nudge of the drain can get lost, so closing slots repeat it."""
        with contextlib.suppress(BlockingIOError):  # signalled already
            os.eventfd_write(self._context.maintenance_fd, 1)
        lib.rw_nudge(self._control)
