"""What is set for streams, and what is trimmed by it, while processes die."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ringwal
from tests.faults import build, decode
from tests.faults.decode_frames import Settings
from tests.faults.disk import disk
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


def faults(tier: str) -> list[Fault]:
    kills, cuts = often(tier, 6, 60, 300), often(tier, 4, 60, 300)
    return [
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
