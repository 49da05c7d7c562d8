"""Tails of clients that wait for the engine's return, while its processes, or all of it, are killed: each record once, in
order, and of several streams in the one order of the log."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import ringwal
from tests.faults.life import OFTEN, WRITERS, at_work
from tests.faults.names import Load
from tests.faults.oracle import Verdict
from tests.faults.table import Fault, often
from tests.support.host import pause, until

PLAIN = Load(OFTEN, {})
STREAMS = ("hot", *(f"own-{i}" for i in range(WRITERS)))
RECONNECT = 120.0
PAUSE = 0.3
"""Seconds between two deaths, at the most."""
Seen = tuple[str, int, bytes]


def faults(tier: str) -> list[Fault]:
    times = often(tier, 3, 60, 200)
    return [
        Fault("following", f"tails that reconnect, SIGKILL {role}", partial(tails, role, times))
        for role in ("wal", "drain", "supervisor", "all")
    ]


class Follower:
    """Takes all that a tail gives, in a thread of its own, until the client is closed."""

    def __init__(self, records: Iterator[ringwal.Record | ringwal.StreamRecord], name: str) -> None:
        self.seen: list[Seen] = []
        self.ended: ringwal.Error | None = None
        self._thread = threading.Thread(target=self._follow, args=(records, name))
        self._thread.start()

    def _follow(self, records: Iterator[ringwal.Record | ringwal.StreamRecord], name: str) -> None:
        try:
            for record in records:
                self.seen.append((getattr(record, "stream", name), record.offset, record.data))
        except ringwal.Error as error:
            self.ended = error

    def join(self) -> None:
        self._thread.join()


def tails(role: str, times: int, directory: Path, seed: int) -> Verdict:
    chance, verdict = random.Random(f"{seed}/following/{role}"), Verdict(runs=times)
    with at_work(directory, PLAIN) as s:
        client = ringwal.connect(s.engine_dir, reconnect=RECONNECT)
        try:
            alone = {name: Follower(client.stream(name).tail(ringwal.EARLIEST, missing="wait"), name) for name in STREAMS}
            together = Follower(client.tail(dict.fromkeys(STREAMS, ringwal.EARLIEST), missing="wait"), "")
            for _ in range(times):
                s.await_progress()
                pause(chance.random() * PAUSE)  # the moment of the kill is the random variable
                s.strike(role)
            s.await_progress()
            s.fleet.stop()
            ends = {name: client.stream(name).stat().confirmed_offset for name in STREAMS}
            followers = [*alone.values(), together]
            until(
                lambda: all(one.ended for one in followers)
                or (
                    all(len(alone[name].seen) >= ends[name] for name in STREAMS)
                    and len(together.seen) >= sum(ends.values())
                ),
                "the tails have come to the end",
            )
            order = [(one.stream, one.offset, one.data) for one in client.tail(dict.fromkeys(STREAMS, 0), idle_timeout=0.0)]
        finally:
            client.close()
        for one in followers:
            one.join()
            closed = isinstance(one.ended, ringwal.ClosedError)
            verdict.expect(closed, f"a tail ended with {type(one.ended).__name__}: {one.ended}")
        for name in STREAMS:
            dense = [offset for _, offset, _ in alone[name].seen] == list(range(ends[name]))
            verdict.expect(dense, f"the tail of {name} has not seen each record once, in order")
        verdict.expect(together.seen == order, "the order of several streams is not that of the log")
        for name in STREAMS:
            mine = [one for one in together.seen if one[0] == name]
            verdict.expect(mine == alone[name].seen, f"{name} is not the same alone and among others")
        verdict.confirmed += len(order)
        verdict.add(s.judge(0))
    return verdict
