"""The writer's loops: how load is made and how latency is taken.

Closed loop: the next append waits for an earlier one, so a slow store slows its own load; throughput is meant, and the
latency is that of one append under that load. Open loop: every append has an intended time that does not depend on the
store, and its latency counts from that time, so a stall is charged to everyone who would have come during it.

One rule for all loops. Load is made from the start on through warm-up, window and cool-down, so that every writer is
measured beside all the others. Throughput counts what was confirmed inside the window, over exactly the window. A latency is
sampled if its append was sent (open loop: intended) before the window's end and confirmed after its begin, also if that
confirmation came in the cool-down or later.

Cost: one append in `stride` is timed (all of them up to 16 outstanding) and stands for the others of its group, with two
clock reads, one call and two stores into a plain array. So above 16 outstanding the count of a window is a multiple of
`stride`. With one outstanding everybody goes through the same loop. Everything else is the append itself.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from math import gcd
from typing import Any

from bench.contender import BlockingSession, PipelinedSession, Plan, Session

clock = time.perf_counter_ns
RESULT_TIMEOUT = 60.0
SAMPLED_ABOVE = 16
SAMPLES_PER_WINDOW = 50
STRIDE_MIN = 4
"""Above `SAMPLED_ABOVE`. Asking each of 64 receipts halved what the engine could do, and its peers were asked once a commit."""


@dataclass(slots=True)
class Tally:
    """What one writer did: its load over all of the turn, and what of it counts."""

    begin: int
    end: int
    """The measured window."""
    stop: int
    """The end of the cool-down: no load is made from then on."""
    records: int = 0
    """Confirmed inside the window."""
    total: int = 0
    """Warm-up and cool-down included: what counters and processor time refer to."""
    late: int = 0
    """Open loop: records whose time came before the window's end and that were not begun by then."""
    samples: array[int] = field(default_factory=lambda: array("Q"))
    """Latency and the clock at confirmation, alternating, in ns."""

    @classmethod
    def of(cls, plan: Plan, start_ns: int) -> Tally:
        """An empty one with the plan's times."""
        begin = start_ns + plan.warm_ns
        end = begin + plan.window_ns
        return cls(begin, end, end + plan.cool_ns)

    def confirm(self, sent: int, done: int, count: int) -> None:
        """`count` records were confirmed, one of which was timed."""
        self.total += count
        if done >= self.begin:
            if done <= self.end:
                self.records += count
            if sent < self.end:
                self.samples.append(done - sent)
                self.samples.append(done)

    def give_up(self, due_at: int, step: int, now: int) -> int:
        """Counts what was due before the window's end and is not begun `now`, after it; returns what is due next.

        Each leaves the time that it has waited so far: less than it would have taken, but overload does not hide.
        """
        while due_at < self.end:
            self.late += 1
            self.samples.append(now - due_at)
            self.samples.append(now)
            due_at += step
        return due_at


def run(session: Session, plan: Plan, start_ns: int) -> Tally:
    """Makes the plan's load from `start_ns` on."""
    opened = plan.scenario.loop == "open"
    if isinstance(session, PipelinedSession):
        appenders = session.appenders(plan)
        if opened:
            return _pipelined_open(appenders, plan, start_ns)
        if plan.scenario.outstanding > 1:
            return _pipelined_closed(appenders, plan, start_ns)
        return _one_at_a_time([_awaited(append) for append in appenders], plan.scenario.batch or 1, plan, start_ns)
    assert isinstance(session, BlockingSession)
    if opened:
        return _blocking_open(session, plan, start_ns)
    records = [plan.payload()] * plan.commit_records
    commits = [partial(session.commit, stream, records) for stream in plan.streams()]
    return _one_at_a_time(commits, len(records), plan, start_ns)


def _awaited(append: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: append().result(RESULT_TIMEOUT)


def _one_at_a_time(commits: Sequence[Callable[[], Any]], size: int, plan: Plan, start_ns: int) -> Tally:
    """Calls that return when `size` records are durable, one behind the other: the same loop for everybody."""
    tally = Tally.of(plan, start_ns)
    confirm, stop = tally.confirm, tally.stop
    for commit in cycle(commits):
        sent = clock()
        if sent >= stop:
            break
        commit()
        done = clock()
        confirm(sent, done, size)
    return tally


def _blocking_open(session: BlockingSession, plan: Plan, start_ns: int) -> Tally:
    tally = Tally.of(plan, start_ns)
    step, due_at = _schedule(plan, start_ns)
    records = [plan.payload()] * plan.commit_records
    for stream in cycle(plan.streams()):
        sleep_until(due_at)
        now = clock()
        if now >= tally.end > due_at:
            due_at = tally.give_up(due_at, step, now)
            sleep_until(due_at)
            now = clock()
        if due_at >= tally.stop or now >= tally.stop:
            break
        due = min(plan.commit_records, 1 + (now - due_at) // step)
        session.commit(stream, records[:due])
        done = clock()
        for intended in range(due_at, due_at + due * step, step):
            tally.confirm(intended, done, 1)
        due_at += due * step
    return tally


def timed_one_in(outstanding: int, streams: int) -> int:
    """The stride: about a fiftieth of what is outstanding, but about four at least; of those the one that fills it best.

    It has no divisor in common with the number of streams: else the timed appends would visit the same few for ever.
    """
    if outstanding <= SAMPLED_ABOVE:
        return 1
    wanted = max(STRIDE_MIN, outstanding // SAMPLES_PER_WINDOW)
    near = [n for n in range(max(1, wanted // 2), wanted * 3 // 2 + 1) if gcd(n, streams) == 1]
    return max(near or [1], key=lambda n: (outstanding // n * n, -abs(n - wanted)))


def _pipelined_closed(appenders: list[Callable[[], Any]], plan: Plan, start_ns: int) -> Tally:
    """Keeps at most `outstanding` appends unconfirmed: the timed ones stand in for the untimed ones between them."""
    tally = Tally.of(plan, start_ns)
    confirm, stop, outstanding = tally.confirm, tally.stop, plan.scenario.outstanding
    stride = timed_one_in(outstanding, len(appenders))
    limit, group = max(1, outstanding // stride), stride * (plan.scenario.batch or 1)
    pending: deque[tuple[Any, int]] = deque()
    turn = cycle(appenders)
    while (sent := clock()) < stop:
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
            confirm(at, done, group)
    for receipt, at in pending:
        receipt.result(RESULT_TIMEOUT)
        done = clock()
        confirm(at, done, group)
    return tally


def _pipelined_open(appenders: list[Callable[[], Any]], plan: Plan, start_ns: int) -> Tally:
    tally = Tally.of(plan, start_ns)
    step, due_at = _schedule(plan, start_ns)
    pending: deque[tuple[Any, int]] = deque()
    turn = cycle(appenders)
    while True:
        now = clock()
        if now >= tally.end > due_at:
            due_at = tally.give_up(due_at, step, now)
        going = due_at < tally.stop and now < tally.stop
        if going and now >= due_at:
            pending.append((next(turn)(), due_at))
            due_at += step
            if not pending[0][0].done():  # behind its time, too, a loop sees what is confirmed
                continue
        if not pending:
            if not going:
                return tally
            sleep_until(due_at)
            continue
        receipt, intended = pending[0]
        try:
            receipt.result(max(0.0, (due_at - now) / 1e9) if going else RESULT_TIMEOUT)
        except TimeoutError:
            if not going:
                raise
            continue
        done = clock()
        pending.popleft()
        tally.confirm(intended, done, 1)


def _schedule(plan: Plan, start_ns: int) -> tuple[int, int]:
    """Step between this writer's records and its first intended time. Writers take turns evenly."""
    step = int(1e9 * plan.scenario.writers / plan.scenario.rate)
    return step, start_ns + step * plan.writer // plan.scenario.writers


def sleep_until(when_ns: int) -> None:
    """Sleeps to a point of `clock`; returns at once if it has passed."""
    left = when_ns - clock()
    if left > 0:
        time.sleep(left / 1e9)
