"""The life of the log: streams are trimmed and deleted, segments dropped, freed and used again, while things die."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import ringwal
from tests.faults import build, decode, life_media, names
from tests.faults.disk import Disk, disk
from tests.faults.names import Load
from tests.faults.oracle import Verdict, judge
from tests.faults.points import came_after_all, came_by
from tests.faults.scene import Reader
from tests.faults.space import disk_usage
from tests.faults.table import Fault, often
from tests.support.host import ROOT, SMALL, Engine, NotRun, Writers, pause, until
from tests.support.points import LIFE, Point, Victim, Way

MIB = 1 << 20
WRITERS = 3
LIMIT = 24 * MIB
OFTEN = (*SMALL, "--max-restarts", "1000")
TRIMMING = Load(OFTEN, {"RINGWAL_FAULT_STORM": "trims"})
FILLING = Load((*OFTEN, "--max-log-bytes", "24MiB", "--on-full", "drop_oldest"), {"RINGWAL_FAULT_LARGE": "20000"}, drops=True)
"""Every eighth record is large, so that segments are used up quickly."""
VISIT_SECONDS = 20.0
SPARE = 3
"""Segments by which a directory may be larger than its limit: what is being made, or about to go."""


def faults(tier: str) -> list[Fault]:
    kills, cuts = often(tier, 2, 50, 200), often(tier, 2, 60, 300)
    return [
        *(
            Fault("life", f"SIGKILL {role} among trims and deletes", partial(trims, role, kills))
            for role in ("wal", "drain", "supervisor", "all")
        ),
        *(
            Fault("life", f"SIGKILL {role}, drop_oldest at full load", partial(drops, role, kills))
            for role in ("wal", "drain", "all")[: often(tier, 1, 3)]
        ),
        *(Fault("life", f"power cut, drop_oldest, {kind}", partial(cut, kind, cuts)) for kind in ("ext4", "xfs")),
        Fault("life", "power cut among trims and deletes", partial(cut_trims, cuts)),
        *(
            Fault("life", f"kill at {point.name}, {point.way.name.lower()}", partial(at_point, point, often(tier, 2, 10)))
            for point in LIFE[:: often(tier, 5, 1)]
        ),
        Fault("life", "unsynced names, drop_oldest", partial(unsynced, often(tier, 1, 10))),
        *life_media.faults(tier),
    ]


class Scene:
    """An engine, writers, a reader of `hot`. ``root`` and ``trap`` are the first engine's build and environment."""

    def __init__(self, directory: Path, load: Load, engine_dir: Path, root: Path, trap: dict[str, str]) -> None:
        self.engine_dir = engine_dir
        self.load = load
        self.running = Engine(engine_dir, *load.flags, root=root, env=trap)
        self.fleet = Writers(
            engine_dir, directory, [["hot", f"own-{i}"] for i in range(WRITERS)], window=32, seconds=1e6, env=load.env
        )
        self.reader = Reader(engine_dir, directory / "reader.journal", None)

    def await_progress(self) -> None:
        self.fleet.await_progress()
        self.reader.await_progress()

    def start(self) -> None:
        self.running.__exit__(None, None, None)
        self.running = Engine(self.engine_dir, *self.load.flags)

    def strike(self, role: str) -> None:
        """One of its processes dies, or all of them; then there is an engine again."""
        if self.running.die(role):
            self.start()

    def close(self) -> None:
        self.reader.kill()
        self.fleet.kill()
        self.running.__exit__(None, None, None)

    def judge(self, runs: int) -> Verdict:
        """A last death, a last start; what readers are told then, and what the files say."""
        self.reader.kill()
        self.fleet.kill()
        self.running.kill()
        self.start()
        verdict = Verdict(runs=runs)
        told = starts_of(self.engine_dir)
        verdict.expect((code := self.running.stop()) == 0, f"the orderly stop ended with code {code}")
        seen = (self.reader.journal,)
        verdict.add(judge(self.engine_dir, self.fleet.journals, seen=seen, drops=self.load.drops))
        compare(told, decode.contents(self.engine_dir), verdict, drops=self.load.drops)
        return verdict


@contextlib.contextmanager
def at_work(
    directory: Path, load: Load, engine_dir: Path | None = None, *, root: Path = ROOT, trap: dict[str, str] | None = None
) -> Iterator[Scene]:
    found = Scene(directory, load, engine_dir or directory / "engine", root, trap or {})
    try:
        found.await_progress()
        yield found
    finally:
        found.close()




def trims(role: str, times: int, directory: Path, seed: int) -> Verdict:
    chance = random.Random(f"{seed}/trims/{role}")
    with at_work(directory, TRIMMING) as s:
        for _ in range(times):
            s.await_progress()
            pause(chance.random() * 0.1)  # the moment of the kill is the random variable
            s.strike(role)
        s.await_progress()
        await_trims(s)
        return s.judge(times)


def drops(role: str, times: int, directory: Path, seed: int) -> Verdict:
    chance = random.Random(f"{seed}/drops/{role}")
    with at_work(directory, FILLING) as s:
        for _ in range(times):
            await_freed(s.engine_dir)
            pause(chance.random() * 0.1)
            s.strike(role)
            s.await_progress()
        await_freed(s.engine_dir)
        return s.judge(times)


def at_point(point: Point, times: int, directory: Path, seed: int) -> Verdict:
    """The process dies there, again and again; another one goes on."""
    once, root = directory / "once", build.with_points()
    visits = 0
    load, trap = FILLING if point.way is Way.DROPS else TRIMMING, build.at(point.name, 1, "kill", once)
    with at_work(directory, load, root=root, trap=trap) as s:
        for _ in range(times):
            once.touch()
            visited = came_by(once, VISIT_SECONDS) or came_after_all(once)
            visits += visited
            if visited and point.victim is Victim.SUPERVISOR:
                s.running.await_exit()
                s.start()
            s.await_progress()
        if not visits:
            raise NotRun("nobody came by in time")
        return s.judge(visits)


def cut(kind: str, times: int, directory: Path, seed: int) -> Verdict:
    with disk(directory, kind) as medium:
        return cuts(medium, FILLING, times, directory, random.Random(f"{seed}/cut/{kind}"))


def cut_trims(times: int, directory: Path, seed: int) -> Verdict:
    with disk(directory, "ext4") as medium:
        return cuts(medium, TRIMMING, times, directory, random.Random(f"{seed}/cut"))


def unsynced(times: int, directory: Path, seed: int) -> Verdict:
    return names.run(times, directory, seed, FILLING._replace(wait=await_freed))


def cuts(medium: Disk, load: Load, times: int, directory: Path, chance: random.Random) -> Verdict:
    with at_work(directory, load, medium.mount / "engine") as s:
        for _ in range(times):
            s.await_progress()
            if load.drops:
                await_freed(s.engine_dir)
            pause(chance.random() * 0.1)
            medium.cut()
            s.running.__exit__(None, None, None)
            medium.again()
            s.start()
        s.await_progress()
        return s.judge(times)


def await_freed(directory: Path) -> None:
    """Some segment more has gone; the directory never takes more than it may meanwhile."""
    first = first_segment(directory)
    most = LIMIT + SPARE * (4 * MIB + decode.PAGE) + 2 * MIB  # manifest and checkpoints

    def freed() -> bool:
        used = disk_usage(directory)
        assert used <= most, f"the directory takes {used} bytes of {most}"
        return first_segment(directory) > first

    until(freed, "a segment to be freed")


def first_segment(directory: Path) -> int:
    try:
        return decode.manifest(directory).first_segment
    except decode.DecodeError:  # both copies are being written, one after the other
        return -1


def await_trims(s: Scene) -> None:
    """Trims and ends have been told."""

    def told() -> bool:
        return all(b"brief-" in path.read_bytes() for path in s.fleet.journals.values())

    until(told, "a stream to be deleted by every writer")


Told = dict[str, tuple[int, list[bytes]]]


def starts_of(directory: Path) -> Told:
    """Of each stream what a client is told is its start offset, and the first records from there on."""
    found: Told = {}
    with ringwal.connect(directory) as client:
        for info in client.streams():
            found[info.name] = start_of(client.stream(info.name), info.start_offset)
    return found


def start_of(stream: ringwal.Stream, start: int) -> tuple[int, list[bytes]]:
    """``start`` is what `streams` said; a log that is full may have dropped more since."""
    if start:
        try:
            raise AssertionError(f"{stream.name}[{start - 1}] is read: {stream.read(start - 1, max_records=1)}")
        except ringwal.OffsetTrimmed as error:
            if error.start_offset is None or error.start_offset < start:
                raise AssertionError(f"{stream.name} begins at {start}, and a reader is told {error}") from error
    while True:
        try:
            return start, [record.data for record in stream.read(start, max_records=10)]
        except ringwal.OffsetTrimmed as error:
            if error.start_offset is None or error.start_offset <= start:
                raise
            start = error.start_offset


def compare(told: Told, contents: dict[str, decode.Content], verdict: Verdict, *, drops: bool) -> None:
    """What clients were told, and what the files say; ``drops``: they may have dropped more since."""
    verdict.expect(told.keys() == contents.keys(), f"clients see {sorted(told)}, the files have {sorted(contents)}")
    for name in told.keys() & contents.keys():
        begin, first = told[name]
        start, records = contents[name].kept
        right = begin <= start if drops else begin == start
        verdict.expect(right, f"{name}: clients are told {begin}, the files say {start}")
        first = first[start - begin :]
        verdict.expect(first == records[: len(first)], f"{name}: clients read another record at {start}")
