"""Transfers between accounts in several streams, each one batch, while the engine's processes, or all of it, or who makes the
transfers are killed, or the power is cut: each transfer is in the log whole or not at all, and whoever follows the accounts
together never sees a part of one.

    python -m tests.faults.batching transfer DIR JOURNAL NAME SEED
    python -m tests.faults.batching follow DIR JOURNAL SEED
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TextIO

import ringwal
from tests.faults import build
from tests.faults.disk import disk
from tests.faults.life import OFTEN, VISIT_SECONDS, Scene, at_work
from tests.faults.names import Load
from tests.faults.oracle import Verdict
from tests.faults.points import came_after_all, came_by, state
from tests.faults.table import Fault, often
from tests.support.host import PATIENCE, ROOT, NotRun, children_of, inherited, package_of, pause, until
from tests.support.points import BATCHES, Point, Victim

PLAIN = Load(OFTEN, {})
LOG_ORDER = Load((*OFTEN, "--confirm-order", "log"), {})
RECONNECT = 120.0
ACCOUNTS = ("account-0", "account-1", "account-2", "account-3")
PROCESSES, THREADS = 2, 4
PAUSE = 0.3
"""Seconds between two deaths, at the most."""
NEVER = 1 << 40
"""An offset that no account comes to."""
LARGE = 2000
"""Bytes of a large record: some make a block full, so that a transfer comes to its end."""
STOPPED = 0.3
"""Seconds for which whoever stopped at a point stays there."""


def faults(tier: str) -> list[Fault]:
    times, cuts, visits = often(tier, 3, 60, 200), often(tier, 2, 20, 50), often(tier, 2, 20)
    return [
        *(
            Fault("batching", f"transfers, SIGKILL {role}", partial(transfers, PLAIN, role, times))
            for role in ("wal", "drain", "supervisor", "all")
        ),
        *(
            Fault("batching", f"transfers in order of the log, SIGKILL {role}", partial(transfers, LOG_ORDER, role, times))
            for role in ("wal", "drain", "all")
        ),
        *(
            Fault("batching", f"{action} at {point.name}", partial(at_point, point, action, visits))
            for action in ("kill", "stop")
            for point in BATCHES
        ),
        *(Fault("batching", f"power cut, {kind}", partial(cut, kind, cuts)) for kind in ("ext4", "xfs")),
    ]


# ------------------------------------------------------------------------------------------------- what the records say


class Entry(NamedTuple):
    """One record of a transfer."""

    writer: str
    number: int
    place: int
    """Of this record in the transfer, in the order of the calls."""
    total: int
    """Records of the transfer."""
    amount: int

    @classmethod
    def of(cls, data: bytes) -> Entry:
        writer, number, index, total, amount = data.split()[:5]
        return cls(writer.decode(), int(number), int(index), int(total), int(amount))

    def data(self, padding: int) -> bytes:
        return b"%s %d %d %d %d %s" % (self.writer.encode(), *self[1:], b"x" * padding)


class Wholes:
    """Takes what a merged tail gives, and says what is wrong with it: the records of one transfer come one directly behind the
    other, and all of them."""

    def __init__(self) -> None:
        self.count = 0
        """Transfers that were seen whole."""
        self.wrong: list[str] = []
        self.next = dict.fromkeys(ACCOUNTS, 0)
        self._open: list[Entry] = []
        self._seen: set[tuple[str, int]] = set()

    def take(self, record: ringwal.StreamRecord) -> None:
        entry = Entry.of(record.data)
        if record.offset != self.next[record.stream]:
            self.wrong.append(f"{record.stream}: offset {record.offset} follows {self.next[record.stream] - 1}")
        self.next[record.stream] = record.offset + 1
        if self._open and self._open[0][:2] != entry[:2]:
            self.settled(f"{entry} follows")
        self._open.append(entry)
        if len(self._open) == entry.total:
            self._close()

    def _close(self) -> None:
        first = self._open[0]
        if (first.writer, first.number) in self._seen:
            self.wrong.append(f"transfer {first.number} of {first.writer} is there twice")
        self._seen.add((first.writer, first.number))
        if sorted(entry.place for entry in self._open) != list(range(first.total)):
            self.wrong.append(f"not each record once: {self._open}")
        if sum(entry.amount for entry in self._open) != 0:
            self.wrong.append(f"money is made: {self._open}")
        self.count += 1
        self._open = []

    def settled(self, when: str) -> None:
        """There is no more for now: nothing may be open."""
        if self._open:
            self.wrong.append(f"{len(self._open)} of {self._open[0].total} records: {self._open}, and {when}")
            self._open = []


# ------------------------------------------------------------------------------------------------- who makes transfers


class Maker:
    """Transfers, one after the other, in a thread of its own. Its journal is told of each before it is sent (`b`) and of what
    became of it: `k` and its Acks, `u` the outcome is unknown, `n` nothing was appended."""

    def __init__(self, client: ringwal.Client, journal: int, name: str, seed: str) -> None:
        self._client, self._journal, self._name = client, journal, name
        self._chance = random.Random(seed)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _work(self) -> None:
        number = 0
        try:
            while True:
                self._transfer(number)
                number += 1
        except BaseException as error:
            self._say("!", number, f"{type(error).__name__}: {error}")
            raise

    def _say(self, what: str, number: int, more: str = "") -> None:
        os.write(self._journal, f"{what} {self._name} {number} {more}\n".encode())

    def _transfer(self, number: int) -> None:
        chance = self._chance
        names = chance.sample(ACCOUNTS, chance.choice((1, 2, 2, 2, 3, 4)))
        rows = [(name, chance.randrange(1, 100)) for name in names for _ in range(chance.choice((1, 1, 1, 3)))]
        rows.append((chance.choice(names), -sum(amount for _, amount in rows)))
        late = chance.choice(names) if chance.random() < 0.15 else None
        self._say("b", number)
        try:
            with self._client.batch(timeout=RECONNECT) as batch:
                said: set[str] = set()
                for place, (name, amount) in enumerate(rows):
                    data = Entry(self._name, number, place, len(rows), amount).data(chance.choice((0, 0, 0, LARGE)))
                    batch.append(name, data, expected_offset=NEVER if name == late and name not in said else None)
                    said.add(name)
        except ringwal.OffsetMismatch:
            self._say("n", number)
        except (ringwal.EngineFailed, ringwal.NotRunning) as error:
            self._say("u" if error.outcome == "unknown" else "n", number)
        else:
            if late is not None:
                self._say("!", number, f"{late} has not come to {NEVER}, and was appended to")
            self._say("k", number, " ".join(f"{ack.stream}:{ack.offset}" for ack in batch.receipt.result(0)))


def transfer(engine_dir: Path, journal: Path, name: str, seed: str) -> None:
    """Until it is killed."""
    fd = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    client = ringwal.connect(engine_dir, timeout=RECONNECT, reconnect=RECONNECT)
    makers = [Maker(client, fd, f"{name}.{n}", f"{seed}/{n}") for n in range(THREADS)]
    for one in makers:
        one.join()


# --------------------------------------------------------------------------------------------------------- who follows


def follow(engine_dir: Path, journal: Path, seed: str) -> None:
    """Until it is killed. Writes down how many transfers it has seen whole whenever it has come to the end of what there is,
    and what is wrong.

    A merged tail goes up to a place in the log below which everything is confirmed. Such a place is never in the middle of a
    batch: so whenever the tail has nothing more, it has given whole transfers only. That is asked of one that goes on for
    ever, as to the order of what it gives, and of many that end as soon as they would have to wait.
    """
    with journal.open("w", buffering=1) as out:
        client = ringwal.connect(engine_dir, timeout=RECONNECT, reconnect=RECONNECT)
        forever = threading.Thread(target=_forever, args=(client, out), daemon=True)
        forever.start()
        chance, wholes = random.Random(seed), Wholes()
        while True:
            size = chance.choice((1, 3, 1000))
            with contextlib.suppress(ringwal.EngineFailed, ringwal.NotRunning):
                for record in client.tail(wholes.next.copy(), idle_timeout=0.0, missing="wait", max_records=size):
                    wholes.take(record)
                wholes.settled("there is nothing more")
            _say(out, "seen", wholes)
            pause(chance.random() * 0.01)


def _forever(client: ringwal.Client, out: TextIO) -> None:
    wholes = Wholes()
    for record in client.tail(dict.fromkeys(ACCOUNTS, 0), missing="wait"):
        wholes.take(record)
        if wholes.wrong or not wholes.count % 100:
            _say(out, "followed", wholes)


def _say(out: TextIO, what: str, wholes: Wholes) -> None:
    print("".join(f"! {what}: {each}\n" for each in wholes.wrong[:3]) + f"{what} {wholes.count}", file=out)
    wholes.wrong.clear()


# ------------------------------------------------------------------------------------------------------------ the scene


class Company:
    """Some processes that make transfers and one that follows; with their journals, which are gathered over several lives."""

    def __init__(self, scene: Scene, directory: Path, seed: str, root: Path = ROOT) -> None:
        self._scene, self._directory, self._seed, self._root = scene, directory, seed, root
        self.journal = directory / "transfers"
        self.seen: list[Path] = []
        self._lives = 0
        self.makers: list[subprocess.Popen[bytes]] = []
        self._follower: subprocess.Popen[bytes] | None = None

    def start(self, last: Mapping[str, str] | None = None) -> None:
        """All of them; ``last`` is the last maker's environment."""
        self._follow()
        for n in range(PROCESSES):
            self.make(last or {} if n == PROCESSES - 1 else {})

    def make(self, env: Mapping[str, str]) -> None:
        """One more."""
        self._lives += 1
        name = f"m{self._lives}"
        words = ("transfer", str(self._scene.engine_dir), str(self.journal), name, f"{self._seed}/{name}")
        self.makers.append(self._run(words, env))

    def _follow(self) -> None:
        self.seen.append(self._directory / f"seen-{len(self.seen)}")
        self._follower = self._run(("follow", str(self._scene.engine_dir), str(self.seen[-1]), self._seed), {})

    def _run(self, words: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.batching", *words],
            cwd=self._root,
            env={**inherited(), **package_of(self._root), **env},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        for process in [*self.makers, *([self._follower] if self._follower else [])]:
            process.kill()
            process.wait()
        self.makers, self._follower = [], None

    def await_progress(self) -> None:
        """Transfers were confirmed since the call, and seen whole."""
        begin = self.journal.stat().st_size if self.journal.exists() else 0
        seen = self.seen[-1]
        before = _last(seen)

        def gone_on() -> bool:
            if self.journal.exists():
                with self.journal.open("rb") as file:
                    file.seek(begin)
                    said = b"\n" + file.read()
                    if b"\n! " in said:
                        raise RuntimeError(f"a maker ended: {said.partition(b'! ')[2]!r}")
                    return said.count(b"\nk ") >= THREADS and _last(seen) > before
            return False

        until(gone_on, "transfers to be confirmed, and seen")

    # ------------------------------------------------------------------------------------------------------- verdict

    def judge(self, verdict: Verdict, *, lived: bool) -> None:
        """The engine works. The makers are killed first, and who follows when he has seen all. ``lived``: it was one engine all
        the time, so nobody may have been told that he cannot know."""
        for process in self.makers:
            process.kill()
            process.wait()
        found: dict[str, list[ringwal.Record]] = {}
        together = Wholes()
        with ringwal.connect(self._scene.engine_dir, reconnect=RECONNECT) as client:
            for record in client.tail(dict.fromkeys(ACCOUNTS, 0), idle_timeout=0.0):
                together.take(record)
            together.settled("the log ends")
            until(lambda: _last(self.seen[-1]) == together.count, "who follows to have seen what there is, and nothing else")
            self.kill()
            for name in ACCOUNTS:
                found[name] = list(client.stream(name).records())
                client.delete_stream(name)  # the oracle knows the writers' streams only
        there = _transfers(found, verdict)
        said = [line.split(maxsplit=3) for line in self.journal.read_text().splitlines()]
        unknown = sum(line[0] == "u" for line in said)
        verdict.expect(not (lived and unknown), f"of {unknown} transfers the outcome was unknown, and the engine lived on")
        _compare(said, there, found, verdict)
        verdict.expect(together.count == len(there), f"{together.count} transfers together, {len(there)} in the streams")
        verdict.confirmed += len(there)
        for path in self.seen:
            lines = path.read_text().splitlines()
            together.wrong += [line for line in lines if line.startswith("!")]
            verdict.expect(any(line.startswith("seen") for line in lines), f"{path.name} has seen nothing")
        for wrong in together.wrong[:5]:
            verdict.expect(False, wrong)  # noqa: FBT003


def _last(seen: Path) -> int:
    """How many transfers were seen whole, by what is written down so far."""
    lines = [line for line in seen.read_text().split("\n")[:-1] if line.startswith("seen")] if seen.exists() else []
    return int(lines[-1].split()[1]) if lines else 0


Key = tuple[str, int]


def _transfers(found: Mapping[str, Iterable[ringwal.Record]], verdict: Verdict) -> dict[Key, int]:
    """Of each transfer how many of its records are there, by the streams alone: all of it, each once, and of each maker in
    order in each stream."""
    there: dict[Key, list[Entry]] = {}
    for name, records in found.items():
        last: dict[str, tuple[int, int]] = {}
        for record in records:
            entry = Entry.of(record.data)
            right = last.get(entry.writer, (-1, -1)) < (entry.number, entry.place)
            verdict.expect(right, f"{name}[{record.offset}]: {entry} follows {last.get(entry.writer)}")
            last[entry.writer] = (entry.number, entry.place)
            there.setdefault((entry.writer, entry.number), []).append(entry)
    for key, entries in there.items():
        whole = sorted(entry.place for entry in entries) == list(range(entries[0].total))
        verdict.expect(whole, f"transfer {key} is there in part, or in part twice: {entries}")
    return {key: len(entries) for key, entries in there.items()}


def _compare(
    said: list[list[str]], there: Mapping[Key, int], found: Mapping[str, Sequence[ringwal.Record]], verdict: Verdict
) -> None:
    """What the makers were told, and what there is."""
    begun: set[Key] = set()
    refused = 0
    for what, writer, number, *more in said:
        key = (writer, int(number))
        if what == "b":
            begun.add(key)
        elif what == "k":
            acks = [ack.split(":") for ack in more[0].split()]
            verdict.expect(there.get(key) == len(acks), f"{key} is confirmed, and {there.get(key, 0)} of {len(acks)} are there")
            for index, (name, offset) in enumerate(acks):
                record = found[name][int(offset) : int(offset) + 1]
                right = [Entry.of(each.data)[:3] for each in record] == [(*key, index)]
                verdict.expect(right, f"record {index} of {key} was told to be {name}[{offset}]: {record}"[:200])
        elif what == "n":
            refused += 1
            verdict.expect(key not in there, f"of {key} nothing was to be appended, and {there.get(key)} records are there")
        elif what == "!":
            verdict.expect(False, f"{key}: {more}")  # noqa: FBT003
    verdict.expect(there.keys() <= begun, f"nobody has sent {sorted(there.keys() - begun)[:3]}")
    verdict.expect(refused > 0 or len(begun) < 100, "nothing was ever refused")


@contextlib.contextmanager
def company(scene: Scene, directory: Path, seed: str, root: Path = ROOT) -> Iterator[Company]:
    found = Company(scene, directory, seed, root)
    try:
        yield found
    finally:
        found.kill()


# ------------------------------------------------------------------------------------------------------------- the rows


def transfers(load: Load, role: str, times: int, directory: Path, seed: int) -> Verdict:
    chance, verdict = random.Random(f"{seed}/batching/{role}"), Verdict(runs=times)
    with at_work(directory, load) as s, company(s, directory, f"{seed}/{role}") as makers:
        makers.start()
        for _ in range(times):
            makers.await_progress()
            pause(chance.random() * PAUSE)  # the moment of the kill is the random variable
            s.strike(role)
        makers.await_progress()
        s.fleet.stop()
        makers.judge(verdict, lived=role in ("wal", "drain"))
        verdict.add(s.judge(0))
    return verdict


def at_point(point: Point, action: str, times: int, directory: Path, seed: int) -> Verdict:
    """Who comes by is killed there, or stands there for a while, between two parts; again and again."""
    once, root, verdict = directory / "once", build.with_points(), Verdict()
    trap = build.at(point.name, "*", action, once)
    at_maker = point.victim is Victim.WRITER
    with (
        at_work(directory, PLAIN, root=root, trap={} if at_maker else trap) as s,
        company(s, directory, f"{seed}/{action}/{point.name}", root) as makers,
    ):
        makers.start(trap if at_maker else {})
        for _ in range(times):
            makers.await_progress()
            once.touch()
            visited = came_by(once, VISIT_SECONDS) or came_after_all(once)
            verdict.runs += visited
            if visited and action == "stop":
                _go_on(s, makers)
            elif visited and at_maker:
                verdict.expect(makers.makers.pop().wait(PATIENCE) == -signal.SIGKILL, "the maker has not died there")
                makers.make(trap)
            makers.await_progress()
        s.fleet.stop()
        if not verdict.runs:
            raise NotRun("nobody came by in time")
        makers.judge(verdict, lived=True)
        verdict.add(s.judge(0))
    return verdict


def _go_on(s: Scene, makers: Company) -> None:
    """Whoever stopped at the point stays there for a while, so that who follows could see a half, and is told to go on."""
    everybody = [*children_of(s.running.process.pid), *(process.pid for process in makers.makers)]
    until(lambda: any(state(pid) == "T" for pid in everybody), "a process to stop", 5)
    pause(STOPPED)
    for pid in everybody:
        if state(pid) == "T":
            os.kill(pid, signal.SIGCONT)


def cut(kind: str, times: int, directory: Path, seed: int) -> Verdict:
    """Who makes transfers and who follows die with the power."""
    chance, verdict = random.Random(f"{seed}/batching/cut/{kind}"), Verdict(runs=times)
    with (
        disk(directory, kind) as medium,
        at_work(directory, PLAIN, medium.mount / "engine") as s,
        company(s, directory, f"{seed}/{kind}") as makers,
    ):
        for _ in range(times):
            makers.start()
            makers.await_progress()
            s.await_progress()
            pause(chance.random() * PAUSE)  # the moment of the cut is the random variable
            medium.cut()
            makers.kill()
            s.running.__exit__(None, None, None)
            medium.again()
            s.start()
        makers.start()
        makers.await_progress()
        s.fleet.stop()
        makers.judge(verdict, lived=False)
        verdict.add(s.judge(0))
    return verdict


if __name__ == "__main__":
    if sys.argv[1] == "transfer":
        transfer(Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
    else:
        follow(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
