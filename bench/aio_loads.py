"""One process with one event loop, under the load of coroutines that each await their append: what `bench.aio` starts.

    python -m bench.aio_loads '{"who": "ringwal", "place": "DIR", "loop": "uvloop", ...}'

It gets its task as JSON, and prints what it found as JSON. `who` is one of `OPENERS`, or "idle": a loop with nothing to do.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import queue
import sys
import threading
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import stats
from bench.contender import optional

clock = time.perf_counter_ns
STREAM = "awaited"
BEAT = 0.001
"""Seconds between two beats of the task that measures how late the loop is."""
RECONNECT = 30.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a load process is told."""

    who: str
    place: str
    """The engine's directory, or the server's socket."""
    loop: str = "uvloop"
    coroutines: int = 64
    record_bytes: int = 300
    warm: float = 0.5
    seconds: float = 3.0
    beat: bool = False
    reconnect: bool = False
    """Of ringwal: over an engine's end; appends of unknown outcome are counted."""
    autostart: bool = False


Append = Callable[[bytes], Awaitable[Any]]


@asynccontextmanager
async def _ringwal(task: Task) -> AsyncIterator[Append]:
    import ringwal.aio

    reconnect = RECONNECT if task.reconnect else None
    async with ringwal.aio.connect(task.place, reconnect=reconnect, autostart=task.autostart) as client:
        yield client.stream(STREAM).append


class Bridge:
    """What a user writes for himself: one thread waits for receipts in order, and tells the loop once of all that are done."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stream: Any) -> None:
        self.loop, self.stream = loop, stream
        self.waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def append(self, data: bytes) -> Awaitable[Any]:
        future = self.loop.create_future()
        self.waiting.put((self.stream.append(data), future))
        return future

    def _run(self) -> None:
        behind: collections.deque[Any] = collections.deque()
        while True:
            first = behind.popleft() if behind else self.waiting.get()
            if first is None:
                return
            batch = [(first[1], first[0].result())]
            with contextlib.suppress(queue.Empty):
                while True:
                    behind.append(self.waiting.get_nowait())
            while behind and behind[0] is not None and behind[0][0].done():
                receipt, future = behind.popleft()
                batch.append((future, receipt.result()))
            self.loop.call_soon_threadsafe(_settle, batch)

    def close(self) -> None:
        self.waiting.put(None)
        self.thread.join()


def _settle(batch: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, ack in batch:
        if not future.done():
            future.set_result(ack)


@asynccontextmanager
async def _bridge(task: Task) -> AsyncIterator[Append]:
    import ringwal

    with ringwal.connect(task.place) as client:
        bridge = Bridge(asyncio.get_running_loop(), client.stream(STREAM))
        yield bridge.append
        bridge.close()


@asynccontextmanager
async def _redis(task: Task) -> AsyncIterator[Append]:
    """As its documentation has it: one client, whose pool has a connection for each coroutine that waits."""
    server = optional("redis.asyncio").Redis(unix_socket_path=task.place)

    async def append(data: bytes) -> Any:
        return await server.xadd(STREAM, {b"d": data})

    try:
        yield append
    finally:
        await server.aclose()


OPENERS = {"ringwal": _ringwal, "bridge": _bridge, "redis": _redis}


class Heart:
    """Beats in the loop, and notes how late each beat was."""

    def __init__(self) -> None:
        self.late = array("Q")
        self.when = array("Q")

    async def beat(self, begin: int, stop: int) -> None:
        step = int(BEAT * 1e9)
        while (before := clock()) < stop:
            await asyncio.sleep(BEAT)
            now = clock()
            if before >= begin:
                self.late.append(max(0, now - before - step))
                self.when.append(now)

    def told(self) -> dict[str, Any]:
        worst = sorted(zip(self.late, self.when, strict=True), reverse=True)[:5]
        return {
            **stats.latency_us(self.late),
            "worst": [{"us": late / 1e3, "at_s": when / 1e9} for late, when in worst],
        }


@dataclass(slots=True)
class Count:
    """What the coroutines of one process share."""

    begin: int
    end: int
    samples: array[int]
    unknown: int = 0
    longest_gap: int = 0
    """ns between two confirmations that follow each other."""
    last: int = 0


async def _one(append: Append, data: bytes, count: Count) -> None:
    begin, end, samples = count.begin, count.end, count.samples
    sent = clock()
    while sent < end:
        await append(data)
        done = clock()
        if begin <= done <= end:
            samples.append(done - sent)
        sent = done


async def _one_over_ends(append: Append, data: bytes, count: Count) -> None:
    """As `_one`, and goes on when an engine has ended."""
    import ringwal

    while (sent := clock()) < count.end:
        try:
            await append(data)
        except ringwal.Error:
            count.unknown += 1
            await asyncio.sleep(0)
            continue
        done = clock()
        if count.last:
            count.longest_gap = max(count.longest_gap, done - count.last)
        count.last = done
        count.samples.append(done - sent)


async def load(task: Task) -> dict[str, Any]:
    """Makes the load; what it found."""
    data = bytes(range(100)) * (task.record_bytes // 100) + bytes(task.record_bytes % 100)
    heart = Heart()
    async with contextlib.AsyncExitStack() as stack:
        append = None if task.who == "idle" else await stack.enter_async_context(OPENERS[task.who](task))
        if append is not None:
            await append(data)
        used, began = time.process_time(), clock()
        begin = began + int(task.warm * 1e9)
        count = Count(begin, begin + int(task.seconds * 1e9), array("Q"))
        one = _one_over_ends if task.reconnect else _one
        async with asyncio.TaskGroup() as group:
            if task.beat or task.who == "idle":
                group.create_task(heart.beat(begin, count.end))
            if append is not None:
                for _ in range(task.coroutines):
                    group.create_task(one(append, data, count))
        used, taken = time.process_time() - used, clock() - began
    rate = len(count.samples) / task.seconds
    found: dict[str, Any] = {"appends_per_s": rate, "append_us": stats.latency_us(count.samples)}
    if rate:
        found["cpu_us_per_append"] = used * 1e6 / (rate * taken / 1e9)
    if heart.late:
        found["late_us"] = heart.told()
    if task.reconnect:
        found["unknown"], found["longest_gap_ms"] = count.unknown, count.longest_gap / 1e6
    return found


async def outstanding(place: str, count: int) -> dict[str, Any]:
    """`count` awaits at once, of which every other one is cancelled: what that takes, and what it leaves."""
    import gc
    import tracemalloc

    import ringwal.aio

    data = bytes(300)

    def kept() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    async with ringwal.aio.connect(place) as client:
        stream = client.stream("outstanding")
        found: dict[str, Any] = {"awaits": count}
        for turn in range(3):  # the first one warms up what is kept for ever
            before, began = kept(), clock()
            tasks = [asyncio.ensure_future(stream.append(data)) for _ in range(count)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            taken = clock() - began
            confirmed = sum(not isinstance(one, BaseException) for one in done)
            cancelled = sum(isinstance(one, asyncio.CancelledError) for one in done)
            await stream.flush()
            tasks.clear()
            done.clear()
            task = None  # type: ignore[assignment]  # the last of the loop
            await asyncio.sleep(0)
            found.update(ms=taken / 1e6, confirmed=confirmed, cancelled=cancelled, blocks_left=kept() - before, turns=turn + 1)
        tracemalloc.start()
        tasks = [asyncio.ensure_future(stream.append(data)) for _ in range(count)]
        await asyncio.sleep(0)
        found["bytes_per_await"] = tracemalloc.get_traced_memory()[0] / count
        await asyncio.gather(*tasks)
        tracemalloc.stop()
        found["records"] = (await stream.stat()).records
        assert found["records"] == 4 * count, found
    return found


def run(main: Any, loop: str) -> Any:
    """In an event loop of that kind."""
    if loop == "uvloop":
        return optional("uvloop").run(main)
    return asyncio.run(main)


def main() -> None:
    """See above."""
    given = json.loads(sys.argv[1])
    if "outstanding" in given:
        found = run(outstanding(given["place"], given["outstanding"]), given["loop"])
    else:
        found = run(load(Task(**given)), given["loop"])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    Path("/proc/self/timerslack_ns").write_text("1")
    main()
