"""The keeper's task that trims streams by what is set for them: age, bytes, records (log/retention.py decides).

    records   from the stream's own words: exact
    age       side files say up to which offset a segment has each stream, and that nothing in it is newer than a time
    bytes     side files say how much payload of a stream is in each segment

So age and bytes go by whole segments, those below the named checkpoint, and nothing is trimmed on facts that are not proven: a
segment without a side file that can be believed keeps what is in it until a later one says more.

Each round looks at all streams with a limit, in C, and asks for what is due of each; what was lost on the way is asked for
again. Of a stream that consumers hold, what they have committed goes.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

from ringwal import views
from ringwal._native import ffi, lib
from ringwal.log.retention import Clock, Payload, Segments
from ringwal.log.sidefile import ROW_BYTES, SideFile, Unproven
from ringwal.processes.context import EngineContext
from ringwal.processes.keeper_line import KeeperEnd

REST_SECONDS = 2.0
"""Between two rounds."""
AGAIN_SECONDS = 0.1
"""Where a round has not come to its end, which it does not in one go."""
ROWS = 4096
AGES = 256
"""Different ones, of the streams that are looked at in one go."""
ASKED_AT_ONCE = 256
"""Trims: the supervisor has others to serve."""
ENDS_KEPT = 4
SEGMENTS_AT_ONCE = 256
GATHERED_AT_ONCE = 32
"""Side files, of which every stream with a limit of bytes is looked up."""


class _Row(NamedTuple):
    """`rw_keeping`."""

    place: int
    number: int
    age_ns: int
    payload_bytes: int
    records: int
    start_offset: int
    confirmed_offset: int
    confirmed_bytes: int
    before: int
    until: int


_ROW = struct.Struct("=IIQQQQQQQQ8x")
assert _ROW.size == ffi.sizeof("rw_keeping")


class _Gathered(NamedTuple):
    """Of a stream with a limit of bytes: its payload by segments, and where it goes on."""

    payload: Payload
    segment: int


class _Base(NamedTuple):
    """What a stream had confirmed when all segments with side files were confirmed, as that drain process counted."""

    confirmed: int
    drain: int


class Retention:
    """See above. One for each life of the keeper."""

    name = "retention"

    def __init__(self, context: EngineContext, line: KeeperEnd) -> None:
        self._context = context
        self._line = line
        self._control = context.control.pointer
        self._size = int(views.engine(self._control).segment_bytes)
        config = context.config
        self._defaults = ffi.new("rw_limits *", [
            config.retention_age_ns or 0, config.retention_bytes or 0, config.retention_records or 0,
        ])  # fmt: skip
        self._rows = ffi.new("rw_keeping[]", ROWS)
        self._place = ffi.new("uint32_t *")
        self._ages = ffi.new("uint64_t[]", AGES)
        self._segments = Segments()
        self._next = 0  # segments below were looked at
        self._ends: dict[int, bytes] = {}
        self._gathered: dict[int, _Gathered] = {}
        self._bases: dict[int, _Base] = {}
        self._met: set[int] = set()  # in this round
        self._behind = False  # there are side files that were not looked at
        started = int(views.engine(self._control).started_ns)
        self._clock = Clock(started + int((time.monotonic() - context.began) * 1e9), _steady())
        self._told_jump = self._told = False

    def work(self) -> float:
        """As `keeper.Task`."""
        self._behind = not self._look_at_segments()
        now, asked = self._now(), 0
        while asked < ASKED_AT_ONCE:
            # Both before the rows: what they have confirmed is behind all segments with side files then, if it is.
            drain = int(views.engine(self._control).drain_pid)
            reached = bool(lib.rw_engine_released_end(self._control) >= self._next * self._size)
            count = int(lib.rw_retention_rows(self._control, self._defaults, False, self._place, self._rows, ROWS))  # noqa: FBT003
            self._expire(count, now)
            due = self._outgrow(self._unpacked(int(lib.rw_retention_due(self._rows, count))), drain, reached)
            for place, number, before in due:
                self._say(asked)
                if not self._line.ask_trim(place, number, before):
                    self._place[0] = 0  # no room for a question: the round begins anew
                    return AGAIN_SECONDS
                asked += 1
            if count < ROWS:
                self._end_round()
                return AGAIN_SECONDS if self._behind else REST_SECONDS
        return AGAIN_SECONDS

    def _say(self, asked: int) -> None:
        """Once: where a limit holds there is something to trim for ever."""
        if not (asked or self._told):
            self._context.log.info("streams are trimmed by what is set for them; `ringwal stat` shows what that is")
        self._told = True

    def _end_round(self) -> None:
        self._place[0] = 0
        for number in self._gathered.keys() - self._met:  # deleted, or without such a limit now
            del self._gathered[number]
            self._bases.pop(number, None)
        self._met.clear()

    def _unpacked(self, count: int) -> list[_Row]:
        return [_Row(*row) for row in _ROW.iter_unpack(ffi.buffer(self._rows, count * _ROW.size))]

    def hindered(self, error: int) -> None:
        """As `keeper.Task`: nobody waits for it, and what is due is asked for later."""

    # ------------------------------------------------------------------------------------------------------- age

    def _look_at_segments(self) -> bool:
        """What side files there are since the last round. False: that was not all."""
        first = int(lib.rw_engine_first_segment(self._control))
        end = int(views.engine(self._control).side_end)
        self._segments.free(first)
        self._next = max(self._next, first)
        until = min(end, self._next + SEGMENTS_AT_ONCE)
        while self._next < until:
            if (side := self._open(self._next)) is not None:
                self._segments.add(self._next, side.newest_ns)
                side.close()
            self._next += 1
        return self._next >= end

    def _now(self) -> int:
        wall, steady = time.time_ns(), _steady()
        jumped = self._clock.jumped(wall, steady)
        if jumped and not self._told_jump:
            self._context.log.warning(
                "the clock was set ahead by %.1f hours: no record becomes older by that until the engine is started again",
                jumped / 3600e9,
            )
        self._told_jump = bool(jumped)
        return self._clock.now(wall, steady)

    def _expire(self, count: int, now: int) -> None:
        oldest: dict[int, int] = {}  # by the segment that is over for them: the largest of these ages
        for age in self._ages[0 : lib.rw_retention_ages(self._rows, count, self._ages, AGES)]:
            segment = self._segments.expired(now, age)
            if segment is not None:
                oldest[segment] = max(oldest.get(segment, 0), age)
        for segment, age in oldest.items():
            ends = self._ends_of(segment)
            with ffi.from_buffer("rw_occupant[]", ends) as held:
                lib.rw_retention_expire(self._rows, count, age, held, len(ends) // ROW_BYTES)

    def _ends_of(self, segment: int) -> bytes:
        """Nothing, if they cannot be believed by now."""
        if segment not in self._ends:
            while len(self._ends) >= ENDS_KEPT:
                del self._ends[next(iter(self._ends))]
            side, ends = self._open(segment), b""
            if side is not None:
                with contextlib.suppress(Unproven):
                    ends = side.ends()
                side.close()
            self._ends[segment] = ends
        return self._ends[segment]

    # ----------------------------------------------------------------------------------------------------- bytes

    def _outgrow(self, rows: list[_Row], drain: int, reached: bool) -> Iterator[tuple[int, int, int]]:
        """Place, number and where it may be trimmed, of all of these that are due."""
        limited = [row.number for row in rows if row.payload_bytes]
        self._met.update(limited)
        if limited:
            self._gather(limited)
        same = int(views.engine(self._control).drain_pid) == drain  # all that the rows count is counted once
        for row in rows:
            before = row.before
            if row.payload_bytes and (found := self._gathered[row.number]).segment >= self._next:
                newer = self._newer(row, drain if same else 0, reached)
                grown = found.payload.before(row.payload_bytes, newer, row.start_offset)
                before = max(before, min(grown, row.confirmed_offset, row.until))
            if before > row.start_offset:
                yield row.place, row.number, before

    def _newer(self, row: _Row, drain: int, reached: bool) -> int:
        """Bytes that the stream has at the least behind all segments with side files. A drain process that dies may count some
        twice: so only what one and the same has counted."""
        base = self._bases.get(row.number)
        if base is not None and base.drain == drain:
            return max(0, row.confirmed_bytes - base.confirmed)
        if reached and drain:
            self._bases[row.number] = _Base(row.confirmed_bytes, drain)
        return 0

    def _gather(self, numbers: list[int]) -> None:
        """What segments have of these streams, oldest segment first: of each as far as there are side files."""
        first = int(lib.rw_engine_first_segment(self._control))
        for number in numbers:
            self._gathered.setdefault(number, _Gathered(Payload(), first))
        begin = min(self._gathered[number].segment for number in numbers)
        until = min(self._next, begin + GATHERED_AT_ONCE)
        self._behind |= until < self._next
        for segment in range(begin, until):
            side = self._open(segment)
            for number in numbers:
                found = self._gathered[number]
                if found.segment == segment:
                    self._gathered[number] = found._replace(segment=segment + 1)
                    self._bases.pop(number, None)  # it counts what this segment has
                    if side is not None:
                        _add(found.payload, side, number)
            if side is not None:
                side.close()

    def _open(self, segment: int) -> SideFile | None:
        try:
            return SideFile.open(self._context.directory, self._context.uuid, self._size, segment)
        except FileNotFoundError:
            return None


def _add(payload: Payload, side: SideFile, number: int) -> None:
    try:
        span = side.span(number)
    except Unproven:
        return
    if span is not None:
        payload.add(span.next, span.payload_bytes)


def _steady() -> int:
    """A clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
