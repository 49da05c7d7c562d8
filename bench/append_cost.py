"""What one `append(1 KiB)` costs the caller until it returns, and what it leaves allocated."""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from typing import Any

from bench import stats, subject

RECORD = bytes(range(256)) * 4
BURST = 200
"""Appends between two waits: fewer than the engine takes, so that no append waits for room."""
BURSTS = 300


def measure(directory: Path) -> dict[str, Any]:
    """Median of single calls (clock cost taken off), mean within bursts, and blocks that stay allocated per record."""
    import ringwal

    server = subject.start(directory / "engine", {}, directory / "engine.log")
    try:
        with ringwal.connect(directory / "engine") as client:
            stream = client.stream("cost")
            _bursts(stream, 20)
            clock_ns = _clock_cost()
            calls, bursts = _bursts(stream, BURSTS)
            kept = _kept(stream)
    finally:
        server.stop()
    return {
        "append_ns": {
            key: value * 1e3 - clock_ns for key, value in stats.latency_us(calls).items() if key in ("p50", "p90", "p99")
        },
        "burst_append_ns": {
            key: value * 1e3 / BURST for key, value in stats.latency_us(bursts).items() if key in ("p50", "p90")
        },
        "clock_ns": clock_ns,
        "blocks_kept_per_record": kept,
    }


def _clock_cost() -> float:
    clock = time.perf_counter_ns
    taken = sorted(-(clock() - clock()) for _ in range(20_000))
    return float(taken[len(taken) // 2])


def _bursts(stream: Any, count: int) -> tuple[list[int], list[int]]:
    """Times of single calls (even bursts) and of whole bursts (odd bursts) in ns."""
    append, clock = stream.append, time.perf_counter_ns
    calls: list[int] = []
    bursts: list[int] = []
    receipt = None
    for burst in range(count):
        begin = clock()
        if burst % 2:
            for _ in range(BURST):
                receipt = append(RECORD)
            bursts.append(clock() - begin)
        else:
            for _ in range(BURST):
                at = clock()
                receipt = append(RECORD)
                calls.append(clock() - at)
        assert receipt is not None
        receipt.result()
    return calls, bursts


def _kept(stream: Any) -> float:
    """Interpreter memory blocks that 20,000 confirmed appends left behind, per record."""
    rounds = 100
    _flood(stream, rounds)
    gc.collect()
    before = sys.getallocatedblocks()
    _flood(stream, rounds)
    gc.collect()
    return (sys.getallocatedblocks() - before) / (rounds * BURST)


def _flood(stream: Any, rounds: int) -> None:
    for _ in range(rounds):
        for _ in range(BURST):
            stream.append(RECORD)
        stream.flush()
