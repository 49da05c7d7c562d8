"""The keeper killed and stopped at each of its points, and side files that are not what they should be: nobody reads a wrong
record, and nobody waits."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ringwal
from tests.faults import build, decode, decode_side
from tests.faults.life import FILLING, TRIMMING, Scene, at_work
from tests.faults.names import Load
from tests.faults.oracle import Verdict
from tests.faults.points import came_after_all, came_by, go_on
from tests.faults.scene import held
from tests.faults.table import Fault, often
from tests.support.host import SMALL, Engine, NotRun, pause, until

POINTS = ("k.side.written", "k.side.renamed")
VISIT_SECONDS = 20.0
STREAMS, RECORDS, SIZE = 12, 4000, 1000
READS = 150


def faults(tier: str) -> list[Fault]:
    times = often(tier, 1, 20)
    return [
        *(
            Fault("keeper", f"{action.partition(':')[0]} at {point}, {what}", partial(at_point, point, action, load, times))
            for point in POINTS
            for action in ("kill", "stop", "delay:300")
            for what, load in (("drops", FILLING), ("trims", TRIMMING))[: often(tier, 1, 2)]
        ),
        Fault("keeper", "SIGKILL keeper", partial(kills, often(tier, 5, 100))),
        Fault("keeper", "SIGSTOP keeper, drop_oldest at full load", partial(stopped, often(tier, 1, 10))),
        *(
            Fault("keeper", f"side files {name}", partial(damaged, name, change, often(tier, 1, 30)))
            for name, change in DAMAGES.items()
        ),
    ]


def at_point(point: str, action: str, load: Load, times: int, directory: Path, seed: int) -> Verdict:
    """Under load, visit after visit; then everything is killed, and log and side files judged."""
    once, visits = directory / "once", 0
    trap = {"RINGWAL_POINT": f"{point}:*:{action}", "RINGWAL_POINT_ONCE": str(once)}  # whichever visit is the next
    with at_work(directory, load, root=build.with_points(), trap=trap) as s:
        for _ in range(times):
            once.touch()
            if not came_by(once, VISIT_SECONDS) and not came_after_all(once):
                continue
            visits += 1
            s.await_progress()
            if action == "stop":
                go_on(s.running, s.fleet)
            if action == "kill":  # the next one has the same order
                until(lambda: s.running.status()["keeper_pid"] is not None, "another keeper")
            s.await_progress()
        restarts = s.running.status()["restarts"]
        verdict = judged(s, visits)
    verdict.expect(restarts == 0, f"{restarts} processes were replaced that others wait for")
    if visits == 0 and verdict.kept():
        raise NotRun("nobody came by in time")
    return verdict


def kills(times: int, directory: Path, seed: int) -> Verdict:
    chance = random.Random(f"{seed}/keeper")
    with at_work(directory, FILLING) as s:
        for _ in range(times):
            until(lambda: s.running.status()["keeper_pid"] is not None, "a keeper")
            pause(chance.uniform(0, 0.3))
            with contextlib.suppress(TypeError):  # it has just ended, and the next one is not there yet
                s.running.strike("keeper")
            s.await_progress()
        return judged(s, times)


def stopped(times: int, directory: Path, seed: int) -> Verdict:
    """Segments are dropped, freed and used again, and nothing waits for it."""
    with at_work(directory, FILLING) as s:
        for _ in range(times):
            keeper = s.running.status()["keeper_pid"]
            with held(keeper):
                await_drops(s, 3)
                s.await_progress()
            s.await_progress()
        return judged(s, times)


def await_drops(s: Scene, count: int) -> None:
    before = s.running.status()["counters"]["segments_dropped"]
    until(lambda: s.running.status()["counters"]["segments_dropped"] >= before + count, "segments to be dropped")


def judged(s: Scene, runs: int) -> Verdict:
    verdict = s.judge(runs)
    check_sides(s.engine_dir, verdict)
    return verdict


def check_sides(directory: Path, verdict: Verdict) -> int:
    """Every side file that is there says what its segment says. Returns how many there are."""
    try:
        return len(decode_side.check_all(directory))
    except decode.DecodeError as error:
        verdict.expect(False, str(error))  # noqa: FBT003
        return 0


# --------------------------------------------------------------------------------------------------- not what they were

Change = Callable[[list[Path], Path, random.Random], None]


def _bits(sides: list[Path], _: Path, chance: random.Random) -> None:
    for side in sides:
        data = bytearray(side.read_bytes())
        for _bit in range(chance.choice((1, 1, 8))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        side.write_bytes(data)


def _torn(sides: list[Path], _: Path, chance: random.Random) -> None:
    for side in sides:
        size = side.stat().st_size
        with side.open("r+b") as file:
            file.truncate(chance.choice((0, chance.randrange(size), chance.randrange(size) // 4096 * 4096)))


def _holes(sides: list[Path], _: Path, chance: random.Random) -> None:
    """Pages that never reached the disk."""
    for side in sides:
        pages = side.stat().st_size // 4096
        with side.open("r+b") as file:
            for page in chance.sample(range(pages), chance.randrange(1, pages + 1)):
                file.seek(page * 4096)
                file.write(bytes(4096))


def _missing(sides: list[Path], _: Path, chance: random.Random) -> None:
    for side in chance.sample(sides, chance.randrange(1, len(sides) + 1)):
        side.unlink()


def _of_another_segment(sides: list[Path], _: Path, chance: random.Random) -> None:
    contents = [side.read_bytes() for side in sides]
    for side, data in zip(sides, contents[1:] + contents[:1], strict=True):
        side.write_bytes(data)


def _of_another_log(sides: list[Path], foreign: Path, chance: random.Random) -> None:
    for side in sides:
        other = foreign / "segments" / side.name
        if other.exists():
            shutil.copy(other, side)


def _forged(sides: list[Path], _: Path, chance: random.Random) -> None:
    """Checksums are right, and what they cover is not."""
    for side in sides:
        side.write_bytes(decode_side.forged(side.read_bytes(), chance))


DAMAGES: dict[str, Change] = {
    "with damaged bits": _bits,
    "torn": _torn,
    "with pages that were lost": _holes,
    "missing": _missing,
    "of another segment": _of_another_segment,
    "of another log": _of_another_log,
    "forged": _forged,
}


def damaged(name: str, change: Change, times: int, directory: Path, seed: int) -> Verdict:
    """What readers are told while the keeper cannot mend it; and after the next start it is mended."""
    chance, verdict = random.Random(f"{seed}/{name}"), Verdict()
    foreign = made(directory / "foreign")
    for number in range(times):
        part = directory / f"log-{number}"
        made(part)
        want = decode.streams(part)
        with Engine(part, *SMALL) as running:
            with held(running.pid("keeper")):
                change(sorted((part / "segments").glob("*.side")), foreign, chance)
                read_all_over(part, want, chance, verdict)
            verdict.expect((code := running.stop()) == 0, f"the orderly stop ended with code {code}")
        with Engine(part, *SMALL) as running:
            if name != "forged":  # nobody can tell but by going through the segment
                await_sides(running, part)
            read_all_over(part, want, chance, verdict)
            verdict.expect((code := running.stop()) == 0, f"the orderly stop ended with code {code}")
        if name != "forged":
            verdict.expect(check_sides(part, verdict) >= 3, "side files are missing")
        verdict.runs += 1
        shutil.rmtree(part)
    return verdict


def made(directory: Path) -> Path:
    """A log of several segments, all of which below the checkpoint have their side files."""
    with Engine(directory, *SMALL) as running:
        with ringwal.connect(directory) as client:
            streams = [client.stream(f"s{i}") for i in range(STREAMS)]
            for offset in range(RECORDS):
                for i, stream in enumerate(streams[: 3 if offset % 10 else STREAMS]):
                    receipt = stream.append(record(i, stream_offset(i, offset)))
                if offset % 50 == 0:
                    receipt.result(60)
            receipt.result(60)
        await_sides(running, directory)
        running.stop()
    return directory


def stream_offset(stream: int, turn: int) -> int:
    return turn if stream < 3 else turn // 10


def record(stream: int, offset: int) -> bytes:
    return f"{stream}:{offset};".encode().ljust(SIZE + stream, b".")


def await_sides(running: Engine, directory: Path) -> None:
    def there() -> bool:
        state = decode.manifest(directory)
        return bool(running.status()["side_files"]["end"] >= state.position // state.segment_bytes)

    until(there, "side files")


def read_all_over(directory: Path, want: dict[str, list[bytes]], chance: random.Random, verdict: Verdict) -> None:
    """Single records here and there, each by a search, and one stream from end to end."""
    with ringwal.connect(directory) as client:
        for _ in range(READS):
            name = chance.choice(list(want))
            offset = chance.randrange(len(want[name]))
            found = client.stream(name).read(offset, max_records=1)
            good = [(one.offset, bytes(one.data)) for one in found] == [(offset, want[name][offset])]
            verdict.expect(good, f"{name}[{offset}] was read as {found[:1]}")
        name = chance.choice(list(want))
        everything = [bytes(one.data) for one in client.stream(name).records()]
        verdict.expect(everything == want[name], f"{name} was read as another stream")
        verdict.confirmed += READS
