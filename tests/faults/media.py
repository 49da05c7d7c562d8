"""Damage on the medium: found and refused with nothing touched, or harmless. Never silent."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import ringwal
from ringwal.config import Config
from ringwal.log.recovery import recover
from tests.faults import decode
from tests.faults.oracle import Verdict
from tests.faults.table import Fault, often
from tests.support.host import SMALL, Engine, until
from tests.support.log_place import log_at
from tests.support.payload import Origin
from tests.support.writer import Writer

MIB = 1 << 20
COPY_BITS = 8 * decode.MANIFEST.size
CONFIG = Config(ring_bytes=MIB, segment_bytes=4 * MIB, max_streams=256, block_bytes=64 << 10, lane_quota_bytes=64 << 10)
REFUSALS = (ringwal.CorruptionError, ringwal.VersionMismatch)
Damage = Callable[[Path], None]


@dataclasses.dataclass(frozen=True)
class Base:
    """A log of two epochs, killed, with what was confirmed."""

    directory: Path
    content: dict[str, list[bytes]]
    blocks: list[int]
    """Log positions of the last epoch's blocks, in order."""
    size: int
    checkpoint: int
    """Log position from which recovery reads."""

    def place(self, position: int) -> tuple[str, int]:
        """File, relative to the log, and byte in it."""
        return f"segments/{position // self.size:020d}.seg", decode.PAGE + position % self.size


def make(directory: Path, name: str = "base", *, at_rest: bool = False) -> Base:
    """A real engine wrote it, in two lives: 60 appends of which each is a block of its own, then a kill.

    ``at_rest``: the kill comes when the engine has written the empty block that vouches for the last one, and a checkpoint.
    """
    at = directory / name
    for life in range(2):
        with Engine(at, *SMALL) as running:
            writer = Writer(at, directory / f"{name}.journal", "w0", ["hot", "calm"], 1)
            for n in range(30):
                writer.append(Origin(("hot", "calm")[n % 2], "w0", 100 * life + n))
                writer.settle()
            if at_rest:
                until(lambda: _rests(at), "the log at rest to have its checkpoint")
            running.kill()
            writer.abandon()
    log = decode.Log(at)
    blocks = [position for position, _ in _blocks(log)]
    return Base(at, decode.kept(at), blocks, log.manifest.segment_bytes, log.checkpoint.position)


def _blocks(log: decode.Log) -> Iterable[tuple[int, decode.Block]]:
    """The last epoch's, in order, with their positions."""
    epoch, position, _ = log.epochs()[-1]
    while (block := log.block(position, epoch)) is not None:
        yield position, block
        position += block.span


def _rests(directory: Path) -> bool:
    try:
        log = decode.Log(directory)
    except decode.DecodeError:  # it is being written
        return False
    *_, (_, last) = _blocks(log)
    return not last.frames and log.checkpoint.position == last.position + last.span


def copy_of(base: Base, to: Path) -> Path:
    """Another one of it; zeros are left out, and `home`: it stands for the original, and is no copy that has to be whole."""
    for path in base.directory.rglob("*"):
        target = to / path.relative_to(base.directory)
        if path.is_dir():
            target.mkdir(parents=True)
        elif path.is_file() and path.name != "home":
            target.parent.mkdir(parents=True, exist_ok=True)
            raw = path.read_bytes()
            with target.open("wb") as file:
                file.truncate(len(raw))
                for start in range(0, len(raw), decode.PAGE):
                    page = raw[start : start + decode.PAGE]
                    if page.count(0) != len(page):
                        os.pwrite(file.fileno(), page, start)
    return to


def digest(directory: Path) -> str:
    """Of every file, by name and content."""
    total = hashlib.blake2b()
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            total.update(f"{path.relative_to(directory)} {path.stat().st_size}\n".encode())
            total.update(path.read_bytes())
    return total.hexdigest()


def trial(base: Base, scratch: Path, damage: Damage, label: str, verdict: Verdict, *, must: str) -> None:
    """Damages a copy and recovers it. ``must``: "refuse", "harmless", "either", "end": the last block may be missing,
    as a torn one would be, or "noticed": accepted, and found by whoever reads it."""
    at = copy_of(base, scratch / "log")
    damage(at)
    before = digest(at)
    verdict.runs += 1
    verdict.confirmed += sum(map(len, base.content.values()))
    try:
        recover(log_at(at), CONFIG)
    except REFUSALS:
        verdict.expect(must in ("refuse", "either"), f"{label}: refused")
        verdict.expect(digest(at) == before, f"{label}: refused, and files were changed")
    except Exception as error:  # noqa: BLE001  the point is to find it
        verdict.notes.append(f"{label}: {type(error).__name__}: {error}")
    else:
        verdict.expect(must != "refuse", f"{label}: accepted")
        if must == "noticed":
            _must_be_noticed(at, label, verdict)
            shutil.rmtree(at)
            return
        _compare(base.content, decode.kept(at), label, verdict, short=1 if must == "end" else 0)
    shutil.rmtree(at)


def _must_be_noticed(at: Path, label: str, verdict: Verdict) -> None:
    with contextlib.suppress(decode.DecodeError):
        decode.kept(at)
        verdict.notes.append(f"{label}: nobody noticed")


def _compare(expected: dict[str, list[bytes]], found: dict[str, list[bytes]], label: str, verdict: Verdict, short: int) -> None:
    missing = 0
    for name, records in expected.items():
        got = found.get(name, [])
        missing += max(0, len(records) - len(got))
        if got != records[: len(got)]:
            verdict.invented += 1
            verdict.notes.append(f"{label}: {name} has changed in silence")
    if missing > short:
        verdict.lost += missing
        verdict.notes.append(f"{label}: {missing} records are lost in silence")


def flip(file: str, bit: int) -> Damage:
    def damage(at: Path) -> None:
        path = at / file
        with path.open("r+b") as found:
            byte = os.pread(found.fileno(), 1, bit // 8)[0]
            os.pwrite(found.fileno(), bytes([byte ^ 1 << bit % 8]), bit // 8)

    return damage


def truncate(file: str, size: int) -> Damage:
    return lambda at: os.truncate(at / file, size)


def overwrite(file: str, offset: int, data: bytes) -> Damage:
    def damage(at: Path) -> None:
        with (at / file).open("r+b") as found:
            os.pwrite(found.fileno(), data, offset)

    return damage


def both(*damages: Damage) -> Damage:
    def damage(at: Path) -> None:
        for each in damages:
            each(at)

    return damage


def sample(bits: range, count: int, chance: random.Random) -> Iterable[int]:
    return bits if count >= len(bits) else sorted(chance.sample(bits, count))


Trials = Callable[[Base, Path, int, random.Random], Iterable[tuple[str, Damage, str]]]


def faults(tier: str) -> list[Fault]:
    rows = [Fault("media", name, partial(run, trials, often(tier, few, many))) for name, trials, few, many in TRIALS]
    return [*rows, Fault("media", "damage in an older epoch, read", partial(older, often(tier, 3, 60)))]


def run(trials: Trials, count: int, directory: Path, seed: int) -> Verdict:
    chance = random.Random(f"{seed}/{trials.__name__}")
    base = make(directory, at_rest=trials is covered_bits)
    verdict = Verdict()
    for label, damage, must in trials(base, directory, count, chance):
        trial(base, directory, damage, label, verdict, must=must)
    del verdict.notes[20:]
    return verdict


def _always(must: str) -> Callable[[int], str]:
    return lambda _: must


ALWAYS = {must: _always(must) for must in ("refuse", "harmless", "end", "noticed")}


def _bits(base: Base, position: int, bits: Iterable[int], must: Callable[[int], str]) -> Iterable[tuple[str, Damage, str]]:
    file, at = base.place(position)
    for bit in bits:
        here = must(bit)
        # Below the checkpoint nothing is read at a start.
        here = "noticed" if here == "refuse" and position < base.checkpoint else here
        yield f"bit {bit} at position {position}", flip(file, 8 * at + bit), here


def header_bits(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    return _bits(base, base.blocks[len(base.blocks) // 2], sample(range(1024), count, chance), ALWAYS["refuse"])


def last_header_bits(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    # Nothing on the disk says that the very last block was persisted: it looks like one that a crash tore.
    return _bits(base, base.blocks[-1], sample(range(1024), count, chance), ALWAYS["end"])


def covered_bits(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    # The checkpoint of a log at rest lies behind the last block: recovery does not read it, whoever wants the record does.
    return _bits(base, base.blocks[-2], sample(range(1024), count, chance), ALWAYS["noticed"])


def record_bits(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    persisted_byte = range(40, 48)  # only meaningful in memory
    bits = sample(range(8 * decode.RECORD.size), count, chance)
    return _bits(base, base.blocks[5] + 128, bits, lambda bit: "harmless" if bit in persisted_byte else "refuse")


def payload_bits(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    for _ in range(count):
        position = chance.choice(base.blocks[3:-2])
        block = decode.Log(base.directory).block(position)
        assert block is not None
        at = 128 + decode.RECORD.size + chance.randrange(len(block.frames[0].payload))
        yield from _bits(base, position, [8 * at + chance.randrange(8)], ALWAYS["refuse"])


def padding_bits(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    for _ in range(count):
        yield from _bits(base, chance.choice(base.blocks[1:]), [8 * chance.randrange(4000, 4096)], ALWAYS["harmless"])


def epoch_bits(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    return _bits(base, base.blocks[0], sample(range(1024), count, chance), ALWAYS["noticed"])


def checkpoint_bits(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    state = decode.manifest(base.directory)
    for bit in sample(range(8 * state.bytes), count, chance):
        yield f"bit {bit} of the checkpoint", flip(f"checkpoint-{state.file}", bit), "refuse"


def segment_bits(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    file, _ = base.place(base.blocks[0])
    for bit in sample(range(512), count, chance):
        yield f"bit {bit} of the segment header", flip(file, bit), "refuse"


def manifest_bits(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    # Both slots say the same; a slot of an unknown version is refused rather than passed over.
    for each in sample(range(2 * COPY_BITS), count, chance):
        copy, bit = divmod(each, COPY_BITS)
        yield f"bit {bit} of copy {copy}", flip("manifest", bit + copy * 8 * decode.PAGE), "harmless"


def manifest_gone(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    for _ in range(count):
        bits = [chance.randrange(COPY_BITS) + slot * 8 * decode.PAGE for slot in (0, 1)]
        yield f"bits {bits} of the manifest", both(*(flip("manifest", bit) for bit in bits)), "refuse"
    yield "no manifest", lambda at: (at / "manifest").unlink(), "refuse"
    yield "an empty manifest", truncate("manifest", 0), "refuse"
    yield "half a manifest", truncate("manifest", decode.PAGE), "harmless"


def truncations(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    file, at = base.place(base.blocks[-2])
    for size in sample(range(at, at + 8192), count, chance):
        yield f"{file} cut to {size} bytes", truncate(file, size), "refuse"


def segments(base: Base, directory: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    names = sorted(path.name for path in (base.directory / "segments").glob("*.seg"))
    foreign = make(directory, "foreign")
    for name in names:
        yield f"{name} missing", partial(_remove, name), "refuse"
        if (foreign.directory / "segments" / name).exists():
            yield f"{name} of another log", partial(_copy, foreign.directory / "segments" / name, name), "refuse"
    for one, other in itertools.pairwise(names):
        yield f"{one} twice", partial(_copy, base.directory / "segments" / one, other), "refuse"
    beyond = f"{len(names):020d}.seg"
    yield "a segment that was never named", partial(_copy, base.directory / "segments" / names[0], beyond), "harmless"


def _remove(name: str, at: Path) -> None:
    (at / "segments" / name).unlink()


def _copy(source: Path, name: str, at: Path) -> None:
    (at / "segments" / name).write_bytes(source.read_bytes())


def stale(base: Base, scratch: Path, count: int, chance: random.Random) -> Iterable[tuple[str, Damage, str]]:
    """Old blocks, whole and valid in their own place, behind the end: of this epoch, of the one before, shifted."""
    end = base.blocks[-1] + decode.PAGE
    file, at = base.place(end)
    first = (base.directory / f"segments/{0:020d}.seg").read_bytes()
    own = (base.directory / file).read_bytes()
    for _ in range(count):
        source = chance.choice((first, own))
        start = decode.PAGE * chance.randrange(1, 20)
        length = decode.PAGE * chance.randrange(1, 10)
        offset = at + decode.PAGE * chance.randrange(20)
        yield f"{length} old bytes at {offset} of {file}", overwrite(file, offset, source[start : start + length]), "harmless"
    yield "a block of the epoch before, for this very place", overwrite(file, at, _late(base, end)), "harmless"
    garbage = chance.randbytes(decode.PAGE)
    yield "garbage at the end", overwrite(file, at, garbage), "harmless"
    huge = own[decode.PAGE :][:48] + struct.pack("<I", 0xFFFFF000)
    yield "a header with a huge length", overwrite(file, at, huge), "harmless"


TRIALS: tuple[tuple[str, Trials, int, int], ...] = (
    ("bits of a block header", header_bits, 25, 1024),
    ("bits of the last block's header", last_header_bits, 12, 1024),
    ("bits of the last block of a log at rest", covered_bits, 12, 1024),
    ("bits of a record header", record_bits, 25, 8 * decode.RECORD.size),
    ("bits of payloads", payload_bits, 15, 1000),
    ("bits of padding", padding_bits, 5, 200),
    ("bits of the manifest's slots", manifest_bits, 20, 2 * COPY_BITS),
    ("both copies of the manifest", manifest_gone, 4, 200),
    ("bits of a segment header", segment_bits, 12, 512),
    ("bits of an epoch's first block", epoch_bits, 15, 1024),
    ("bits of the checkpoint", checkpoint_bits, 15, 1024),
    ("truncation in the last two blocks", truncations, 20, 8192),
    ("missing, doubled and foreign segments", segments, 10, 10),
    ("stale content behind the end", stale, 10, 100),
)
"""Name, what makes them, and how many in a change and in a night."""


def _late(base: Base, position: int) -> bytes:
    """What a process of the epoch before would write there: the last block of a stream, one offset on, every checksum right."""
    file, at = base.place(base.blocks[-2])
    raw = bytearray((base.directory / file).read_bytes()[at : at + decode.PAGE])
    bound = struct.pack("<QQ", struct.unpack_from("<Q", raw, 32)[0] - 1, position)
    (offset,) = struct.unpack_from("<Q", raw, 128 + 24)
    raw[32:48] = bound
    raw[128 + 24 : 128 + 32] = struct.pack("<Q", offset + 1)
    raw[128:132] = raw[8:12] = bytes(4)
    raw[128 + 5] = 0
    raw[128:132] = struct.pack("<I", decode.crc32c(bytes(raw[128 : 128 + decode.RECORD.size]), decode.crc32c(bound)))
    raw[8:12] = struct.pack("<I", decode.crc32c(bytes(raw[:128])))
    return bytes(raw)


def older(count: int, directory: Path, seed: int) -> Verdict:
    """Recovery believes the checkpoint and does not read what is below; whoever reads that hears of damage."""
    chance = random.Random(f"{seed}/older")
    base = make(directory)
    verdict = Verdict()
    epochs = decode.Log(base.directory).epochs()
    cut = epochs[0][2]
    assert cut is not None
    for _ in range(count):
        position = chance.randrange(decode.PAGE, cut, decode.PAGE)
        file, at = base.place(position)
        copy = copy_of(base, directory / "log")
        flip(file, 8 * at + chance.randrange(128 * 8))(copy)
        verdict.runs += 1
        with Engine(copy, *SMALL), ringwal.connect(copy) as client:
            refused = 0
            for name, records in base.content.items():
                found: list[bytes] = []
                try:
                    while more := client.stream(name).read(len(found)):
                        found += [record.data for record in more]
                    verdict.expect(found == records, f"bit flip near {position}: {name} reads differently, in silence")
                except ringwal.CorruptionError:
                    refused += 1
                    verdict.expect(found == records[: len(found)], f"bit flip near {position}: {name} has changed")
                verdict.confirmed += len(found)
            verdict.expect(refused > 0, f"bit flip near {position}: nobody noticed")
        shutil.rmtree(copy)
    return verdict
