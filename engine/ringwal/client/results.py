"""Where results stay when their completion cells are needed for later appends.

The drain stores a result in one of a client's completion cells; a number's low bits choose the cell. Numbers are handed out
bank by bank. Before a bank's cells are used again its results are copied, in one pass in C, and stay with the receipts that
still want them. So an append touches no earlier receipt, and a receipt that nobody keeps costs nothing after it is gone.
"""

from __future__ import annotations

import array
from typing import TYPE_CHECKING, NamedTuple

from ringwal._native import ffi, lib
from ringwal.client.verdicts import is_refused
from ringwal.errors import EngineFailed

if TYPE_CHECKING:
    from ringwal.client.lane import Lane
    from ringwal.errors import Error

PENDING = -1
FAILED = -2

_poll = lib.rw_completion_poll
_FAILED_REQUEST = lib.RW_FAILED_REQUEST


class Ending(NamedTuple):
    """Why a lane is of no use any more, and what its cells held then: by the first number of a bank, what `collect` found."""

    error: Error
    found: dict[int, array.array[int]]


class Results:
    """The results of one bank of numbers: in shared memory at first, here once the bank is kept."""

    __slots__ = ("first", "kept", "lane")

    def __init__(self, lane: Lane, first: int) -> None:
        self.lane = lane
        self.first = first
        self.kept: array.array[int] | None = None

    def find(self, number: int) -> int:
        """The offset of that append, `PENDING`, what `is_refused`, or `FAILED` (the lane's ``lost`` says why)."""
        lane = self.lane
        if self.kept is None and not lane.ending:
            found = int(_poll(lane.writer, number))
            if found >= 0 or is_refused(found):
                return found
            if found == _FAILED_REQUEST:
                lane.end_failed()
        # In this order, after the poll: the cell may have gone to a later number meanwhile, and then the result is kept, also
        # if the lane ended behind that.
        ending = lane.ending.get(None)
        kept = self.kept
        if kept is None:
            if ending is None:
                return PENDING
            kept = ending.found.get(self.first)
            if kept is None:
                return FAILED
            self._look_again(kept, number, ending.error)
        found = kept[number - self.first]
        return found if found >= 0 or is_refused(found) else FAILED

    def _look_again(self, kept: array.array[int], number: int, error: Error) -> None:
        """The drain may have outlived by a moment the look at the end of its engine. Whoever was told then, by its cell, that
        the append is confirmed, must not be told something else later."""
        at = number - self.first
        if kept[at] >= 0 or is_refused(kept[at]) or not isinstance(error, EngineFailed):
            return
        found = int(_poll(self.lane.writer, number))
        if found >= 0 or is_refused(found):
            kept[at] = found

    def collect(self, count: int) -> array.array[int]:
        """What the cells hold now of ``count`` numbers: offsets, and what is below 0 for those that are not confirmed."""
        found = array.array("q", bytes(8 * count))
        lib.rw_completions_collect(self.lane.writer, self.first, count, ffi.from_buffer("int64_t[]", found))
        return found


def settled(found: array.array[int]) -> bool:
    """Does nobody wait for any of them any more?"""
    return min(found) >= 0 or all(each >= 0 or is_refused(each) for each in found)


class Bank:
    """One bank of numbers and the way to the next one.

    Receipts keep a bank's `Results` and not the bank, else a receipt that is kept for long would keep all later banks. A
    thread takes hold of a bank before it gets a number, so the bank of that number can be reached whatever other threads do.
    """

    __slots__ = ("_next", "last", "results")

    def __init__(self, lane: Lane, first: int, count: int) -> None:
        self.results = Results(lane, first)
        self.last = first + count - 1
        self._next: dict[None, Bank] = {}

    def next(self) -> Bank:
        """The bank behind this one: the same for everybody, whoever asks first."""
        found = self._next.get(None)
        if found is None:
            results = self.results
            count = self.last + 1 - results.first
            found = self._next.setdefault(None, Bank(results.lane, self.last + 1, count))
        return found
