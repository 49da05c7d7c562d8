"""The writer's loops: how load is made and how latency is taken.

Closed loop: the next append waits for an earlier one, so a slow store slows its own load; throughput is meant, and the
latency is that of one append under that load. Open loop: every append has an intended time that does not depend on the
store, and its latency counts from that time, so a stall is charged to everyone who would have come during it.

Cost: one append in `stride` is timed (all of them up to 16 outstanding), with two clock reads and two stores into a
plain array. Everything else is the append itself.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

from bench.contender import BlockingSession, PipelinedSession, Plan, Session

clock = time.perf_counter_ns
RESULT_TIMEOUT = 60.0
SAMPLED_ABOVE = 16
SAMPLES_PER_WINDOW = 50


@dataclass(slots=True)
class Tally:
    """What one writer did inside the measured window."""

    records: int = 0
    total: int = 0
    """Warm-up and the end after the window included: what counters and processor time refer to."""
    first_ns: int = 0
    last_ns: int = 0
    late: int = 0
    """Open loop: records whose time had come and that were not even begun when the window ended."""
    samples: array[int] = field(default_factory=lambda: array("Q"))
    """Latency and the clock at confirmation, alternating, in ns."""


def run(session: Session, plan: Plan, start_ns: int) -> Tally:
    """Makes the plan's load from `start_ns` on."""
    opened = plan.scenario.loop == "open"
    if isinstance(session, PipelinedSession):
        return (_pipelined_open if opened else _pipelined_closed)(session.appenders(plan), plan, start_ns)
    assert isinstance(session, BlockingSession)
    return (_blocking_open if opened else _blocking_closed)(session, plan, start_ns)


def _blocking_closed(session: BlockingSession, plan: Plan, start_ns: int) -> Tally:
    tally = Tally()
    commit, save = session.commit, tally.samples.append
    records = [plan.payload()] * plan.commit_records
    begin = start_ns + plan.warm_ns
    end = begin + plan.window_ns
    size, commits = len(records), 0
    for stream in cycle(plan.streams()):
        sent = clock()
        if sent >= end:
            break
        commit(stream, records)
        done = clock()
        tally.total += size
        if done >= begin:
            save(done - sent)
            save(done)
            commits += done <= end
    tally.records = commits * size
    tally.first_ns, tally.last_ns = begin, end
    return tally


def _blocking_open(session: BlockingSession, plan: Plan, start_ns: int) -> Tally:
    tally = Tally()
    save, step, due_at, begin, end = tally.samples.append, *_schedule(plan, start_ns)
    records = [plan.payload()] * plan.commit_records
    for stream in cycle(plan.streams()):
        sleep_until(due_at)
        now = clock()
        if due_at >= end or now >= end:
            break
        due = min(plan.commit_records, 1 + (now - due_at) // step)
        session.commit(stream, records[:due])
        done = clock()
        tally.total += due
        for intended in range(due_at, due_at + due * step, step):
            if intended >= begin:
                save(done - intended)
                save(done)
                tally.records += 1
        due_at += due * step
    tally.late = max(0, (end - due_at) // step)
    tally.first_ns, tally.last_ns = begin, end
    return tally


def _pipelined_closed(appenders: list[Callable[[], Any]], plan: Plan, start_ns: int) -> Tally:
    """Keeps at most `outstanding` appends unconfirmed: the timed ones stand in for the untimed ones between them."""
    tally = Tally()
    save, outstanding = tally.samples.append, plan.scenario.outstanding
    stride = 1 if outstanding <= SAMPLED_ABOVE else max(1, outstanding // SAMPLES_PER_WINDOW)
    limit = max(1, outstanding // stride)
    each = plan.scenario.batch or 1
    begin = start_ns + plan.warm_ns
    end = begin + plan.window_ns
    pending: deque[tuple[Any, int]] = deque()
    turn = cycle(appenders)
    confirmed, before, first, last = 0, 0, 0, 0
    sent = clock()
    while sent < end:
        sent = clock()
        pending.append((next(turn)(), sent))
        for append in islice(turn, stride - 1):
            append()
        while pending:
            receipt, at = pending[0]
            if len(pending) < limit and not receipt.done():
                break
            receipt.result(RESULT_TIMEOUT)
            done = clock()
            pending.popleft()
            confirmed += stride
            if done < begin:
                continue
            if not first:
                first, before = done, confirmed
            last = done
            save(done - at)
            save(done)
    if limit == 1:  # nothing overlaps, so the window's own edges are the exact ones
        tally.records, tally.first_ns, tally.last_ns = len(tally.samples) // 2 * each, begin, max(end, last)
    else:
        tally.records, tally.first_ns, tally.last_ns = (confirmed - before) * each, first, last
    for receipt, _ in pending:
        receipt.result(RESULT_TIMEOUT)
    tally.total = (confirmed + len(pending) * stride) * each
    return tally


def _pipelined_open(appenders: list[Callable[[], Any]], plan: Plan, start_ns: int) -> Tally:
    tally = Tally()
    save, step, due_at, begin, end = tally.samples.append, *_schedule(plan, start_ns)
    pending: deque[tuple[Any, int]] = deque()
    turn = cycle(appenders)
    while due_at < end or pending:
        now = clock()
        if now >= due_at and due_at < end:
            pending.append((next(turn)(), due_at))
            due_at += step
            continue
        if not pending:
            sleep_until(due_at)
            continue
        receipt, intended = pending[0]
        left = (due_at - now) / 1e9 if due_at < end else RESULT_TIMEOUT
        try:
            receipt.result(left)
        except TimeoutError:
            if due_at >= end:
                raise
            continue
        done = clock()
        pending.popleft()
        tally.total += 1
        if intended >= begin:
            save(done - intended)
            save(done)
            tally.records += 1
    tally.first_ns, tally.last_ns = begin, end
    return tally


def _schedule(plan: Plan, start_ns: int) -> tuple[int, int, int, int]:
    """Step between this writer's records, its first intended time, and the window. Writers take turns evenly."""
    step = int(1e9 * plan.scenario.writers / plan.scenario.rate)
    begin = start_ns + plan.warm_ns
    return step, start_ns + step * plan.writer // plan.scenario.writers, begin, begin + plan.window_ns


def sleep_until(when_ns: int) -> None:
    """Sleeps to a point of `clock`; returns at once if it has passed."""
    left = when_ns - clock()
    if left > 0:
        time.sleep(left / 1e9)
