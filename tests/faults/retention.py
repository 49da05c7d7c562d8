"""What is set for streams, and what is trimmed by it, while processes die."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ringwal
from tests.faults import build, decode
from tests.faults.clocks import Clock
from tests.faults.decode_frames import Settings
from tests.faults.disk import disk
from tests.faults.life import FILLING, Scene, at_work, await_freed
from tests.faults.names import Load
from tests.faults.oracle import Verdict
from tests.faults.points import came_after_all, came_by
from tests.faults.table import Fault, often
from tests.support.host import PATIENCE, SMALL, Engine, NotRun, pause, until
from tests.support.points import SETTINGS, Point
from tests.support.writer import persist

OFTEN = (*SMALL, "--max-restarts", "1000")
SETTERS, NAMES = 3, 4
VISIT_SECONDS = 20.0
CONSUMERS = ("ship", "bill", "search")
MIB = 1 << 20
LARGE = {"RINGWAL_FAULT_LARGE": "20000"}
"""Every eighth record, so that segments are used up quickly."""
RECORDS, BYTES = 1500, 6 * MIB
LIMITS = {"records": ("--retention-records", str(RECORDS)), "bytes": ("--retention-bytes", str(BYTES))}
MET_SECONDS = 15.0
"""Within five, and the machine has others to serve."""
REST_SECONDS = 6.0
SEGMENT = 4 * MIB
YEAR = 365 * 86400 * 10**9


def faults(tier: str) -> list[Fault]:
    kills, cuts = often(tier, 6, 60, 300), often(tier, 4, 60, 300)
    rest = often(tier, 2, 40, 200)
    return [
        *(
            Fault("retention", f"SIGKILL {role}, {what} kept", partial(keeps, role, limit, rest))
            for role in ("keeper", "wal", "drain", "all")[:: often(tier, 3, 1)]
            for what, limit in LIMITS.items()
        ),
        *(Fault("retention", f"power cut, {what} kept", partial(cut_keeps, limit, rest)) for what, limit in LIMITS.items()),
        Fault("retention", "SIGSTOP keeper, and the limit of the log", partial(stopped, often(tier, 1, 10))),
        Fault("retention", "the clock is set a year ahead", clock_ahead),
        *(
            Fault("retention", f"SIGKILL {role} while streams are set", partial(sets, role, kills))
            for role in ("wal", "drain", "supervisor", "all")
        ),
        Fault("retention", "power cut while streams are set", partial(cut_sets, cuts)),
        *(
            Fault("retention", f"kill at {point.name}", partial(at_point, point, often(tier, 2, 10)))
            for point in SETTINGS[:: often(tier, 2, 1)]
        ),
    ]


class Set(NamedTuple):
    """What a stream may be: its number, if somebody has seen it, and what is set for it, as it was said."""

    number: int | None
    age: float | None
    size: int | None
    records: int | None
    names: tuple[str, ...]

    def fits(self, number: int, of: Settings) -> bool:
        said = (self.age is not None) + 2 * (self.size is not None) + 4 * (self.records is not None)
        values = (round((self.age or 0) * 1e9), self.size or 0, self.records or 0, self.names)
        return self.number in (None, number) and (of.said, *of[2:]) == (said, *values)


class Setter(threading.Thread):
    """Creates, sets and deletes streams of its own, and knows of each what it may be: one thing, or, after an answer that an
    engine's death has swallowed, one of several."""

    def __init__(self, directory: Path, name: str, seed: int) -> None:
        super().__init__(name=name)
        self._directory = directory
        self._chance = random.Random(f"{seed}/{name}")
        self.may: dict[str, list[Set | None]] = {f"{name}-{n}": [None] for n in range(NAMES)}
        self.done = 0
        self.numbers: set[int] = set()
        self.complaint: str | None = None
        self._over = threading.Event()
        self._client: ringwal.Client | None = None

    def end(self) -> None:
        self._over.set()
        self.join(2 * PATIENCE)

    def run(self) -> None:
        try:
            while not self._over.is_set():
                if self._client is None:
                    self._client = persist(lambda: ringwal.connect(self._directory, timeout=PATIENCE), self._over.is_set)
                try:
                    self._step(self._client)
                    self.done += 1
                except (ringwal.EngineFailed, ringwal.NotRunning, OSError):
                    # What was raised has hold of a file system that may have to be unmounted.
                    self._let_go()
        except Exception as error:  # noqa: BLE001  told in the verdict
            if not (self._over.is_set() and isinstance(error, ringwal.NotRunning | OSError)):
                self.complaint = f"{self.name}: {type(error).__name__}: {error}"
        finally:
            self._let_go()

    def _let_go(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(ringwal.Error, OSError):
                client.close(timeout=0.0)

    def _step(self, client: ringwal.Client) -> None:
        name = self._chance.choice(list(self.may))
        if len(self.may[name]) > 1:
            self._look(client, name)
        now = self.may[name][0]
        if now is None:
            self._create(client, name)
        elif self._chance.random() < 0.15:
            self.may[name].append(None)
            client.delete_stream(name)
            self.may[name] = [None]
        else:
            self._configure(client, name, now)

    def _look(self, client: ringwal.Client, name: str) -> None:
        """Which of them it is: what an engine says of it that was started since is on the disk."""
        found = {info.name: info for info in client.streams()}.get(name)
        fitting: list[Set | None]
        if found is None:
            fitting = [one for one in self.may[name] if one is None]
        else:
            seen = Set(found.number, found.retention_age, found.retention_bytes, found.retention_records, found.retain_until)
            fitting = [seen for one in self.may[name] if one is not None and one[1:] == seen[1:]]
            self._meet(found.number, next((one for one in self.may[name] if one is not None and one.number is not None), None))
        if not fitting:
            raise AssertionError(f"{name} is {found}, and may be {self.may[name]}")
        self.may[name] = fitting[:1]

    def _meet(self, number: int, known: Set | None) -> None:
        if (known is None or known.number != number) and number in self.numbers:
            raise AssertionError(f"number {number} was another stream's before")
        self.numbers.add(number)

    def _said(self) -> dict[str, Any]:
        r = self._chance
        found: dict[str, Any] = {}
        if r.random() < 0.5:
            found["retention_age"] = r.randrange(1, 10**6)
        if r.random() < 0.5:
            found["retention_bytes"] = r.randrange(1, 10**9)
        if r.random() < 0.5:
            found["retention_records"] = r.randrange(1, 10**9)
        if r.random() < 0.5:
            found["retain_until"] = tuple(r.sample(CONSUMERS, r.randrange(len(CONSUMERS))))
        return found

    def _create(self, client: ringwal.Client, name: str) -> None:
        said = self._said()
        age, size, records = (said.get(key) for key in ("retention_age", "retention_bytes", "retention_records"))
        wanted = Set(None, age, size, records, said.get("retain_until", ()))
        self.may[name].append(wanted)
        number = client.create_stream(name, **said).stat().number
        self._meet(number, None)
        self.may[name] = [wanted._replace(number=number)]

    def _configure(self, client: ringwal.Client, name: str, now: Set) -> None:
        said = self._said()
        if now.age is not None and "retention_age" not in said and self._chance.random() < 0.3:
            said["retention_age"] = None
        names = {"retention_age": "age", "retention_bytes": "size", "retention_records": "records", "retain_until": "names"}
        wanted = now._replace(**{names[key]: value for key, value in said.items()})
        self.may[name].append(wanted)
        client.stream(name).configure(**said)
        self.may[name] = [wanted]


@contextlib.contextmanager
def setting(directory: Path, seed: int) -> Iterator[list[Setter]]:
    setters = [Setter(directory, f"s{n}", seed) for n in range(SETTERS)]
    for setter in setters:
        setter.start()
    try:
        yield setters
    finally:
        for setter in setters:
            setter.end()


def await_progress(setters: list[Setter]) -> None:
    before = [setter.done for setter in setters]

    def moved() -> bool:
        complaints = [setter.complaint for setter in setters if setter.complaint]
        assert not complaints, complaints
        return all(setter.done > was + 2 for setter, was in zip(setters, before, strict=True))

    until(moved, "streams to be set")


def judge(directory: Path, setters: list[Setter], runs: int) -> Verdict:
    """Every stream is one of those that it may be, and no others are there."""
    verdict = Verdict(runs=runs)
    found = decode.contents(directory)
    numbers: list[int] = []
    for setter in setters:
        verdict.expect(setter.complaint is None, str(setter.complaint))
        verdict.confirmed += setter.done
        for name, may in setter.may.items():
            of = found.pop(name, None)
            numbers += [of.number] if of is not None else []
            fits = [one is None if of is None else one is not None and one.fits(of.number, of.settings) for one in may]
            verdict.expect(any(fits), f"{name} is {of and (of.number, of.settings)}, and may be {may}")
    verdict.expect(not found, f"there are streams that nobody made: {sorted(found)}")
    verdict.expect(len(numbers) == len(set(numbers)), f"numbers were given out twice: {sorted(numbers)}")
    return verdict


def _over(engine: Engine, setters: list[Setter], runs: int) -> Verdict:
    """A last death, a last start, an orderly end."""
    engine.kill()
    with Engine(engine.directory, *OFTEN) as last:
        code = last.stop()
    verdict = judge(engine.directory, setters, runs)
    verdict.expect(code == 0, f"the orderly stop ended with code {code}")
    return verdict


def sets(role: str, times: int, directory: Path, seed: int) -> Verdict:
    chance = random.Random(f"{seed}/sets/{role}")
    at = directory / "engine"
    engine = Engine(at, *OFTEN)
    try:
        with setting(at, seed) as setters:
            for _ in range(times):
                await_progress(setters)
                pause(chance.random() * 0.1)  # the moment of the kill is the random variable
                if engine.die(role):
                    engine.__exit__(None, None, None)
                    engine = Engine(at, *OFTEN)
            await_progress(setters)
        return _over(engine, setters, times)
    finally:
        engine.__exit__(None, None, None)


def cut_sets(times: int, directory: Path, seed: int) -> Verdict:
    chance = random.Random(f"{seed}/sets/cut")
    with disk(directory, "ext4") as medium:
        at = medium.mount / "engine"
        engine = Engine(at, *OFTEN)
        try:
            with setting(at, seed) as setters:
                for _ in range(times):
                    await_progress(setters)
                    pause(chance.random() * 0.1)
                    medium.cut()
                    engine.__exit__(None, None, None)
                    medium.again()
                    engine = Engine(at, *OFTEN)
                await_progress(setters)
            return _over(engine, setters, times)
        finally:
            engine.__exit__(None, None, None)


def at_point(point: Point, times: int, directory: Path, seed: int) -> Verdict:
    """The process dies there, again and again; another one goes on."""
    at, once, root = directory / "engine", directory / "once", build.with_points()
    visits = 0
    with Engine(at, *OFTEN, root=root, env=build.at(point.name, 1, "kill", once)) as engine, setting(at, seed) as setters:
        for _ in range(times):
            once.touch()
            visits += came_by(once, VISIT_SECONDS) or came_after_all(once)
            await_progress(setters)
        if not visits:
            raise NotRun("nobody came by in time")
        for setter in setters:
            setter.end()
        return _over(engine, setters, visits)


# ---------------------------------------------------------------------------------------------- what is trimmed by it


def keeps(role: str, limit: tuple[str, str], times: int, directory: Path, seed: int) -> Verdict:
    """Under load, death after death: what is left of each stream is its end, and as much as is to be kept."""
    chance = random.Random(f"{seed}/{role}/{limit}")
    with at_work(directory, Load((*OFTEN, *limit), LARGE, drops=True)) as s:
        for _ in range(times):
            s.await_progress()
            await_trimmed(s)
            pause(chance.random() * 0.1)
            s.strike(role)
        s.await_progress()
        return _kept(s, limit, times)


def cut_keeps(limit: tuple[str, str], times: int, directory: Path, seed: int) -> Verdict:
    load = Load((*OFTEN, *limit), LARGE, drops=True)
    with disk(directory, "ext4") as medium, at_work(directory, load, medium.mount / "engine") as s:
        chance = random.Random(f"{seed}/cut/{limit}")
        for _ in range(times):
            s.await_progress()
            await_trimmed(s)
            pause(chance.random() * 0.1)
            medium.cut()
            s.running.__exit__(None, None, None)
            medium.again()
            s.start()
        s.await_progress()
        return _kept(s, limit, times)


def stopped(times: int, directory: Path, seed: int) -> Verdict:
    """For longer than the log has room: the oldest goes as if there were no keeper, and nobody waits for it."""
    limit = LIMITS["records"]
    with at_work(directory, Load((*FILLING.flags, *limit), LARGE, drops=True)) as s:
        for _ in range(times):
            pid = s.running.strike("keeper", signal.SIGSTOP)
            for _ in range(3):
                await_freed(s.engine_dir)
                s.await_progress()
            os.kill(pid, signal.SIGCONT)
            await_trimmed(s)
        return _kept(s, limit, times, dropped=True)


def await_trimmed(s: Scene) -> None:
    """Some stream begins later than it did."""
    before = starts(s)
    until(lambda: any(start > before.get(name, 0) for name, start in starts(s).items()), "a stream to be trimmed")


def starts(s: Scene) -> dict[str, int]:
    with persist(lambda: ringwal.connect(s.engine_dir, timeout=PATIENCE)) as client:
        return {info.name: info.start_offset for info in client.streams()}


def _kept(s: Scene, limit: tuple[str, str], runs: int, *, dropped: bool = False) -> Verdict:
    """Nobody writes any more: the limit is met soon; and what the files have then is not less than is to be kept."""
    s.fleet.kill()
    s.reader.kill()
    began, of_bytes = time.monotonic(), "bytes" in limit[0]
    seconds = _rest(s) if of_bytes else 0.0
    with ringwal.connect(s.engine_dir, timeout=PATIENCE) as client:
        until(lambda: of_bytes or all(info.records <= RECORDS for info in client.streams()), "the limit to be met")
    seconds = seconds or time.monotonic() - began
    verdict = s.judge(runs)
    verdict.expect(seconds < MET_SECONDS, f"the limit was met after {seconds:.1f} s")
    for name, of in decode.contents(s.engine_dir).items():
        kept, size = of.next - of.start, sum(4 + len(record) for record in of.kept[1])
        enough = of.start == 0 or size >= BYTES if of_bytes else kept >= min(RECORDS, of.next)
        verdict.expect(enough or dropped, f"{name} has {kept} records of {of.next} left, and {size} bytes")
        verdict.expect(not of_bytes or size <= BYTES + 3 * SEGMENT, f"{name} has {size} bytes left")
    return verdict


def _rest(s: Scene) -> float:
    """Until nothing has been trimmed for some rounds of the keeper. Returns the seconds up to the last time."""
    began = changed = time.monotonic()
    seen = starts(s)
    while time.monotonic() - changed < REST_SECONDS:
        pause(0.2)
        if (now := starts(s)) != seen:
            seen, changed = now, time.monotonic()
    return changed - began


def clock_ahead(directory: Path, seed: int) -> Verdict:
    """Nothing becomes older by it, also for a keeper that is replaced meanwhile; the next engine believes it."""
    clock, verdict = Clock(directory / "clock"), Verdict(runs=2)
    at, flags = directory / "engine", (*OFTEN, "--retention-age", "30d")
    with Engine(at, *flags, env=clock.env) as engine, ringwal.connect(at, timeout=PATIENCE) as client:
        old, mark = client.stream("old"), client.create_stream("mark", retention_records=1)
        fill(old)
        clock.off_by(YEAR)
        for _ in range(2):
            fill(old)
            for _ in range(3):  # rounds of the keeper
                end = mark.append_many([b"x"] * 2).result(PATIENCE).offset + 2
                until(lambda end=end: mark.stat().start_offset == end - 1, "a round of the keeper")  # type: ignore[misc]
            verdict.expect(old.stat().start_offset == 0, "records became older as the clock was set ahead")
            engine.strike("keeper")
        stamp = old.read(old.stat().confirmed_offset - 1)[0].timestamp_ns
        verdict.expect(stamp > time.time_ns() + YEAR // 2, "the clock did not reach the engine: this shows nothing")
    with Engine(at, *flags, env=clock.env), ringwal.connect(at, timeout=PATIENCE) as client:
        until(lambda: client.stream("old").stat().start_offset > 0, "what is a year old by now to be trimmed")
    return verdict


def fill(stream: ringwal.Stream) -> None:
    """More than two segments."""
    receipts = [stream.append(bytes(16_000)) for _ in range(600)]
    receipts[-1].result(PATIENCE)
