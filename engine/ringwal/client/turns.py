"""Appends of an event loop that wait for their turn: for room in the lane, for an engine, or behind one that does.

They are submitted one after the other, in the order of their calls, by a task that is there while there are any.
"""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING, Generic, TypeVar

from ringwal.client.awaiting import drive
from ringwal.client.refusals import Refusals
from ringwal.errors import BackpressureTimeout, ClosedError

if TYPE_CHECKING:
    from ringwal.steps import Steps, Wait

Found = TypeVar("Found")

WAITING_MAX, WAITING_BYTES_MAX = 1 << 16, 64 << 20
"""So many appends may wait, and so many bytes of them."""


class Turn(Generic[Found]):
    """An append that waits."""

    __slots__ = ("bytes", "error", "found", "over", "refusal", "steps", "wait")

    def __init__(self, steps: Steps[Found], wait: Wait | None, size: int, over: asyncio.Future[None]) -> None:
        self.steps = steps
        self.wait = wait
        """Where they stand, if they have begun."""
        self.bytes = size
        self.over = over
        """It is submitted, or refused."""
        self.found: Found | None = None
        """What its steps have found, once it is submitted."""
        self.error: Exception | None = None
        self.refusal: int | None = None
        """The number of its refusal, until its caller is told."""


class Turns(Generic[Found]):
    """Of one stream, or of one producer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stream: str) -> None:
        self._loop = loop
        self._stream = stream
        self.waiting: collections.deque[Turn[Found]] = collections.deque()
        """Whoever comes while one is in here goes behind it."""
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._refusals = Refusals()

    def check_room(self, size: int) -> None:
        """Raises BackpressureTimeout: too many wait already."""
        count = len(self.waiting)
        if count >= WAITING_MAX or (count and self._bytes + size > WAITING_BYTES_MAX):
            raise BackpressureTimeout(
                f"{count} appends to {self._stream!r} ({self._bytes >> 20} MiB) wait for room already; nothing was appended:"
                " await some of them"
            )

    def add(self, steps: Steps[Found], wait: Wait | None, size: int) -> Turn[Found]:
        """It goes behind those that wait. ``wait`` is where its steps stand, if they have begun."""
        turn = Turn(steps, wait, size, self._loop.create_future())
        self.waiting.append(turn)
        self._bytes += size
        if self._task is None:
            self._task = self._loop.create_task(self._submit())
        return turn

    async def _submit(self) -> None:
        waiting = self.waiting
        try:
            while waiting:
                head = waiting[0]
                try:
                    head.found = await drive(head.steps, head.wait)
                except Exception as error:  # noqa: BLE001  it is the caller's; the others have nothing to do with it
                    self._refuse(head, error)
                self._leave()
        finally:  # else the loop ends, and this with it
            self._task = None
            while waiting:
                self._refuse(waiting[0], ClosedError("the event loop ended; nothing was appended", outcome="not_appended"))
                self._leave()

    def _refuse(self, turn: Turn[Found], error: Exception) -> None:
        turn.error = error
        turn.refusal = self._refusals.add(error)

    def _leave(self) -> None:
        head = self.waiting.popleft()
        self._bytes -= head.bytes
        if not self._loop.is_closed():
            head.over.set_result(None)

    async def come(self, turn: Turn[Found]) -> None:
        """Returns when it is submitted. Raises what it was refused with, of which its caller is told so."""
        if not turn.over.done():
            await asyncio.shield(turn.over)
        if turn.error is not None:
            self.told(turn)
            raise turn.error

    def told(self, turn: Turn[Found]) -> None:
        """The caller of that one knows how it was refused, if it was."""
        number, turn.refusal = turn.refusal, None
        if number is not None:
            self._refusals.told(number)

    async def none(self) -> None:
        """Returns when nobody waits."""
        while self.waiting:
            await asyncio.shield(self.waiting[-1].over)

    def refused(self) -> Exception | None:
        """How one was refused of which nobody was told: from now on all have been."""
        return self._refusals.take()

    def forked(self) -> None:
        """In the child of a fork: the loop, and what waits in it, are the parent's."""
        self.waiting.clear()
        self._bytes, self._task = 0, None
