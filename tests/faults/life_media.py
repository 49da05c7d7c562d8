"""Damage on the medium of a log that was trimmed, of which segments were freed and used again: refused, told or harmless."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from tests.faults import decode, media
from tests.faults.media import Base, Damage, Trials, flip, overwrite, sample, trial
from tests.faults.oracle import Verdict
from tests.faults.table import Fault, often
from tests.support.company import gone, trim
from tests.support.host import SMALL, Engine, until
from tests.support.payload import Origin, payload
from tests.support.writer import Writer

CONTROL = (decode.TRIM, decode.DELETE, decode.DROP)
RECORDS = 800
"""Of 20,000 bytes in each of two streams: eight segments, of which five may be there."""
PERSISTED = range(40, 48)
"""Bits of a frame's header that mean something in memory only."""


def faults(tier: str) -> list[Fault]:
    return [Fault("life", name, partial(run, trials, often(tier, few, many))) for name, trials, few, many in TRIALS]


def make(directory: Path) -> Base:
    """Two streams of which most is dropped or trimmed, another that is deleted and made again, in segments that were others
    before. The engine was killed."""
    at = directory / "base"
    with Engine(at, *SMALL, "--max-log-bytes", "20MiB", "--on-full", "drop_oldest") as running:
        writer = Writer(at, directory / "base.journal", "w0", ["hot", "calm", "brief"], 1)
        writer.make = partial(payload, size=20_000)
        for number in range(RECORDS):
            for stream in ("hot", "calm"):
                writer.append(Origin(stream, "w0", number))
                writer.settle()
        for stream in ("hot", "calm"):
            trim(writer, stream, RECORDS - 5)
        until(lambda: decode.manifest(at).first_segment > 1, "segments to be freed")
        assert running.status()["counters"]["segments_recycled"] > 1
        writer.make = payload
        for number in range(RECORDS, RECORDS + 30):
            for stream in ("hot", "calm", "brief"):
                writer.append(Origin(stream, "w0", number))
                writer.settle()
            if number % 5 == 0:
                trim(writer, ("hot", "calm")[number % 2], number - 2)
            if number % 10 == 9:
                assert gone(writer, "brief")
        running.kill()
        writer.abandon()
    log = decode.Log(at)
    position = max(log.epochs()[-1][1], log.manifest.begin)
    blocks = []
    while (block := log.block(position, log.manifest.epoch)) is not None:
        blocks.append(position)
        position += block.span
    return Base(at, decode.kept(at), blocks, log.manifest.segment_bytes, log.checkpoint.position)


def run(trials: Trials, count: int, directory: Path, seed: int) -> Verdict:
    chance = random.Random(f"{seed}/{trials.__name__}")
    base, verdict = make(directory), Verdict()
    for label, damage, must in trials(base, directory, count, chance):
        trial(base, directory, damage, label, verdict, must=must)
    del verdict.notes[20:]
    return verdict


def control_frames(base: Base) -> list[tuple[int, int, int]]:
    """Position of the block, byte in it, and bytes of header and payload; the last two blocks are left out."""
    log, found = decode.Log(base.directory), []
    for position in base.blocks[:-2]:
        block = log.block(position)
        assert block is not None
        at = 128
        for frame in block.frames:
            size = decode.RECORD.size + len(frame.payload)
            if frame.kind in CONTROL:
                found.append((position, at, size))
            at += (size + 7) // 8 * 8
    return found


def control_bits(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    frames = [frame for frame in control_frames(base) if frame[0] >= base.checkpoint]
    assert frames, "the log has no control frame behind its checkpoint"
    for _ in range(count):
        position, at, size = chance.choice(frames)
        file, place = base.place(position)
        bit = chance.randrange(8 * size)
        must = "harmless" if bit in PERSISTED else "refuse"
        yield f"bit {bit} of the control frame at {position} + {at}", flip(file, 8 * (place + at) + bit), must


def checkpoint_bits(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    return media.checkpoint_bits(base, scratch, count, chance)


def header_bits(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    """The segment that the log ends in: it was another one before."""
    file, _ = base.place(base.blocks[-1])
    for bit in sample(range(512), count, chance):
        yield f"bit {bit} of the segment header", flip(file, bit), "refuse"
    state = decode.manifest(base.directory)
    older = (base.directory / f"segments/{state.first_segment:020d}.seg").read_bytes()[: decode.PAGE]
    yield "the header of another segment", overwrite(file, 0, older), "refuse"


def left_over(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    state = decode.manifest(base.directory)
    first, end = state.first_segment, state.named_end
    yield "a file below the first segment", partial(_put, first, first - 1), "harmless"
    yield "a file of none below the first segment", partial(_junk, 0), "harmless"
    yield "a segment that was renamed and not named", partial(_put, first, end), "harmless"
    yield "a file that was begun and not named", partial(_junk, end), "harmless"
    yield "a segment twice", partial(_put, first, base.blocks[-1] // base.size), "refuse"


TRIALS: tuple[tuple[str, Trials, int, int], ...] = (
    ("bits of control frames", control_bits, 25, 1000),
    ("bits of the checkpoint of a trimmed log", checkpoint_bits, 15, 2000),
    ("bits of the header of a segment used again", header_bits, 10, 512),
    ("what is left of segments that were freed", left_over, 10, 10),
)


def _put(source: int, target: int, at: Path) -> None:
    shutil.copy(at / f"segments/{source:020d}.seg", at / f"segments/{target:020d}.seg")


def _junk(target: int, at: Path) -> None:
    (at / f"segments/{target:020d}.seg").write_bytes(os.urandom(decode.PAGE))
