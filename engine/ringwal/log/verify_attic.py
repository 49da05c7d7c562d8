"""The attic, held against its checksums: what is damaged, and which records it has."""

from __future__ import annotations

import dataclasses

from ringwal.errors import CorruptionError, VersionMismatch
from ringwal.log import attic
from ringwal.log.attic import Attic, Catalogue, Content, Kept
from ringwal.log.directory import SEGMENTS, Directory
from ringwal.log.manifest import Manifest
from ringwal.log.premise import Fault


@dataclasses.dataclass(slots=True)
class Held:
    """What is wrong with the attic, and by stream number the offsets that it has: first <= offset < next, in log order."""

    faults: list[Fault] = dataclasses.field(default_factory=list)
    records: dict[int, list[tuple[int, int]]] = dataclasses.field(default_factory=dict)

    def behind(self, stream: int, offset: int) -> int:
        """The first offset from `offset` on that the attic does not have."""
        for first, following in self.records.get(stream, ()):
            if first <= offset < following:
                offset = following
        return offset

    def before(self, stream: int, offset: int) -> int:
        """The first offset from which on the attic has everything below `offset`."""
        for first, following in reversed(self.records.get(stream, ())):
            if first < offset <= following:
                offset = first
        return offset


def look(directory: Directory, manifest: Manifest) -> Held:
    """Every block of segments that are freed is read. Raises OSError."""
    held = Held()
    if not directory.has_segments():
        return held
    try:
        found = Attic.look(directory, manifest.uuid)
    except (CorruptionError, VersionMismatch) as damage:
        held.faults.append(Fault(attic.NAME, 0, str(damage)))
        found = Attic(directory, Catalogue(uuid=manifest.uuid))
    held.faults += [Fault(attic.NAME, 0, str(damage)) for damage in found.damage]
    for kept in found.rows:
        if kept.position >= manifest.first_segment * manifest.segment_bytes:
            break
        _take(found, manifest.uuid, kept, held)
    return held


def _take(found: Attic, uuid: bytes, kept: Kept, held: Held) -> None:
    data = bytearray(kept.length)
    try:
        found.read(kept.position, memoryview(data))
        good = attic.is_whole(uuid, Content(kept.position, kept.epoch, bytes(data)))
    except FileNotFoundError:  # a keeper is at work, and has it in another file by now
        return
    except CorruptionError:
        good = False
    if not good:
        held.faults.append(Fault(f"{SEGMENTS}/{attic.name_of(kept.file)}", kept.place, "a block in the attic is damaged"))
        return
    for stream, first, count in attic.batches(data):
        held.records.setdefault(stream, []).append((first, first + count))
