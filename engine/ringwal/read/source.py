"""What a cursor and the index need of a place that has blocks of the log: which parts are there, their bytes, and what it
means when they are not. Neither knows more than this of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from ringwal.errors import CorruptionError
from ringwal.log.sidefile import SideFile, Times

PAGE = 4096
Answer = TypeVar("Answer")


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

    def segments(self) -> range:
        """Numbers of the segments of which there may be anything."""

    def at(self, position: int) -> Extent | None:
        """The extent that holds the log byte at ``position``, or else the next one; None if there is none."""

    def extents(self, segment: int) -> Sequence[Extent]:
        """Those of one segment, oldest first."""

    def grows(self, extent: Extent) -> bool:
        """May the same extent be longer later?"""

    def newest_side(self) -> int:
        """A segment with a side file, the newest one as far as is known; -1: none is known."""

    def ask_side(self, segment: int, question: Callable[[SideFile], Answer], otherwise: Answer) -> Answer:
        """What the side file of that segment answers; ``otherwise`` if there is none, or none that can be believed."""

    def guess_side(self, segment: int, question: Callable[[SideFile], Answer], otherwise: Answer) -> Answer:
        """The same without a look whether the file is of that segment. What it decides is to be asked for again."""

    def side_times(self, segment: int) -> Times | None:
        """What the header of its side file says of the segment's times. It may be wrong. None: it says nothing."""

    def sides_open(self) -> list[int]:
        """Segments, in order, whose side files are best asked first."""

    def disbelieve(self, segment: int) -> bool:
        """From now on it is as if the segment had no side file. Has it had one until now?"""

    def read(self, position: int, into: memoryview, *, fresh: bool = False, ahead: int = 0) -> None:
        """Fill ``into`` from log position ``position`` on; it must not cross the end of the extent.

        ``fresh`` asks the device again, whatever is cached. The ``ahead`` bytes behind will be wanted next; they must lie in
        the extent, too.

        Raises CorruptionError if the bytes are missing, NotRunning if they are because the log is no longer in its directory,
        OSError if they cannot be read.
        """

    def damaged(self, position: int, why: str) -> CorruptionError:
        """The error for damage at ``position``, to be raised."""

    def look_again(self, stream: int, offset: int, damage: CorruptionError) -> bool:
        """The place where confirmed record ``offset`` of stream number ``stream`` was looked for is missing or damaged, and
        by the bounds it is neither trimmed nor deleted. Has it been freed meanwhile, so that the record is elsewhere?

        Raises OffsetTrimmed, StreamDeleted.
        """
