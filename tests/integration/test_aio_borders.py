"""The asyncio face where two things meet: a fork and a tail, a request and the end of its client, a tail and the first append,
a queue and an engine that does not come back, a loop and another one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ringwal
import ringwal.aio
from ringwal import views
from tests.support.loops import Run, listened_to, on_asyncio, on_uvloop
from tests.support.rig import WAIT, Engine, stop_process


@pytest.fixture(params=[on_asyncio, on_uvloop])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


@contextlib.contextmanager
def standing_still(engine: Engine) -> Iterator[None]:
    pids = [engine.pid(role) for role in ("supervisor", "wal", "drain")]
    for pid in pids:
        stop_process(pid)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def follow(records: Any, got: list[bytes]) -> None:
    async for record in records:
        got += [record.data]


async def wait_for(receipt: ringwal.aio.Receipt) -> ringwal.Ack:
    return await receipt


async def until(said: Callable[[], object]) -> None:
    while not said():
        await asyncio.sleep(0.001)


def test_a_fork_leaves_the_parent_the_bell_of_its_tail(
    directory: Path, start: Callable[..., Engine], run: Run
) -> None:
    start()
    with ringwal.connect(directory) as other:
        other.stream("s").append(b"first").result(WAIT)

    async def main() -> None:
        async with ringwal.aio.connect(directory) as client:  # which appends nothing: its lane is one to wait in
            got: list[bytes] = []
            tail = asyncio.create_task(follow(client.stream("s").tail(0), got))
            await until(lambda: got and client._attachments[0]._waiters)
            before = listened_to()
            child = os.fork()
            if child == 0:
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert listened_to() == before
            tail.cancel()

    run(main())


def test_the_first_append_leaves_no_interest_behind(directory: Path, start: Callable[..., Engine], run: Run) -> None:
    start()
    with ringwal.connect(directory) as other:
        other.stream("s").append(b"first").result(WAIT)

    async def main() -> None:
        async with ringwal.aio.connect(directory) as client:
            got: list[bytes] = []
            tails = [
                asyncio.create_task(follow(client.tail({"s": 0}), got)),
                asyncio.create_task(follow(client.stream("s").tail(0), got)),
            ]
            await until(lambda: len(got) == 2)
            await client.stream("own").append(b"x")  # from now on the tails wait in the lane of this
            await client.stream("s").append(b"y")
            await until(lambda: len(got) == 4)
            for tail in tails:
                tail.cancel()
            await asyncio.gather(*tails, return_exceptions=True)
            lane = client._attachments[0]._lanes[0]
            seen = views.lane(lane._keep[1].pointer)  # type: ignore[attr-defined]
            assert (seen.tail_any, list(seen.tail_streams)) == (0, [0] * len(seen.tail_streams))

    run(main())


def test_a_request_under_way_leaves_a_closed_clients_numbers_alone(
    directory: Path, start: Callable[..., Engine], run: Run
) -> None:
    engine = start()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        client = await ringwal.aio.connect(directory)
        idle = listened_to()
        with standing_still(engine):
            asked = asyncio.create_task(client.status())
            await until(lambda: listened_to() != idle)
            await client.close(0)
            pairs = [socket.socketpair() for _ in range(8)]  # one of them has the number of the client's connection
            heard: set[int] = set()
            for place, (ours, _) in enumerate(pairs):
                loop.add_reader(ours.fileno(), heard.add, place)
            with pytest.raises(ringwal.NotRunning):
                await asked
        for _, theirs in pairs:
            theirs.send(b"x")
        await until(lambda: len(heard) == len(pairs))
        for ours, theirs in pairs:
            loop.remove_reader(ours.fileno())
            ours.close()
            theirs.close()

    run(main())


def test_what_waits_for_an_engine_waits_together(directory: Path, start: Callable[..., Engine], run: Run) -> None:
    engine = start()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with ringwal.aio.connect(directory, reconnect=1.0) as client:
            stream = client.stream("s")
            await stream.append(b"first")
            engine.kill()
            receipts = [stream.append_nowait(b"x") for _ in range(100)]
            async with asyncio.timeout_at(loop.time() + 20):  # one behind the other it would be 100 s
                told = await asyncio.gather(*receipts, return_exceptions=True)
            assert {(type(each), each.outcome) for each in told} == {(ringwal.NotRunning, "not_appended")}  # type: ignore[union-attr]

    run(main())


def test_a_close_that_is_cancelled_has_closed(directory: Path, start: Callable[..., Engine], run: Run) -> None:
    engine = start()

    async def main() -> None:
        idle = listened_to()
        client = await ringwal.aio.connect(directory, lane_bytes=1 << 16, append_timeout=None)
        stream = client.stream("s")
        await stream.append(b"first")
        with standing_still(engine):
            receipts = [stream.append_nowait(b"x" * 8000) for _ in range(100)]  # more than the lane holds
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.close()
            told = await asyncio.gather(*receipts, return_exceptions=True)
        assert {type(each) for each in told} == {ringwal.ClosedError}
        assert {each.outcome for each in told} == {"unknown", "not_appended"}  # type: ignore[union-attr]
        with pytest.raises(ringwal.ClosedError):
            await stream.append(b"y")
        assert listened_to() == idle

    run(main())


@pytest.mark.parametrize("several", [False, True])
def test_a_tail_that_is_asked_after_the_close_ends(
    directory: Path, start: Callable[..., Engine], run: Run, *, several: bool
) -> None:
    """Whatever else was awaited in the lane in which it has waited before: nothing rings there any more."""
    engine = start()

    async def main() -> None:
        client = await ringwal.aio.connect(directory)
        stream = client.stream("s")
        await stream.append(b"first")
        tail: Any = client.tail({"s": 0}) if several else stream.tail(0)
        assert (await anext(tail)).data == b"first"
        second = asyncio.ensure_future(anext(tail))
        await until(lambda: client._attachments[0]._lanes[0].bell._following)  # type: ignore[union-attr]
        await stream.append(b"second")
        assert (await second).data == b"second"
        with standing_still(engine):
            waiting = asyncio.ensure_future(wait_for(stream.append_nowait(b"nobody takes this")))
            await asyncio.sleep(0)
            with pytest.raises(ringwal.AckTimeout):
                await client.close(0)
            with pytest.raises(ringwal.NotRunning):
                await asyncio.wait_for(anext(tail), 5)
            with pytest.raises(ringwal.ClosedError):
                await waiting

    run(main())


def test_everything_is_refused_in_another_loop(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    loop = asyncio.new_event_loop()

    async def begin() -> ringwal.aio.Client:
        client = await ringwal.aio.connect(directory)
        await client.stream("s").append(b"first")
        return client

    client = loop.run_until_complete(begin())
    stream = client.stream("s")

    async def elsewhere() -> None:
        for call in (
            stream.flush,
            stream.read,
            stream.stat,
            client.status,
            client.streams,
            client.close,
            stream.tail(0).__anext__,
            client.tail({"s": 0}).__anext__,
            stream.records().__anext__,
            lambda: client.delete_stream("s"),
            lambda: client.create_stream("t"),
            lambda: stream.trim(0),
        ):
            with pytest.raises(RuntimeError, match="another event loop"):
                await call()

    asyncio.run(elsewhere())
    assert loop.run_until_complete(stream.append(b"second")).offset == 1
    loop.run_until_complete(client.close())
    loop.close()


def test_a_client_whose_loop_is_closed_is_closed_in_another_one(directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    loop = asyncio.new_event_loop()

    async def begin() -> ringwal.aio.Client:
        client = await ringwal.aio.connect(directory, lane_bytes=1 << 16)
        await client.stream("s").append(b"first")
        return client

    client = loop.run_until_complete(begin())
    with standing_still(engine):
        pending = [loop.create_task(client.stream("s").append(b"x" * 8000)) for _ in range(20)]
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
    for task in pending:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # the test's own, and meant
    asyncio.run(client.close())

    async def begin_anew() -> None:
        async with ringwal.aio.connect(directory) as fresh:
            await fresh.stream("s").append(b"last")

    asyncio.run(begin_anew())
