"""The bare device: what any engine on this file system can reach at most.

Both limits write to a file that was written before, so that no write changes metadata. `device` writes past the page cache
(O_DIRECT) and each write is durable when it returns (RWF_DSYNC); `fdatasync` writes through the cache and syncs.
Depth comes from processes, each with one write in flight, that deal a sequential run of blocks out among themselves.
"""

from __future__ import annotations

import abc
import contextlib
import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path

from bench.contender import BlockingSession, Contender, Plan
from bench.scenario import Scenario

KIB, MIB = 1024, 1024 * 1024
HUGE_PAGE = 2 * MIB
FILE_BYTES = 512 * MIB
SHAPES = tuple((block, depth) for block in (64 * KIB, 256 * KIB, MIB) for depth in (1, 2, 4, 8))
"""Block size and depth tried for the best bandwidth."""
CALIBRATION_WRITES = 0.15
"""Seconds per shape."""


def prewrite(path: Path, size: int) -> None:
    """A file whose every block was written, so that later writes are in place."""
    buffer = aligned(MIB)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for at in range(0, size, MIB):
            os.pwrite(fd, buffer, at)
        os.fsync(fd)
    finally:
        os.close(fd)


def aligned(size: int) -> memoryview:
    """A page-aligned buffer of random bytes, as O_DIRECT wants it; in a huge page, if it is not a small one, as the device
    takes it faster from there."""
    mapping = mmap.mmap(-1, max(size, HUGE_PAGE) if size >= 64 * KIB else size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        mapping.madvise(mmap.MADV_HUGEPAGE)
    buffer = memoryview(mapping)[:size]
    buffer[:] = os.urandom(min(size, MIB)) * (size // min(size, MIB))
    return buffer


def open_direct(path: Path, flags: int) -> int:
    """Opens past the page cache. Raises OSError (EINVAL) where the file system refuses."""
    return os.open(path, flags | os.O_DIRECT)


def sequential_read_seconds(paths: Sequence[Path], limit: int, block: int = MIB) -> float:
    """Seconds of one bare sequential O_DIRECT read of the first `limit` bytes of the files, one behind the other."""
    buffer, left, begin = aligned(block), limit, time.perf_counter()
    for path in paths:
        fd = open_direct(path, os.O_RDONLY)
        try:
            while left > 0 and (count := os.readv(fd, [buffer])):
                left -= count
        finally:
            os.close(fd)
    return time.perf_counter() - begin


class _DirectSession(BlockingSession):
    def __init__(self, path: Path, plan: Plan, block: int, depth: int) -> None:
        self.fd = open_direct(path, os.O_RDWR)
        self.buffers = [aligned(block)]
        self.step = block * depth
        self.at = block * plan.writer
        self.end = path.stat().st_size // self.step * self.step

    def commit(self, stream: int, records: Sequence[bytes]) -> None:
        os.pwritev(self.fd, self.buffers, self.at, os.RWF_DSYNC)
        self.at = (self.at + self.step) % self.end

    def close(self) -> None:
        os.close(self.fd)


class _SyncSession(BlockingSession):
    def __init__(self, path: Path, plan: Plan, block: int, depth: int) -> None:
        self.fd = os.open(path, os.O_RDWR)
        self.buffer = bytes(aligned(block))
        self.step = block * depth
        self.at = block * plan.writer
        self.end = path.stat().st_size // self.step * self.step

    def commit(self, stream: int, records: Sequence[bytes]) -> None:
        os.pwrite(self.fd, self.buffer, self.at)
        os.fdatasync(self.fd)
        self.at = (self.at + self.step) % self.end

    def close(self) -> None:
        os.close(self.fd)


class _Limit(Contender):
    """One pre-written file for the whole run; a turn only opens it."""

    def __init__(self) -> None:
        self.path = Path()
        self.shapes: dict[int, tuple[int, int]] = {}

    def version(self) -> str:
        return f"Linux {os.uname().release}"

    def setup(self, directory: Path, scenario: Scenario) -> None:
        """Nothing: `prepare` made the file."""

    def teardown(self) -> None:
        """The file goes with the run's directory."""

    @abc.abstractmethod
    def shape(self, scenario: Scenario) -> tuple[int, int]:
        """Block bytes and depth of this limit in this scenario."""

    def writers(self, scenario: Scenario) -> int:
        return self.shape(scenario)[1]

    def commit_records(self, scenario: Scenario) -> int:
        return max(1, self.shape(scenario)[0] // scenario.record_bytes) if bandwidth_bound(scenario) else 1

    def commit_bytes(self, scenario: Scenario) -> int:
        return self.shape(scenario)[0]


def bandwidth_bound(scenario: Scenario) -> bool:
    """Scenarios in which many bytes are outstanding compare with bandwidth, the others with a lone 4 KiB write."""
    return scenario.outstanding * max(1, scenario.batch) * scenario.record_bytes >= 64 * KIB


class Device(_Limit):
    """Direct, durable writes: 4 KiB one at a time, or the best block size and depth found by a short calibration."""

    name = "device"
    durability = "bare O_DIRECT + RWF_DSYNC write in place; no records, no order, no recovery: a limit, not a store"

    def prepare(self, directory: Path) -> None:
        self.path = directory / "device"
        prewrite(self.path, FILE_BYTES)
        rates = {shape: _calibrate(self.path, *shape) for shape in SHAPES}
        self.best = max(rates, key=rates.__getitem__)
        self.calibration = {f"{block // KIB} KiB x {depth}": rate for (block, depth), rate in rates.items()}

    def unavailable(self) -> str | None:
        return None if hasattr(os, "O_DIRECT") else "this platform has no O_DIRECT"

    def shape(self, scenario: Scenario) -> tuple[int, int]:
        return self.best if bandwidth_bound(scenario) else (4 * KIB, 1)

    def open(self, plan: Plan) -> BlockingSession:
        return _DirectSession(self.path, plan, *self.shape(plan.scenario))


class Fdatasync(_Limit):
    """Buffered write in place and fdatasync, one at a time."""

    name = "fdatasync"
    durability = "bare pwrite + fdatasync in place; no records, no order, no recovery: a limit, not a store"

    def prepare(self, directory: Path) -> None:
        self.path = directory / "fdatasync"
        prewrite(self.path, FILE_BYTES // 4)

    def shape(self, scenario: Scenario) -> tuple[int, int]:
        return (MIB, 1) if bandwidth_bound(scenario) else (4 * KIB, 1)

    def open(self, plan: Plan) -> BlockingSession:
        return _SyncSession(self.path, plan, *self.shape(plan.scenario))


def _calibrate(path: Path, block: int, depth: int) -> float:
    """Bytes per second of `depth` processes writing blocks side by side."""
    pipe_out, pipe_in = os.pipe()
    children = []
    for i in range(depth):
        pid = os.fork()
        if pid == 0:
            _calibrate_child(path, block, depth, i, pipe_in)
        children.append(pid)
    os.close(pipe_in)
    with os.fdopen(pipe_out, "rb") as pipe:
        answers = pipe.read().split()
    for pid in children:
        os.waitpid(pid, 0)
    return sum(float(answer) for answer in answers)


def _calibrate_child(path: Path, block: int, depth: int, i: int, answer: int) -> None:
    try:
        fd, buffers, step = open_direct(path, os.O_RDWR), [aligned(block)], block * depth
        end, at, done = FILE_BYTES // step * step, block * i, 0
        begin = time.perf_counter()
        while (now := time.perf_counter()) - begin < CALIBRATION_WRITES:
            done += os.pwritev(fd, buffers, at, os.RWF_DSYNC)
            at = (at + step) % end
        os.write(answer, f"{done / (now - begin)}\n".encode())
    finally:
        os._exit(0)


def sync_probe(directory: Path, writes: int = 400) -> dict[str, float]:
    """p50 and p99 in microseconds of a 4 KiB durable write in place, direct and with fdatasync."""
    path = directory / "probe"
    prewrite(path, 4 * MIB)
    found: dict[str, float] = {}
    flags = {"direct": os.O_DIRECT, "fdatasync": 0}
    for name, flag in flags.items():
        try:
            fd = os.open(path, os.O_RDWR | flag)
        except OSError:
            continue
        buffer, taken = aligned(4 * KIB), []
        for i in range(writes):
            begin = time.perf_counter_ns()
            os.pwritev(fd, [buffer], i * 4 * KIB % (4 * MIB), os.RWF_DSYNC if flag else 0)
            if not flag:
                os.fdatasync(fd)
            taken.append(time.perf_counter_ns() - begin)
        os.close(fd)
        taken.sort()
        found[f"{name}_p50_us"] = taken[writes // 2] / 1e3
        found[f"{name}_p99_us"] = taken[writes * 99 // 100] / 1e3
    path.unlink()
    return found
