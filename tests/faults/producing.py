"""Producers that repeat what they like while the engine's processes, or all of it, are killed, or the power is cut: nothing
twice, nothing missing, and nobody is ever told that he cannot know."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import ringwal
from tests.faults import build
from tests.faults.disk import disk
from tests.faults.life import OFTEN, VISIT_SECONDS, at_work
from tests.faults.names import Load
from tests.faults.oracle import Verdict
from tests.faults.points import came_after_all, came_by
from tests.faults.table import Fault, often
from tests.support.host import ROOT, NotRun, pause, until
from tests.support.points import OWNERS, Point

PLAIN = Load(OFTEN, {})
RECONNECT = 120.0
PRODUCERS, STREAMS = 8, 2
AT_ONCE = 32
"""Appends that a producer has under way at the most."""
PAUSE = 0.3
"""Seconds between two deaths, at the most."""


def faults(tier: str) -> list[Fault]:
    times = often(tier, 3, 75, 200)
    return [
        Fault("producing", f"producers that repeat, SIGKILL {role}", partial(producing, role, times))
        for role in ("wal", "drain", "supervisor", "all")
    ] + [
        *(Fault("producing", f"kill at {point.name}", partial(at_point, point, often(tier, 2, 20))) for point in OWNERS),
        *(Fault("producing", f"power cut, {kind}", partial(cut, kind, often(tier, 2, 25))) for kind in ("ext4", "xfs")),
    ]


def data_of(name: str, sequence: int) -> bytes:
    return b"%s %d" % (name.encode(), sequence)


class Worker:
    """One producer, in a thread of its own. Now and then it sends again what it has sent, or begins anew as another process
    would: by a claim, from `next` on."""

    def __init__(self, directory: Path, number: int, seed: str, ended: threading.Event, journal: int | None = None) -> None:
        """``journal``: a descriptor to which it says what it was told, as soon as it was."""
        self.name = f"p{number}"
        self.stream = f"made-{number % STREAMS}"
        self.told: dict[int, int] = {}
        """Offset by sequence, as was said."""
        self.wrong: list[str] = []
        self.repeats = self.claims = 0
        self._chance = random.Random(seed)
        self._ended = ended
        self._client = ringwal.connect(directory, reconnect=RECONNECT)
        self._batches: list[tuple[int, int]] = []
        self._began: int | None = None
        self._journal = journal
        self._thread = threading.Thread(target=self._work)
        self._thread.start()


    def _work(self) -> None:
        try:
            producer = self._claim()
            while not self._ended.is_set():
                if self._chance.random() < 0.02:
                    producer = self._claim()
                receipts = [self._append(producer) for _ in range(self._chance.randrange(1, AT_ONCE))]
                for receipt in receipts:
                    self._hear(receipt, receipt.result(RECONNECT))
        except Exception as error:  # noqa: BLE001  told in the verdict
            self.wrong.append(f"{type(error).__name__}, {getattr(error, 'outcome', None)}: {error}")

    def _claim(self) -> Any:
        self.claims += 1
        producer = self._client.producer(self.stream, self.name)
        if self._began is None:
            self._began = producer.next
        sent = self._began + sum(count for _, count in self._batches)
        if producer.next != sent:
            self.wrong.append(f"{sent} records were confirmed, and it is to go on at {producer.next}")
        return producer

    def _append(self, producer: Any) -> Any:
        if self._batches and self._chance.random() < 0.1:
            self.repeats += 1
            sequence, count = self._chance.choice(self._batches[-40:])
        else:
            sequence, count = producer.next, self._chance.choice((1, 1, 1, 2, 5))
            self._batches.append((sequence, count))
        return producer.append_many([data_of(self.name, sequence + i) for i in range(count)], seq=sequence)

    def _hear(self, receipt: Any, ack: ringwal.Ack) -> None:
        if self._journal is not None:
            os.write(self._journal, b"%s %d %d\n" % (self.name.encode(), receipt.seq, ack.offset))
        before = self.told.setdefault(receipt.seq, ack.offset)
        if before != ack.offset:
            self.wrong.append(f"sequence {receipt.seq} was told to be at {before} and at {ack.offset}")

    def check(self, found: list[tuple[int, bytes]]) -> None:
        """``found`` is what the stream has of it."""
        sent = sum(count for _, count in self._batches)
        if [data for _, data in found] != [data_of(self.name, n) for n in range(sent)]:
            self.wrong.append(f"{sent} records were confirmed, and {len(found)} are there, or not in order")
        for sequence, offset in self.told.items():
            if sequence < len(found) and found[sequence][0] != offset:
                self.wrong.append(f"sequence {sequence} was told to be at {offset} and is at {found[sequence][0]}")

    def join(self) -> None:
        self._thread.join()
        self._client.close()


class Company:
    """All of them, in one engine."""

    def __init__(self, engine_dir: Path, seed: str) -> None:
        self._directory = engine_dir
        self._ended = threading.Event()
        self._workers = [Worker(engine_dir, n, f"{seed}/{n}", self._ended) for n in range(PRODUCERS)]

    def end(self) -> None:
        self._ended.set()
        for one in self._workers:
            one.join()

    def judge(self, verdict: Verdict) -> None:
        """The engine works, and they have ended."""
        found: dict[str, list[tuple[int, bytes]]] = {one.name: [] for one in self._workers}
        with ringwal.connect(self._directory, reconnect=RECONNECT) as client:
            for name in {one.stream for one in self._workers}:
                for record in client.stream(name).records():
                    found[record.data.split()[0].decode()].append((record.offset, record.data))
                client.delete_stream(name)  # the oracle knows the writers' streams only
        for one in self._workers:
            one.check(found[one.name])
            verdict.confirmed += len(found[one.name])
            verdict.expect(one.repeats > 0 or len(found[one.name]) < 100, f"{one.name} has repeated nothing")
            for wrong in one.wrong[:3]:
                verdict.expect(False, f"{one.name}: {wrong}")  # noqa: FBT003


def producing(role: str, times: int, directory: Path, seed: int) -> Verdict:
    chance, verdict = random.Random(f"{seed}/producing/{role}"), Verdict(runs=times)
    with at_work(directory, PLAIN) as s:
        company = Company(s.engine_dir, f"{seed}/{role}")
        try:
            for _ in range(times):
                s.await_progress()
                pause(chance.random() * PAUSE)  # the moment of the kill is the random variable
                s.strike(role)
            s.await_progress()
            s.fleet.stop()
        finally:
            company.end()
        company.judge(verdict)
        verdict.add(s.judge(0))
    return verdict


def at_point(point: Point, times: int, directory: Path, seed: int) -> Verdict:
    """The WAL process dies there, again and again; another one goes on."""
    once, root, verdict = directory / "once", build.with_points(), Verdict()
    with at_work(directory, PLAIN, root=root, trap=build.at(point.name, 1, "kill", once)) as s:
        company = Company(s.engine_dir, f"{seed}/{point.name}")
        try:
            for _ in range(times):
                once.touch()
                verdict.runs += came_by(once, VISIT_SECONDS) or came_after_all(once)
                s.await_progress()
            s.fleet.stop()
        finally:
            company.end()
        if not verdict.runs:
            raise NotRun("nobody came by in time")
        company.judge(verdict)
        verdict.add(s.judge(0))
    return verdict


def cut(kind: str, times: int, directory: Path, seed: int) -> Verdict:
    """Who appends dies with the power, and begins anew with a claim."""
    chance, verdict, journal = random.Random(f"{seed}/cut/{kind}"), Verdict(runs=times), directory / "told"
    with disk(directory, kind) as medium, at_work(directory, PLAIN, medium.mount / "engine") as s:
        for n in range(times + 1):
            command = [sys.executable, "-m", "tests.faults.producing", str(s.engine_dir), str(journal), f"{seed}/{n}"]
            with subprocess.Popen(command, cwd=ROOT) as company:
                try:
                    size = journal.stat().st_size if journal.exists() else 0
                    until(partial(_grown, journal, size + 1000), "producers to be told")
                    s.await_progress()
                    pause(chance.random() * PAUSE)  # the moment of the cut is the random variable
                finally:
                    company.kill()
            if n < times:
                medium.cut()
                s.running.__exit__(None, None, None)
                medium.again()
                s.start()
        s.fleet.stop()
        _compare(s.engine_dir, journal, verdict)
        verdict.add(s.judge(0))
    return verdict


def _grown(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size > size


def _compare(engine_dir: Path, journal: Path, verdict: Verdict) -> None:
    """What the streams have of each is all of it from the first on, in order, and what was told."""
    found: dict[str, list[tuple[int, bytes]]] = {f"p{n}": [] for n in range(PRODUCERS)}
    with ringwal.connect(engine_dir) as client:
        for n in range(STREAMS):
            for record in client.stream(f"made-{n}").records():
                found[record.data.split()[0].decode()].append((record.offset, record.data))
            client.delete_stream(f"made-{n}")
    for name, records in found.items():
        whole = [data for _, data in records] == [data_of(name, n) for n in range(len(records))]
        verdict.expect(whole, f"the {len(records)} records of {name} are not in order, or not each once")
        verdict.confirmed += len(records)
    for line in journal.read_text().splitlines():
        name, sequence, offset = line.split()
        there = found[name][int(sequence) :][:1]
        verdict.expect([at for at, _ in there] == [int(offset)], f"{name}: {sequence} was told to be at {offset}: {there}")


def _work(engine_dir: Path, journal: Path, seed: str) -> None:
    """Until it is killed."""
    fd, ended = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), threading.Event()
    workers = [Worker(engine_dir, n, f"{seed}/{n}", ended, fd) for n in range(PRODUCERS)]
    for one in workers:
        one.join()


if __name__ == "__main__":
    _work(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
