"""What is done in steps, by both faces of the client: a generator that yields what it waits for and is sent what came of it.

The synchronous face parks its thread there (`park`), the asyncio face awaits (client/awaiting.py). So the order of things,
their errors and what becomes of a record are written once. A generator belongs to one call: another thread, or a signal
handler, that comes in beside it makes its own. What ends a wait (an interrupt, a cancelled task) is thrown into the
generator at that place, and whatever it lets go of there it lets go of without waiting.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

from ringwal.thread_lock import Occupied, ThreadLock

Found = TypeVar("Found")


class Wait(Protocol):
    """What steps wait for."""

    def park(self) -> Any:
        """Waits in this thread; returns what the steps are sent."""


Steps: TypeAlias = Generator[Wait, Any, Found]


def park(steps: Steps[Found]) -> Found:
    """Goes through the steps, and holds this thread where they wait."""
    try:
        wait = next(steps)
        while True:
            try:
                found = wait.park()
            except BaseException as error:  # noqa: BLE001  it goes on, or is dealt with, where the wait stands
                wait = steps.throw(error)
            else:
                wait = steps.send(found)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


class Rest:
    """Nobody says when it is so: look again after so many seconds."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def park(self) -> None:
        time.sleep(self.seconds)  # looked up now: gevent may have patched it


class Ready:
    """A descriptor that can be read or written; for so many seconds. Sent: is it?"""

    __slots__ = ("event", "fd", "leave", "seconds")

    def __init__(self, fd: int, event: int, seconds: float) -> None:
        """``event`` is ``select.POLLIN`` or ``select.POLLOUT``."""
        self.fd = fd
        self.event = event
        self.seconds = seconds
        self.leave: Callable[[], None] | None = None
        """Ends the wait of a task. To be called before the descriptor is closed, whose number is another file's then."""

    def park(self) -> bool:
        poller = select.poll()
        poller.register(self.fd, self.event)
        return bool(poller.poll(self.seconds * 1e3))


class Alone:
    """Steps that no other thread, and no other task, is in at the same time. Sent: what they return. Thrown: Occupied, if
    others were in them for so many seconds."""

    __slots__ = ("lock", "patience", "steps")

    def __init__(self, lock: ThreadLock, steps: Callable[[], Steps[Any]], patience: float | None = None) -> None:
        self.lock = lock
        self.steps = steps
        self.patience = patience

    def park(self) -> Any:
        return self.lock.run(partial(_parked, self.steps), self.patience)


def _parked(steps: Callable[[], Steps[Any]]) -> Any:
    return park(steps())


def alone(lock: ThreadLock, steps: Callable[[], Steps[Found]]) -> Steps[Found]:
    """As a step."""
    found: Found = yield Alone(lock, steps)
    return found


def within(steps: Steps[Found], deadline: float, late: Callable[[], Exception]) -> Steps[Found]:
    """As a part of steps that has to end by then (`time.monotonic`): where they wait behind that, ``late`` is thrown there."""
    try:
        wait = next(steps)
        while True:
            left = max(0.0, deadline - time.monotonic())
            if isinstance(wait, Alone):
                wait = Alone(wait.lock, partial(_within, wait.steps, deadline, late), left)
            elif hasattr(wait, "seconds"):
                wait.seconds = min(wait.seconds, left)
            try:
                found = yield wait
            except Occupied:
                wait = steps.throw(late())
            except BaseException as error:  # noqa: BLE001  it goes on, or is dealt with, where the wait stands
                wait = steps.throw(error)
            else:
                wait = steps.send(found) if left else steps.throw(late())
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def _within(steps: Callable[[], Steps[Found]], deadline: float, late: Callable[[], Exception]) -> Steps[Found]:
    return within(steps(), deadline, late)
