"""A wall clock that jumps under load: a day ahead, a day back, to 1970, and around.

The clock of the processes under test, by a preloaded library, and not the machine's: stepping that one would reach every
other program on the machine, and would stay if the campaign is killed. What the library does not reach, the kernel's own
use of the wall clock, the engine does not use: its waits are relative.

    python -m tests.faults.clocks DIR SECONDS

is a caller with a limit for everything; it ends with 0 if every wait lasted as long as it was told to.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import ringwal
from tests.faults.oracle import Verdict
from tests.faults.scene import Scene, held, scene
from tests.faults.shim import library
from tests.faults.table import Fault, often
from tests.support.host import PATIENCE, ROOT, Hung, pause

DAY = 86400 * 10**9
HOUR = DAY // 24


def faults(tier: str) -> list[Fault]:
    return [
        Fault("time", "clock steps under load", partial(steps, often(tier, 1, 10))),
        Fault("time", "clock steps while callers wait", partial(waits, often(tier, 0.1, 1))),
    ]


class Clock:
    """The wall clock of whoever is given `env`."""

    def __init__(self, state: Path) -> None:
        state.write_bytes(bytes(mmap.PAGESIZE))
        with state.open("r+b") as file:
            self._words = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.env = {"LD_PRELOAD": str(library("clock_shim")), "RINGWAL_CLOCK": str(state)}

    def off_by(self, ns: int) -> None:
        struct.pack_into("=q", self._words, 0, ns)


def steps(times: int, directory: Path, seed: int) -> Verdict:
    """Whoever is replaced or started anew meanwhile: times are stamped in the order of the offsets."""
    chance, clock = random.Random(f"{seed}/clock"), Clock(directory / "clock")
    with scene(directory, engine_env=clock.env, client_env=clock.env) as s:
        for _ in range(times):
            around = [chance.randrange(-30 * DAY, 30 * DAY) for _ in range(2)]
            for i, ns in enumerate((DAY, -DAY, 0, HOUR - time.time_ns(), *around)):
                clock.off_by(ns)
                s.await_progress()
                uptime = s.running.status()["uptime"]
                s.verdict.expect(0 <= uptime < 3600, f"the engine says that it has been up for {uptime} s")
                if i % 3 == 2:
                    s.running.kill()
                    s.start()
                else:
                    s.running.strike(("wal", "drain")[i % 3])
                    s.await_successor()
                s.await_progress()
        stamps = [record.timestamp_ns for record in everything(s, "hot")]
        s.verdict.expect(stamps == sorted(stamps), "a record has an earlier time than the one before it")
        s.verdict.expect(stamps[-1] > time.time_ns() + DAY // 2, "the steps did not reach the engine: this shows nothing")
    s.verdict.runs = 6 * times
    return s.verdict


def everything(s: Scene, name: str) -> Iterator[ringwal.Record]:
    with ringwal.connect(s.directory) as client:
        stream, at = client.stream(name), 0
        while records := stream.read(at):
            yield from records
            at += len(records)


def waits(seconds: float, directory: Path, seed: int) -> Verdict:
    """Limits are measured by another clock: no wait becomes longer or shorter."""
    chance, clock = random.Random(f"{seed}/waits"), Clock(directory / "clock")
    with scene(directory, engine_env=clock.env, client_env=clock.env, strangers=("patience",)) as s:
        with held(s.running.pid("wal")):
            caller = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.clocks", str(s.directory), str(seconds)],
                stderr=subprocess.PIPE,
                cwd=ROOT,
                env={**os.environ, **clock.env},
            )
            try:
                end = time.monotonic() + PATIENCE
                while caller.poll() is None:
                    clock.off_by(chance.choice((1, -1)) * chance.randrange(HOUR, 300 * DAY))
                    pause(0.01)
                    if time.monotonic() > end:
                        raise Hung("a caller waits much longer than it wanted to")
                assert caller.stderr is not None
                s.verdict.expect(caller.returncode == 0, f"the caller: {caller.stderr.read().decode()[-300:]}")
            finally:
                caller.kill()
                caller.communicate()
        s.await_progress()
    s.verdict.runs = 1
    return s.verdict


def wait(what: str, seconds: float, does: Callable[[], object], raises: type[ringwal.Error] | None) -> None:
    began = time.monotonic()
    if raises is None:
        does()
    else:
        with contextlib.suppress(raises):
            does()
            raise AssertionError(f"{what} came to an end without {raises.__name__}")
    if time.monotonic() - began < seconds * 0.9:
        raise AssertionError(f"{what} gave up too early")


def impatient(directory: Path, seconds: float) -> None:
    """While the WAL process is stopped."""
    with (
        contextlib.suppress(ringwal.AckTimeout),
        ringwal.connect(directory, append_timeout=seconds, lane_bytes=64 << 10) as client,
    ):
        stream = client.stream("patience")
        receipt = stream.append(b"1")
        wait("result", seconds, lambda: receipt.result(seconds), ringwal.AckTimeout)
        wait("flush", seconds, lambda: stream.flush(seconds), ringwal.AckTimeout)
        wait("tail", seconds, lambda: list(stream.tail(idle_timeout=seconds)), None)
        wait("append", seconds, lambda: [stream.append(bytes(4000)) for _ in range(100)], ringwal.BackpressureTimeout)
        wait("close", seconds, lambda: client.close(timeout=seconds), ringwal.AckTimeout)


if __name__ == "__main__":
    impatient(Path(sys.argv[1]), float(sys.argv[2]))
