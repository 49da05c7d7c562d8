"""Readers of old records: while segments are freed and their side files go, and of logs of which something is gone. Nobody
reads a wrong record, nothing is skipped in silence, and damage takes what lies in it and no more."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path

import ringwal
from tests.faults import decode
from tests.faults.keeper import made
from tests.faults.life import FILLING, WRITERS, at_work
from tests.faults.oracle import Verdict
from tests.faults.table import Fault, often
from tests.support.host import SMALL, Engine
from tests.support.payload import origin_of

BLOCKS_DAMAGED = 6


def faults(tier: str) -> list[Fault]:
    seconds, times = often(tier, 6.0, 300.0), often(tier, 1, 40)
    return [
        Fault("reading", "old records while segments are freed", partial(freeing, seconds, meddle=False)),
        Fault("reading", "old records while side files go, too", partial(freeing, seconds, meddle=True)),
        *(
            Fault("reading", f"{what}, {'with' if sides else 'without'} side files", partial(damage, what, sides, times))
            for what in ("damaged blocks", "a segment that is gone")
            for sides in (True, False)
        ),
    ]


class Old:
    """Reads here and there in a log that is used up at the other end, and remembers what it has seen where."""

    def __init__(self, client: ringwal.Client, chance: random.Random, verdict: Verdict) -> None:
        self.client, self.chance, self.verdict = client, chance, verdict
        self.seen: dict[tuple[str, int], ringwal.Record] = {}
        self.read = self.trimmed = 0

    def look(self) -> None:
        name = self.chance.choice(["hot", *(f"own-{i}" for i in range(WRITERS))])
        stream = self.client.stream(name)
        info = stream.stat()
        offset = self.chance.randrange(info.start_offset, info.confirmed_offset)
        if self.chance.random() < 0.5:  # an old one, which is gone soon
            offset = info.start_offset + (offset - info.start_offset) // 50
        try:
            if self.chance.random() < 0.7:
                self._take(name, offset, stream.read(offset, max_records=1))
            else:
                until = offset + self.chance.randrange(1, 3000)
                self._take(name, offset, list(stream.records(offset, until)))
            if self.chance.random() < 0.1:
                self._moment(name, stream, offset)
        except ringwal.OffsetTrimmed as error:
            self.trimmed += 1
            good = error.start_offset is not None and error.start_offset > offset
            self.verdict.expect(good, f"{name}[{offset}] is said to be trimmed, and the start is {error.start_offset}")

    def _take(self, name: str, offset: int, records: list[ringwal.Record]) -> None:
        expected = list(range(offset, offset + len(records)))
        self.verdict.expect(bool(records), f"{name}[{offset}] is not there")
        self.verdict.expect([one.offset for one in records] == expected, f"{name}[{offset}] goes on with other offsets")
        for one in records:
            origin = origin_of(one.data)
            self.verdict.expect(origin is not None and origin.stream == name, f"{name}[{one.offset}] is {one.data[:40]!r}")
            before = self.seen.setdefault((name, one.offset), one)
            self.verdict.expect(before == one, f"{name}[{one.offset}] has changed")
        self.read += len(records)

    def _moment(self, name: str, stream: ringwal.Stream, offset: int) -> None:
        record = self.seen[name, offset]
        found = stream.offset_at(ringwal.At.from_ns(record.timestamp_ns))
        self.verdict.expect(found <= max(offset, stream.stat().start_offset), f"{name}[{offset}] lies before its own time")


def freeing(seconds: float, directory: Path, seed: int, *, meddle: bool) -> Verdict:
    chance, verdict = random.Random(f"{seed}/freeing/{meddle}"), Verdict(runs=1)
    with at_work(directory, FILLING) as s, ringwal.connect(s.engine_dir) as client:
        old, end = Old(client, chance, verdict), time.monotonic() + seconds
        first = client.status()["counters"]["segments_freed"]
        while time.monotonic() < end and verdict.kept():
            old.look()
            if meddle and chance.random() < 0.05:
                take_away(s.engine_dir, chance)
        freed = client.status()["counters"]["segments_freed"] - first
        verdict.confirmed += old.read
        verdict.expect(freed > 0, "nothing was freed: the row has shown nothing")
        verdict.add(s.judge(1))
    return verdict


def take_away(directory: Path, chance: random.Random) -> None:
    """One side file, or what is in it."""
    sides = sorted((directory / "segments").glob("*.side"))
    if not sides:
        return
    side = chance.choice(sides)
    try:
        if chance.random() < 0.5:
            side.unlink()
            return
        with side.open("r+b") as file:
            file.seek(chance.randrange(side.stat().st_size))
            file.write(b"?")
    except FileNotFoundError:  # its segment has been freed
        pass


# ------------------------------------------------------------------------------------------------------------- damage


def damage(what: str, sides: bool, times: int, directory: Path, seed: int) -> Verdict:
    chance, verdict = random.Random(f"{seed}/{what}/{sides}"), Verdict(runs=times)
    for number in range(times):
        part = made(directory / f"log-{number}")
        log = decode.Log(part)
        want = {content.number: (name, content.kept[1]) for name, content in log.contents().items()}
        sound = [block for block in log.blocks() if block.frames and block.position < log.checkpoint.position]
        if what == "damaged blocks":
            hit = chance.sample(sound, BLOCKS_DAMAGED)
            for block in hit:
                spoil(part, log, block, chance)
        else:
            # The one where the checkpoint lies is needed by a start.
            gone = chance.randrange(log.checkpoint.position // log.manifest.segment_bytes)
            hit = [block for block in sound if block.position // log.manifest.segment_bytes == gone]
            (part / "segments" / f"{gone:020d}.seg").unlink()
        lost: dict[int, set[int]] = {}
        for block in hit:
            for frame in block.frames:
                lost.setdefault(frame.stream, set()).update(range(frame.base, frame.base + frame.records))
        with Engine(part, *SMALL) as running, ringwal.connect(part) as client:
            if not sides:
                for side in (part / "segments").glob("*.side"):
                    side.unlink()
            for stream, (name, records) in want.items():
                compare(client.stream(name), records, lost.get(stream, set()), verdict, exact=what != "damaged blocks")
            verdict.expect((code := running.stop()) == 0, f"the orderly stop ended with code {code}")
    return verdict


def spoil(directory: Path, log: decode.Log, block: decode.Block, chance: random.Random) -> None:
    """A bit of it, or a page."""
    size = log.manifest.segment_bytes
    path = directory / "segments" / f"{block.position // size:020d}.seg"
    used = 128 + sum(88 + (len(frame.payload) + 7) // 8 * 8 for frame in block.frames)
    at = decode.PAGE + block.position % size
    with path.open("r+b") as file:
        byte = at + chance.randrange(used)
        file.seek(byte)
        old = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([old ^ 1 << chance.randrange(8)]))
        if chance.random() < 0.3:
            file.seek(at)
            file.write(bytes(128))


def compare(
    stream: ringwal.Stream, want: list[bytes], lost: set[int], verdict: Verdict, *, exact: bool
) -> None:
    """All of it, over the gaps: what is read is right, what is denied lies in the damage."""
    offset, gaps = 0, set[int]()
    while offset < len(want):
        try:
            for one in stream.records(offset):
                good = one.offset == offset and one.data == want[offset]
                verdict.expect(good, f"{stream.name}[{offset}] was read as [{one.offset}] {one.data[:40]!r}")
                offset += 1
                verdict.confirmed += 1
        except ringwal.CorruptionError as error:
            named = (error.stream, error.first_offset) == (stream.name, offset)
            verdict.expect(named, f"{stream.name}[{offset}] is denied as {error.stream}[{error.first_offset}]")
            if error.next_offset is None or error.next_offset <= offset:
                verdict.expect(False, f"nobody says where {stream.name} goes on: {error}")  # noqa: FBT003
                return
            gaps |= set(range(offset, error.next_offset))
            offset = error.next_offset
    verdict.expect(gaps <= lost, f"{stream.name}: {sorted(gaps - lost)[:5]} are denied, and lie elsewhere")
    if exact:
        verdict.expect(gaps == lost, f"{stream.name}: {sorted(lost - gaps)[:5]} were read, out of nothing")
