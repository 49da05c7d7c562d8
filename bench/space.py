"""Space: what a block costs on the disk, and what lingering saves of it and costs in time.

A block takes whole pages of 4096 bytes. Webhook-sized records are appended as they come, in an uneven stream of a given mean
rate (exponential gaps, the same ones for every linger), by one process that does not wait for them; and by one that waits for
each. What the engine wrote is its own count of block bytes; a record's latency is from the moment at which it was due to the
look that found it confirmed, which comes every 20 us.
"""

from __future__ import annotations

import ctypes
import random
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import loops, stats, subject

RECORD = bytes(range(100)) * 3
LINGERS_US = (0, 200, 1000, 5000)
RATES = (200, 1000, 5000)
"""Records a second."""
LOOK_SECONDS = 20e-6
PR_SET_TIMERSLACK = 29


Load = Callable[[Any, float], list[int]]
"""On a stream, for so many seconds: the latencies in ns."""


def measure(directory: Path, seconds: float) -> dict[str, Any]:
    """Bytes written to the disk for each byte of payload, and latencies in microseconds, by load and linger."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # else a look comes every 70 us
    loads: dict[str, Load] = {f"{rate} a second": partial(_uneven, rate) for rate in RATES}
    loads["one that waits"] = _waiting
    found: dict[str, Any] = {"record_bytes": len(RECORD)}
    for linger in LINGERS_US:
        place = directory / f"linger-{linger}"
        server = subject.start(place, {"linger-us": str(linger)}, directory / "engine.log")
        try:
            for name, load in loads.items():
                found[f"{name}, linger {linger} us"] = _measured(place, load, seconds)
        finally:
            server.stop()
    return found


def _measured(place: Path, load: Load, seconds: float) -> dict[str, float]:
    import ringwal

    with ringwal.connect(place) as client:
        stream = client.stream("space")
        stream.append(RECORD).result()
        before = client.status()["counters"]
        latencies = stats.latency_us(load(stream, seconds))
        after = client.status()["counters"]
    payload, written = (after[key] - before[key] for key in ("wal_payload_bytes", "wal_block_bytes"))
    return {
        "written_per_byte": written / payload,
        "records_per_block": (after["wal_records"] - before["wal_records"]) / (after["wal_blocks"] - before["wal_blocks"]),
        **{key: latencies[key] for key in ("p50", "p99") if key in latencies},
    }


def _uneven(rate: int, stream: Any, seconds: float) -> list[int]:
    clock, chance = loops.clock, random.Random(rate)
    latencies: list[int] = []
    pending: deque[tuple[int, Any]] = deque()
    due = clock()
    end = due + int(seconds * 1e9)
    while due < end or pending:
        now = clock()
        while pending and pending[0][1].done():
            latencies.append(now - pending.popleft()[0])
        if due < end and now >= due:
            pending.append((due, stream.append(RECORD)))
            due += int(chance.expovariate(rate) * 1e9)
        else:
            time.sleep(LOOK_SECONDS)
    return latencies


def _waiting(stream: Any, seconds: float) -> list[int]:
    clock = loops.clock
    latencies: list[int] = []
    end = clock() + int(seconds * 1e9)
    while (began := clock()) < end:
        stream.append(RECORD).result()
        latencies.append(clock() - began)
    return latencies
