"""The client's end of a lane: numbers, receipts, back-pressure."""

from __future__ import annotations

import itertools
import os
import time
import weakref
from collections.abc import Callable
from typing import Any

from engine._native import ffi, lib
from engine.errors import (
    AckTimeout,
    BackpressureTimeout,
    EngineFailed,
    Error,
    ForkError,
    NotRunning,
    RecordTooLarge,
    StorageFull,
)
from engine.receipt import FAILED, PENDING, Receipt

SLICE_NS = 100_000_000
"""How long one wait in C may last before Python looks at signals, the engine and the deadline."""

SPIN_NS = 300_000
"""How long a waiting caller gives the processor away in a loop before it parks. Measured: parking costs about 20 us a hop."""


class Lane:
    """One lane of shared memory and the receipts of what was published into it.

    A request's number chooses one of ``places`` completion cells. Before a number is used, the receipt that had the cell
    before is settled, so the drain can never overrun a result that somebody still wants; with ``places`` appends outstanding
    the next one waits for the oldest. Numbers are handed out by ``itertools.count``, which is atomic; every other step
    concerns one number only, so threads share a lane without a lock.
    """

    def __init__(self, *, control: Any, lane: Any, bell_fd: int, alive: Callable[[], bool], keep: tuple[object, ...]) -> None:
        """``keep`` holds the mappings: they are released with the last receipt, as a thread may still be waiting in C."""
        self.control = control
        bell = os.dup(bell_fd)  # ours: a thread may ring while the registration is being closed
        self.writer = lib.rw_writer_open(control, lane, bell)
        if self.writer == ffi.NULL:
            os.close(bell)
            raise MemoryError("no memory for a lane's private state")
        self._keep = keep
        weakref.finalize(self, _release, self.writer, bell).atexit = False
        self.slot = int(lane.slot)
        self.generation = int(lane.generation)
        self.record_limit = int(lib.rw_writer_record_limit(self.writer))
        self.places = int(control.completions_per_client)
        self.mask = self.places - 1
        base = self.generation << 32
        self.numbers = itertools.count(base + 1)
        self.pending = [self._never(base + i - self.places if i else base) for i in range(self.places)]
        self.lost: Error | None = None  # why this lane is of no use any more
        self._alive = alive

    def _never(self, number: int) -> Receipt:
        receipt = Receipt(self, number, "", 0)
        receipt.outcome = 0
        return receipt

    # ------------------------------------------------------------------------------------------------ receipts

    def settle(self, receipt: Receipt) -> bool:
        """Looks for the result. True if the receipt is settled now."""
        if receipt.outcome != PENDING:
            return True
        found = lib.rw_completion_poll(self.writer, receipt.number)  # first: it may have been confirmed before the end
        if receipt.outcome != PENDING:
            return True  # by another thread, and the cell may have been used anew since
        if found >= 0:
            receipt.outcome = found
        elif found == lib.RW_FAILED_REQUEST:
            self._fail(receipt, self.end(EngineFailed("the engine could not write this append")))
        elif self.lost is not None:
            self._fail(receipt, self.lost)
        return receipt.outcome != PENDING

    def _fail(self, receipt: Receipt, error: Error) -> None:
        receipt.error = error
        receipt.outcome = FAILED

    def wait(self, receipt: Receipt, timeout: float | None) -> None:
        """Returns with the receipt settled, or raises `AckTimeout`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        spin = SPIN_NS
        while not self.settle(receipt):
            left = SLICE_NS if deadline is None else min(SLICE_NS, int((deadline - time.monotonic()) * 1e9))
            if left <= 0:
                raise AckTimeout(
                    f"append to {receipt.stream!r} not confirmed within {timeout:g} s; its outcome is unknown, ask again later"
                )
            found = lib.rw_completion_wait(self.writer, receipt.number, spin, left)
            spin = 0
            if receipt.outcome != PENDING:
                return
            if found >= 0:
                receipt.outcome = found
            elif found not in (lib.RW_PENDING, lib.RW_INTERRUPTED):
                self.end(self._why(found))
            elif not self._alive():
                self._end_unless_done(receipt)

    def _end_unless_done(self, receipt: Receipt) -> None:
        # The engine may have confirmed between the last look and its end.
        found = lib.rw_completion_poll(self.writer, receipt.number)
        if found >= 0:
            receipt.outcome = found
        else:
            self.end(EngineFailed("the engine ended before this append was confirmed"))

    def _why(self, code: int) -> Error:
        if code == lib.RW_FAULT:
            return EngineFailed("the engine refused this client's lane because it held damaged requests")
        state = self.control.state
        if state == lib.RW_STOPPED:
            return EngineFailed("the engine was stopped before this append was confirmed")
        error = int(self.control.error)
        if error == 0:
            return EngineFailed("the engine was killed, or gave up, before this append was confirmed")
        return EngineFailed(f"the engine failed ({describe_errno(error)})", error)

    def end(self, error: Error) -> Error:
        """Marks the lane as of no use; every receipt that is still pending ends with this error."""
        if self.lost is None:
            self.lost = error
        return self.lost

    # --------------------------------------------------------------------------------------------------- append

    def slow_place(self, number: int, deadline: float) -> None:
        """Waits until the completion cell of ``number`` is free: the cold half of `engine.client.Stream.append`."""
        place = number & self.mask
        while True:
            earlier = self.pending[place]
            if earlier.number != number - self.places:
                # Another thread has this cell's turn before us and has not stored its receipt yet.
                time.sleep(0)
            elif self.settle(earlier):
                return
            else:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._no_room(f"{self.places} appends are outstanding and the oldest is not confirmed in time")
                try:
                    self.wait(earlier, min(left, 0.1))
                except AckTimeout:
                    continue

    def refused(self, code: int, payload_bytes: int, deadline: float, timeout: float) -> None:
        """What to do about an append that was not published: returns if it may be tried again, else raises."""
        if code == lib.RW_TOO_LARGE:
            raise RecordTooLarge(
                f"{payload_bytes} bytes in one append; this client's limit is {self.record_limit} (half of its lane): "
                "connect with a larger lane_bytes, or start the engine with a larger ring_bytes",
                limit=self.record_limit,
            )
        if code != lib.RW_FULL:
            error = self.end(self._why(code))
            raise NotRunning(f"nothing was appended: {error}", outcome="not_appended") from error
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._no_room(f"no room in this client's lane within {timeout:g} s; nothing was appended")
        lib.rw_wait_room(self.writer, payload_bytes, int(min(SLICE_NS, left * 1e9)))
        if not self._alive():
            error = self.end(EngineFailed("the engine ended before this append was confirmed"))
            raise NotRunning("the engine ended; nothing was appended", outcome="not_appended") from error

    def _no_room(self, otherwise: str) -> Error:
        """The append timeout has passed: because the disk is full, or because the engine is slow (``otherwise``)."""
        full = int(self.control.storage_full)
        if not full:
            return BackpressureTimeout(otherwise)
        return StorageFull(
            f"the engine cannot prepare another segment ({describe_errno(full)}): "
            "free space in its directory and it goes on by itself; nothing was appended",
            full,
        )

    # ------------------------------------------------------------------------------------------------- life cycle

    def outstanding(self) -> list[Receipt]:
        return [r for r in self.pending if r.outcome == PENDING]

    def forked(self) -> None:
        """In the child of a fork: the lane stays the parent's."""
        self.lost = ForkError("this receipt was made before a fork; only the parent can wait for it")
        for receipt in self.outstanding():
            self._fail(receipt, self.lost)

    def close(self, error: Error) -> None:
        """No more appends. Results that are in by now are kept; what is pending ends with ``error``."""
        for receipt in self.outstanding():
            self.settle(receipt)
        self.end(error)


def _release(writer: Any, bell: int) -> None:
    lib.rw_writer_close(writer)
    os.close(bell)


def describe_errno(number: int) -> str:
    """What an errno means, for messages."""
    return os.strerror(number) if number else "no error number"
