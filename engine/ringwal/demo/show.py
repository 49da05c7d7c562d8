"""The demo from curtain to curtain: start, write, kill, kill everything, start again, read back, count."""

from __future__ import annotations

import bisect
import contextlib
import operator
import os
import random
import shutil
import signal
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import ringwal
from ringwal.demo import DemoError, corpus
from ringwal.demo.host import EngineProcess, Writers
from ringwal.demo.journal import Kind, Row, read
from ringwal.demo.oracle import Oracle, Verdict
from ringwal.exit_codes import HUNG_UP, TERMINATED

TARGETS = ("wal", "drain", "writer", "wal", "drain")
LABELS = {"wal": "the WAL process", "drain": "the drain process", "writer": "a writer"}
REPLACE_TIMEOUT = 10.0  # seconds until a killed engine process must have been replaced
AROUND_NS = 500_000_000  # a wait that touches this long after a kill is put down to it
READ_RECORDS = 20_000
RECORDS_MAX = 1_500_000  # confirmed: on a fast machine the writing ends early, so that checking takes seconds only
CONNECT_TIMEOUT = 10.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Kill:
    """One SIGKILL: whom, when since the writers were busy, and the longest wait of a surviving writer around it."""

    target: str
    pid: int
    at_seconds: float
    longest_gap_ms: float


@dataclass
class Result:
    """What the demo found; the fields are the keys of `demo --json`."""

    ok: bool
    seed: int
    writers: int
    streams: int
    confirmed: int
    recovered: int
    lost: int
    duplicated: int
    out_of_order: int
    invented: int
    appends_per_second: int
    appends_per_sync: float
    recovery_seconds: float
    quiet_gap_ms: float
    kills: list[Kill]
    wrong: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _Shot(NamedTuple):
    """A SIGKILL just sent, by time.monotonic_ns()."""

    target: str
    pid: int
    when_ns: int


@dataclass
class _Act:
    """What is known when the engine has just been killed."""

    kills: list[_Shot]
    began: float  # time.monotonic()
    appends_per_sync: float


def play(seed: int, seconds: float, writers: int, parent: Path | None, say: Say) -> Result:
    """Runs the whole demo in a temporary directory of `parent` and cleans it up, also when interrupted.

    `seconds` is how long the writers write; less where they are fast. Raises DemoError if the demo itself cannot go on.
    """
    room = Path(tempfile.mkdtemp(prefix="ringwal-demo-", dir=parent))
    directory, log = room / "engine", room / "engine.log"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, room, ignore_errors=True)
        check = stack.enter_context(_interruptible())
        first = EngineProcess(directory, log)
        stack.callback(first.stop)
        group = stack.enter_context(contextlib.closing(Writers(directory, room, writers)))
        act = _write_and_kill(first, group, directory, dice=random.Random(seed), seconds=seconds, say=say)
        check()
        group.join(REPLACE_TIMEOUT)
        began = time.monotonic()
        second = EngineProcess(directory, log)
        stack.callback(second.stop)
        recovery_seconds = time.monotonic() - began
        say(f"started again: ready after {recovery_seconds:.2f} s; reading everything back")
        check()
        result = _judge(directory, group, act, seed, recovery_seconds)
        check()
        return result


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Ctrl-C, SIGTERM and SIGHUP unwind everything, so that nothing is left behind.

    An exception that a signal handler raises is lost where Python runs a finalizer at that moment. So the signal is noted
    too, and the function this yields raises what was lost.
    """
    noted: list[int] = []

    def check() -> None:
        if noted:
            codes = {signal.SIGTERM: TERMINATED, signal.SIGHUP: HUNG_UP}
            raise SystemExit(codes[signal.Signals(noted[0])]) if noted[0] in codes else KeyboardInterrupt

    def leave(number: int, _frame: object) -> None:
        noted.append(number)
        check()

    heeded = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in heeded}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_and_kill(
    host: EngineProcess, group: Writers, directory: Path, *, dice: random.Random, seconds: float, say: Say
) -> _Act:
    """Lets the writers work for `seconds`, kills at random moments on the way and the whole engine at the end."""
    with ringwal.connect(directory, timeout=CONNECT_TIMEOUT) as watch:
        group.wait_busy(REPLACE_TIMEOUT)
        began = time.monotonic()
        say(f"{len(group.journals)} writers at work")
        kills = []
        for target, moment in _plan(dice):
            _pause(moment, began, seconds, group)
            kills.append(_kill(target, group, watch, dice))
            say(f"{time.monotonic() - began:5.2f} s  SIGKILL to {LABELS[target]} (pid {kills[-1].pid})")
        _pause(1.0, began, seconds, group)
        counters = watch.status()["counters"]
        group.expect_alive()
        host.kill()
        say(f"{time.monotonic() - began:5.2f} s  SIGKILL to the whole engine, all writers at work")
    return _Act(kills, began, appends_per_sync=counters["wal_requests"] / max(1, counters["wal_writes"]))


def _plan(dice: random.Random) -> list[tuple[str, float]]:
    """(target, moment) of each kill: a random order, and a random moment in each of as many equal parts of the act."""
    order = dice.sample(TARGETS, len(TARGETS))
    return [(target, (n + 0.3 + 0.6 * dice.random()) / (len(order) + 0.5)) for n, target in enumerate(order)]


def _pause(moment: float, began: float, seconds: float, group: Writers) -> None:
    """Until this share of the act is over, 0 to 1, in time or in records; watches that nobody dies uninvited."""
    while max((time.monotonic() - began) / seconds, group.confirmed() / RECORDS_MAX) < moment:
        group.expect_alive()
        time.sleep(0.01)


def _kill(target: str, group: Writers, watch: ringwal.Client, dice: random.Random) -> _Shot:
    if target == "writer":
        now = time.monotonic_ns()
        return _Shot(target, group.kill(dice.choice(sorted(set(range(len(group.journals))) - group.killed))), now)
    pid = watch.status()[f"{target}_pid"]
    now = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + REPLACE_TIMEOUT
    while watch.status()[f"{target}_pid"] in (None, pid):
        if time.monotonic() > deadline:
            raise DemoError(f"{LABELS[target]} was not replaced within {REPLACE_TIMEOUT:.0f} s")
        time.sleep(0.005)
    return _Shot(target, pid, now)


def _judge(directory: Path, group: Writers, act: _Act, seed: int, recovery_seconds: float) -> Result:
    oracle = Oracle()
    heard: list[array[int]] = []  # when each surviving writer learnt of its confirmations, ns
    span = [0, 0]
    for writer, journal in enumerate(group.journals):
        times = array("Q")
        oracle.add_writer(str(writer), _noting(read(journal), times))
        span = [min(span[0] or times[0], times[0]), max(span[1], times[-1])]
        if writer not in group.killed:
            heard.append(times)
    found = _read_back(directory, oracle)

    def gap(begin_ns: int) -> float:
        return _longest_gap(heard, begin_ns, begin_ns + AROUND_NS)

    return Result(
        ok=found.kept(),
        seed=seed,
        writers=len(group.journals),
        streams=len(corpus.streams(corpus.sources())),
        confirmed=found.confirmed,
        recovered=found.recovered,
        lost=found.lost + found.misplaced,
        duplicated=found.duplicated,
        out_of_order=found.reordered,
        invented=found.invented,
        appends_per_second=round(found.confirmed * 1e9 / max(1, span[1] - span[0])),
        appends_per_sync=round(act.appends_per_sync, 1),
        recovery_seconds=round(recovery_seconds, 3),
        quiet_gap_ms=max(gap(shot.when_ns - AROUND_NS) for shot in act.kills),
        kills=[Kill(s.target, s.pid, round(s.when_ns / 1e9 - act.began, 2), gap(s.when_ns)) for s in act.kills],
        wrong=_wrong(found),
    )


def _noting(rows: Iterator[Row], confirmed_ns: array[int]) -> Iterator[Row]:
    """Lets the rows through, and keeps when confirmations were seen."""
    for row in rows:
        if row.kind == Kind.CONFIRMED:
            confirmed_ns.append(row.when_ns)
        yield row


def _read_back(directory: Path, oracle: Oracle) -> Verdict:
    """Reads every stream of the restarted engine to its end."""
    with ringwal.connect(directory, timeout=CONNECT_TIMEOUT) as client:
        for info in client.streams():
            start = 0
            while records := client.stream(info.name).read(start, max_records=READ_RECORDS):
                oracle.take_records(info.name, records)
                start = records[-1].offset + 1
    return oracle.close()


def _wrong(found: Verdict) -> dict[str, str]:
    """A sentence for each kind of what is wrong, by the keys of `Result`."""
    names = {"misplaced": "lost", "reordered": "out_of_order"}
    return {names.get(kind, kind): sentence for kind, sentence in found.first.items()} or (
        {"notes": "; ".join(found.notes)} if found.notes else {}
    )


def _longest_gap(heard: Sequence[Sequence[int]], begin_ns: int, end_ns: int) -> float:
    """The longest time, in ms, between two confirmations of one writer that touches the span from begin to end."""
    longest = 0
    for times in heard:
        first = max(0, bisect.bisect_right(times, begin_ns) - 1)
        last = bisect.bisect_left(times, end_ns) + 1
        near = times[first:last]
        longest = max([longest, *map(operator.sub, near[1:], near)])
    return round(longest / 1e6, 1)
