"""The asyncio face of steps: where the synchronous face parks its thread, a task awaits."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ringwal._native import lib
from ringwal.client.bell import TICK
from ringwal.client.lane import Completion, Told
from ringwal.client.results import PENDING
from ringwal.steps import Alone, Ready, Rest, Steps, Wait
from ringwal.thread_lock import Occupied

Found = TypeVar("Found")


async def drive(steps: Steps[Found], first: Wait | None = None) -> Found:
    """Goes through the steps, and awaits where they wait. A task that is cancelled there ends them there.

    ``first`` is what they wait for already, if they have begun.
    """
    try:
        wait = next(steps) if first is None else first
        while True:
            try:
                found = await _KINDS[type(wait)](wait)
            except BaseException as error:  # noqa: BLE001  it goes on, or is dealt with, where the wait stands
                wait = steps.throw(error)
            else:
                wait = steps.send(found)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


class Over:
    """What steps of an event loop wait for: that a turn is over (ringwal.client.turns)."""

    __slots__ = ("over",)

    def __init__(self, over: asyncio.Future[None]) -> None:
        self.over = over

    def park(self) -> None:
        raise AssertionError("no thread waits for a turn")


async def _over(wait: Over) -> None:
    await asyncio.shield(wait.over)


async def _rest(wait: Rest) -> None:
    await asyncio.sleep(wait.seconds)


async def _ready(wait: Ready) -> bool:
    """One task at a time waits for a descriptor: what is asked of an engine is asked alone."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[int] = loop.create_future()

    reads = wait.event == select.POLLIN
    (loop.add_reader if reads else loop.add_writer)(wait.fd, _resolve, ready, 1)
    late = loop.call_later(wait.seconds, _resolve, ready, 0)

    def leave() -> None:
        wait.leave = None
        late.cancel()
        if not loop.is_closed():
            (loop.remove_reader if reads else loop.remove_writer)(wait.fd)
            _resolve(ready, 0)

    wait.leave = leave
    try:
        return bool(await ready)
    finally:
        if wait.leave is not None:
            leave()


async def _alone(wait: Alone) -> Any:
    if wait.lock.awaited is None:
        wait.lock.awaited = asyncio.Lock()
    lock: asyncio.Lock = wait.lock.awaited
    if wait.patience is None:
        await lock.acquire()
    else:
        try:
            async with asyncio.timeout(wait.patience):
                await lock.acquire()
        except TimeoutError:
            raise Occupied from None
    try:
        return await drive(wait.steps())
    finally:
        lock.release()


async def _told(wait: Told) -> int:
    lane = wait.lane
    bell = lane.bell
    if bell is None:  # the lane has ended
        await asyncio.sleep(0)
        return wait.look(0)
    writer = lane.writer  # until the end of this: `Lane.wait_in` puts another one in its place
    place = None if wait.stream is None else lib.rw_tail_watch(writer, wait.stream)
    try:
        ring = bell.next_ring() if place is None else bell.follow(wait.look)  # first: what is said from now on rings
        code = wait.look(0)
        if code == lib.RW_PENDING:
            late = None  # the bell rings for all who wait so long
            if wait.seconds < TICK:
                late = bell.loop.call_later(wait.seconds, _resolve, ring, None)
            try:
                await ring
            finally:
                if late is not None:
                    late.cancel()
            code = wait.look(0)
        else:
            ring.cancel()
    finally:
        if place is not None:
            lib.rw_tail_unwatch(writer, place)
    return code


def _resolve(future: asyncio.Future[Found], found: Found) -> None:
    if not future.done():
        future.set_result(found)


async def _completion(wait: Completion) -> int:
    lane = wait.lane
    found = wait.results.find(wait.number)
    if found != PENDING:
        return found
    assert lane.bell is not None
    future = lane.bell.flushing(wait.number)
    if wait.timeout is None:
        return await future
    done, _ = await asyncio.wait([future], timeout=wait.timeout)
    if not done:
        raise lane.late(wait.stream, wait.timeout)
    return future.result()


_KINDS: dict[type, Callable[[Any], Awaitable[Any]]] = {
    Over: _over,
    Rest: _rest,
    Ready: _ready,
    Alone: _alone,
    Told: _told,
    Completion: _completion,
}
