"""Random damage, several at once, then `ringwal salvage`: every record whose block is undamaged is there, as it was."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from functools import partial
from pathlib import Path

import ringwal
from ringwal.log.directory import Directory
from ringwal.log.recovery import recover
from ringwal.log.salvage import Salvaged, salvage
from ringwal.log.verify import verify
from tests.faults import decode, life_media, media
from tests.faults.decode_frames import records_of
from tests.faults.media import CONFIG, Base, Damage
from tests.faults.oracle import Verdict, joints
from tests.faults.table import Fault, often
from tests.support.log_place import log_at
from tests.support.log_writer import LogWriter

Records = dict[tuple[int, int], bytes]
"""By stream number and offset."""
PAGE = decode.PAGE


def faults(tier: str) -> list[Fault]:
    return [
        Fault("offline", "random damage, salvaged", partial(run, often(tier, 60, 1500), trimmed=False)),
        Fault("offline", "random damage in a trimmed log, salvaged", partial(run, often(tier, 30, 600), trimmed=True)),
        Fault("offline", "random damage in joint appends, salvaged", partial(run_joint, often(tier, 30, 600))),
    ]


def run(count: int, directory: Path, seed: int, *, trimmed: bool) -> Verdict:
    chance, verdict = random.Random(f"{seed}/salvage/{trimmed}"), Verdict()
    bases = [life_media.make(directory)] if trimmed else [
        media.make(directory, "killed"), media.make(directory, "rested", at_rest=True)
    ]  # fmt: skip
    logs = [(base, _all_of(base.directory)) for base in bases]
    for _ in range(count):
        base, blocks = chance.choice(logs)
        damages = [chance.choice(KINDS)(base, chance) for _ in range(chance.randrange(1, 5))]
        trial(base, blocks, directory, damages, verdict)
    del verdict.notes[20:]
    return verdict


def run_joint(count: int, directory: Path, seed: int) -> Verdict:
    chance, verdict = random.Random(f"{seed}/salvage/joint"), Verdict()
    base = _of_joint_appends(directory / "joint", chance)
    found = _all_of(base.directory)
    verdict.expect(len([*joints(base.directory)]) == JOINTS, "the log has other joint appends than were written")
    for _ in range(count):
        trial(base, found, directory, [chance.choice(KINDS)(base, chance) for _ in range(chance.randrange(1, 5))], verdict)
    del verdict.notes[20:]
    return verdict


JOINTS = 40


def _of_joint_appends(directory: Path, chance: random.Random) -> Base:
    """Two epochs of blocks with a joint append each, and other batches in between; the last block is vouched for."""
    for _ in range(2):
        log = LogWriter(directory, recover(log_at(directory), CONFIG))
        for _ in range(JOINTS // 2):
            streams = chance.sample(range(8), chance.randrange(2, 6))
            log.put(*((stream, chance.randbytes(chance.randrange(1, 3000))) for stream in streams), joined=True)
            if chance.random() < 0.3:
                log.put((chance.randrange(8), [b"", chance.randbytes(20)]))
        log.put()
    found = decode.Log(directory)
    blocks = [block.position for block in found.blocks()]
    return Base(directory, decode.kept(directory), blocks, found.manifest.segment_bytes, found.checkpoint.position)


class Found:
    """What a log has: each record by the block that it is in, and what has to be kept of it."""

    def __init__(self) -> None:
        self.blocks: list[tuple[int, int, Records]] = []
        self.every: Records = {}
        self.starts: dict[int, int] = {}


def _all_of(directory: Path) -> Found:
    log, found = decode.Log(directory), Found()
    for block in log.blocks():
        records: Records = {}
        for frame in block.frames:
            if frame.kind == decode.BATCH:
                for offset, record in enumerate(records_of(frame), frame.base):
                    records[frame.stream, offset] = record.data
        raw = (directory / f"segments/{block.position // log.manifest.segment_bytes:020d}.seg").read_bytes()
        at = PAGE + block.position % log.manifest.segment_bytes
        length = int.from_bytes(raw[at + 48 : at + 52], "little")
        found.blocks.append((block.position, length, records))
        found.every |= records
    found.starts = {of.number: of.start for of in log.contents().values()}
    return found


def _used(base: Base, chance: random.Random) -> tuple[str, int]:
    """A file of a segment, and a byte in what is used of it."""
    state = decode.manifest(base.directory)
    position = chance.randrange(state.begin, base.blocks[-1] + PAGE)
    return base.place(position)


def a_bit(base: Base, chance: random.Random) -> Damage:
    file, at = _used(base, chance)
    return media.flip(file, 8 * at + chance.randrange(8))


def a_bit_of_a_header(base: Base, chance: random.Random) -> Damage:
    file, at = _used(base, chance)
    return media.flip(file, 8 * (at // PAGE * PAGE + chance.randrange(300)) + chance.randrange(8))


def pages(base: Base, chance: random.Random) -> Damage:
    file, at = _used(base, chance)
    size = chance.randrange(1, 5) * PAGE
    return media.overwrite(file, at // PAGE * PAGE, chance.choice((bytes(size), chance.randbytes(size))))


def the_end_of_a_file(base: Base, chance: random.Random) -> Damage:
    file, at = _used(base, chance)
    return media.truncate(file, at)


def a_segment(base: Base, chance: random.Random) -> Damage:
    return _removed(_used(base, chance)[0])


def a_segments_header(base: Base, chance: random.Random) -> Damage:
    return media.flip(_used(base, chance)[0], chance.randrange(512))


def the_manifest(base: Base, chance: random.Random) -> Damage:
    return chance.choice((
        _removed("manifest"),
        media.flip("manifest", chance.randrange(media.COPY_BITS)),
        media.overwrite("manifest", 0, chance.randbytes(2 * PAGE)),
    ))  # fmt: skip


def a_checkpoint(base: Base, chance: random.Random) -> Damage:
    return chance.choice((_removed, partial(media.flip, bit=chance.randrange(8 * 4200))))(f"checkpoint-{chance.randrange(2)}")


def _removed(file: str) -> Damage:
    return lambda at: (at / file).unlink(missing_ok=True)


KINDS = (a_bit, a_bit, a_bit_of_a_header, pages, the_end_of_a_file, a_segment, a_segments_header, the_manifest, a_checkpoint)


def trial(base: Base, found: Found, scratch: Path, damages: list[Damage], verdict: Verdict) -> None:
    at, dest = media.copy_of(base, scratch / "log"), scratch / "saved"
    for damage in damages:
        with contextlib.suppress(FileNotFoundError, IndexError):  # gone already, or cut off
            damage(at)
    before = media.digest(at)
    verdict.runs += 1
    expected = _expected(base, found, at)
    verdict.confirmed += len(expected)
    try:
        with Directory(at) as log:
            made = salvage(log, dest)
    except (ringwal.CorruptionError, ringwal.FileError) as error:
        verdict.expect(not expected, f"{len(expected)} records are good, and nothing is saved: {error}")
    else:
        _compare(base, found, expected, dest, made, verdict)
    verdict.expect(media.digest(at) == before, "the damaged log was changed")
    shutil.rmtree(at)
    shutil.rmtree(dest, ignore_errors=True)


def _expected(base: Base, found: Found, at: Path) -> Records:
    """The records that are kept by the log, and whose blocks are as they were."""
    good: Records = {}
    for position, length, records in found.blocks:
        file, byte = base.place(position)
        if (at / file).exists() and _piece(at / file, byte, length) == _piece(base.directory / file, byte, length):
            good |= {key: data for key, data in records.items() if key[1] >= found.starts.get(key[0], len(found.every))}
    return good


def _piece(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), size, offset)


def _compare(base: Base, found: Found, expected: Records, dest: Path, made: Salvaged, verdict: Verdict) -> None:
    with Directory(dest) as log:
        places = verify(log, deep=True).places
    verdict.expect(not places and made.made.clean, f"the salvaged log is damaged: {places[:2]}, {made.made.places[:2]}")
    saved = _readable(dest)
    for key, data in expected.items():
        if saved.get(key) != data:
            verdict.lost += 1
            verdict.notes.append(f"record {key} is in a block without damage, and not saved: {made.found.places[:3]}")
    for key, data in saved.items():
        if found.every.get(key) != data:
            verdict.invented += 1
            verdict.notes.append(f"record {key} is another one")
    recover(log_at(dest), CONFIG)
    verdict.expect(_readable(dest) == saved, "a start changes what can be read")


def _readable(directory: Path) -> Records:
    records: Records = {}
    with ringwal.open_readonly(directory) as log:
        for info in log.streams():
            stream, offset = log.stream(info.name), info.start_offset
            while offset < info.confirmed_offset:
                try:
                    some = stream.read(offset)
                except ringwal.CorruptionError as damage:
                    offset = damage.next_offset or info.confirmed_offset
                    continue
                records |= {(info.number, record.offset): record.data for record in some}
                offset = some[-1].offset + 1
    return records
