"""The asyncio face: appends that are awaited, cancelled, queued; loops, threads, forks; engines that end under it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

import ringwal
import ringwal.aio
from tests.support.rig import CHECKOUT, WAIT, Engine, read_all, stop_process

Found = TypeVar("Found")
Run = Callable[[Coroutine[Any, Any, Found]], Found]


def on_asyncio(main: Coroutine[Any, Any, Found]) -> Found:
    return asyncio.run(asyncio.wait_for(main, WAIT))


def on_uvloop(main: Coroutine[Any, Any, Found]) -> Found:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(main, WAIT))


@pytest.fixture(params=[on_asyncio, on_uvloop])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    found: Run[Any] = request.param
    return found


def payloads(directory: Path, stream: str) -> list[bytes]:
    with ringwal.connect(directory) as client:
        return [record.data for record in read_all(client.stream(stream))]


def descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


def test_five_lines(directory: Path, start: Callable[..., Engine], run: Run[Any]) -> None:
    start()

    async def main() -> None:
        async with ringwal.aio.connect(directory) as client:
            stream = client.stream("orders")
            ack = await stream.append(b"first")
            assert ack == ringwal.Ack("orders", 0, 1)
            receipts = [stream.append_nowait(b"%d" % n) for n in range(100)]
            assert [(await receipt).offset for receipt in receipts] == list(range(1, 101))
            assert all(receipt.done() for receipt in receipts)
            assert await receipts[7] == ringwal.Ack("orders", 8, 1)  # as often as one likes
            assert await stream.append_many([b"x", b"y"]) == ringwal.Ack("orders", 101, 2)
            assert [r.data for r in await stream.read(99)] == [b"98", b"99", b"x", b"y"]
            assert [r.offset async for r in stream.records(100)] == [100, 101, 102]
            assert (await stream.stat()).records == 103
            assert await stream.trim(50) == 50
            with pytest.raises(ringwal.OffsetTrimmed):
                await stream.read(3)
            assert (await client.status())["state"] == "running"
            await client.create_stream("kept", retention_records=7)
            assert {info.name for info in await client.streams()} == {"orders", "kept"}
            await client.delete_stream("kept")
            with pytest.raises(ringwal.NoSuchStream):
                await client.stream("kept").stat()
        with pytest.raises(ringwal.ClosedError):
            await stream.append(b"late")

    run(main())


def test_an_engine_is_started_and_leaves(directory: Path, run: Run[Any]) -> None:
    async def main() -> int:
        client = await ringwal.aio.connect(directory, autostart=True, timeout=WAIT)
        try:
            return (await client.stream("s").append(b"x")).offset
        finally:
            await client.close()

    assert run(main()) == 0


def test_nobody_there(directory: Path, run: Run[Any]) -> None:
    directory.mkdir()

    async def main() -> None:
        with pytest.raises(ringwal.NotRunning, match="autostart=True"):
            await ringwal.aio.connect(directory)

    run(main())


def test_what_is_no_record_is_refused_at_once(directory: Path, start: Callable[..., Engine], run: Run[Any]) -> None:
    start()

    async def main() -> None:
        async with ringwal.aio.connect(directory) as client:
            stream = client.stream("s")
            with pytest.raises(TypeError):
                await stream.append("text")  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                stream.append_nowait("text")  # type: ignore[arg-type]
            with pytest.raises(ringwal.RecordTooLarge) as caught:
                await stream.append(bytes(1 << 20))
            assert caught.value.outcome == "not_appended"
            with pytest.raises(ValueError, match="at least one record"):
                await stream.append_many([])
            with pytest.raises(ringwal.ConfigError):
                await client.stream("_own").append(b"x")
            assert (await stream.append(memoryview(b"x"), timestamp_ns=5)).offset == 0
            assert (await stream.read())[0].own_timestamp_ns == 5

    run(main())


@pytest.mark.parametrize("large", [False, True])
def test_appends_keep_the_order_of_their_calls_over_full_lanes(
    directory: Path, start: Callable[..., Engine], run: Run[Any], *, large: bool
) -> None:
    """The lane has room for a few, and each waits for its turn while the loop goes on."""
    start(max_outstanding=64)
    sizes = [20_000 if large and n % 8 == 0 else 10 for n in range(3000)]
    wanted = [(b"%d " % n).ljust(size, b".") for n, size in enumerate(sizes)]

    async def main() -> None:
        async with ringwal.aio.connect(directory) as client:
            stream = client.stream("s")
            tasks: list[Any] = []
            for n, data in enumerate(wanted):
                tasks.append(stream.append_nowait(data) if n % 3 else asyncio.ensure_future(stream.append(data)))
                if n % 3 == 0:
                    await asyncio.sleep(0)  # a coroutine is called when it runs first
            acks = [await task for task in tasks]
            assert [ack.offset for ack in acks] == list(range(len(wanted)))

    run(main())
    assert payloads(directory, "s") == wanted


def test_half_of_ten_thousand_awaits_are_cancelled(directory: Path, start: Callable[..., Engine], run: Run[Any]) -> None:
    start()

    async def main() -> None:
        async with ringwal.aio.connect(directory) as client:
            stream = client.stream("s")
            before = asyncio.all_tasks()
            tasks = [asyncio.ensure_future(stream.append(b"%d" % n)) for n in range(10_000)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(each, ringwal.Ack) for each in found[1::2])
            assert any(isinstance(each, asyncio.CancelledError) for each in found[::2])
            await stream.flush()
            assert (await stream.stat()).records == 10_000  # a task that is cancelled takes nothing back
            lane = stream._bound.lane  # type: ignore[union-attr]
            assert lane.bell is not None
            assert not lane.bell.pending
            assert not lane.bell._further
            assert asyncio.all_tasks() == before

    run(main())
    assert sorted(payloads(directory, "s"), key=int) == [b"%d" % n for n in range(10_000)]


def test_a_timeout_leaves_the_append_as_it_is(directory: Path, start: Callable[..., Engine], run: Run[Any]) -> None:
    running = start()

    async def main() -> None:
        async with ringwal.aio.connect(directory) as client:
            stream = client.stream("s")
            await stream.append(b"0")
            drain = running.status()["drain_pid"]
            stop_process(drain)
            receipt = stream.append_nowait(b"1")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await stream.append(b"2")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await receipt
            with pytest.raises(ringwal.AckTimeout):
                await stream.flush(0.05)
            assert not receipt.done()
            os.kill(drain, signal.SIGCONT)
            assert (await receipt).offset == 1
            assert (await stream.append(b"3")).offset == 3

    run(main())


def test_two_await_one_receipt_and_one_gives_up(directory: Path, start: Callable[..., Engine], run: Run[Any]) -> None:
    running = start()

    async def main() -> None:
        async with ringwal.aio.connect(directory) as client:
            stream = client.stream("s")
            await stream.append(b"0")
            drain = running.status()["drain_pid"]
            stop_process(drain)
            receipt = stream.append_nowait(b"1")

            async def wait() -> ringwal.Ack:
                return await receipt

            first, second, third = (asyncio.ensure_future(wait()) for _ in range(3))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.sleep(0)
            os.kill(drain, signal.SIGCONT)
            assert (await second, await third) == (ringwal.Ack("s", 1, 1),) * 2
            assert first.cancelled()

    run(main())


def test_an_engine_that_is_killed_under_load_and_started_again(
    directory: Path, start: Callable[..., Engine], run: Run[Any]
) -> None:
    running = start()
    confirmed: list[tuple[int, bytes]] = []

    async def main() -> None:
        async with ringwal.aio.connect(directory) as client:
            stream = client.stream("s")
            before = asyncio.all_tasks()
            fates: list[tuple[type, str | None]] = []

            async def work(name: int) -> None:
                for n in range(10_000):
                    data = b"%d-%d" % (name, n)
                    try:
                        confirmed.append(((await stream.append(data)).offset, data))
                    except ringwal.Error as error:
                        fates.append((type(error), error.outcome))
                        return

            tasks = [asyncio.ensure_future(work(name)) for name in range(32)]
            while len(confirmed) < 200:
                await asyncio.sleep(0)
            stop_process(running.status()["drain_pid"])
            for _ in range(100):  # all of them have appended something that nobody confirms
                await asyncio.sleep(0)
            running.kill()
            await asyncio.gather(*tasks)  # each has its fate
            assert len(fates) == len(tasks)
            assert set(fates) <= {(ringwal.EngineFailed, "unknown"), (ringwal.NotRunning, "not_appended")}
            assert (ringwal.EngineFailed, "unknown") in fates
            with pytest.raises(ringwal.NotRunning):
                await stream.append(b"nobody")
            start()
            ack = await stream.append(b"again")
            confirmed.append((ack.offset, b"again"))
            assert asyncio.all_tasks() == before

    run(main())
    found = payloads(directory, "s")
    assert [data for offset, data in sorted(confirmed)] == [found[offset] for offset, _ in sorted(confirmed)]


@pytest.mark.parametrize("role", ["wal_pid", "drain_pid"])
def test_a_process_of_the_engine_that_is_killed_under_load(
    directory: Path, start: Callable[..., Engine], run: Run[Any], role: str
) -> None:
    """Its successor rings, and nobody is forgotten."""
    running = start()

    async def main() -> None:
        async with ringwal.aio.connect(directory) as client:
            stream = client.stream("s")

            async def work() -> None:
                for _ in range(200):
                    await stream.append(b"x")

            tasks = [asyncio.ensure_future(work()) for _ in range(16)]
            for _ in range(3):
                seen = (await stream.stat()).records if stream._bound else 0
                while (await client.streams() == []) or (await stream.stat()).records < min(seen + 200, 3200):
                    await asyncio.sleep(0)
                running.strike(role.removesuffix("_pid"))
            await asyncio.gather(*tasks)
            assert (await stream.stat()).records == 3200

    run(main())


def test_reconnect_makes_what_was_not_made(directory: Path, start: Callable[..., Engine], run: Run[Any]) -> None:
    running = start()

    async def main() -> None:
        async with ringwal.aio.connect(directory, reconnect=WAIT) as client:
            stream = client.stream("s")
            await stream.append(b"0")
            running.kill()
            waiting = [asyncio.ensure_future(stream.append(b"%d" % n)) for n in range(1, 4)]
            receipt = stream.append_nowait(b"4")
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
            start()
            found = await asyncio.gather(*waiting, receipt, return_exceptions=True)
            # Each was made, or is unknown as it went into a lane whose engine was dead already.
            assert all(isinstance(each, ringwal.Ack | ringwal.EngineFailed) for each in found), found
            assert isinstance(await stream.append(b"5"), ringwal.Ack)

    run(main())
    assert payloads(directory, "s")[-1] == b"5"


def test_loops_of_several_threads(directory: Path, start: Callable[..., Engine], run: Run[Any]) -> None:
    start()
    errors: list[BaseException] = []

    def work(name: int) -> None:
        async def main() -> None:
            async with ringwal.aio.connect(directory) as client:
                stream = client.stream(f"s{name}")
                acks = await asyncio.gather(*(stream.append(b"%d" % n) for n in range(500)))
                assert [ack.offset for ack in acks] == list(range(500))

        try:
            run(main())
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert errors == []


def test_a_client_belongs_to_one_loop(directory: Path, start: Callable[..., Engine]) -> None:
    start()

    async def open_one() -> ringwal.aio.Stream:
        client = await ringwal.aio.connect(directory)
        return client.stream("s")

    async def use(stream: ringwal.aio.Stream) -> None:
        for append in (stream.append, stream.append_nowait):
            with pytest.raises(RuntimeError, match="another event loop"):
                await append(b"x")

    with asyncio.Runner() as first:
        stream = first.run(open_one())
        with asyncio.Runner() as second:
            second.run(use(stream))
        first.run(stream.client.close())


def test_a_client_that_nobody_closes_leaves_nothing(directory: Path, start: Callable[..., Engine], run: Run[Any]) -> None:
    start()

    async def main() -> None:
        client = await ringwal.aio.connect(directory)
        await client.close()  # what the loop opens when it first has a reader stays open
        gc.collect()
        before = descriptors()
        for _ in range(3):
            client = await ringwal.aio.connect(directory)
            await client.stream("s").append(b"x")
            del client
        while descriptors() - before:  # what the loop itself holds for a turn, or a few
            gc.collect()
            await asyncio.sleep(0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of the socket: it says that, and no more
        run(main())


QUIET = """
import asyncio, os, signal, sys
import ringwal.aio

async def main():
    client = await ringwal.aio.connect(sys.argv[1])
    stream = client.stream("s")
    await stream.append(b"x")
    os.kill(int(sys.argv[2]), signal.SIGSTOP)
    receipts = [stream.append_nowait(b"y") for _ in range(5000)]
    waiting = [asyncio.ensure_future(stream.append(b"z")) for _ in range(100)]
    await asyncio.sleep(0)
    print("pending", flush=True)

asyncio.run(main())
os.kill(int(sys.argv[2]), signal.SIGCONT)
"""


def test_a_loop_that_ends_with_awaits_pending_makes_no_noise(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    line = [sys.executable, "-c", QUIET, str(directory), str(running.status()["drain_pid"])]
    done = subprocess.run(
        line, capture_output=True, timeout=WAIT, check=False, env={**os.environ, "PYTHONPATH": str(CHECKOUT / "engine")}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"pending\n", b"")


def test_a_fork_leaves_the_parent_its_loop(directory: Path, start: Callable[..., Engine], run: Run[Any]) -> None:
    start()

    async def main() -> None:
        async with ringwal.aio.connect(directory) as client:
            stream = client.stream("s")
            await stream.append(b"parent")
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    gc.collect()
                    with ringwal.connect(directory) as own:
                        own.stream("s").append(b"child").result(WAIT)
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1]) == 0
            acks = await asyncio.gather(*(stream.append(b"parent") for _ in range(100)))
            assert [ack.offset for ack in acks] == list(range(2, 102))

    run(main())


def test_a_tail_follows_what_others_append(directory: Path, start: Callable[..., Engine], run: Run[Any]) -> None:
    start()

    async def main() -> None:
        async with ringwal.aio.connect(directory) as client, ringwal.aio.connect(directory) as other:
            stream = client.stream("s")
            await stream.append(b"0")

            async def follow() -> list[bytes]:
                found = []
                async for record in other.stream("s").tail(ringwal.EARLIEST):
                    found.append(record.data)
                    if len(found) == 300:
                        break
                return found

            tails = [asyncio.ensure_future(follow()) for _ in range(8)]
            for n in range(1, 300):
                await stream.append(b"%d" % n)
            for tail in tails:
                assert await tail == [b"%d" % n for n in range(300)]
            assert [r async for r in stream.tail(idle_timeout=0.01)] == []
            assert await stream.read(300, wait=0.01) == []
            waiting = asyncio.ensure_future(other.stream("s").read(300, wait=WAIT))
            await asyncio.sleep(0)
            await stream.append(b"late")
            assert [r.data for r in await waiting] == [b"late"]

    run(main())


def test_a_tail_goes_on_over_a_restart(directory: Path, start: Callable[..., Engine], run: Run[Any]) -> None:
    running = start()

    async def main() -> None:
        async with ringwal.aio.connect(directory, reconnect=WAIT) as client:
            stream = client.stream("s")
            await stream.append(b"0")
            tail = stream.tail(ringwal.EARLIEST)
            assert (await anext(tail)).offset == 0
            following = asyncio.ensure_future(anext(tail))
            await asyncio.sleep(0)
            running.kill()
            start()
            await stream.append(b"1")
            assert (await following)[:2] == (1, b"1")
            await tail.aclose()  # type: ignore[attr-defined]

    run(main())


def test_several_streams_in_one_tail(directory: Path, start: Callable[..., Engine], run: Run[Any]) -> None:
    start()

    async def main() -> None:
        async with ringwal.aio.connect(directory) as client:
            streams = [client.stream(name) for name in "abc"]
            for stream in streams:
                await stream.append(b"first")

            stands = asyncio.Event()

            async def follow() -> list[tuple[str, bytes]]:
                found = []
                async for record in client.tail({"a": 0, "b": 1, "c": ringwal.LATEST}):
                    stands.set()
                    found.append((record.stream, record.data))
                    if len(found) == 301:
                        break
                return found

            tail = asyncio.ensure_future(follow())
            await stands.wait()
            expected = [("a", b"first")]
            for n in range(100):
                for stream in streams:
                    await stream.append(b"%d" % n)
                    expected.append((stream.name, b"%d" % n))
            assert await tail == expected

    run(main())


def test_what_is_written_for_the_other_face_says_what_to_write(directory: Path, start: Callable[..., Engine]) -> None:
    start()

    async def main() -> None:
        connecting: Any = ringwal.aio.connect(directory)
        with pytest.raises(TypeError, match="async with"), connecting:
            pass
        with pytest.raises(AttributeError, match=r"await ringwal\.aio\.connect"):
            connecting.stream("s")
        other: Any
        with ringwal.connect(directory) as other:
            with pytest.raises(TypeError, match=r"ringwal\.aio\.connect"):
                async with other:
                    pass
            with pytest.raises(TypeError, match="The append has been made"):
                await other.stream("s").append(b"x")
        async with ringwal.aio.connect(directory) as client:
            assert (await client.stream("s").stat()).records == 1
            with pytest.raises(RuntimeError, match="another event loop"):
                await asyncio.to_thread(client.stream("s").append_nowait, b"x")

    on_asyncio(main())
