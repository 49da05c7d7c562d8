"""How long a stream keeps its records: what holds for it, and up to which offset it may be trimmed by that. No I/O."""

from __future__ import annotations

import bisect
import collections
from typing import NamedTuple

from ringwal.log.settings import Settings

SAID = {"retention_age": "age_ns", "retention_bytes": "payload_bytes", "retention_records": "records"}
"""Settings as people call them, and in `Settings` and `Limits`."""


class Limits(NamedTuple):
    """What a stream keeps at the least; beyond one of them records may go. None: no such limit."""

    age_ns: int | None = None
    payload_bytes: int | None = None
    records: int | None = None

    def over(self, own: Settings) -> Limits:
        """What holds for a stream, where these are the engine's defaults."""
        return Limits(*(default if said is None else said or None for default, said in zip(self, _said(own), strict=True)))


NO_LIMITS = Limits()


def own_settings(own: Settings) -> tuple[str, ...]:
    """Which limits the stream has said itself."""
    return tuple(name for name, said in zip(SAID, _said(own), strict=True) if said is not None)


def _said(own: Settings) -> tuple[int | None, int | None, int | None]:
    return own.age_ns, own.payload_bytes, own.records


class Segments:
    """The segments that have side files, oldest first: what is known of each is that nothing in it is newer than a time."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._newest: list[int] = []

    def add(self, number: int, newest_ns: int) -> None:
        """The next one, which has the greatest number so far."""
        self._numbers.append(number)
        # As a segment without a block says 0, and times never go back in log order.
        self._newest.append(max(newest_ns, self._newest[-1] if self._newest else 0))

    def free(self, first: int) -> None:
        """Those below `first` are gone."""
        gone = bisect.bisect_left(self._numbers, first)
        del self._numbers[:gone], self._newest[:gone]

    def expired(self, now_ns: int, age_ns: int) -> int | None:
        """The last one in which, and before which, every record is older than `age_ns`; None: there is none."""
        count = bisect.bisect_left(self._newest, now_ns - age_ns)
        return self._numbers[count - 1] if count else None


class Payload:
    """What a stream has in segments with side files, oldest first: up to which offset it may be trimmed so that at the least so
    many bytes of its newest payload stay."""

    __slots__ = ("_bytes", "_parts")

    def __init__(self) -> None:
        self._parts: collections.deque[tuple[int, int]] = collections.deque()
        self._bytes = 0

    def add(self, end: int, size: int) -> None:
        """The stream's part of the next segment: `size` bytes, and the offset behind its last record."""
        self._parts.append((end, size))
        self._bytes += size

    def before(self, limit: int, newer: int, start: int) -> int:
        """Where more than `limit` bytes lie behind a segment, what is in it and before may go. `newer` bytes at the least are
        behind all segments that were added; below offset `start` nothing is left. Monotonic while `limit` does not grow."""
        while self._parts and self._parts[0][0] <= start:
            self._bytes -= self._parts.popleft()[1]
        found, left = 0, self._bytes + newer
        for end, size in self._parts:
            left -= size
            if left < limit:
                break
            found = end
        return found


SLACK_NS = 3600 * 10**9
"""By so much the wall clock may be ahead before somebody is told that this is not believed."""


class Clock:
    """What retention by age takes for the time: what the wall clock says, but never further on from the engine's start than a
    clock that nobody sets. So a wall clock that is set ahead makes no record older; one that is set back makes all younger.
    """

    def __init__(self, wall_ns: int, steady_ns: int) -> None:
        """At one moment: the time that is believed, and the other clock."""
        self._ahead = wall_ns - steady_ns

    def now(self, wall_ns: int, steady_ns: int) -> int:
        return min(wall_ns, steady_ns + self._ahead)

    def jumped(self, wall_ns: int, steady_ns: int) -> int:
        """How far the wall clock was set ahead, ns; 0: not worth telling."""
        ahead = wall_ns - (steady_ns + self._ahead)
        return ahead if ahead > SLACK_NS else 0
