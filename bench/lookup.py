"""How long one record is looked for in a large log: of a quiet stream, at a time, and at random.

    python -m bench.lookup --size 10GiB --records 8000000

A reader is a fresh process each time; before, the page cache gives up what it has of the log. Times are those of `connect`
and `read` together, without the start of the interpreter and the import.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import stats, subject
from ringwal.config import parse_size

BULK_BYTES, BULK_STREAMS = 65536, 4
SMALL_BYTES, SMALL_BATCH, SMALL_STREAMS = 100, 50, 2000
REPEATS = 9
LOOKS = 4000

# One reader: what it looks for comes as JSON, what it took goes back.
READER = """
import json, os, sys, time
import ringwal


def done():
    with open("/proc/self/io") as file:
        found = dict(line.split(": ") for line in file.read().splitlines())
    return int(found["read_bytes"]), int(found["rchar"])

directory, name, what, value = json.loads(sys.argv[1])
before, begin = done(), time.perf_counter()
with ringwal.connect(directory) as client:
    attached = time.perf_counter()
    start = value if what == "offset" else ringwal.At.from_ns(value)
    records = client.stream(name).read(start, max_records=1)
    end = time.perf_counter()
after = done()
print(json.dumps({"seconds": end - begin, "read_s": end - attached, "device_bytes": after[0] - before[0],
                  "bytes": after[1] - before[1], "offset": records[0].offset, "timestamp_ns": records[0].timestamp_ns}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lookup", description=__doc__)
    parser.add_argument("--size", type=parse_size, default=parse_size("1GiB"), help="of the large log  [default: 1GiB]")
    parser.add_argument("--records", type=int, default=400_000, help="of the log of many streams  [default: 400000]")
    parser.add_argument("--directory", type=Path, help="on the disk that is measured  [default: a temporary one]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ringwal-lookup-", dir=options.directory) as place:
        found = {**measure_large(Path(place), options.size), **measure_many(Path(place), options.records)}
    json.dump(found, sys.stdout, indent=1)
    print()
    return 0


def measure_large(place: Path, size: int) -> dict[str, Any]:
    """One record of a quiet stream, and one at a time, in a log of `size` bytes."""
    import ringwal

    directory = place / "large"
    server = subject.start(directory, {}, place / "large.log")
    try:
        with ringwal.connect(directory) as client:
            quiet = client.stream("quiet")
            times = [_fill(client, quiet, size // 8) for _ in range(8)]
            _settled(directory)
            lookups = [_look(directory, "quiet", "offset", quiet.stat().confirmed_offset // 2) for _ in range(REPEATS)]
            moments = [_look(directory, "bulk-0", "time", random.choice(times[:-1])) for _ in range(REPEATS)]
    finally:
        server.stop()
    return {"log_bytes": size, "quiet_record": _summary(lookups), "at_a_time": _summary(moments)}


def measure_many(place: Path, records: int) -> dict[str, Any]:
    """Single reads at random, of a log with many streams and small records, by one reader that has touched every stream."""
    import ringwal

    directory = place / "many"
    server = subject.start(directory, {}, place / "many.log")
    try:
        with ringwal.connect(directory) as client:
            streams = [client.stream(f"s{k}") for k in range(SMALL_STREAMS)]
            each = max(1, records // (SMALL_STREAMS * SMALL_BATCH))
            batch = [os.urandom(SMALL_BYTES) for _ in range(SMALL_BATCH)]
            for _ in range(each):
                for stream in streams:
                    stream.append_many(batch)
            for stream in streams:
                stream.flush(120.0)
            _settled(directory)
        with ringwal.connect(directory) as client:
            streams = [client.stream(f"s{k}") for k in range(SMALL_STREAMS)]
            last = each * SMALL_BATCH
            first = [_timed(stream, random.randrange(last)) for stream in streams]
            again = [_timed(random.choice(streams), random.randrange(last)) for _ in range(LOOKS)]
    finally:
        server.stop()
    return {
        "streams": SMALL_STREAMS, "records": each * SMALL_BATCH * SMALL_STREAMS,
        "first_touch_us": stats.latency_us(first), "random_read_us": stats.latency_us(again),
    }  # fmt: skip


def _fill(client: Any, quiet: Any, size: int) -> int:
    """Appends so much to the busy streams, and one record to the quiet one; returns when that was, ns."""
    data = os.urandom(BULK_BYTES)
    streams = [client.stream(f"bulk-{k}") for k in range(BULK_STREAMS)]
    for k in range(size // BULK_BYTES):
        streams[k % BULK_STREAMS].append(data)
    for stream in streams:
        stream.flush(300.0)
    ack = quiet.append(b"rare").result(60.0)
    return int(quiet.read(ack.offset, max_records=1)[0].timestamp_ns)


def _settled(directory: Path) -> None:
    """Returns when each segment that may have a side file has one: those below the checkpoint, which comes with rest."""
    import ringwal

    with ringwal.connect(directory) as client:
        while client.status()["side_files"]["behind"]:
            time.sleep(0.2)


def _look(directory: Path, name: str, what: str, value: int) -> dict[str, Any]:
    _forget(directory)
    arguments = [sys.executable, "-c", READER, json.dumps([str(directory), name, what, value])]
    found: dict[str, Any] = json.loads(subprocess.run(arguments, capture_output=True, check=True, text=True).stdout)
    assert what == "offset" or found["timestamp_ns"] >= value
    return found


def _forget(directory: Path) -> None:
    """The page cache gives up the files of the log."""
    for path in [*directory.iterdir(), *(directory / "segments").iterdir()]:
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def _timed(stream: Any, offset: int) -> int:
    begin = time.perf_counter_ns()
    (record,) = stream.read(offset, max_records=1)
    taken = time.perf_counter_ns() - begin
    assert record.offset == offset
    return taken


def _summary(found: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "connect_and_read_ms": statistics.median(each["seconds"] for each in found) * 1e3,
        "read_ms": statistics.median(each["read_s"] for each in found) * 1e3,
        "worst_read_ms": max(each["read_s"] for each in found) * 1e3,
        "device_mib": statistics.median(each["device_bytes"] for each in found) / 2**20,
        "read_mib": statistics.median(each["bytes"] for each in found) / 2**20,
    }


if __name__ == "__main__":
    sys.exit(main())
