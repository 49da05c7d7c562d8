"""Appends that are refused after their call has returned, and who was told of it."""

from __future__ import annotations


class Refusals:
    """Of one stream. An append whose receipt nobody awaits is refused unheard: the next `flush` tells of it, and one speaks for
    all. They are counted and not kept, as a program may never ask: the first error and the latest are."""

    __slots__ = ("_count", "_first", "_latest", "_reported", "_untold")

    def __init__(self) -> None:
        self._count = 0
        self._reported = 0  # those up to this number: a flush has told of them
        self._untold = 0  # of those behind it
        self._first: tuple[int, Exception] | None = None
        self._latest: Exception | None = None

    def add(self, error: Exception) -> int:
        """One more; its number."""
        self._count += 1
        self._untold += 1
        self._latest = error
        if self._first is None:
            self._first = self._count, error
        return self._count

    def told(self, number: int) -> None:
        """Its caller knows, who has not been told of it before."""
        if number > self._reported:
            self._untold -= 1
            if self._first is not None and self._first[0] == number:
                self._first = None
            if not self._untold:
                self._latest = None

    def take(self) -> Exception | None:
        """How one was refused of which nobody was told: from now on all have been."""
        found = None
        if self._untold:
            found = self._latest if self._first is None else self._first[1]
        self._reported, self._untold, self._first, self._latest = self._count, 0, None, None
        return found
