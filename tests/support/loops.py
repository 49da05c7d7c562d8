"""The event loops in which the tests of the asyncio face run, and what is seen of them from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, Generic, TypeVar

import uvloop

from tests.support.rig import WAIT

Found = TypeVar("Found")
Run = Callable[[Coroutine[Any, Any, None]], None]


def on_asyncio(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, WAIT))


def on_uvloop(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main, WAIT))


def in_debug_mode(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, WAIT), debug=True)


def in_a_group(main: Coroutine[Any, Any, None]) -> None:
    async def grouped() -> None:
        async with asyncio.timeout(WAIT), asyncio.TaskGroup() as group:
            group.create_task(main)

    asyncio.run(grouped())


def listened_to() -> list[str]:
    """The descriptors in the selectors of this process."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{number}") == "anon_inode:[eventpoll]":
                said = Path(f"/proc/self/fdinfo/{number}").read_text().splitlines()
                found += [f"{number} {line.split()[1]}" for line in said if line.startswith("tfd:")]
    return sorted(found)


def descriptors() -> list[str]:
    """What this process has open, without the numbers of pipes and sockets."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            found.append(os.readlink(f"/proc/self/fd/{number}").partition(":[")[0])
    return sorted(found)


class CancelledAtStep(Generic[Found]):
    """Awaits something, and cancels the task that awaits this, once, where it waits for the ``step``-th time: while it waits,
    or ``late``, when what it waits for has just come, and the task has not heard of it."""

    def __init__(self, awaited: Awaitable[Found], step: int, *, late: bool) -> None:
        self._awaited = awaited
        self._step = step
        self._late = late
        self.reached = False
        """Has it waited so often?"""

    def __await__(self) -> Generator[Any, Any, Found]:
        steps = self._awaited.__await__()
        try:
            wait = next(steps)
            for number in range(1, 1_000_000):
                if number == self._step:
                    self._cancel(wait)
                try:
                    found = yield wait
                except BaseException as error:  # noqa: BLE001  it is for what is awaited
                    wait = steps.throw(error)
                else:
                    wait = steps.send(found)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        raise AssertionError("it waits for ever")

    def _cancel(self, wait: Any) -> None:
        self.reached = True
        task = asyncio.current_task()
        assert task is not None
        if self._late and wait is not None:
            wait.add_done_callback(lambda _: task.cancel())  # before that of the task, which is not there yet
        else:
            task.cancel()
