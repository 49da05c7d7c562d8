"""The drain process: a Python process around csrc/sequencer.c, which confirms each stream in order."""

from __future__ import annotations

import os
import signal

from ringwal._native import ffi, lib
from ringwal.errors import Error
from ringwal.processes.context import FINISH, EngineContext
from ringwal.processes.lanes import Attached

ATTACH = 1
DETACH = 2

SPIN_NS = 2_000_000
"""How long it gives the processor away in a loop while blocks are in flight and none completes; then it parks."""

PARK_NS = 5_000_000_000


class DrainProcess:
    """One life of the drain process. A successor starts from the released position in shared memory."""

    def __init__(self, context: EngineContext) -> None:
        self.context = context
        self.control = context.control.pointer
        self.lanes: dict[int, Attached] = {}
        self.stopping = False
        assert context.intake is not None
        self.intake = context.intake
        self.sequencer = lib.rw_sequencer_open(self.control, context.ring.pointer, context.inner_fd)
        if self.sequencer == ffi.NULL:
            raise MemoryError("no memory for the drain process")

    def run(self) -> int:
        """Works until FINISH, then until every sealed block is confirmed. Returns the exit code of the process."""
        signal.signal(FINISH, self._on_stop)
        while not (self.stopping and lib.rw_sequencer_idle(self.sequencer)):
            # A signal between the test and the park would be seen after the park only, so the park is short at the end.
            code = lib.rw_sequencer_work(self.sequencer, SPIN_NS, PARK_NS if not self.stopping else 10_000_000)
            if code == lib.RW_MAINTENANCE:
                self._follow_lane()
            elif code == lib.RW_IO:
                return os.EX_IOERR  # nothing is confirmed any more; the WAL process may be busy, so this tells the supervisor
        return os.EX_OK

    def _on_stop(self, number: int, frame: object) -> None:
        self.stopping = True

    def _follow_lane(self) -> None:
        slot, generation = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        wanted = lib.rw_sequencer_wants(self.sequencer, slot, generation)
        if wanted == ATTACH:
            self._attach(slot[0], generation[0])
        elif wanted == DETACH:
            # First: once the slot is let go, the next generation's lane may come.
            self.intake.forget(slot[0])
            lib.rw_sequencer_detach_lane(self.sequencer, slot[0])
            self._let_go(slot[0])

    def _attach(self, k: int, generation: int) -> None:
        """Only the lane's wait flags are read here; without them its threads are woken by their own slices of waiting."""
        pointer, bell = ffi.NULL, None
        self._let_go(k)
        try:
            self.lanes[k] = lane = self.intake.attach(self.context.control, k, generation)
        except Error as error:
            self.context.log.warning("lane %d cannot be watched: %s", k, error)
        else:
            pointer, bell = lane.mapping.pointer, lane.bell
        lib.rw_sequencer_attach_lane(self.sequencer, k, pointer, generation, -1 if bell is None else bell)

    def _let_go(self, k: int) -> None:
        """Close what there is of that slot's former generation: the sequencer asks nothing of it any more before the next."""
        if (lane := self.lanes.pop(k, None)) is not None:
            lane.mapping.close()
            if lane.bell is not None:
                os.close(lane.bell)


def main(context: EngineContext) -> int:
    """The body of the drain process, after the fork. Returns its exit code."""
    try:
        return DrainProcess(context).run()
    except (Error, OSError) as error:
        context.log.error("drain process: %s", error)
        return os.EX_SOFTWARE
