"""Recovery of a real log whose files were changed at will: it is refused, by the engine's own errors and with nothing
touched, or what it held is still there as far as anything on the disk proves that it was.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, settings

import ringwal
from ringwal.log import checkpoint_file
from ringwal.log.checkpoint import EpochRow
from ringwal.log.recovery import Recovered, recover
from ringwal.read.bounds import StreamBounds, TableBounds
from ringwal.read.reader import Reader
from tests.faults import decode, media
from tests.faults.changes import Change, Place, changes
from tests.faults.oracle import Verdict
from tests.support.log_place import log_at

REFUSALS = (ringwal.CorruptionError, ringwal.VersionMismatch, ringwal.ConfigError)
WATERMARK = slice(72, 80)
HEADER = 128


class Broken(AssertionError):
    """The promise is."""


class Original:
    """A log, and what each of its blocks proves."""

    def __init__(self, directory: Path) -> None:
        self.base = media.make(directory)
        self.log = decode.Log(self.base.directory)
        self.epoch = self.log.manifest.epoch
        places = [*self._older_blocks(), *self.base.blocks, self.base.blocks[-1] + decode.PAGE]
        names = sorted(f"segments/{path.name}" for path in (self.base.directory / "segments").glob("*.seg"))
        checkpoint = f"checkpoint-{self.log.manifest.file}"
        self.changes = changes([self._place(position) for position in places], names, checkpoint)

    def _older_blocks(self) -> list[int]:
        found = []
        for epoch, begin, cut in self.log.epochs()[:-1]:
            position = begin
            while cut is not None and position < cut and (block := self.log.block(position, epoch)) is not None:
                found.append(position)
                position += block.span
        return found

    def _place(self, position: int) -> Place:
        file, at = self.base.place(position)
        return Place(file, at // decode.PAGE)

    def is_old(self, place: Place) -> bool:
        """Does it lie below the checkpoint, where recovery does not look?"""
        size, position = self.base.size, self.log.checkpoint.position
        if not place.file.startswith("segments/"):
            return False
        number = int(place.file.removeprefix("segments/").removesuffix(".seg"))
        return number * size + max(0, place.page - 1) * decode.PAGE < position

    def proven(self, at: Path) -> dict[str, int]:
        """How many records of each stream intact headers of the last epoch in ``at`` say were on the disk."""
        watermark = 0
        for position in self.base.blocks:
            file, offset = self.base.place(position)
            pages = [read(path / file, offset, HEADER) for path in (self.base.directory, at)]
            if pages[0] == pages[1]:
                watermark = max(watermark, int.from_bytes(pages[0][WATERMARK], "little"))
        names = {stream: row.name for stream, row in self.log.checkpoint.streams.items()}
        counts: dict[str, int] = {}
        for position in self.base.blocks:
            block = self.log.block(position, self.epoch)
            assert block is not None
            if position + block.span > watermark and block.kind != decode.EPOCH:
                break
            for frame in block.frames:
                if frame.kind == decode.DEFINITION:
                    names[frame.stream] = frame.payload.decode()
                counts[names[frame.stream]] = frame.base + frame.records
        return counts


def read(path: Path, offset: int, size: int) -> bytes:
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
    return b""


def attempt(at: Path) -> Recovered | None:
    """None: refused, and not a byte of it has changed. Raises Broken."""
    before = media.digest(at)
    try:
        return recover(log_at(at), media.CONFIG)
    except REFUSALS as error:
        if media.digest(at) != before:
            raise Broken(f"refused ({error}), and files were changed") from error
        return None


def contents(original: Original, at: Path, what: list[Change]) -> dict[str, list[bytes]] | None:
    """None if they cannot be read where only readers look: below the checkpoint, or where somebody forged. Raises Broken."""
    try:
        return decode.kept(at)
    except (decode.DecodeError, OSError) as error:
        if any(change.forged or original.is_old(change.place) for change in what):
            return None
        raise Broken(f"accepted, and then: {error}") from error


def compare(original: Original, at: Path, found: dict[str, list[bytes]], proven: dict[str, int]) -> None:
    """Nothing else than before, and no less than what is proven. Raises Broken."""
    for name, records in found.items():
        if records != original.base.content.get(name, [])[: len(records)]:
            raise Broken(f"{name} has changed in silence")
    for name, count in proven.items():
        if len(found.get(name, [])) < count:
            raise Broken(f"{name} has {len(found.get(name, []))} records, and {count} were proven to be on the disk")


def look_everywhere(at: Path, recovered: Recovered) -> None:
    """As a reader does that asks for records of any age; damage is named, whatever it is."""
    older = checkpoint_file.load(log_at(at), recovered.manifest).epochs[:-1]
    bounds = TableBounds(
        uuid=recovered.uuid,
        segment_bytes=recovered.manifest.segment_bytes,
        epochs=[*older, EpochRow(recovered.epoch, recovered.epoch_begin, recovered.position)],
        streams={stream.number: StreamBounds(stream.start_offset, stream.next_offset) for stream in recovered.streams},
    )
    reader = Reader(log_at(at), bounds)
    for stream in recovered.streams:
        for offset in {stream.start_offset, stream.next_offset // 2, max(0, stream.next_offset - 1)}:
            with contextlib.suppress(ringwal.CorruptionError, ringwal.OffsetTrimmed):
                reader.read(stream.number, offset)


def trial(original: Original, at: Path, what: list[Change]) -> None:
    """Raises whatever is wrong."""
    media.copy_of(original.base, at)
    try:
        for change in what:
            change.apply(at)
        if not (at / "manifest").exists() and not any((at / "segments").glob("*.seg")):
            return  # no log at all: one is made
        proven = original.proven(at)
        recovered = attempt(at)
        if recovered is None:
            return
        look_everywhere(at, recovered)
        found = contents(original, at, what)
        if found is not None and not any(change.forged for change in what):
            compare(original, at, found, proven)
        again = attempt(at)
        if again is None or again.streams != recovered.streams:
            raise Broken("recovered, and then not again in the same way")
    finally:
        shutil.rmtree(at)


def run(count: int, directory: Path, seed: int) -> Verdict:
    """Hypothesis chooses, and makes what it finds as small as it can."""
    original, verdict = Original(directory), Verdict()
    confirmed = sum(map(len, original.base.content.values()))

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @hypothesis.given(original.changes)
    def every(what: list[Change]) -> None:
        verdict.runs += 1
        verdict.confirmed += confirmed
        trial(original, directory / "log", what)

    try:
        every()
    except Exception as error:  # noqa: BLE001  whatever it is, no change may cause it
        verdict.notes.append(f"{type(error).__name__}: {error}")
        verdict.notes += getattr(error, "__notes__", [])
    return verdict
