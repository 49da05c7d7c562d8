"""The client's end of a lane: banks of numbers, waiting, back-pressure."""

from __future__ import annotations

import array
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ringwal import views
from ringwal._native import ffi, lib
from ringwal.client.results import FAILED, PENDING, Bank, Ending, Results, settled
from ringwal.client.verdicts import error_of, is_refusal, is_refused
from ringwal.errors import (
    AckTimeout,
    BackpressureTimeout,
    ClosedError,
    EngineFailed,
    Error,
    ForkError,
    NotRunning,
    StorageFull,
    describe_full,
    of_code,
)
from ringwal.greenlets import Rests, patched
from ringwal.steps import Rest, Steps

if TYPE_CHECKING:
    from ringwal.client.bell import Bell

SLICE = 0.1
SLICE_NS = int(SLICE * 1e9)
"""How long one wait in C may last before Python looks at signals, the engine and the deadline."""

SPIN_NS = 300_000
"""How long a waiting caller gives the processor away in a loop before it parks. Measured: parking costs about 20 us a hop."""

ROOM_REST = 1e-3
"""Seconds between two looks for room where threads are greenlets."""

BANKS = 8
"""A lane's completion cells in so many banks: one is given out anew when all its appends are confirmed."""

NUMBERS = 1 << 32
"""Numbers of one lane: its generation is in the bits above."""


class Told:
    """What steps wait for: that something is said to a lane, for so many seconds at the most. Sent: what C found."""

    __slots__ = ("lane", "look", "rests", "seconds", "stream")

    def __init__(
        self,
        lane: Lane,
        look: Callable[[int], int],
        seconds: float,
        stream: int | None = None,
        rests: Rests | None = None,
    ) -> None:
        """``look`` waits in C for so many nanoseconds; ``stream`` is the handle of the one that is followed, if one is, or
        `lib.RW_ANY_STREAM`. ``rests`` are those between the looks of one long wait."""
        self.lane = lane
        self.look = look
        self.seconds = seconds
        self.stream = stream
        self.rests = rests

    def park(self) -> int:
        if patched():  # a wait in C would hold the others
            if self.rests is None:
                time.sleep(min(ROOM_REST, self.seconds))
            else:
                self.rests.take(self.seconds)
            return self.look(0)
        return self.look(int(min(SLICE_NS, self.seconds * 1e9)))


class Completion:
    """What steps wait for: the end of one append, for so many seconds (None: for ever). Sent: its offset, or
    why there is none. Thrown: `AckTimeout`."""

    __slots__ = ("lane", "number", "results", "stream", "timeout")

    def __init__(self, lane: Lane, results: Results, number: int, stream: str, timeout: float | None) -> None:
        self.lane = lane
        self.results = results
        self.number = number
        self.stream = stream
        self.timeout = timeout

    def park(self) -> int:
        return self.lane.wait(self.results, self.number, self.stream, self.timeout)


_completion_wait = lib.rw_completion_wait
_monotonic = time.monotonic


class Lane:
    """One lane of shared memory and the results of what was published into it.

    C gives out the numbers, and only as many as it was granted: `next_bank` keeps the results of the oldest bank before
    it grants that bank's cells again, so the drain can never overrun a result that somebody still wants, and with all
    cells outstanding the next append waits for the oldest.

    Threads share a lane, and a signal handler or a destructor may use it while its own thread is in the middle of any of
    these lines, or end any of them with an exception. So there is no lock that could be met again or left behind: what a
    step changes it changes by one store, or one `setdefault`, that is right to repeat, and the next call finishes what an
    interrupted one has left.
    """

    begins_at = 0
    """The first number within the generation: tests begin near the end."""

    def __init__(
        self, *, control: Any, lane: Any, doorbell_fd: int, alive: Callable[[], bool], keep: tuple[object, ...]
    ) -> None:
        """``keep`` holds the mappings, and the doorbell, which a thread may ring while the registration is being closed: they
        are released with the last receipt, as a thread may still be waiting in C."""
        self.control = control
        self._keep = keep
        self.writer = ffi.gc(lib.rw_writer_open(control, lane, doorbell_fd), lib.rw_writer_close)
        if self.writer == ffi.NULL:
            raise MemoryError("no memory for a lane's private state")
        seen = views.lane(lane)
        self.slot = int(seen.slot)
        self.generation = int(seen.generation)
        self.record_limit = int(lib.rw_writer_record_limit(self.writer))
        self.places = int(views.engine(control).completions_per_client)
        self.bank_size = self.places // BANKS
        self.row_max = self.places - self.bank_size + 1
        """So many numbers in a row can be had: the bank of the first one need not be at its begin."""
        self._shut_for: Error | None = None  # said before the writer is shut, for those who meet it shut
        self.ending: dict[None, Ending] = {}  # at most one, which the first `end` puts here
        self._alive = alive
        self.rests = patched()
        """Threads are greenlets: no wait may hold them in C. Looked up again by each wait that takes long."""
        self._told: set[int] = set()  # failed appends whose caller knows
        self._refused: dict[int, tuple[int, int]] = {}  # refused alone: their streams' numbers, and why: `_refused_before`
        self.bell: Bell | None = None
        """Rung for the event loop in which this lane is awaited, if one does; whoever opens the lane puts it here."""
        self.retired = False
        """All numbers are given out and confirmed: whoever meets the lane's end for that takes the next lane."""
        lib.rw_writer_skip(self.writer, self.begins_at)
        self.bank = Bank(self, self.generation * NUMBERS + self.begins_at, self.bank_size)
        """A bank at or before the one that the next number is on: where an append starts to look."""
        self._oldest = self.bank
        """A bank at or before the first one whose results are still in cells only."""
        self._grant(self.bank, BANKS - 1)

    def _grant(self, bank: Bank, further: int) -> None:
        """Allows the numbers of the bank that comes so many behind this one, and all before."""
        for _ in range(further):
            bank = bank.next()
        lib.rw_writer_grant(self.writer, bank.last + 1)  # last: whoever gets one of its numbers finds the bank

    @property
    def lost(self) -> Error | None:
        """Why this lane is of no use any more."""
        ending = self.ending.get(None)
        return None if ending is None else ending.error

    def wait_in(self, other: Lane) -> None:
        """From their next look on, those who wait in this lane, which nobody appends to, wait in the other one."""
        self._keep = (*self._keep, other)  # first: its writer goes with it
        self.writer = other.writer
        if self.bell is not None:
            self.bell.ended()
            self.bell = other.bell

    # ------------------------------------------------------------------------------------------------- results

    def results_of(self, bank: Bank, number: int) -> Results:
        """The results of the bank that ``number`` is on; ``bank`` was `self.bank` before the number was given out."""
        while number > bank.last:
            bank = bank.next()
        self.bank = bank
        return bank.results

    def wait(self, results: Results, number: int, stream: str, timeout: float | None) -> int:
        """The offset, what `is_refused`, or `FAILED`. Raises `AckTimeout`."""
        now = _monotonic()
        # Most waits end with the first call of C: little is looked up before it.
        if self.rests or results.kept is not None or self.ending or (timeout is not None and timeout < SLICE):
            return self._wait(results, number, stream, timeout, now, None)
        found: int = _completion_wait(self.writer, number, SPIN_NS, SLICE_NS)
        return found if found >= 0 else self._wait(results, number, stream, timeout, now, found)

    def _wait(
        self, results: Results, number: int, stream: str, timeout: float | None, began: float, found: int | None
    ) -> int:
        """The rest of `wait`, which began then; `found`: what the first look has found, if there was one."""
        now, spin, left = began, 0 if found is not None else SPIN_NS, SLICE_NS
        deadline = None if timeout is None else now + timeout
        self.rests = patched()
        rests = Rests() if self.rests else None
        while results.kept is None and not self.ending:
            if found is None:
                left = SLICE_NS if deadline is None or deadline - now >= SLICE else max(0, int((deadline - now) * 1e9))
                if rests is not None:
                    spin = left = 0
                found = int(_completion_wait(self.writer, number, spin, left))
            if found >= 0 or is_refused(found):
                return found
            spin = 0
            if found in (lib.RW_PENDING, lib.RW_INTERRUPTED):
                if rests is not None:
                    rests.take(SLICE if deadline is None else deadline - now)
                late = (time.monotonic() - now) * 2e9 > left if rests is None else rests.long()
                if late and not self._alive():  # asking costs more than a wake-up
                    self.end(EngineFailed("the engine ended before this append was confirmed"))
            elif found != lib.RW_FAILED_REQUEST:  # that is looked at by `find`
                self.end(self._why(found))
            if (offset := results.find(number)) != PENDING:
                return offset
            found = None
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise self.late(stream, timeout)
        return results.find(number)

    def late(self, stream: str, timeout: float | None) -> AckTimeout:
        """What a caller is told whose append is not confirmed within so many seconds."""
        full = int(lib.rw_engine_storage_full(self.control))
        waits = f" (the engine waits for space: {describe_full(full)})" if full else ""
        return AckTimeout(
            f"append to {stream!r} not confirmed within {timeout:g} s{waits}; its outcome is unknown, ask again later"
        )

    def count_told(self, number: int) -> None:
        """Somebody is being told how that append ended."""
        self._told.add(number)

    def tell(self, number: int, found: int, stream: str | None = None) -> Error:
        """Why that append failed, of which `wait` has found this; it counts as told from now on."""
        error = self._reason(found, stream)
        self._told.add(number)
        return error

    def _reason(self, found: int, stream: str | None = None) -> Error:
        if is_refused(found):
            return error_of(found, stream)
        error = self.lost
        assert error is not None
        return error

    def _why(self, code: int) -> Error:
        seen = views.engine(self.control)
        return of_code(code, stopped=seen.state == lib.RW_STOPPED, errno=int(seen.error))

    def end(self, error: Error) -> Error:
        """Marks the lane as of no use. Results that are in by now are kept; what is pending ends with this error."""
        self._shut_for = self._shut_for or error
        lib.rw_writer_shut(self.writer)  # first: what is submitted later is refused
        if not self.ending:
            found = {bank.results.first: bank.results.collect(self.bank_size) for bank in self._banks()}
            self.ending.setdefault(None, Ending(error, found))
            if self.bell is not None:
                self.bell.ended()
        return self.ending[None].error

    def fate(self, number: int) -> int:
        """What became of that append, whose bank may be closed: what `Results.find` says."""
        bank = self._oldest if number >= self._oldest.results.first else self.bank
        while number > bank.last:
            bank = bank.next()
        return bank.results.find(number)

    def look_at_engine(self, number: int | None) -> None:
        """Ends the lane if the engine has; ``number`` is that of an append that is awaited."""
        code = lib.RW_PENDING if number is None else lib.rw_completion_settle(self.writer, number, 0)
        if code in (lib.RW_GONE, lib.RW_FAULT):
            self.end(self._why(code))
        elif not self._alive():
            self.end(EngineFailed("the engine ended before this append was confirmed"))

    def end_failed(self) -> None:
        """A block of this lane's could not be written."""
        self.end(of_code(lib.RW_FAILED_REQUEST))

    # --------------------------------------------------------------------------------------------------- flush

    def flush_steps(self, stream: int | None, timeout: float | None) -> Steps[None]:
        """Waits for all appends until now, of one stream or of all; raises the first failure that nobody was told of.

        Of those that were refused alone, the first one speaks for all.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        refused = dict(self._refused_before(stream))
        began = time.monotonic()
        for results, number in self._submitted(stream):
            offset = yield from self._settled(results, number, began, deadline)
            if offset == FAILED and number not in self._told:
                raise self.tell(number, offset)
            if is_refusal(offset) and number not in self._refused:
                refused[number] = offset
        untold = refused.keys() - self._told
        self._told.update(refused)
        if untold:
            raise self._reason(refused[min(untold)])

    def _settled(self, results: Results, number: int, began: float, deadline: float | None) -> Steps[int]:
        """Of one of several that were waited for since then: as `wait`."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            found: int = yield Completion(self, results, number, "", left)
        except AckTimeout:
            waited = time.monotonic() - began
            raise AckTimeout(f"{self.pending()} appends are not confirmed after {waited:.3g} s") from None
        return found

    def unreported(self, stream: int) -> bool:
        """True if an append to that stream failed and nobody was told. The lane has ended."""
        return any(results.find(n) == FAILED and n not in self._told for results, n in self._submitted(stream))

    def untold(self, stream: int) -> Error | None:
        """How an append to that stream failed of which nobody was told. Waits for none."""
        for number, found in self._refused_before(stream):
            if number not in self._told:
                return self._reason(found)
        for results, number in self._submitted(stream):
            found = results.find(number)
            if (found == FAILED or (is_refusal(found) and number not in self._refused)) and number not in self._told:
                return self._reason(found)
        return None

    def pending(self, stream: int | None = None) -> int:
        """How many appends have no fate yet, of one stream or of all."""
        return sum(results.find(number) == PENDING for results, number in self._submitted(stream))

    def _submitted(self, stream: int | None) -> Iterator[tuple[Results, int]]:
        """The appends on open banks until now. All earlier ones are confirmed, or in `_refused`.

        A bank whose cells are given out again meanwhile may yield numbers of other streams, which is harmless: all of its
        appends are confirmed, or in `_refused`, and kept.
        """
        end = int(lib.rw_writer_next(self.writer))
        wanted = lib.RW_ANY_STREAM if stream is None else stream
        for bank in self._banks():
            to = min(bank.last + 1, end)
            number = bank.results.first
            while (number := int(lib.rw_submitted_next(self.writer, wanted, number, to))) < to:
                yield bank.results, number
                number += 1

    def _banks(self) -> Iterator[Bank]:
        """The banks whose numbers may have been given out, from the oldest open one on."""
        bank, end = self._oldest, int(lib.rw_writer_granted(self.writer))
        while bank.results.first < end:
            if bank.results.first + self.places >= end:  # else its cells are a later bank's, and its results are kept
                yield bank
            bank = bank.next()

    # ------------------------------------------------------------------------------------------- back-pressure

    def used_up(self) -> bool:
        """True if this lane has no number left."""
        granted = int(lib.rw_writer_granted(self.writer))
        return granted + self.bank_size > (self.generation + 1) * NUMBERS

    def wind_up_steps(self, count: int, deadline: float) -> Steps[bool]:
        """Waits until the last number is given out and all are confirmed. False: ``count`` are left after all, for the next
        append. Fewer are for nobody.

        Another thread may be between its permit and its number, in C: its append is not yet among those that can be waited
        for. It gives the permit back, or gets the number.

        Raises:
            BackpressureTimeout, StorageFull: not confirmed by then. Nothing was appended.
        """
        while lib.rw_writer_unfinished(self.writer):
            if lib.rw_writer_permits(self.writer) >= count:
                return False
            lib.rw_writer_burn(self.writer, count)
            if time.monotonic() >= deadline:
                raise self._no_room("the last append of this lane is not under way in time; nothing was appended")
            yield Rest(0.0)
        began = time.monotonic()
        try:
            for results, number in self._submitted(None):
                yield from self._settled(results, number, began, deadline)
        except AckTimeout as error:
            raise self._no_room(f"{error}; nothing was appended") from None
        return True

    def retire(self) -> None:
        """After `wind_up_steps`: no more appends. What was appended is confirmed, and stays so for its receipts."""
        self.retired = True
        self.end(Error("this lane has no number left", outcome="unknown"))

    def next_bank_steps(self, count: int, deadline: float) -> Steps[None]:
        """Grants banks of numbers when the oldest banks' appends are confirmed, up to ``count`` numbers in a row.

        Raises:
            BackpressureTimeout, StorageFull: not confirmed by then. NotRunning: the lane has ended. Nothing was appended.
        """
        while True:
            # Before the look whether there are more: what is granted below is of no effect if another thread was quicker.
            bank = self._oldest
            lost = self.lost
            if lib.rw_writer_permits(self.writer) >= count or self.used_up() or self.retired:
                return
            if lost is not None:
                raise refusal(lost) from lost
            oldest = bank.results
            if oldest.kept is None:
                # While others give its cells out again, cells are found that hold none of its numbers: not all of it then.
                found = oldest.collect(self.bank_size)
                if settled(found):
                    self._note_refused(oldest.first, found)
                    oldest.kept = found
            if oldest.kept is not None:
                if self.bell is not None:
                    self.bell.deliver()  # while the cells are still theirs
                self._grant(bank, BANKS)
                self._oldest = bank.next()
                continue
            number = oldest.first + next(i for i, code in enumerate(found) if code < 0 and not is_refused(code))
            left = deadline - time.monotonic()
            if left <= 0:
                late = f"{self.places} appends are outstanding and the oldest is not confirmed in time; nothing was appended"
                raise self._no_room(late)
            code = yield Told(self, partial(lib.rw_completion_settle, self.writer, number), left)
            if code == lib.RW_FAILED_REQUEST:
                self.end_failed()
            elif code < 0 and code not in (lib.RW_PENDING, lib.RW_INTERRUPTED) and not is_refused(code):
                self.end(self._why(code))
            elif code < 0 and not self._alive():
                self.end(EngineFailed("the engine ended before this append was confirmed"))

    def _refused_before(self, stream: int | None) -> Iterator[tuple[int, int]]:
        """The appends that were refused alone, of all streams or of this one, on banks that are open no more; and why."""
        wanted = None if stream is None else lib.rw_handle_number(stream)
        for number, (of, found) in list(self._refused.items()):
            if wanted in (None, of):
                yield number, found

    def _note_refused(self, first: int, found: array.array[int]) -> None:
        """Before the cells of these numbers are given out again, with which their streams are forgotten."""
        for number, code in enumerate(found, first):
            if is_refusal(code) and number not in self._told:
                # The first one to note it did so before the number's cell was another's.
                self._refused.setdefault(number, (int(lib.rw_submitted_stream(self.writer, number)), code))

    def refused_steps(self, code: int, count: int, payload_bytes: int, deadline: float, timeout: float) -> Steps[None]:
        """What to do about an append of ``count`` numbers that was not published: returns if it may try again, or raises."""
        if self.retired:
            return None
        if code == lib.RW_MAINTENANCE:
            return (yield from self.next_bank_steps(count, deadline))
        if code == lib.RW_TOO_LARGE:
            raise of_code(code, size=payload_bytes, limit=self.record_limit)
        if code == lib.RW_BAD:
            raise ValueError("the lengths of the batch are not those of its data; nothing was appended")
        if code != lib.RW_FULL:
            if code == lib.RW_GONE and not self.ending and self._finishing():
                raise NotRunning("the engine is stopping; nothing was appended")
            error = self.end(self._shut_for or self._why(code))
            raise refusal(error) from error
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._no_room(f"no room in this client's lane within {timeout:g} s; nothing was appended")
        yield Told(self, partial(lib.rw_wait_room, self.writer, payload_bytes), left)
        if not self._alive():
            error = self.end(EngineFailed("the engine ended before this append was confirmed"))
            raise refusal(error) from error
        return None

    def _finishing(self) -> bool:
        """True if the engine takes nothing any more and still completes what it has taken."""
        return bool(lib.rw_engine_state(self.control) == lib.RW_STOPPING) and self._alive()

    def _no_room(self, otherwise: str) -> Error:
        """The append timeout has passed: because the disk is full, or because the engine is slow (``otherwise``)."""
        full = int(lib.rw_engine_storage_full(self.control))
        if not full:
            return BackpressureTimeout(otherwise)
        return StorageFull(
            f"this append was not made: the engine cannot prepare another segment ({describe_full(full)});"
            " then it goes on by itself",
            full,
        )

    # ------------------------------------------------------------------------------------------------- life cycle

    def forked(self) -> None:
        """In the child of a fork: the lane stays the parent's."""
        if self.bell is not None:
            self.bell.forked()
            self.bell = None
        self.end(ForkError("this receipt was made before a fork; only the parent can wait for it"))


def refusal(lost: Error) -> Error:
    """What an append is told that met the end of its lane."""
    kind = ClosedError if isinstance(lost, ClosedError) else NotRunning
    return kind(f"nothing was appended: {str(lost).removesuffix(' before this append was confirmed').rstrip(',')}")
