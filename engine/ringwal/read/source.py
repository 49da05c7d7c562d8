"""What a cursor and the index need of a place that has blocks of the log: which parts are there, their bytes, and what it
means when they are not. Neither knows more than this of files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ringwal.errors import CorruptionError

PAGE = 4096


class Extent(NamedTuple):
    """The part of one segment that belongs to one epoch: log positions begin <= position < end. It begins with a block."""

    segment: int
    epoch: int
    begin: int
    end: int


class Source(Protocol):
    """A place with blocks of the log. Thread-safe."""

    @property
    def uuid(self) -> bytes:
        """Of the log."""

    @property
    def segment_bytes(self) -> int:
        """Log bytes of a segment; no block crosses from one into the next."""

    def at(self, position: int) -> Extent | None:
        """The extent that holds the log byte at ``position``, or else the next one; None if there is none."""

    def all(self) -> Sequence[Extent]:
        """Every extent, oldest first."""

    def grows(self, extent: Extent) -> bool:
        """May the same extent be longer later?"""

    def read(self, position: int, into: memoryview, *, fresh: bool = False) -> None:
        """Fill ``into`` from log position ``position`` on; it must not cross the end of the extent.

        ``fresh`` asks the device again, whatever is cached.

        Raises CorruptionError if the bytes are missing, NotRunning if they are because the log is no longer in its directory,
        OSError if they cannot be read.
        """

    def damaged(self, position: int, why: str) -> CorruptionError:
        """The error for damage at ``position``, to be raised."""

    def look_again(self, stream: int, offset: int, damage: CorruptionError) -> None:
        """The place where confirmed record ``offset`` of stream number ``stream`` was looked for is missing or damaged, and
        by the bounds it is neither trimmed nor deleted. Returns if it has been freed meanwhile, and the record is elsewhere.

        Raises OffsetTrimmed, StreamDeleted or ``damage``.
        """
