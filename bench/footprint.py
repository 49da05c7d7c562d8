"""What an engine costs besides its work: start-up, idle processor time, memory."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import processes, subject
from bench.contender import ContenderFailedError

IDLE_CLIENTS = 64
SETTLE = 1.0
SOAK_WRITERS = 4
SOAK_SAMPLES = 40


def startup(directory: Path) -> dict[str, Any]:
    """Seconds until a fresh engine is ready, until a client is attached, and until its first append is confirmed."""
    import ringwal

    ready, attached, appended = [], [], []
    for i in range(5):
        begin = time.perf_counter()
        server = subject.start(directory / f"engine-{i}", {}, directory / "engine.log")
        ready.append(time.perf_counter() - begin)
        try:
            begin = time.perf_counter()
            with ringwal.connect(directory / f"engine-{i}") as client:
                attached.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                client.stream("first").append(b"first").result()
                appended.append(time.perf_counter() - begin)
        finally:
            server.stop()
    return {
        "ready_s": statistics.median(ready),
        "connect_s": statistics.median(attached),
        "first_append_s": statistics.median(appended),
    }


def idle(directory: Path, seconds: float) -> dict[str, Any]:
    """Share of one core that the engine's processes use while attached clients do nothing."""
    server = subject.start(directory / "engine", {}, directory / "engine.log")
    fork = multiprocessing.get_context("fork")
    count = fork.Semaphore(0)
    clients = [fork.Process(target=_attach, args=(directory / "engine", count, os.getpid())) for _ in range(IDLE_CLIENTS)]
    try:
        for client in clients:
            client.start()
        for _ in clients:
            if not count.acquire(timeout=60):
                raise ContenderFailedError("not all clients could attach")
        time.sleep(SETTLE)
        pids = server.pids()
        before, begin = {pid: processes.cpu_seconds([pid]) for pid in pids}, time.monotonic()
        time.sleep(seconds)
        elapsed = time.monotonic() - begin
        each = {str(pid): (processes.cpu_seconds([pid]) - before[pid]) / elapsed for pid in pids}
    finally:
        for client in clients:
            if client.pid is not None:
                client.kill()
                client.join()
        server.stop()
    return {"clients": IDLE_CLIENTS, "seconds": seconds, "core_share": sum(each.values()), "core_share_by_process": each}


def _attach(directory: Path, count: Any, parent: int) -> None:
    import ringwal

    processes.die_with(parent)
    client = ringwal.connect(directory, timeout=60)
    client.stream("idle").append(b"attached").result()
    count.release()
    time.sleep(3600)


def soak(directory: Path, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Memory of the engine's processes over a steady load: private bytes, shared bytes, and whether it stays flat."""
    server = subject.start(directory / "engine", {}, directory / "engine.log")
    fork = multiprocessing.get_context("fork")
    stop = fork.Event()
    writers = [fork.Process(target=_load, args=(directory / "engine", i, stop, os.getpid())) for i in range(SOAK_WRITERS)]
    points: list[tuple[float, int, int]] = []
    try:
        for writer in writers:
            writer.start()
        begin = time.monotonic()
        for i in range(1, SOAK_SAMPLES + 1):
            time.sleep(max(0.0, begin + i * seconds / SOAK_SAMPLES - time.monotonic()))
            if not all(writer.is_alive() for writer in writers):
                raise ContenderFailedError("a writer of the soak ended")
            now = processes.memory(server.pids())
            points.append((time.monotonic() - begin, now["private"], now["shared"]))
            say(f"memory: {points[-1][0]:.0f} of {seconds:.0f} s, private {now['private'] / 1e6:.1f} MB")
        stop.set()
        records = subject.counters(directory / "engine")["wal_records"]
    finally:
        for writer in writers:
            if writer.pid is not None:
                writer.join(10)
                writer.kill()
                writer.join()
        server.stop()
    private = [point[1] for point in points]
    half = len(private) // 2
    return {
        "seconds": seconds,
        "records": records,
        "private_bytes": max(private),
        "shared_bytes": max(point[2] for point in points),
        "growth_bytes": statistics.median(private[half:]) - statistics.median(private[2:half]),
        "points": points,
    }


def _load(directory: Path, i: int, stop: Any, parent: int) -> None:
    """About 4 MB/s a writer, so that ten minutes fit on any disk: memory is meant, not speed."""
    import ringwal

    processes.die_with(parent)
    with ringwal.connect(directory, timeout=60) as client:
        streams = [client.stream(f"soak-{i}-{k}") for k in range(16)]
        data = os.urandom(1024)
        while not stop.is_set():
            for stream in streams:
                for _ in range(25):
                    stream.append(data)
            streams[-1].flush()
            time.sleep(0.1)
