"""Consumers that read, transform and commit while the engine's processes, or all of it, are killed, or the power is cut: none
misses a record, what is read again was not committed, and what is transformed in a batch with its commit is there once."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import ringwal
from tests.faults.disk import disk
from tests.faults.life import OFTEN, at_work
from tests.faults.names import Load
from tests.faults.oracle import Verdict
from tests.faults.table import Fault, often
from tests.support.host import ROOT, pause, until

PLAIN = Load(OFTEN, {})
RECONNECT = 120.0
STREAMS = 2
"""Each is fed by one, transformed by one, and read by all readers."""
READERS = 2
AT_ONCE = 16
PAUSE = 0.3
"""Seconds between two deaths, at the most."""


def faults(tier: str) -> list[Fault]:
    times = often(tier, 3, 75, 200)
    return [
        Fault("consuming", f"consumers, transforms, SIGKILL {role}", partial(consuming, role, times))
        for role in ("wal", "drain", "supervisor", "all")
    ] + [Fault("consuming", f"power cut, {kind}", partial(cut, kind, often(tier, 2, 25))) for kind in ("ext4", "xfs")]


class Worker:
    """Somebody in a thread of his own, with a client of his own, until `ended`."""

    def __init__(self, directory: Path, seed: str, journal: int | None) -> None:
        """``journal``: a descriptor to which it says what it was told, as soon as it was."""
        self.wrong: list[str] = []
        self.ended = threading.Event()
        self._chance = random.Random(seed)
        self._journal = journal
        self._client = ringwal.connect(directory, reconnect=RECONNECT)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self.ended.is_set():
                try:
                    self._work()
                except ringwal.EngineFailed as error:
                    if error.outcome != "unknown":
                        raise  # else the next claim says what is there
        except Exception as error:  # noqa: BLE001  told in the verdict
            self.wrong.append(f"{type(error).__name__}, {getattr(error, 'outcome', None)}: {error}")

    def _work(self) -> None:
        """Claims, and goes on until the claim is of no use any more."""
        raise NotImplementedError

    def _goes_on(self) -> bool:
        """Now and then it begins anew, as another process would."""
        return not self.ended.is_set() and self._chance.random() > 0.02

    def _tell(self, what: str, stream: int, upto: int) -> None:
        if self._journal is not None:
            os.write(self._journal, f"{what} {stream} {upto}\n".encode())

    def join(self) -> None:
        self.ended.set()
        self._thread.join()
        with contextlib.suppress(ringwal.ProducerFenced):  # a commit on its way when the consumer was claimed anew
            self._client.close()


class Feeder(Worker):
    """Appends the numbers from 0 on to its stream."""

    def __init__(self, directory: Path, number: int, seed: str, journal: int | None) -> None:
        self._number = number
        super().__init__(directory, f"{seed}/feed/{number}", journal)

    def _work(self) -> None:
        producer = self._client.producer(f"in-{self._number}", "feed")
        while self._goes_on():
            for _ in range(self._chance.randrange(1, AT_ONCE)):
                producer.append(b"%d" % producer.next)
            producer.flush(RECONNECT)
            self._tell("fed", self._number, producer.next)


class Transformer(Worker):
    """What comes in goes out, in a batch with the commit."""

    def __init__(self, directory: Path, number: int, seed: str, journal: int | None) -> None:
        self._number = number
        super().__init__(directory, f"{seed}/transform/{number}", journal)

    def _work(self) -> None:
        consumer = self._client.consumer(f"transform-{self._number}", [f"in-{self._number}"])
        while self._goes_on():
            records = consumer.poll(self._chance.randrange(1, AT_ONCE), timeout=0.1)
            with self._client.batch(timeout=RECONNECT) as batch:
                for record in records:
                    batch.append(f"out-{self._number}", record.data)
                batch.commit(consumer)
            if records:
                self._tell("out", self._number, records[-1].offset + 1)


class Reader(Worker):
    """Commits what it reads, mostly without waiting. Nothing is left out; what it was told to be committed does not come
    again."""

    def __init__(self, directory: Path, number: int, seed: str, journal: int | None) -> None:
        self._name = f"reader-{number}"
        self._seen: dict[str, int] = {}
        self._sure: dict[str, int] = {}
        super().__init__(directory, f"{seed}/{self._name}", journal)

    def _work(self) -> None:
        consumer = self._client.consumer(self._name, [f"in-{n}" for n in range(STREAMS)])
        goes_on = consumer.committed
        for stream, at in goes_on.items():
            if not self._sure.get(stream, 0) <= at <= self._seen.get(stream, at):
                self.wrong.append(f"{self._name} goes on at {at}; it was at {self._seen}, and {self._sure} were confirmed")
        while self._goes_on():
            for record in consumer.poll(self._chance.randrange(1, AT_ONCE), timeout=0.1):
                if record.offset != goes_on[record.stream] or record.data != b"%d" % record.offset:
                    self.wrong.append(f"{self._name}: {record} came where {goes_on[record.stream]} was due")
                goes_on[record.stream] = record.offset + 1
                self._seen[record.stream] = max(self._seen.get(record.stream, 0), record.offset + 1)
                consumer.commit(record, wait=False)
            if self._chance.random() < 0.1:
                consumer.commit(timeout=RECONNECT)
                self._sure = dict(consumer.positions)
                for n in range(STREAMS):
                    self._tell(self._name, n, self._sure[f"in-{n}"])


class Company:
    """All of them, in one engine."""

    def __init__(self, directory: Path, seed: str, journal: int | None = None) -> None:
        self._feeders = [Feeder(directory, n, seed, journal) for n in range(STREAMS)]
        self._others: list[Worker] = [Transformer(directory, n, seed, journal) for n in range(STREAMS)]
        self._others += [Reader(directory, n, seed, journal) for n in range(READERS)]

    def end(self) -> None:
        for one in (*self._feeders, *self._others):
            one.join()

    def judge(self, verdict: Verdict) -> None:
        for one in (*self._feeders, *self._others):
            for wrong in one.wrong[:3]:
                verdict.expect(False, wrong)  # noqa: FBT003


def compare(directory: Path, verdict: Verdict, told: dict[tuple[str, int], int]) -> None:
    """The engine works, and nobody else. What is told is there, and as much is out as is committed, each once and in order."""
    with ringwal.connect(directory, reconnect=RECONNECT) as client:
        committed = {(row.name, row.stream): row.committed for row in client.consumers()}
        for n in range(STREAMS):
            for what in ("in", "out"):
                stream = client.create_stream(f"{what}-{n}", exist_ok=True)
                found = [int(record.data) for record in stream.records()]
                whole = found == list(range(len(found)))
                verdict.expect(whole, f"the {len(found)} records of {what}-{n} are not in order, or not each once")
                least = told.get(("fed" if what == "in" else "out", n), 0)
                verdict.expect(len(found) >= least, f"{what}-{n} has {len(found)} records, and {least} were told")
                verdict.confirmed += len(found)
            at = committed[f"transform-{n}", f"in-{n}"]
            verdict.expect(at == len(found), f"{at} of in-{n} are committed, and {len(found)} are out")
            for reader in range(READERS):
                least, at = told.get((f"reader-{reader}", n), 0), committed[f"reader-{reader}", f"in-{n}"]
                verdict.expect(at >= least, f"reader-{reader} is at {at} of in-{n}, and {least} were told")
        for n in range(STREAMS):
            for what in ("in", "out"):
                client.delete_stream(f"{what}-{n}")  # the oracle knows the writers' streams only
        verdict.expect(not client.consumers(), "there are consumers of streams that are deleted")


def consuming(role: str, times: int, directory: Path, seed: int) -> Verdict:
    chance, verdict = random.Random(f"{seed}/consuming/{role}"), Verdict(runs=times)
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
        compare(s.engine_dir, verdict, {})
        verdict.add(s.judge(0))
    return verdict


def cut(kind: str, times: int, directory: Path, seed: int) -> Verdict:
    """All of them die with the power, and begin anew with claims."""
    chance, verdict, journal = random.Random(f"{seed}/cut/{kind}"), Verdict(runs=times), directory / "told"
    with disk(directory, kind) as medium, at_work(directory, PLAIN, medium.mount / "engine") as s:
        for n in range(times + 1):
            command = [sys.executable, "-m", "tests.faults.consuming", str(s.engine_dir), str(journal), f"{seed}/{n}"]
            with subprocess.Popen(command, cwd=ROOT) as company:
                try:
                    size = journal.stat().st_size if journal.exists() else 0
                    until(partial(_grown, journal, size + 1000), "consumers to be told")
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
        told: dict[tuple[str, int], int] = {}
        for line in journal.read_text().splitlines():
            what, stream, upto = line.split()
            told[what, int(stream)] = max(told.get((what, int(stream)), 0), int(upto))
        compare(s.engine_dir, verdict, told)
        verdict.add(s.judge(0))
    return verdict


def _grown(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size > size


def _work(directory: Path, journal: Path, seed: str) -> None:
    """Until it is killed."""
    fd = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    Company(directory, seed, fd)
    threading.Event().wait()


if __name__ == "__main__":
    _work(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
