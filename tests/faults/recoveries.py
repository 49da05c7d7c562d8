"""A start that dies, again and again, and then loses power: in the end the log is what one quiet recovery makes of it."""

from __future__ import annotations

import random
import shutil
import signal
import struct
from functools import partial
from pathlib import Path

from tests.faults import build, decode
from tests.faults.disk import Disk, disk
from tests.faults.oracle import Verdict
from tests.faults.table import Fault, often
from tests.support.host import SMALL, Engine, EngineEnded, until, writers
from tests.support.points import POINTS, Way

NAMES = [point.name for point in POINTS if point.way is Way.START]
WATERMARK = 72
"""Where it stands in a block header."""


def faults(tier: str) -> list[Fault]:
    return [Fault("recovery", "three deaths and a power cut at a point", partial(run, often(tier, 4, len(NAMES))))]


def run(count: int, directory: Path, seed: int) -> Verdict:
    chance = random.Random(f"{seed}/recovery")
    verdict = Verdict()
    bases = (_base(directory / f"attempt-{i}") for i in range(20))
    base = next(base for base in bases if _punch(base))  # a kill does not always find several blocks in flight
    (base / "engine.sock").unlink()
    quiet = shutil.copytree(base, directory / "quiet")
    with Engine(quiet, *SMALL) as engine:
        engine.stop()
    expected = kept(quiet)
    with disk(directory, "ext4") as medium:
        for name in NAMES if count >= len(NAMES) else chance.sample(NAMES, count):
            _at(name, base, medium, expected, verdict)
    del verdict.notes[20:]
    return verdict


def _base(directory: Path) -> Path:
    """Killed under load, with many blocks in flight, trims and deletes among them."""
    directory.mkdir()
    base = directory / "base"
    streams = [["hot", f"own-{i}"] for i in range(4)]
    env = {"RINGWAL_FAULT_STORM": "trims"}
    with Engine(base, *SMALL, "--pipeline-bytes", "1") as engine, writers(base, directory, streams, env=env) as fleet:
        fleet.await_progress(150)  # trims come with every hundredth append
        engine.kill()
    return base


def _punch(base: Path) -> bool:
    """Removes a block that, as far as the disk can tell, was still in flight at the kill; False if there is none."""
    log = decode.Log(base)
    size = log.manifest.segment_bytes
    (epoch, _, _), position = log.epochs()[-1], log.checkpoint.position
    found: list[tuple[int, int]] = []  # position, watermark
    while (block := log.block(position, epoch)) is not None:
        with (base / "segments" / f"{position // size:020d}.seg").open("rb") as file:
            file.seek(decode.PAGE + position % size + WATERMARK)
            found.append((position, struct.unpack("<Q", file.read(8))[0]))
        position += block.span
    for i in range(len(found) - 2, 0, -1):
        place = found[i][0]
        if all(watermark <= place for _, watermark in found[i + 1 :]):
            with (base / "segments" / f"{place // size:020d}.seg").open("r+b") as file:
                file.seek(decode.PAGE + place % size)
                file.write(bytes(decode.PAGE))
            return True
    return False


Kept = dict[str, tuple[int, list[bytes]]]
"""Start offset of each stream, and its records from there on."""


def kept(directory: Path) -> Kept:
    return {name: of.kept for name, of in decode.contents(directory).items()}


def _at(name: str, base: Path, medium: Disk, expected: Kept, verdict: Verdict) -> None:
    log = shutil.copytree(base, medium.mount / "log")
    medium.again()  # the copy is on the device now
    root = build.with_points()
    for _ in range(3):
        verdict.runs += 1
        try:
            Engine(log, *SMALL, root=root, env=build.at(name, 1, "kill")).kill()
            verdict.notes.append(f"{name}: nobody came by")
        except EngineEnded as ended:
            verdict.expect(ended.code == -signal.SIGKILL, f"{name}: {ended}")
    stopped = Engine(log, *SMALL, root=root, env=build.at(name, 1, "stop"), wait=False)
    until(lambda: _state(stopped.process.pid) == "T", f"a stop at {name}")
    medium.cut()
    stopped.__exit__(None, None, None)
    medium.again()
    with Engine(log, *SMALL) as last:
        last.stop()
    found = kept(log)
    verdict.confirmed += sum(len(records) for _, records in expected.values())
    for stream in expected.keys() | found.keys():
        verdict.expect(expected.get(stream) == found.get(stream), f"{name}: {stream} is not what a quiet recovery makes of it")
    shutil.rmtree(log)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
