"""How far a stream may be trimmed by age, bytes and records: never further than the limits say, and not much less."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from ringwal.log.retention import NO_LIMITS, Clock, Limits, Payload, Segments, own_settings
from ringwal.log.settings import NEVER_SET, Settings

HOUR = 3600 * 10**9
MISSING = st.sets(st.integers(0, 60))
"""Segments without a side file."""


class Batch(NamedTuple):
    """Of the one stream that is looked at: records, and their payload; in a segment of the log, at a time."""

    segment: int
    time: int
    records: int
    size: int


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Batch], dict[int, int], int]:
    """Batches in log order, the newest time in each segment (others' records count), and the segments with side files that can
    be believed."""
    segment = time = 0
    batches, newest = [], {0: 0}
    for _ in range(draw(st.integers(0, 30))):
        segment += draw(st.sampled_from([0, 0, 0, 1, 2]))
        time += draw(st.integers(0, 5))
        if draw(st.integers(0, 3)):
            batches.append(Batch(segment, time, draw(st.integers(1, 4)), draw(st.integers(0, 50))))
        newest[segment] = time
    return batches, newest, draw(st.integers(0, segment + 1))


@settings(deadline=None, database=None)
@given(log=logs(), age=st.integers(1, 40), later=st.integers(0, 60), missing=MISSING, freed=st.integers(0, 20))
def test_by_age_goes_what_is_older_and_nothing_else(
    log: tuple[list[Batch], dict[int, int], int], age: int, later: int, missing: set[int], freed: int
) -> None:
    batches, newest, sealed = log
    now = max(newest.values()) + later
    found = Segments()
    there = sorted(segment for segment in newest if segment < sealed and segment not in missing)
    for segment in there:
        found.add(segment, newest[segment])
    found.free(freed)
    there = [segment for segment in there if segment >= freed]
    last = found.expired(now, age)
    gone = [batch for batch in batches if last is not None and batch.segment <= last]
    assert all(now - batch.time > age for batch in gone)
    # No segment more could have gone: what is in it, or in one before, is young enough to stay.
    assert all(newest[segment] >= now - age for segment in there if last is None or segment > last)


@settings(deadline=None, database=None)
@given(log=logs(), limit=st.integers(1, 300), steps=st.integers(1, 10), missing=MISSING, known=st.floats(0, 1))
def test_by_bytes_the_newest_payload_stays_and_one_segment_more(
    log: tuple[list[Batch], dict[int, int], int], limit: int, steps: int, missing: set[int], known: float
) -> None:
    """Also where segments come one by one, and are trimmed in between; where some have no side file; and where not all of what
    is behind the last one is known."""
    batches, newest, sealed = log
    payload, start = Payload(), 0
    for segment in sorted(newest):
        part = [batch for batch in batches if batch.segment == segment]
        end = sum(batch.records for batch in batches if batch.segment <= segment)
        behind = sum(batch.size for batch in batches if batch.segment > segment)
        if segment < sealed and part and segment not in missing:
            payload.add(end, sum(batch.size for batch in part))
        if segment < sealed and segment % steps == 0:
            before = payload.before(limit, int(behind * known), start)
            start = max(start, before)
            total, left, offset = sum(batch.size for batch in batches), 0, 0
            for batch in batches:
                left += batch.size if offset >= start else 0
                offset += batch.records
            assert left >= min(limit, total)
    if missing or known < 1 or not sealed:
        return
    # All is known: not a segment more could go.
    last = max((segment for segment in newest if segment < sealed), default=0)
    behind = sum(batch.size for batch in batches if batch.segment > last)
    start = max(start, payload.before(limit, behind, start))
    offset = kept = 0
    next_segment = None
    for batch in batches:
        if offset >= start:
            kept += batch.size
            next_segment = batch.segment if next_segment is None else next_segment
        offset += batch.records
    oldest = sum(batch.size for batch in batches if batch.segment == next_segment)
    assert next_segment is None or next_segment >= sealed or kept - oldest < limit


def test_a_limit_is_the_streams_own_or_the_engines() -> None:
    usual = Limits(age_ns=5, payload_bytes=None, records=7)
    assert usual.over(NEVER_SET) == usual and own_settings(NEVER_SET) == ()
    own = Settings(version=1, age_ns=0, payload_bytes=9)
    assert usual.over(own) == Limits(age_ns=None, payload_bytes=9, records=7)
    assert own_settings(own) == ("retention_age", "retention_bytes")
    assert NO_LIMITS.over(own) == Limits(None, 9, None)


def test_a_clock_that_is_set_ahead_makes_nothing_older() -> None:
    clock = Clock(100 * HOUR, 7 * HOUR)
    assert clock.now(101 * HOUR, 8 * HOUR) == 101 * HOUR  # they agree
    assert clock.now(8760 * HOUR, 9 * HOUR) == 102 * HOUR
    assert clock.jumped(8760 * HOUR, 9 * HOUR) == 8658 * HOUR
    assert clock.jumped(103 * HOUR - 1, 9 * HOUR) == 0
    assert clock.now(3 * HOUR, 10 * HOUR) == 3 * HOUR  # set back: later, but never early
    assert clock.now(104 * HOUR, 11 * HOUR) == 104 * HOUR  # and right again
