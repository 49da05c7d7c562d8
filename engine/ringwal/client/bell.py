"""How an event loop learns of what the engine says to a lane: by one descriptor, the bell, that the drain rings.

Once per batch, and only while somebody awaits (csrc/lane.h, PAIR: bell): so a loop with a thousand appends under way is woken
once, and finds in one pass of C which of them are confirmed. What is awaited is a number's future, or the next ring. The
futures are of this loop, and nothing here may be called from another thread.

The bell of an engine that has died is never rung. So while something is awaited the lane is looked at every 0.1 s, too, as
often as the synchronous face does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ringwal._native import ffi, lib
from ringwal.client.results import FAILED
from ringwal.client.verdicts import is_refused

if TYPE_CHECKING:
    from ringwal.client.lane import Lane
    from ringwal.held import Held

TICK = 0.1
"""Seconds between two looks whether the engine lives."""

FOLLOW_GAP = 2e-3
"""Seconds between two looks of those who follow streams, under load: what is said meanwhile they find in one go. A reader that
is woken for each block costs more than the block."""

_FAILED_REQUEST = lib.RW_FAILED_REQUEST
_collect = lib.rw_completions_collect


class Bell:
    """Of one lane, in one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lane: Lane, held: Held, place: int) -> None:
        """``held`` has the client's end of the bell at ``place``, and is kept."""
        self.loop = loop
        self.lane = lane
        self._held = held
        self._fd = held[place]
        self._pid = os.getpid()
        self.pending: dict[int, asyncio.Future[int]] = {}
        """By number, the futures of appends: of what `Results.find` says of them at last."""
        self._further: dict[int, list[asyncio.Future[int]]] = {}
        self._flushing: set[asyncio.Future[int]] = set()
        """Of them, those of who waits for many: with these, an append's own caller is not told."""
        self._ringing: list[asyncio.Future[None]] = []
        self._following: list[tuple[asyncio.Future[None], Callable[[int], int]]] = []
        """Those who follow a stream, with the look that says whether there is more of it."""
        self._follow_from = 0.0  # when they are looked at again, at the earliest
        self._gap: asyncio.TimerHandle | None = None
        self._wanted = False
        self._tick: asyncio.TimerHandle | None = None
        self._found: Any = ffi.new("int64_t[]", lane.places)
        self._listening = True
        loop.add_reader(self._fd, _rung, weakref.ref(self))  # a client that nobody closes goes like other objects

    # ------------------------------------------------------------------------------------------------- awaiting

    def future(self, number: int) -> asyncio.Future[int]:
        """Of the end of the append with that number."""
        future: asyncio.Future[int] = self.loop.create_future()
        if number in self.pending:
            self._further.setdefault(number, []).append(future)
        else:
            self.pending[number] = future
        if not self._wanted:
            self.want()
        return future

    def flushing(self, number: int) -> asyncio.Future[int]:
        """The same for `flush`, which decides by itself whom it tells of what."""
        future = self.future(number)
        self._flushing.add(future)
        future.add_done_callback(self._flushing.discard)
        return future

    def next_ring(self) -> asyncio.Future[None]:
        """Of the next ring, or of the next look."""
        future: asyncio.Future[None] = self.loop.create_future()
        if not self._listening:
            return self._silent(future)
        self._ringing.append(future)
        if not self._wanted:
            self.want()
        return future

    def follow(self, look: Callable[[int], int]) -> asyncio.Future[None]:
        """Of the next ring with which ``look(0)`` finds something, or of the next look at the engine."""
        future: asyncio.Future[None] = self.loop.create_future()
        if not self._listening:
            return self._silent(future)
        self._following.append((future, look))
        if not self._wanted and self._gap is None:
            self.want()
        return future

    def _silent(self, future: asyncio.Future[None]) -> asyncio.Future[None]:
        """The lane has ended, and nothing rings: who was elsewhere then, and waits in it now, looks again after a while."""
        self.loop.call_later(TICK, _resolve, future)
        return future

    def want(self) -> None:
        """From now on the drain rings. What it had said before is looked at once more: it may have found that nobody wanted it.

        Not at once, as many begin to await in one step of the loop.
        """
        self._wanted = True
        lib.rw_bell_want(self.lane.writer, 1)
        self.loop.call_soon(self._look)
        if self._tick is None:
            self._tick = self.loop.call_later(TICK, _tick, weakref.ref(self))

    # -------------------------------------------------------------------------------------------------- ringing

    def rung(self) -> None:
        """The descriptor can be read."""
        lib.rw_take_bell(self._fd)
        self._look()

    def _look(self) -> None:
        ringing = self._ringing
        if ringing:
            self._ringing = []
            for each in ringing:
                if not each.done():
                    each.set_result(None)
        if self._following:
            self._look_for_followers()
        if self.pending:
            self.deliver()
        elif self._wanted and not self._ringing and (not self._following or self._gap is not None):
            self._wanted = False
            lib.rw_bell_want(self.lane.writer, 0)

    def _look_for_followers(self) -> None:
        if self._gap is not None:
            return
        now = self.loop.time()
        if now < self._follow_from:
            self._gap = self.loop.call_at(self._follow_from, _gap_over, weakref.ref(self))
            return
        waiting = [each for each in self._following if not each[0].done()]
        self._following = []
        for each in waiting:
            if each[1](0) == lib.RW_PENDING:
                self._following.append(each)
            else:
                each[0].set_result(None)
                self._follow_from = now + FOLLOW_GAP

    def gap_over(self) -> None:
        """Followers may be looked at again."""
        self._gap = None
        if self._wanted:
            self._look()
        elif self._listening and self._following:
            self.want()

    def _wake_followers(self) -> None:
        following, self._following = self._following, []
        for future, _ in following:
            if not future.done():
                future.set_result(None)

    def deliver(self) -> None:
        """Settles the futures of all appends whose end is known."""
        lane, pending = self.lane, self.pending
        if lane.ending:
            self._deliver_ended()
            return
        numbers = list(pending)
        if not numbers:
            return
        first = min(numbers)
        count = max(numbers) + 1 - first
        if count <= len(self._found):
            _collect(lane.writer, first, count, self._found)
            found = ffi.unpack(self._found, count)
            for number in numbers:
                code = found[number - first]
                if code >= 0:
                    future = pending.pop(number)
                    if not future.done():
                        future.set_result(code)
                elif is_refused(code):
                    self._settle(number, code)
                elif code == _FAILED_REQUEST:
                    lane.end_failed()  # which comes back here
                    return
            if self._further:
                self._deliver_further(found, first)
        else:  # there are holes between them larger than all of the lane's cells: their results are kept
            for number in numbers:
                self._settle(number, lane.fate(number))

    def _deliver_further(self, found: list[int], first: int) -> None:
        for number in [n for n in self._further if n not in self.pending]:
            self._settle(number, found[number - first])

    def _deliver_ended(self) -> None:
        for number in [*self.pending, *self._further]:
            self._settle(number, self.lane.fate(number))

    def _settle(self, number: int, code: int) -> None:
        if code < 0 and code != FAILED and not is_refused(code):
            return
        future = self.pending.pop(number, None)
        for each in ([] if future is None else [future]) + self._further.pop(number, []):
            if not each.done():
                # Before its caller runs: an append that comes first is not behind a gap that nobody knows of.
                if code < 0 and each not in self._flushing:
                    self.lane.count_told(number)
                each.set_result(code)

    def look_at_engine(self) -> None:
        """Now and then, while something is awaited: the bell may have been lost with a drain, and the engine with all."""
        self._tick = None
        lane = self.lane
        if not lane.ending:
            lane.look_at_engine(next(iter(self.pending), None))
        self._wake_followers()
        self._look()
        if self._wanted and self._listening:
            self._tick = self.loop.call_later(TICK, _tick, weakref.ref(self))

    # ------------------------------------------------------------------------------------------------------ end

    def ended(self) -> None:
        """The lane has ended: what is awaited is over, and the descriptor may be closed."""
        if not self.loop.is_closed():  # else nobody awaits anything any more
            self._wake_followers()
            self._look()
        self._leave()

    def _leave(self) -> None:
        if self._listening:
            self._listening = False
            if self._tick is not None:
                self._tick.cancel()
                self._tick = None
            if self._gap is not None:
                self._gap.cancel()
                self._gap = None
            if not self.loop.is_closed():
                self.loop.remove_reader(self._fd)
        self._held.close()

    def forked(self) -> None:
        """In the child of a fork: the loop is the parent's, and so is its selector, which the kernel shares between the two."""
        self._listening = False
        self._held.close()

    def __del__(self) -> None:
        if self._listening and self._pid == os.getpid():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(_forget, self.loop, self._fd, self._held)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _rung(bell: weakref.ref[Bell]) -> None:
    found = bell()
    if found is not None:
        found.rung()


def _tick(bell: weakref.ref[Bell]) -> None:
    found = bell()
    if found is not None:
        found.look_at_engine()


def _gap_over(bell: weakref.ref[Bell]) -> None:
    found = bell()
    if found is not None:
        found.gap_over()


def _forget(loop: asyncio.AbstractEventLoop, fd: int, held: Held) -> None:
    """In this order: a number that is another file's by then is not to be removed."""
    loop.remove_reader(fd)
    held.close()
