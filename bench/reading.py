"""Ordered reads: newest records out of the log ring, and all of them out of the segments."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from bench import stats, subject

RECORD_BYTES = 1024
FETCH = 1000
RING_RECORDS = 10_000
"""Few enough to be in the log ring with the default settings."""


def measure(directory: Path, records: int) -> dict[str, Any]:
    """Records and bytes per second, and the time of one `read` of 1,000 records, warm from the ring and from the segments.

    The segments' bytes were written past the page cache, so the first pass reads the device; the second may not.
    """
    import ringwal

    place = directory / "engine"
    server = subject.start(place, {}, directory / "engine.log")
    try:
        with ringwal.connect(place) as client:
            stream, data = client.stream("read"), os.urandom(RECORD_BYTES)
            for _ in range(records):
                stream.append(data)
            stream.flush()
            newest = records - RING_RECORDS
            return {
                "records": records,
                "segments_first": _pass(stream, 0, newest),
                "segments_again": _pass(stream, 0, newest),
                "ring": _pass(stream, newest, records),
            }
    finally:
        server.stop()


def _pass(stream: Any, start: int, end: int) -> dict[str, float]:
    taken = []
    begin = time.perf_counter()
    at = start
    while at < end:
        before = time.perf_counter_ns()
        found = stream.read(at, max_records=FETCH)
        taken.append(time.perf_counter_ns() - before)
        at += len(found)
    seconds = time.perf_counter() - begin
    rate = (at - start) / seconds
    return {"records_per_s": rate, "mb_per_s": rate * RECORD_BYTES / 1e6, **stats.latency_us(taken)}
