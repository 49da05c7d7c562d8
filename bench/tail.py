"""Tail: from an append to its delivery at a reader in another process.

A writer appends at an even rate, one outstanding, and notes for each offset when it was sent and when it was confirmed; a
reader sleeps in `tail` and notes when each offset arrived. Both clocks are CLOCK_MONOTONIC of one kernel. Two passes:

    waiting   the writer waits as users do. Gives append to delivered, and append to confirmed.
    watching  the writer looks at its receipt without pause, but for a nap after every 30 us: without naps it kept WAL process,
              drain and reader waiting for its processor, until the scheduler's next tick (4 ms) in a tenth of all appends.
              The last look at which the record was not confirmed yet counts as the confirmation, so what is reported is
              never less than what passed. Gives confirmed to delivered: a writer that waits is often woken later than the
              reader, and would flatter that number.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import loops, processes, stats, subject
from bench.contender import ContenderFailedError

RATE = 500
RECORD = bytes(1024)
WARM = 100
LOOK_NS = 30_000
NAP = 5e-6


Row = tuple[int, int, int]
"""Clock when sent, confirmed, delivered."""


def measure(directory: Path, seconds: float) -> dict[str, Any]:
    """Latencies in microseconds of the three legs; `seconds` for each pass."""
    server = subject.start(directory / "engine", {}, directory / "engine.log")
    try:
        waiting = _pass(directory, "waiting", seconds)
        watching = _pass(directory, "watching", seconds)
    finally:
        server.stop()
    return {
        "rate": RATE,
        "append_to_confirmed_us": stats.latency_us(confirmed - sent for sent, confirmed, _ in waiting),
        "append_to_delivered_us": stats.latency_us(delivered - sent for sent, _, delivered in waiting),
        "confirmed_to_delivered_us": stats.latency_us(max(0, delivered - seen) for _, seen, delivered in watching),
        "delivered_before_seen_confirmed": sum(delivered < seen for _, seen, delivered in watching) / len(watching),
    }


def _pass(directory: Path, name: str, seconds: float) -> list[Row]:
    count = WARM + int(seconds * RATE)
    fork = multiprocessing.get_context("fork")
    ready, answer = fork.Event(), directory / name
    reader = fork.Process(target=_read, args=(directory / "engine", name, count, ready, answer, os.getpid()))
    reader.start()
    try:
        if not ready.wait(30):
            raise ContenderFailedError("the reader could not attach")
        with _short_naps():
            sent, confirmed = _write(directory / "engine", name, count)
        reader.join(30)
        if not answer.exists():
            raise ContenderFailedError("the reader did not get every record")
    finally:
        if reader.is_alive():
            reader.kill()
        reader.join()
    delivered = array("Q")
    delivered.frombytes(answer.read_bytes())
    return list(zip(sent, confirmed, delivered, strict=True))[WARM:]


def _write(place: Path, name: str, count: int) -> tuple[array[int], array[int]]:
    import engine

    sent, confirmed = array("Q"), array("Q")
    with engine.connect(place) as client:
        stream = client.stream(name)
        due = loops.clock()
        for _ in range(count):
            due += 1_000_000_000 // RATE
            loops.sleep_until(due)
            sent.append(loops.clock())
            receipt = stream.append(RECORD)
            if name == "watching":
                confirmed.append(_watch(receipt))
            else:
                receipt.result()
                confirmed.append(loops.clock())
    return sent, confirmed


@contextlib.contextmanager
def _short_naps() -> Iterator[None]:
    """A nap of this thread takes 50 us less. Given back, as engines that are started later would inherit it."""
    slack = Path("/proc/self/timerslack_ns")
    slack.write_text("1")
    try:
        yield
    finally:
        slack.write_text("0")  # the default


def _watch(receipt: Any) -> int:
    """Clock of the last look at which the record was not confirmed."""
    looked = unconfirmed = loops.clock()
    nap_at = looked + LOOK_NS
    while not receipt.done():
        unconfirmed = looked
        if looked >= nap_at:
            time.sleep(NAP)
            nap_at = loops.clock() + LOOK_NS
        looked = loops.clock()
    return unconfirmed


def _read(place: Path, name: str, count: int, ready: Any, answer: Path, parent: int) -> None:
    import engine

    processes.die_with(parent)
    delivered = array("Q")
    with engine.connect(place) as client:
        follow = client.stream(name).tail(start=0)
        ready.set()
        deadline = time.monotonic() + 120
        for record in follow:
            delivered.append(loops.clock())
            if record.offset + 1 >= count or time.monotonic() > deadline:
                break
    part = answer.with_suffix(".part")
    part.write_bytes(delivered.tobytes())
    part.rename(answer)
