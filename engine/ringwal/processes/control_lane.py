"""The supervisor's own lane: requests of the engine itself, to trim and delete streams.

    submit ──► lane, as a client's ──► WAL: a control frame in its stream's queue ──► drain: in force, completion ──► done

So what is asked here is ordered among the records of its stream, durable when it is done, and neither lost nor done twice when
a process is replaced. It goes past every client's lane, full or not. The lane is there before the first WAL and drain process,
which inherit it, and stays until the engine ends; at a stop the WAL process empties it as it does all others.

Nobody is woken for a completion: the supervisor looks while one is pending.
"""

from __future__ import annotations

import collections
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

from ringwal import memory, views
from ringwal._native import ffi, lib
from ringwal.config import LANE_BYTES_MIN
from ringwal.processes.context import EngineContext
from ringwal.processes.lanes import LaneFile, Lanes

LOOK_SECONDS = 0.002
"""How often a pending request is looked at."""

GENERATION = 1
_NUMBERS = 1 << 32

Done = Callable[[int], None]
"""Told once what became of a request: what is not negative: it is durable, and in force; `RW_DELETED`: the stream was deleted
before; any other code of csrc/status.h: the engine ended before it was confirmed."""


class _Request(NamedTuple):
    kind: int
    handle: int
    payload: bytes
    done: Done


class ControlLane:
    """One per engine. For the supervisor's thread; `done` is called by `tick` and `close`, and may `submit` again."""

    def __init__(self, context: EngineContext, lanes: Lanes) -> None:
        """Before any other process of the engine. Raises ShmUnavailable."""
        self._control = context.control.pointer
        self._slot = context.config.max_clients
        self._waiting: collections.deque[_Request] = collections.deque()
        self._pending: dict[int, Done] = {}
        self._places = int(views.engine(self._control).completions_per_client)
        self._number = GENERATION * _NUMBERS
        fd = memory.create_lane(context.control, self._slot, GENERATION, LANE_BYTES_MIN, name="engine lane")
        try:
            self._lane = memory.attach_lane(context.control, fd, self._slot, GENERATION, LANE_BYTES_MIN)
            lanes.put(self._slot, LaneFile(fd, GENERATION, LANE_BYTES_MIN))
        except BaseException:
            os.close(fd)
            raise
        lib.rw_slot_open(self._control, self._slot, GENERATION, os.getpid(), LANE_BYTES_MIN)
        self._writer = lib.rw_writer_open(self._control, self._lane.pointer, context.inner_fd)
        if self._writer == ffi.NULL:
            raise MemoryError("no memory for the supervisor's lane")

    def __len__(self) -> int:
        """Requests that nobody was told of yet."""
        return len(self._waiting) + len(self._pending)

    def trim(self, place: int, number: int, before: int, done: Done) -> None:
        """Drop the stream's records below offset `before`, which must not be above its confirmed offset."""
        self.submit(lib.RW_FRAME_TRIM, place, number, struct.pack("<Q", before), done)

    def delete(self, place: int, number: int, done: Done) -> None:
        """End the stream."""
        self.submit(lib.RW_FRAME_DELETE, place, number, b"", done)

    def set(self, place: int, number: int, settings: bytes, done: Done) -> None:
        """These are the stream's settings, and no others."""
        self.submit(lib.RW_FRAME_SETTINGS, place, number, settings, done)

    def submit(self, kind: int, place: int, number: int, payload: bytes, done: Done) -> None:
        """Ask for it, in the order of the calls."""
        self._waiting.append(_Request(kind, lib.rw_handle(place, number), payload, done))
        self._publish()

    def tick(self) -> float | None:
        """Tell of those that are done. Seconds until the next look is due; None: nobody waits."""
        for number in list(self._pending):
            code = int(lib.rw_completion_poll(self._writer, number))
            if code != lib.RW_PENDING:
                self._pending.pop(number)(code)
        self._publish()
        return LOOK_SECONDS if len(self) else None

    def leave(self, *, unmap: bool) -> None:
        """In a stranger's child: nothing of the lane stays mapped for writing."""
        self._lane.leave(unmap=unmap)

    def close(self) -> None:
        """The engine has ended: what is done by now is told, the rest is lost. Again, it does nothing."""
        if self._writer == ffi.NULL:
            return
        self.tick()
        for done in [*self._pending.values(), *(request.done for request in self._waiting)]:
            done(int(lib.RW_GONE))
        self._pending.clear()
        self._waiting.clear()
        lib.rw_writer_close(self._writer)
        self._writer = ffi.NULL
        self._lane.close()

    def _publish(self) -> None:
        while self._waiting and len(self._pending) < self._places:
            request = self._waiting[0]
            kind, handle, payload, done = request
            code = int(lib.rw_append_control(self._writer, kind, handle, payload, len(payload), self._number + 1))
            if code == lib.RW_FULL:
                return
            self._waiting.popleft()
            if code != lib.RW_OK:  # the engine is ending
                done(code)
                continue
            self._number += 1
            self._pending[self._number] = done
