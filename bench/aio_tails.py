"""Tails in event loops while the engine's processes are killed: whether every reader gets every record once and in order, how
far behind it is, and what that does to who appends.

    8 writers, each a process with a stream of its own, 20,000 records a second in all
    32 tails of `ringwal.aio`, 8 in each of 4 processes, so each stream has four
    every few seconds the WAL process or the drain is killed with SIGKILL, in turns

Before, the same load and kills without readers. A writer sends what has become due every 2 ms and waits for it: a record's
latency is from when it was due, so what comes late is late for all. A record carries that clock, and its lag is from there to
its delivery.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import struct
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import aio_loads, loops, processes, stats, subject
from bench.contender import ContenderFailedError

WRITERS, READERS, TAILS = 8, 4, 32
RATE = 20_000
RECORD_BYTES = 100
STEP_NS = 2_000_000
KILL_EVERY = 6.5
"""Seconds; ten kills a minute are what an engine replaces before it gives up."""
HEAD = struct.Struct("<QQ")
LAST = (1 << 64) - 1
"""The sequence number that ends a stream."""
PATIENCE = 60.0


def measure(directory: Path, seconds: float, say: Callable[[str], None], loop: str = "uvloop") -> dict[str, Any]:
    """Without readers, then with them."""
    alone = _run(directory / "tails-alone", seconds, 0, say, loop)
    beside = _run(directory / "tails", seconds, READERS, say, loop)
    found: dict[str, Any] = {"append_us_without": alone["append_us"], **beside}
    if "p99" in alone["append_us"]:
        found["p99_ratio"] = beside["append_us"]["p99"] / alone["append_us"]["p99"]
    return found


def _run(place: Path, seconds: float, readers: int, say: Callable[[str], None], loop: str) -> dict[str, Any]:
    say(f"tails: {readers * TAILS // READERS} beside {WRITERS} writers, {RATE} records/s, {seconds:g} s")
    place.mkdir()
    fork = multiprocessing.get_context("fork")
    server = subject.start(place / "engine", {}, place / "engine.log")
    answers = fork.SimpleQueue()
    ready = fork.Semaphore(0)
    each = TAILS // READERS
    names = [[f"tailed-{(reader * each + i) % WRITERS}" for i in range(each)] for reader in range(readers)]
    children = [fork.Process(target=_reads, args=(place / "engine", of, ready, answers, os.getpid(), loop)) for of in names]
    try:
        for child in children:
            child.start()
        for _ in children:
            if not ready.acquire(timeout=PATIENCE):
                raise ContenderFailedError("the readers could not attach")
        begin = loops.clock() + 300_000_000
        writers = [
            fork.Process(target=_writes, args=(place / "engine", i, begin, seconds, answers, os.getpid()))
            for i in range(WRITERS)
        ]
        children += writers
        for child in writers:
            child.start()
        kills = _kill(place / "engine", begin, seconds)
        found = [_answer(answers, children) for _ in children]
    finally:
        for child in children:
            if child.is_alive():
                child.kill()
            child.join()
        server.stop()
    return {"kills": kills, **_summary(found)}


def _answer(answers: Any, children: list[Any]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while answers.empty():
        if any(child.exitcode for child in children):
            raise ContenderFailedError("a writer or a reader failed; what it said stands above")
        if time.monotonic() > deadline:
            raise ContenderFailedError("not every reader got to the end")
        time.sleep(0.01)
    found: dict[str, Any] = answers.get()
    return found


def _summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    wrote = [one for one in found if "wrote" in one]
    read = [tail for one in found for tail in one.get("tails", ())]
    ends = {one["stream"]: one["wrote"] for one in wrote}
    faults = [fault for tail in read for fault in tail["faults"]]
    faults += [
        f"a tail of {tail['stream']} got {tail['records']} of {ends[tail['stream']]}"
        for tail in read
        if tail["records"] != ends[tail["stream"]]
    ]
    latencies, lags = array("Q"), array("Q")
    for one in wrote:
        latencies.frombytes(one["latencies"])
    for one in found:
        lags.frombytes(one.get("lags", b""))
    return {
        "records": sum(ends.values()),
        "delivered": sum(tail["records"] for tail in read),
        "late_records": sum(one["late"] for one in wrote),
        "append_us": stats.latency_us(latencies),
        "lag_us": stats.latency_us(lags),
        "faults": faults,
    }


def _kill(directory: Path, begin: int, seconds: float) -> int:
    import ringwal

    kills = 0
    with ringwal.connect(directory) as client:
        until = begin + int(seconds * 1e9)
        due = begin + int(KILL_EVERY * 1e9 / 2)
        while due < until:
            loops.sleep_until(due)
            found = client.status()
            with contextlib.suppress(ProcessLookupError):
                os.kill(_pid(found, ("wal", "drain")[kills % 2]), signal.SIGKILL)
                kills += 1
            due += int(KILL_EVERY * 1e9)
        loops.sleep_until(until)
    return kills


def _pid(status: dict[str, Any], role: str) -> int:
    return int(status[f"{role}_pid"])


def _writes(directory: Path, writer: int, begin: int, seconds: float, answers: Any, parent: int) -> None:
    import ringwal

    processes.die_with(parent)
    filler = bytes(RECORD_BYTES - HEAD.size)
    latencies = array("Q")
    name, clock = f"tailed-{writer}", loops.clock
    per_step = RATE * STEP_NS // (WRITERS * 1_000_000_000)
    late = sequence = 0
    with ringwal.connect(directory, reconnect=PATIENCE) as client:
        stream = client.stream(name)
        due, end = begin + STEP_NS * writer // WRITERS, begin + int(seconds * 1e9)
        while due < end:
            loops.sleep_until(due)
            if clock() - due > STEP_NS:
                late += per_step
            receipts = []
            for _ in range(per_step):
                receipts.append(stream.append(HEAD.pack(sequence, due) + filler))
                sequence += 1
            for receipt in receipts:
                receipt.result(PATIENCE)
                latencies.append(clock() - due)
            due += STEP_NS
        stream.append(HEAD.pack(LAST, clock())).result(PATIENCE)
    answers.put({"stream": name, "wrote": sequence, "late": late, "latencies": latencies.tobytes()})


def _reads(directory: Path, names: list[str], ready: Any, answers: Any, parent: int, loop: str) -> None:
    processes.die_with(parent)
    lags = array("Q")
    tails = aio_loads.run(_follow_all(directory, names, ready, lags), loop)
    answers.put({"tails": tails, "lags": lags.tobytes()})


async def _follow_all(directory: Path, names: list[str], ready: Any, lags: array[int]) -> list[dict[str, Any]]:
    import ringwal.aio

    async with ringwal.aio.connect(directory, reconnect=PATIENCE) as client:
        for name in names:
            await client.create_stream(name)
        ready.release()
        return await asyncio.gather(*(_follow(client.stream(name), lags) for name in names))


async def _follow(stream: Any, lags: array[int]) -> dict[str, Any]:
    """To its end. What is not as it was written is a fault."""
    clock, unpack = loops.clock, HEAD.unpack_from
    expected = 0
    faults: list[str] = []
    async for record in stream.tail(0):
        sequence, due = unpack(record.data)
        if sequence == LAST:
            return {"stream": stream.name, "records": expected, "faults": faults}
        lags.append(max(0, clock() - due))
        if (record.offset != expected or sequence != expected) and len(faults) < 3:
            faults.append(f"{stream.name}[{record.offset}] is record {sequence}, and {expected} was due")
        expected += 1
    return {"stream": stream.name, "records": expected, "faults": [*faults, f"the tail of {stream.name} ended"]}


