"""Recovery: how long a killed engine takes to come back, against the bare read of the same bytes.

The engine is filled and every process of it is killed. Then, three times: the log's bytes are read bare (past the page
cache), the engine is started and stopped, and what its recovery wrote is undone, so that the next start has the same work.
From the time until clients can connect is taken off what the start of an empty engine costs: interpreter, memory, segments.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import device, subject
from ringwal.log import manifest, segment
from ringwal.log.directory import Directory

MIB = 1024 * 1024
RECORD_BYTES = 1024
REPEATS = 3
FILL_TIMEOUT = 120.0


def measure(directory: Path, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds and peak memory for a small and a large log."""
    sizes = (32 * MIB, 128 * MIB) if quick else (256 * MIB, 1024 * MIB)
    empty = statistics.median(_start_seconds(directory / f"empty-{i}", directory)[0] for i in range(REPEATS))
    found = {}
    for size in sizes:
        say(f"recovery: filling {size // MIB} MiB")
        place = directory / f"log-{size // MIB}"
        log_bytes = _fill(place, size, directory)
        runs = []
        for _ in range(REPEATS):
            bare = device.sequential_read_seconds(sorted((place / "segments").glob("*.seg")), log_bytes)
            say(f"recovery: of {size // MIB} MiB")
            runs.append((bare, *_start_seconds(place, directory, keep=_keep_log(place))))
        bare, wall, peak, told = (statistics.median(column) for column in zip(*runs, strict=True))
        records = size // RECORD_BYTES
        # The engine's own account leaves out its start; the clock outside includes it. The less flattering one counts.
        seconds = max(told, wall - empty)
        allowed = 1.5 * bare + records * 1e-6
        found[f"{size // MIB}_mib"] = {
            "records": records,
            "log_bytes": log_bytes,
            "bare_read_s": bare,
            "start_s": wall,
            "told_s": told,
            "recovery_s": seconds,
            "allowed_s": allowed,
            "ratio_to_allowed": seconds / allowed,
            "peak_private_bytes": peak,
        }
    return {"empty_start_s": empty, **found}


def _keep_log(place: Path) -> Callable[[], None]:
    """Undoes what a recovery wrote, so that the next one has the same work: its epoch blank, later segments gone, manifest and
    checkpoints back."""
    named = [place / name for name in ("manifest", "checkpoint-0", "checkpoint-1")]
    contents = [path.read_bytes() for path in named]
    before = {path.name for path in (place / "segments").glob("*.seg")}

    def undo() -> None:
        with contextlib.closing(Directory(place)) as log:
            written = manifest.load(log)
        _blank(place, written)
        for path, content in zip(named, contents, strict=True):
            path.write_bytes(content)
        for path in (place / "segments").glob("*.seg"):
            if path.name not in before:
                path.unlink()

    return undo


def _blank(place: Path, written: manifest.Manifest) -> None:
    """Zeros over the epoch of an engine that was stopped in order."""
    size, position = written.segment_bytes, written.epoch_begin
    while position < written.end:
        length = min(written.end, (position // size + 1) * size) - position
        with (place / "segments" / segment.name_of(position // size)).open("r+b") as file:
            file.seek(segment.HEADER_BYTES + position % size)
            file.write(bytes(length))
            os.fsync(file.fileno())
        position += length


def _fill(place: Path, size: int, directory: Path) -> int:
    """Returns how many bytes of log the records take."""
    import ringwal

    server = subject.start(place, {}, directory / "fill.log")
    try:
        with ringwal.connect(place) as client:
            streams = [client.stream(f"s{i}") for i in range(4)]
            data = os.urandom(RECORD_BYTES)
            for i in range(size // RECORD_BYTES):
                streams[i % 4].append(data)
            for stream in streams:
                stream.flush(FILL_TIMEOUT)
        return subject.counters(place)["wal_block_bytes"]
    finally:
        server.stop(signal.SIGKILL)


def _start_seconds(place: Path, directory: Path, keep: Callable[[], None] | None = None) -> tuple[float, int, float]:
    """Seconds until clients can connect, the supervisor's peak of private memory, and the engine's own account."""
    log = directory / "recover.log"
    begin = time.perf_counter()
    server = subject.start(place, {}, log)
    seconds = time.perf_counter() - begin
    try:
        peak = _peak(server.process.pid)
    finally:
        server.stop()
    if keep is not None:
        keep()
    told = re.search(r" in ([0-9.]+) s", log.read_text())
    return seconds, peak, float(told[1]) if told else 0.0


def _peak(pid: int) -> int:
    """High-water mark of resident memory, less what is shared memory now."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if value.strip().endswith("kB"):
            fields[key] = int(value.split()[0]) * 1024
    return max(0, fields["VmHWM"] - fields.get("RssShmem", 0))
