"""Tail: from an append to its delivery at a reader in another process.

A writer appends at an even rate, one outstanding, waits as users do, and notes for each offset when it was sent and when
`result` returned; a reader sleeps in `tail` and notes when each offset arrived. When a record was confirmed the drain process
says itself (`confirmed_ns` in the control area): with one record outstanding its latest confirmation is that record's. All
clocks are CLOCK_MONOTONIC of one kernel.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import loops, processes, stats, subject
from bench.contender import ContenderFailedError

RATE = 500
RECORD = bytes(1024)
WARM = 100
CLOCK_TIMEOUT = 5.0
STREAM = "tail"

Row = tuple[int, int, int, int]
"""Clock when sent, confirmed, known to the writer, delivered."""


def measure(directory: Path, seconds: float) -> dict[str, Any]:
    """Latencies in microseconds of the legs; `seconds` of appends."""
    server = subject.start(directory / "engine", {}, directory / "engine.log")
    try:
        rows = _rows(directory, WARM + int(seconds * RATE))[WARM:]
    finally:
        server.stop()
    return {
        "rate": RATE,
        "append_to_confirmed_us": stats.latency_us(confirmed - sent for sent, confirmed, _, _ in rows),
        "append_to_known_us": stats.latency_us(known - sent for sent, _, known, _ in rows),
        "append_to_delivered_us": stats.latency_us(delivered - sent for sent, _, _, delivered in rows),
        # The drain stores its clock behind the confirmed offset, and a reader that is awake may be quicker than that.
        "confirmed_to_delivered_us": stats.latency_us(max(0, delivered - confirmed) for _, confirmed, _, delivered in rows),
    }


def _rows(directory: Path, count: int) -> list[Row]:
    fork = multiprocessing.get_context("fork")
    ready, answer = fork.Event(), directory / "delivered"
    reader = fork.Process(target=_read, args=(directory / "engine", count, ready, answer, os.getpid()))
    reader.start()
    try:
        if not ready.wait(30):
            raise ContenderFailedError("the reader could not attach")
        written = _write(directory / "engine", count)
        reader.join(30)
        if not answer.exists():
            raise ContenderFailedError("the reader did not get every record")
    finally:
        if reader.is_alive():
            reader.kill()
        reader.join()
    delivered = array("Q")
    delivered.frombytes(answer.read_bytes())
    return [(*row, at) for row, at in zip(written, delivered, strict=True)]


def _write(place: Path, count: int) -> list[tuple[int, int, int]]:
    import ringwal
    from ringwal._native import lib

    rows = []
    with ringwal.connect(place) as client:
        stream, clock = client.stream(STREAM), partial(lib.rw_engine_confirmed_ns, client._attachment().control)
        due = loops.clock()
        for _ in range(count):
            due += 1_000_000_000 // RATE
            loops.sleep_until(due)
            sent = loops.clock()
            stream.append(RECORD).result()
            known = loops.clock()
            rows.append((sent, confirmed_after(clock, sent, CLOCK_TIMEOUT), known))
    return rows


def confirmed_after(confirmed_ns: Callable[[], int], sent: int, timeout: float) -> int:
    """The drain's clock of the record that was sent then. The drain stores it moments after the result."""
    deadline = time.monotonic() + timeout
    while (confirmed := confirmed_ns()) < sent:
        if time.monotonic() > deadline:
            raise ContenderFailedError(
                f"a record was confirmed to its writer, and {timeout:g} s later the drain's clock of its last confirmation"
                f" still stood {(sent - confirmed) / 1e9:.3f} s before the record was sent"
            )
        os.sched_yield()
    return confirmed


def _read(place: Path, count: int, ready: Any, answer: Path, parent: int) -> None:
    import ringwal

    processes.die_with(parent)
    delivered = array("Q")
    with ringwal.connect(place) as client:
        follow = client.create_stream(STREAM).tail(start=0)
        ready.set()
        deadline = time.monotonic() + 120
        for record in follow:
            delivered.append(loops.clock())
            if record.offset + 1 >= count or time.monotonic() > deadline:
                break
    part = answer.with_suffix(".part")
    part.write_bytes(delivered.tobytes())
    part.rename(answer)
