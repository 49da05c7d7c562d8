"""Each call of the asyncio face, cancelled wherever it waits: nothing is left of it, and the client goes on.

A call is made again and again, and cancelled at its first step, at its second, until it ends before that; once while it
waits, and once when what it waits for has come at the same moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ringwal
import ringwal.aio
from ringwal import lock_file, views
from tests.support.loops import (
    CancelledAtStep,
    Run,
    descriptors,
    in_a_group,
    in_debug_mode,
    listened_to,
    on_asyncio,
    on_uvloop,
)
from tests.support.rig import WAIT, Engine, children_of, until

STEPS_MAX = 500
"""At which no call is any more."""
BRIEF = 0.02
"""Seconds for which is waited for what does not come."""

Call = Callable[[ringwal.aio.Client, str], Awaitable[object]]
"""Of a client, with a name that has not been used."""


@pytest.fixture(params=[on_asyncio, on_uvloop, in_debug_mode, in_a_group])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of one engine for all of them: no call that is cancelled does anything to it."""
    place = tmp_path_factory.mktemp("cancelled") / "log"
    with contextlib.closing(Engine(place, max_streams=4096, segment_bytes="64MiB")):
        yield place


NAMES = map("n{}".format, itertools.count())
"""Of streams that are not there yet."""


async def append_many(client: ringwal.aio.Client, name: str) -> None:
    await client.stream(name).append_many([b"x", b"y"])


async def nowait(client: ringwal.aio.Client, name: str) -> None:
    await client.stream(name).append_nowait(b"x")


async def flush(client: ringwal.aio.Client, name: str) -> None:
    for _ in range(3):
        client.stream(name).append_nowait(b"x")
    await client.stream(name).flush()


async def batch(client: ringwal.aio.Client, name: str) -> None:
    async with client.batch() as each:
        each.append(name, b"x")
        each.append("s", b"y")
    await each.receipt


async def collected(records: AsyncIterator[Any]) -> list[bytes]:
    return [record.data async for record in records]


async def tail(client: ringwal.aio.Client, _: str) -> None:
    assert (await collected(client.stream("s").tail(0, idle_timeout=BRIEF)))[:1] == [b"first"]


async def merged_tail(client: ringwal.aio.Client, _: str) -> None:
    assert (await collected(client.tail({"s": 0, "t": 0}, idle_timeout=BRIEF)))[:1] == [b"first"]


async def tail_of_nothing(client: ringwal.aio.Client, name: str) -> None:
    async with asyncio.timeout(10 * BRIEF):
        async for _ in client.stream(name).tail(missing="wait"):
            pass


async def records(client: ringwal.aio.Client, _: str) -> None:
    assert (await collected(client.stream("s").records()))[:1] == [b"first"]


async def trim(client: ringwal.aio.Client, name: str) -> None:
    await client.stream(name).append(b"x")
    await client.stream(name).trim(1)


async def configure(client: ringwal.aio.Client, name: str) -> None:
    await client.stream("t").configure(retention_records=1000 + int(name[1:]))


async def delete(client: ringwal.aio.Client, name: str) -> None:
    await client.create_stream(name)
    await client.delete_stream(name)


async def delete_what_is_appended_to(client: ringwal.aio.Client, name: str) -> None:
    client.stream(name).append_nowait(b"x")
    await client.stream(name).append(b"x")
    await client.delete_stream(name)
    await client.stream(name).append(b"y")


CALLS: dict[str, Call] = {
    "append": lambda client, name: client.stream(name).append(b"x"),
    "append_many": append_many,
    "append_nowait": nowait,
    "batch": batch,
    "flush": flush,
    "read": lambda client, _: client.stream("s").read(),
    "waiting read": lambda client, _: client.stream("s").read(1_000_000, wait=BRIEF),
    "tail": tail,
    "tail of several": merged_tail,
    "tail of nothing": tail_of_nothing,
    "records": records,
    "stat": lambda client, _: client.stream("s").stat(),
    "offset_at": lambda client, _: client.stream("s").offset_at(ringwal.At.from_ns(5)),
    "create_stream": lambda client, name: client.create_stream(name, retention_records=5),
    "configure": configure,
    "trim": trim,
    "delete_stream": delete,
    "a stream's next life": delete_what_is_appended_to,
    "streams": lambda client, _: client.streams(),
    "status": lambda client, _: client.status(),
}


DELETING = (delete, delete_what_is_appended_to)


class Quiet:
    """Whatever is said in here that no caller is told is an error: warnings, and what an event loop reports."""

    def __enter__(self) -> Quiet:
        self._said: list[Any] = []
        self._warnings = warnings.catch_warnings(record=True)
        self._caught: Any = self._warnings.__enter__()
        warnings.simplefilter("always")
        return self

    def listen(self) -> None:
        """To the loop that runs."""
        asyncio.get_running_loop().set_exception_handler(lambda _, said: self._said.append(said))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        gc.collect()
        self._warnings.__exit__(None, None, None)
        if kind is None:
            assert [str(each.message) for each in self._caught] == []
            assert self._said == []


async def cancelled(call: Awaitable[object], step: int, *, late: bool) -> bool:
    """As a task. False: it ended before that step."""
    at_step = CancelledAtStep(call, step, late=late)

    async def called() -> None:
        await at_step

    task = asyncio.ensure_future(called())
    with contextlib.suppress(asyncio.CancelledError, TimeoutError, ringwal.NoSuchStream):
        await task
    return at_step.reached


async def check_that_it_works(client: ringwal.aio.Client, name: str) -> None:
    async with asyncio.timeout(WAIT):
        stream = client.stream(name)
        offset = (await stream.append(b"after")).offset
        assert [record.data for record in await stream.read(offset)] == [b"after"]
        assert [record.data for record in await stream.read(offset, wait=WAIT)] == [b"after"]
        await stream.flush()
        status = await client.status()
        assert status["state"] == "running"
        mine = [each for each in status["clients"] if each["pid"] == os.getpid() and not each["closing"]]
        assert len(mine) == 1, "one lane is this client's, whatever became of others"


def watched(client: ringwal.aio.Client) -> list[int]:
    """How many tails the engine is to wake in each lane of this client."""
    seen = [views.lane(lane._keep[1].pointer) for each in client._attachments for lane in each._lanes]  # type: ignore[attr-defined]
    return [lane.tail_any + sum(lane.tail_streams) for lane in seen]


async def settle(said: Callable[[], Collection[Any]], wanted: Collection[Any]) -> None:
    """Until what is over is gone, which takes the loop a turn or two."""
    for turn in range(1000):
        found = said()
        if found == wanted:
            return
        if turn % 100 == 10:
            gc.collect()
        await asyncio.sleep(0)
    found, expected = Counter(said()), Counter(wanted)
    raise AssertionError(f"more than before: {found - expected}; less: {expected - found}")


@pytest.mark.parametrize("fresh", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_that_is_cancelled_leaves_nothing(
    directory: Path, run: Run, call: Call, *, fresh: bool
) -> None:
    """Also what a client's first call makes for all later ones."""

    async def main() -> None:
        quiet.listen()
        async with ringwal.aio.connect(directory) as other:
            for name in "st":
                await other.stream(name).append(b"first")
        del other
        gc.collect()
        tasks, idle, opened = asyncio.all_tasks(), listened_to(), descriptors()
        for late in (False, True):
            client = await ringwal.aio.connect(directory)
            if not fresh:
                for name in "st":
                    await client.stream(name).append(b"more")
                await client.stream("s").read(1_000_000, wait=0.0)
                gc.collect()
                usual, kept = listened_to(), descriptors()
            for step in range(1, STEPS_MAX):
                name = next(NAMES)
                reached = await cancelled(call(client, name), step, late=late)
                if not fresh:
                    await settle(listened_to, usual)  # also before the next call, which would put it right
                await check_that_it_works(client, "s" if step % 2 or call in DELETING else name)
                await settle(asyncio.all_tasks, tasks)
                await settle(partial(watched, client), [0])
                if fresh:
                    await client.close()
                    await settle(listened_to, idle)
                    await settle(descriptors, opened)
                    client = await ringwal.aio.connect(directory)
                else:
                    await settle(listened_to, usual)
                    await settle(descriptors, kept)
                if not reached:
                    break
            else:
                raise AssertionError("it has no end")
            await client.close()

    with Quiet() as quiet:
        run(main())


async def connect(directory: Path) -> None:
    client = await ringwal.aio.connect(directory, autostart=True)
    await client.close()


async def enter(directory: Path) -> None:
    async with ringwal.aio.connect(directory) as client:
        await client.stream("s").append(b"entered")
        assert await client.stream("s").read(1_000_000, wait=BRIEF) == []


@pytest.mark.parametrize("begin", [connect, enter])
def test_a_client_that_is_cancelled_on_its_way_in_or_out_leaves_nothing(
    directory: Path, run: Run, begin: Callable[[Path], Awaitable[object]]
) -> None:
    async def main() -> None:
        quiet.listen()
        await enter(directory)
        gc.collect()
        tasks, idle, opened = asyncio.all_tasks(), listened_to(), descriptors()
        for late in (False, True):
            for step in range(1, STEPS_MAX):
                reached = await cancelled(begin(directory), step, late=late)
                await settle(asyncio.all_tasks, tasks)
                await settle(listened_to, idle)
                await settle(descriptors, opened)
                if not reached:
                    break
            else:
                raise AssertionError("it has no end")
        async with ringwal.aio.connect(directory) as client:
            await check_that_it_works(client, "s")

    with Quiet() as quiet:
        run(main())


def test_a_close_that_is_cancelled_anywhere_has_closed(directory: Path, run: Run) -> None:
    """With appends and a tail under way, each of which is told."""

    async def main() -> None:
        quiet.listen()
        await enter(directory)
        gc.collect()
        tasks, idle, opened = asyncio.all_tasks(), listened_to(), descriptors()
        for late in (False, True):
            for step in range(1, STEPS_MAX):
                client = await ringwal.aio.connect(directory)
                stream = client.stream("s")
                await stream.append(b"x")
                following = asyncio.ensure_future(collected(stream.tail()))
                await asyncio.sleep(0)
                receipts = [stream.append_nowait(b"y") for _ in range(3)]
                reached = await cancelled(client.close(), step, late=late)
                for told in await asyncio.gather(*receipts, return_exceptions=True):
                    assert isinstance(told, ringwal.Ack | ringwal.ClosedError)
                    assert getattr(told, "outcome", "unknown") == "unknown"
                with pytest.raises(ringwal.Error):
                    await following
                with pytest.raises(ringwal.ClosedError):
                    await stream.append(b"z")
                await client.close()  # again, it does nothing
                del client, stream, following, receipts, told
                await settle(asyncio.all_tasks, tasks)
                await settle(listened_to, idle)
                await settle(descriptors, opened)
                if not reached:
                    break
            else:
                raise AssertionError("it has no end")

    with Quiet() as quiet:
        run(main())


@pytest.mark.parametrize("late", [False, True])
def test_an_engine_that_is_on_its_way_is_left_to_itself_or_ended(tmp_path: Path, run: Run, *, late: bool) -> None:
    """No descriptor is left of it, and no Python that is still loading; the next client has its engine."""
    place = tmp_path / "log"

    async def main() -> None:
        quiet.listen()
        tasks, opened, children = asyncio.all_tasks(), descriptors(), children_of(os.getpid())
        for step in (1, 2, 3, 20):
            reached = await cancelled(connect(place), step, late=late)
            if step < 20:  # no Python has loaded an engine by then; what has begun to start goes on
                assert reached
                assert children_of(os.getpid()) == children
            await settle(asyncio.all_tasks, tasks)
            await settle(descriptors, opened)
        async with ringwal.aio.connect(place, autostart=True, timeout=WAIT) as client:
            await check_that_it_works(client, "s")

    with Quiet() as quiet:
        run(main())
    directory = os.open(place, os.O_RDONLY)
    try:
        until(lambda: not lock_file.held(directory), "the engine has left with its last client")
    finally:
        os.close(directory)
