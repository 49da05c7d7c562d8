"""Power cuts at every request that the disk gets, and every disk that such a cut may leave.

A disk of our own (`recorder_server`) below a loop device below a file system writes down every write and flush while an
engine is made, used, killed, recovered, used again and stopped on it. Then `recorder_replay` makes, for a cut, images that
the disk may hold; the kernel replays the file system's journal, the engine recovers, and the oracle holds the result
against what the journals had been promised by then. This sees what a real cut on a file hardly ever shows: a write that
was answered, not flushed, and confirmed; a flush that did not cover it; blocks in parts.

    python -m tests.faults.recorder DIRECTORY CUT VARIANT

replays one cut of a kept directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import ringwal
from ringwal.config import Config
from ringwal.demo.journal import before
from ringwal.log.recovery import recover
from tests.faults import recorder_device as device
from tests.faults.decode import BLOCK_MAGIC, DecodeError
from tests.faults.disk import MAKE
from tests.faults.oracle import Verdict, judge
from tests.faults.recorder_replay import VARIANTS, Disk, Event, cuts, events
from tests.faults.recorder_server import FLUSH, WRITE
from tests.faults.table import Fault, often
from tests.support.host import PATIENCE, Engine, EngineEnded, NotRun, writers
from tests.support.log_place import log_at

WRITERS = 3
WINDOW = 4
"""Few, for small blocks: a log of many blocks and few records is judged soonest."""
FILLER = "filler"
SEGMENTS, DROPPED = 2, 8
STREAMS = [["hot", f"own-{i}"] for i in range(WRITERS)]
FORMAT = {"ext4": (*MAKE["ext4"], "-b", "4096"), "xfs": MAKE["xfs"]}
SIZE = {"ext4": 96 << 20, "xfs": 320 << 20}
"""Small, for a copy per replay; XFS is not made smaller than 300 MiB."""

SMALL = Config(
    ring_bytes=1 << 20,
    lane_bytes=64 << 10,
    block_bytes=64 << 10,
    segment_bytes=3 << 20,
    max_streams=64,
    pipeline_bytes=1,
)
"""Small segments, so that their making, naming and changing happens; many blocks in flight."""

WHOLE_ENGINE = 21
"""Every so many replays a whole engine starts and stops; in the others its recovery alone runs, in this process."""

NOTES = 4
"""Of one replay: the first ones say enough."""

CASES = (("ext4", "auto"), ("xfs", "off"), ("ext4", "off"), ("xfs", "auto"))
LIMIT = 14 << 20
"""Bytes of a log that drops its oldest segments: four of them and a bit."""


def faults(tier: str) -> list[Fault]:
    count = {"change": 6, "nightly": 120}.get(tier)
    return [
        Fault("recorder", f"cut at a request, {'drop_oldest, ' * drops}{kind}, direct_io {direct}", partial(run, case, count))
        for drops in (False, True)
        for kind, direct in CASES[: often(tier, 2 - drops, len(CASES))]
        for case in [Case(kind, direct, drops)]
    ]


@dataclasses.dataclass(frozen=True)
class Case:
    """``drops``: the log is full again and again."""

    kind: str
    direct: str
    drops: bool

    @property
    def config(self) -> Config:
        limits: dict[str, Any] = {"max_log_bytes": LIMIT, "on_full": "drop_oldest"} if self.drops else {}
        return dataclasses.replace(SMALL, direct_io=self.direct, **limits)


@dataclasses.dataclass(frozen=True)
class Recording:
    """What `record` leaves behind, beside the log. Cuts are made from ``begin`` to ``end``; before it nothing was promised."""

    case: Case
    seed: int
    begin: int
    end: int

    def save(self, directory: Path) -> None:
        (directory / "recording.json").write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, directory: Path) -> Recording:
        said = json.loads((directory / "recording.json").read_text())
        return cls(**{**said, "case": Case(**said["case"])})


def run(case: Case, count: int | None, directory: Path, seed: int) -> Verdict:
    """``count`` cuts, or all there are."""
    device.needs()
    device.format_image(directory / "fresh.img", SIZE[case.kind], FORMAT[case.kind])
    record(case, directory, seed)
    return replay(directory, count)


def flags(config: Config) -> tuple[str, ...]:
    """What the command has to be told."""
    told = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if getattr(config, f.name) != f.default}
    return tuple(word for name, value in told.items() for word in (f"--{name.replace('_', '-')}", str(value)))


def record(case: Case, directory: Path, seed: int) -> None:
    """An engine's lives on a recording disk."""
    mount = directory / "disk"
    mount.mkdir()
    with (
        device.held(device.load(directory / "fresh.img")) as content,
        device.recorded(content, directory / "log", seed) as loop,
        device.mounted(loop, mount, case.kind),
    ):
        if loop.setting("queue/fua") != "0":
            raise NotRun("the loop device does not turn a forced write into a write and a flush")
        device.sync(mount)
        begin = time.monotonic_ns()
        _use(mount / "engine", directory, flags(case.config), DROPPED if case.drops else SEGMENTS)
        Recording(case, seed, begin, time.monotonic_ns()).save(directory)


def _use(engine_dir: Path, journals: Path, words: tuple[str, ...], segments: int) -> None:
    """Made, killed, recovered, its WAL process killed, some segments filled; all that under load. Then stopped."""
    log = journals / "engine.log"
    running = Engine(engine_dir, *words, log=log, wait=False)
    try:
        running.await_ready()
        with writers(engine_dir, journals, STREAMS, window=WINDOW) as fleet:
            fleet.await_progress()
            running.kill()
            running = Engine(engine_dir, *words, log=log)
            fleet.await_progress()
            running.strike("wal")
            fleet.await_progress()
            fill(running, segments)
            fleet.await_progress()
        running.stop()
    finally:
        running.__exit__(None, None, None)


def fill(running: Engine, segments: int) -> None:
    """Segments that are named after the WAL process's start come into use: the first one is there already. Few records do."""

    def current() -> int:
        return int(running.status()["segments"]["current"])

    with ringwal.connect(running.directory) as client:
        stream, last = client.stream(FILLER), current() + segments
        while current() < last:
            for _ in range(10):
                stream.append(bytes(SMALL.lane_bytes // 3))
            stream.flush(PATIENCE)


def replay(directory: Path, count: int | None) -> Verdict:
    """Cuts of a recording, and a disk that lies."""
    recording, happened = Recording.load(directory), events(directory / "log")
    places = cuts(happened, recording.begin, recording.end)
    if count is not None:
        places = _sample(places, _seams(happened), count, random.Random(recording.seed))
    total, replayer = Verdict(), Replayer(directory, recording, happened)
    with device.held(device.load(directory / "fresh.img")) as fresh:
        with contextlib.closing(Disk(fresh, happened)) as disk:
            for number, place in enumerate(places):
                disk.advance(place)
                for turn, variant in enumerate(VARIANTS, number * len(VARIANTS)):
                    total.add(replayer.judge(disk, variant, whole=turn % WHOLE_ENGINE == 0))
                if not total.kept():
                    return total
        blocks = _blocks(happened)
        with contextlib.closing(Disk(fresh, happened, frozenset(blocks[len(blocks) // 2 :]))) as liar:
            liar.advance(places[-1])
            total.expect(not replayer.judge(liar, "prefix").kept(), "a disk that loses what it flushed was not noticed")
    return total


def _blocks(happened: list[Event]) -> list[int]:
    """Requests that write blocks of the log."""
    magic = BLOCK_MAGIC.to_bytes(8, "little")
    return [event.number for event in happened if event.kind == WRITE and event.data[:8] == magic]


def _seams(happened: list[Event]) -> set[int]:
    """Where something else is written than the log's blocks: a manifest, a segment in the making, the file system's own.
    They are few, and most of what can go wrong goes wrong there."""
    flushes = (event.number for event in happened if event.kind == FLUSH)
    usual = {*_blocks(happened), *flushes}
    return {i + near for i, event in enumerate(happened) if event.number not in usual for near in range(-3, 4)}


def _sample(places: list[int], seams: set[int], count: int, chance: random.Random) -> list[int]:
    """So many of the places, two thirds of them at seams if there are as many; always the last one."""
    chance.shuffle(order := places[:-1])
    at_seams = [place for place in order if place in seams][: count * 2 // 3]
    rest = [place for place in order if place not in seams][: count - 1 - len(at_seams)]
    return [*sorted(at_seams + rest), places[-1]]


class Replayer:
    """Recovers from images and judges the result."""

    def __init__(self, directory: Path, recording: Recording, happened: list[Event]) -> None:
        self.directory, self.recording, self.happened = directory, recording, happened
        self.journals = {f"w{i}": (directory / f"w{i}.journal").read_bytes() for i in range(WRITERS)}
        self.mount = directory / "replay"
        self.mount.mkdir(exist_ok=True)

    def judge(self, disk: Disk, variant: str, *, whole: bool = False) -> Verdict:
        """``whole``: by a start and a stop of the whole engine."""
        chance = random.Random(f"{self.recording.seed}/{disk.at}/{variant}")
        journals = self._promised(self.happened[disk.at].nanoseconds)
        try:
            with (
                device.held(disk.image(variant, chance)) as content,
                contextlib.closing(device.Loop(content)) as loop,
                device.mounted(loop, self.mount, self.recording.case.kind),
            ):
                verdict = self._recovered(self.mount / "engine", journals, whole=whole)
        except (ringwal.Error, DecodeError, OSError, EngineEnded) as error:
            verdict = Verdict(notes=[f"{type(error).__name__}: {error}"])
        verdict.runs = 1
        verdict.notes = [f"cut {disk.at}, {variant}: {note}" for note in verdict.notes[:NOTES]]
        return verdict

    def _promised(self, nanoseconds: int) -> dict[str, Path]:
        paths = {writer: self.directory / f"{writer}.promised" for writer in self.journals}
        for writer, journal in self.journals.items():
            paths[writer].write_bytes(before(journal, nanoseconds))
        return paths

    def _recovered(self, engine_dir: Path, journals: dict[str, Path], *, whole: bool) -> Verdict:
        config, drops = self.recording.case.config, self.recording.case.drops
        if not whole:
            recover(log_at(engine_dir), config)
            return judge(engine_dir, journals, strangers=(FILLER,), drops=drops)
        with Engine(engine_dir, *flags(config), log=self.directory / "replay.log", wait=False) as running:
            running.await_ready()
            code = running.stop()
        verdict = judge(engine_dir, journals, strangers=(FILLER,), drops=drops)
        verdict.expect(code == 0, f"the orderly stop ended with code {code}")
        return verdict


def main() -> int:
    directory, place, variant = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    recording, happened = Recording.load(directory), events(directory / "log")
    with device.held(device.load(directory / "fresh.img")) as fresh, contextlib.closing(Disk(fresh, happened)) as disk:
        disk.advance(place)
        verdict = Replayer(directory, recording, happened).judge(disk, variant)
    print(json.dumps(dataclasses.asdict(verdict), indent=1))
    return 0 if verdict.kept() else 1


if __name__ == "__main__":
    sys.exit(main())
