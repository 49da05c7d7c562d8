"""Tail: from an append to its delivery at a reader in another process.

The writer appends at an even rate, one outstanding, and notes for each offset when it was sent and when its receipt
resolved. While it waits it spins giving the processor away (the client's own way of waiting), so the moment it sees is the
confirmation plus well under a microsecond where a processor is free. The reader sleeps in `tail` and notes when each offset
arrived. Both clocks are CLOCK_MONOTONIC of one kernel.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from array import array
from pathlib import Path
from typing import Any

from bench import loops, processes, stats, subject
from bench.contender import ContenderFailedError

RATE = 500
RECORD = bytes(1024)
WARM = 100


def measure(directory: Path, seconds: float) -> dict[str, Any]:
    """Latencies in microseconds of the three legs."""
    import engine

    count = WARM + int(seconds * RATE)
    server = subject.start(directory / "engine", {}, directory / "engine.log")
    fork = multiprocessing.get_context("fork")
    ready, answer = fork.Event(), directory / "delivered"
    reader = fork.Process(target=_read, args=(directory / "engine", count, ready, answer, os.getpid()))
    try:
        reader.start()
        if not ready.wait(30):
            raise ContenderFailedError("the reader could not attach")
        sent, confirmed = array("Q"), array("Q")
        with engine.connect(directory / "engine") as client:
            stream = client.stream("tail")
            due = loops.clock()
            for _ in range(count):
                due += 1_000_000_000 // RATE
                loops.sleep_until(due)
                sent.append(loops.clock())
                stream.append(RECORD).result()
                confirmed.append(loops.clock())
        reader.join(30)
        if not answer.exists():
            raise ContenderFailedError("the reader did not get every record")
    finally:
        if reader.is_alive():
            reader.kill()
            reader.join()
        server.stop()
    delivered = array("Q")
    delivered.frombytes(answer.read_bytes())
    rows = list(zip(sent, confirmed, delivered, strict=True))[WARM:]
    after = [d - c for _, c, d in rows]
    return {
        "rate": RATE,
        "append_to_confirmed_us": stats.latency_us(c - s for s, c, _ in rows),
        "confirmed_to_delivered_us": stats.latency_us(max(0, value) for value in after),
        "append_to_delivered_us": stats.latency_us(d - s for s, _, d in rows),
        "delivered_before_writer_knew": sum(value < 0 for value in after) / len(after),
    }


def _read(directory: Path, count: int, ready: Any, answer: Path, parent: int) -> None:
    import engine

    processes.die_with(parent)
    delivered = array("Q")
    with engine.connect(directory) as client:
        follow = client.stream("tail").tail(start=0)
        ready.set()
        deadline = time.monotonic() + 120
        for record in follow:
            delivered.append(loops.clock())
            if record.offset + 1 >= count or time.monotonic() > deadline:
                break
    part = answer.with_suffix(".part")
    part.write_bytes(delivered.tobytes())
    part.rename(answer)
