"""What is left of segments that are freed: single blocks in the attic (log/attic.py), each an extent of its own."""

from __future__ import annotations

from ringwal.errors import CorruptionError, VersionMismatch
from ringwal.log.attic import Attic, Catalogue, Kept
from ringwal.log.directory import Directory
from ringwal.read.source import Extent


class AtticBlocks:
    """Thread-safe. The catalogue is looked at anew when more is freed, and when a file is gone that it names: so nothing is
    read twice for what stays as it is."""

    def __init__(self, directory: Directory, uuid: bytes, segment_bytes: int) -> None:
        self._directory, self._uuid, self._segment_bytes = directory, uuid, segment_bytes
        self._found: tuple[int, Attic] | None = None  # when that was the first segment

    def first(self, begins: int) -> int:
        """The first segment of which there is a block; `begins`, which is the first one that is not freed, if there is none."""
        rows = self._attic(begins).rows if begins else []
        return min(begins, rows[0].position // self._segment_bytes) if rows else begins

    def at(self, position: int, begins: int) -> Extent | None:
        """The block that holds that log byte, or else the next one, below segment `begins`."""
        kept = self._attic(begins).at(position)
        return None if kept is None or kept.position >= begins * self._segment_bytes else self._extent(kept)

    def extents(self, segment: int, begins: int) -> list[Extent]:
        """All blocks of that segment, which is below `begins`."""
        begin, end = segment * self._segment_bytes, (segment + 1) * self._segment_bytes
        return [self._extent(kept) for kept in self._attic(begins).within(begin, end)]

    def read(self, position: int, into: memoryview) -> None:
        """As `Source.read`."""
        attic = self._found[1] if self._found is not None else self._look(0)
        try:
            attic.read(position, into)
        except FileNotFoundError:  # what is alive of several files was written to another one
            self._found = None
            try:
                self._look(0).read(position, into)
            except FileNotFoundError:
                raise self._damaged(position, "the attic file is missing") from None
        except CorruptionError as error:
            raise self._damaged(position, str(error)) from None

    def _attic(self, begins: int) -> Attic:
        found = self._found
        return found[1] if found is not None and found[0] >= begins else self._look(begins)

    def _look(self, begins: int) -> Attic:
        try:
            attic = Attic.look(self._directory, self._uuid)
        except (CorruptionError, VersionMismatch):  # it denies its own records only
            attic = Attic(self._directory, Catalogue(uuid=self._uuid))
        self._found = begins, attic
        return attic

    def _extent(self, kept: Kept) -> Extent:
        return Extent(kept.position // self._segment_bytes, kept.epoch, kept.position, kept.position + kept.length)

    def _damaged(self, position: int, why: str) -> CorruptionError:
        return CorruptionError(why, position // self._segment_bytes, position)
