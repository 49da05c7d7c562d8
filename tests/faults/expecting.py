"""Several who count together in one stream by `expected_offset`, while the engine's processes, or all of it, are killed: each
number once, in order, and who was told that an offset is taken can read what took it."""

from __future__ import annotations

import random
import threading
from functools import partial
from pathlib import Path

import ringwal
from tests.faults.life import OFTEN, at_work
from tests.faults.names import Load
from tests.faults.oracle import Verdict
from tests.faults.table import Fault, often
from tests.support.host import pause

PLAIN = Load(OFTEN, {})
RECONNECT = 120.0
COUNTERS = 3
PAUSE = 0.3
"""Seconds between two deaths, at the most."""


def faults(tier: str) -> list[Fault]:
    times = often(tier, 3, 60, 200)
    return [
        Fault("expecting", f"counters that agree by offsets, SIGKILL {role}", partial(counting, role, times))
        for role in ("wal", "drain", "supervisor", "all")
    ]


class Counter:
    """Reads the last number, and appends the next one behind it or not at all, until it is told to end."""

    def __init__(self, directory: Path, ended: threading.Event) -> None:
        self.won: list[tuple[int, int]] = []
        """Offsets and numbers that are confirmed."""
        self.unknown = self.late = 0
        self.wrong: list[str] = []
        self._ended = ended
        self._client = ringwal.connect(directory, reconnect=RECONNECT)
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def _count(self) -> None:
        stream = self._client.stream("count")
        while not self._ended.is_set():
            at, number = 0, 0
            try:
                found = stream.read(ringwal.Last(1))
                if found:
                    at, number = found[0].offset + 1, int(found[0].data) + 1
            except ringwal.NoSuchStream:
                pass
            try:
                offset = stream.append(b"%d" % number, expected_offset=at).result(RECONNECT).offset
            except ringwal.OffsetMismatch as error:
                self._check(error, at)
            except (ringwal.EngineFailed, ringwal.NotRunning) as error:
                self.unknown += error.outcome == "unknown"
            else:
                self.won.append((offset, number))
                if offset != at:
                    self.wrong.append(f"appended at {offset}, and not at {at}")

    def _check(self, error: ringwal.OffsetMismatch, at: int) -> None:
        self.late += 1
        actual = error.actual or 0
        if actual <= at:
            self.wrong.append(f"{at} was read to be free, and the stream goes on at {actual}")
        elif not self._client.stream("count").read(actual - 1, 1):
            self.wrong.append(f"the stream was said to go on at {actual}, and has no record before that")

    def join(self) -> None:
        self._thread.join()
        self._client.close()


def counting(role: str, times: int, directory: Path, seed: int) -> Verdict:
    chance, verdict = random.Random(f"{seed}/expecting/{role}"), Verdict(runs=times)
    with at_work(directory, PLAIN) as s:
        ended = threading.Event()
        counters = [Counter(s.engine_dir, ended) for _ in range(COUNTERS)]
        try:
            for _ in range(times):
                s.await_progress()
                pause(chance.random() * PAUSE)  # the moment of the kill is the random variable
                s.strike(role)
            s.await_progress()
            s.fleet.stop()
        finally:
            ended.set()
            for one in counters:
                one.join()
        with ringwal.connect(s.engine_dir) as client:
            found = [(record.offset, int(record.data)) for record in client.stream("count").records()]
            client.delete_stream("count")  # the oracle knows the writers' streams only
        verdict.expect(found == [(n, n) for n in range(len(found))], "the stream does not count")
        verdict.expect(set().union(*(one.won for one in counters)) <= set(found), "a confirmed number is gone")
        won = sum(len(one.won) for one in counters)
        verdict.expect(won <= len(found) <= won + sum(one.unknown for one in counters), "somebody was told wrong")
        verdict.expect(sum(one.late for one in counters) > 0, "nobody ever came too late")
        for wrong in (each for one in counters for each in one.wrong[:3]):
            verdict.expect(False, wrong)  # noqa: FBT003
        verdict.confirmed += len(found)
        verdict.add(s.judge(0))
    return verdict
