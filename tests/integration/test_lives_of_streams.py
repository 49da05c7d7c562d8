"""Streams that are appended to, trimmed, deleted and made anew over many lives of the engine, against what may be true of them.

Everything that was confirmed before an end is known. What was on its way may have happened, in its order: each append, then
one trim or deletion. So each name has a few possible states after an end, and one of them has to be found.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

import ringwal
from tests.support.rig import WAIT, Engine, read_all

LIVES, STEPS = 10, 12
NAMES = ("a", "b", "c")


class State(NamedTuple):
    """A stream: its first offset and the records from there on. None of it: there is no such stream."""

    start: int
    records: tuple[bytes, ...]


class Known:
    """What may be true of one name."""

    def __init__(self) -> None:
        self.states: set[State | None] = {None}

    def append(self, records: list[bytes], *, sure: bool) -> None:
        after: set[State | None] = set() if sure else set(self.states)
        for count in [len(records)] if sure else range(1, len(records) + 1):
            for state in self.states:
                before = state or State(0, ())
                after.add(State(before.start, (*before.records, *records[:count])))
        self.states = after

    def trim(self, before: int, *, sure: bool) -> None:
        trimmed = {state and self._trimmed(state, before) for state in self.states}
        self.states = trimmed if sure else self.states | trimmed

    @staticmethod
    def _trimmed(state: State, before: int) -> State:
        gone = max(0, min(before - state.start, len(state.records)))
        return State(state.start + gone, state.records[gone:])

    def delete(self, *, sure: bool) -> None:
        self.states = {None} if sure else {*self.states, None}

    def found(self, state: State | None) -> None:
        """So it is."""
        assert state in self.states
        self.states = {state}


def look(client: ringwal.Client, name: str) -> State | None:
    try:
        info = client.stream(name).stat()
    except ringwal.NoSuchStream:
        return None
    found = list(read_all_from(client.stream(name), info.start_offset))
    assert [record.offset for record in found] == list(range(info.start_offset, info.confirmed_offset))
    return State(info.start_offset, tuple(record.data for record in found))


def read_all_from(stream: ringwal.Stream, start: int) -> list[ringwal.Record]:
    return list(read_all(stream)) if start == 0 else stream.read(start, max_records=100_000)


class Play:
    """One client that does things, and what it knows of them."""

    def __init__(self, client: ringwal.Client, rng: random.Random, known: dict[str, Known]) -> None:
        self.client, self.rng, self.known = client, rng, known
        self.count = 0

    def records(self, name: str) -> list[bytes]:
        self.count += 1
        size = self.rng.choice((1, 100, 20_000))
        return [b"%s %d %d " % (name.encode(), self.count, i) + bytes(size) for i in range(self.rng.randint(1, 12))]

    def offset(self, name: str) -> int:
        info = self.client.stream(name).stat()
        return self.rng.randint(0, info.confirmed_offset)

    def step(self) -> None:
        """One thing, waited for."""
        name = self.rng.choice(NAMES)
        what, known = self.rng.choice(("append", "append", "append", "batch", "trim", "delete")), self.known[name]
        stream = self.client.stream(name)
        if what in ("append", "batch"):
            records = self.records(name)
            receipts = [stream.append_many(records)] if what == "batch" else [stream.append(data) for data in records]
            for receipt in receipts:
                receipt.result(WAIT)
            known.append(records, sure=True)
            return
        with contextlib.suppress(ringwal.NoSuchStream):
            if what == "trim":
                before = self.offset(name)
                stream.trim(before)
                known.trim(before, sure=True)
            else:
                self.client.delete_stream(name)
                known.delete(sure=True)

    def begin(self, pool: ThreadPoolExecutor) -> None:
        """Things of each name that nobody waits for: the engine ends meanwhile."""
        for name in NAMES:
            records = self.records(name)
            for data in records:
                self.client.stream(name).append(data)
            self.known[name].append(records, sure=False)
            what = self.rng.choice(("nothing", "trim", "delete"))
            with contextlib.suppress(ringwal.NoSuchStream):
                if what == "trim":
                    before = self.offset(name)
                    pool.submit(self.client.stream(name).trim, before)
                    self.known[name].trim(before, sure=False)
                elif what == "delete":
                    pool.submit(self.client.delete_stream, name)
                    # It is in the log before or behind the appends, which then are in it, or refused.
                    self.known[name].delete(sure=False)


@pytest.mark.parametrize("seed", range(3))
def test_what_was_confirmed_is_so_in_every_life(directory: Path, start: Callable[..., Engine], seed: int) -> None:
    rng = random.Random(seed)
    known = {name: Known() for name in NAMES}
    numbers: dict[int, str] = {}
    for _ in range(LIVES):
        running = start(max_restarts=100, max_streams=8)
        client = ringwal.connect(directory, timeout=WAIT, append_timeout=WAIT, lane_bytes=1 << 20)
        for name in NAMES:
            known[name].found(look(client, name))
        play = Play(client, rng, known)
        for _ in range(STEPS):
            play.step()
            if rng.random() < 0.15:
                running.strike(rng.choice(("wal", "drain")))
        for info in client.streams():
            assert numbers.setdefault(info.number, info.name) == info.name
        with ThreadPoolExecutor(len(NAMES)) as pool:
            play.begin(pool)
            if rng.random() < 0.3:
                running.terminate()
            else:
                running.kill()
        with contextlib.suppress(ringwal.Error):
            client.close(0.0)
    start(max_streams=8)
    with ringwal.connect(directory) as client:
        for name in NAMES:
            known[name].found(look(client, name))
