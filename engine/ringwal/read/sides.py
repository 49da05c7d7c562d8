"""The side files of a log (log/sidefile.py), a bounded number of them open."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from ringwal.log import sidefile
from ringwal.log.directory import Directory
from ringwal.log.sidefile import SideFile, Times, Unproven

Answer = TypeVar("Answer")

KEPT = 48
"""So many stay open: each takes a descriptor."""
KEPT_BYTES = 32 << 20
"""So much of them is held in memory, except that the newest one always stays."""
TIMES_KEPT = 4096


class Sides:
    """Thread-safe; a signal handler may come in between anywhere."""

    def __init__(self, directory: Directory, uuid: bytes, segment_bytes: int) -> None:
        self._directory, self._uuid, self._segment_bytes = directory, uuid, segment_bytes
        self._kept: OrderedDict[int, SideFile] = OrderedDict()
        self._disbelieved: set[int] = set()
        self._times: dict[int, Times] = {}

    def has(self, segment: int) -> bool:
        """Is there one of that segment?"""
        return self._get(segment) is not None

    def ask(self, segment: int, question: Callable[[SideFile], Answer], otherwise: Answer) -> Answer:
        """What the side file of that segment answers; ``otherwise`` if there is none, or none that can be believed."""
        side = self._get(segment)
        if side is None:
            return otherwise
        try:
            return question(side)
        except Unproven:
            self.disbelieve(segment)
            return otherwise

    def guess(self, segment: int, question: Callable[[SideFile], Answer], otherwise: Answer) -> Answer:
        """As `ask`, of a file that may be another log's, or of what the segment was before: a hint, to be asked for again
        before it decides anything. It takes no read of the segment."""
        side = self._open(segment)
        try:
            return otherwise if side is None else question(side)
        except Unproven:
            self.disbelieve(segment)
            return otherwise

    def times(self, segment: int) -> Times | None:
        """A hint (`sidefile.times`): the times of that segment, by what is open or known, or else by one read."""
        if segment in self._disbelieved or segment < 0:
            return None
        known, side = self._times.get(segment), self._kept.get(segment)
        if side is not None and side.blocks:
            known = Times(side.oldest_ns, side.newest_ns)
        if known is None:
            known = sidefile.times(self._directory, self._uuid, self._segment_bytes, segment)
            if known is not None:
                if len(self._times) >= TIMES_KEPT:
                    self._times.clear()
                self._times[segment] = known
        return known

    def opened(self) -> list[int]:
        """Segments whose side files are open: asking those takes no read that another one has not made before, as a rule."""
        return sorted(self._kept)

    def disbelieve(self, segment: int) -> bool:
        """From now on it is as if that segment had none. Has it had one until now?"""
        had = self.has(segment)
        self._disbelieved.add(segment)
        self._kept.pop(segment, None)
        return had

    def release(self) -> None:
        """Close all that nobody is asking just now."""
        self._kept.clear()

    def _get(self, segment: int) -> SideFile | None:
        side = self._open(segment)
        if side is None or side.checked:
            return side
        side.checked = self._is_of(side)
        if not side.checked:
            self._disbelieved.add(segment)
            self._kept.pop(segment, None)
            return None
        return side

    def _open(self, segment: int) -> SideFile | None:
        side = self._kept.get(segment)
        if side is not None:
            with contextlib.suppress(KeyError):
                self._kept.move_to_end(segment)
            return side
        if segment in self._disbelieved or segment < 0:
            return None
        with contextlib.suppress(FileNotFoundError):
            side = SideFile.open(self._directory, self._uuid, self._segment_bytes, segment)
        if side is None:
            return None
        self._kept[segment] = side
        self._bound()
        return side

    def _is_of(self, side: SideFile) -> bool:
        try:
            return side.is_of(self._directory)
        except Unproven:
            return False

    def _bound(self) -> None:
        """They are closed with their last user."""
        while len(self._kept) > 1 and (len(self._kept) > KEPT or self._held() > KEPT_BYTES):
            with contextlib.suppress(KeyError):
                self._kept.popitem(last=False)

    def _held(self) -> int:
        return sum(side.bytes_read for side in tuple(self._kept.values()))
