"""What the fuzz targets start from: real logs, made by an engine here and now, and programs for a hostile writer.

python -m tests.fuzz.corpus TARGET DIR
"""

from __future__ import annotations

import random
import struct
import sys
import tempfile
from pathlib import Path

from tests.faults import decode
from tests.support.host import SMALL, Engine
from tests.support.payload import Origin
from tests.support.writer import Writer

HEAD = struct.Struct("<16sQQQQ6I")
"""segment_head of segment.h."""

PAGES_MAX = 24
PROGRAMS = 40
ACTS = {"store": 0, "header": 1, "fill": 2, "forge": 3, "flood": 5, "append": 6, "usual": 8, "persist": 9, "compose": 13}
BETWEEN = {"store": 0, "header": 1, "fill": 2, "forge": 3, "flood": 5, "wait": 6}


def make(target: str, to: Path, seed: int) -> None:
    """Makes the directory ``to``."""
    chance = random.Random(f"{seed}/{target}")
    to.mkdir(parents=True)
    for number, data in enumerate(logs(chance) if target == "segment" else programs(chance)):
        (to / f"{number:03d}").write_bytes(data)


def logs(chance: random.Random) -> list[bytes]:
    """Pieces of the log of an engine that was killed twice, as inputs of the target `segment`."""
    with tempfile.TemporaryDirectory(prefix="ringwal-corpus-") as scratch:
        at = Path(scratch) / "log"
        for life in range(3):
            write(at, life, chance)
        return list(pieces(decode.Log(at)))


def write(at: Path, life: int, chance: random.Random) -> None:
    """One life: blocks of one record, of several streams, and batches."""
    with Engine(at, *SMALL) as running:
        writer = Writer(at, at.parent / "journal", f"w{life + 1}", ["hot", "calm", "dull"], 1)
        for n in range(24):
            origin = Origin(chance.choice(writer.streams), writer.name, 100 * n)
            writer.append(origin, chance.choice((1, 1, 2, 7)))
            if n % 3 == 0:
                while writer.pending:
                    writer.settle()
        running.kill()
        writer.abandon()


def pieces(log: decode.Log) -> list[bytes]:
    """Of every epoch what comes behind its first block, shown in windows and asked for in ways that differ."""
    found = []
    for number, (epoch, first, _) in enumerate(log.epochs()):
        begin = position = first + decode.PAGE
        while (block := log.block(position, epoch)) is not None and position - begin < PAGES_MAX * decode.PAGE:
            position += block.span
        size = min(position + 2 * decode.PAGE - begin, PAGES_MAX * decode.PAGE)
        with (log.directory / "segments" / f"{begin // log.manifest.segment_bytes:020d}.seg").open("rb") as file:
            file.seek(decode.PAGE + begin % log.manifest.segment_bytes)
            raw = file.read(size)
        for way in range(3):
            wanted = (number, 300, 31, way, way, 5 + 101 * way)  # stream, streams, pages: segment, window, draft; limit
            found.append(HEAD.pack(log.manifest.uuid, epoch, begin, 2 * way, 1 << 20, *wanted) + raw)
    return found


def programs(chance: random.Random) -> list[bytes]:
    """Mostly random, as every byte string is a program; and the one in which a large request turns into many small ones
    after the WAL process has looked at it."""
    large = bytes([ACTS["forge"], 2 | 8, 1]) + struct.pack("<I", 100_000) + b"\1\0"
    honest = bytes([ACTS["append"], 3, 1, 200, 0])
    swap = bytes([ACTS["compose"], 15, BETWEEN["wait"], BETWEEN["wait"], BETWEEN["flood"], 255, 0])
    drain = bytes([ACTS["persist"], 0])
    made = [honest + large + swap + drain, large + swap + honest + swap + drain * 2]
    return made + [chance.randbytes(chance.randrange(20, 600)) for _ in range(PROGRAMS)]


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]), 1)
