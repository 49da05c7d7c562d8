"""Before and after: the claim that the confirmation of this engine is built on, measured by itself.

`before` keeps one lock: a completion sets its flag and advances the queue inside it, one request a pass. `before-sharded` has
one such lock per stream (the same thing where there is one stream). `after` sets the flag by CAS outside any lock, and whoever
completes the head confirms the whole run behind it. Queue, timers, clock reads, wakes and the drawn I/O times are the
same (bench/before/model.h). I/O is simulated by timers: a disk would drown the difference in its own noise.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from bench import processes
from bench.before import build
from bench.contender import ContenderFailedError

COMPLETERS = 4
MEAN_NS = 100_000
SEED = 7
PATIENCE = 30.0
"""Seconds beyond the window for completer processes to begin and to end."""
TIMES = ("even", "exponential", "heavy-tailed")
SHAPES = (
    ("1 in flight", 1, 1), ("2 in flight", 1, 2), ("8 in flight", 1, 8), ("64 in flight", 1, 64), ("512 in flight", 1, 512),
    ("128 streams x 4", 128, 4), ("2 hot streams x 256", 2, 256),
)  # fmt: skip
"""Name, streams, requests in flight per stream."""
Kind = Literal["threads", "processes"]


@dataclass(frozen=True, slots=True)
class Case:
    """One load; every way gets it with the same I/O times."""

    shape: str
    streams: int
    inflight: int
    times: str
    kind: Kind

    def ways(self) -> tuple[str, ...]:
        """A lock per stream is another thing only where there are several streams."""
        return ("before", "before-sharded", "after") if self.streams > 1 else ("before", "after")


def cases(quick: bool) -> list[Case]:
    """Every shape under every distribution, completers as threads and as processes; a fifth of it in a quick run."""
    times, kinds = (("heavy-tailed",), ("threads",)) if quick else (TIMES, ("threads", "processes"))
    return [Case(*shape, t, kind) for shape in SHAPES for t in times for kind in kinds]  # type: ignore[arg-type]


def measure(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Rows with medians over rounds for each case and way."""
    rounds, window_ns = (1, 100_000_000) if quick else (3, 400_000_000)
    model = build.load()
    dice = random.Random(SEED)
    rows = []
    for case in cases(quick):
        say(f"before-after: {case.shape}, {case.times}, {case.kind}")
        found: dict[str, list[dict[str, float]]] = {way: [] for way in case.ways()}
        for turn in range(rounds):
            order = list(found)
            dice.shuffle(order)
            for way in order:
                found[way].append(run(model, case, way, window_ns, SEED + turn))
        for way, turns in found.items():
            middle = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
            rates = [turn["confirmed_per_s"] for turn in turns]
            rows.append({
                "shape": case.shape, "times": case.times, "completers": case.kind, "way": way, **middle,
                "confirmed_per_s_low": min(rates), "confirmed_per_s_high": max(rates),
            })  # fmt: skip
    return {"completers": COMPLETERS, "mean_io_us": MEAN_NS / 1e3, "rows": rows, "summary": summary(rows)}


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Per shape: the geometric mean of after's throughput over before's, over all I/O times and kinds."""
    pairs: dict[str, list[float]] = {}
    base = {(r["shape"], r["times"], r["completers"]): r["confirmed_per_s"] for r in rows if r["way"] == "before"}
    for row in rows:
        before = base[row["shape"], row["times"], row["completers"]]
        if row["way"] == "after" and before:
            pairs.setdefault(row["shape"], []).append(row["confirmed_per_s"] / before)
    return {shape: statistics.geometric_mean(ratios) for shape, ratios in pairs.items()}


def run(model: Any, case: Case, way: str, window_ns: int, seed: int) -> dict[str, float]:
    """One turn of one way: a fresh model in shared memory, its completers, and their sums.

    Raises:
        ContenderFailedError: a completer failed, or requests were confirmed out of order or lost.
    """
    ffi, lib = model.ffi, model.lib
    memory = mmap.mmap(-1, lib.model_bytes())
    buffer = ffi.from_buffer(memory)
    state = ffi.cast("model *", buffer)
    options = ffi.new("model_options *")
    options.way = lib.MODEL_AFTER if way == "after" else lib.MODEL_BEFORE
    options.times = TIMES.index(case.times)
    options.streams, options.inflight = case.streams, case.inflight
    options.completers, options.locks = COMPLETERS, 1 if way == "before" else case.streams
    options.mean_ns, options.window_ns, options.seed = MEAN_NS, window_ns, seed
    lib.model_init(state, options)
    try:
        if case.kind == "threads":
            _threads(lib, state)
        else:
            complete_in_processes(lib, state, window_ns / 1e9 + PATIENCE)
        return _sums(lib, state, case, window_ns)
    finally:
        ffi.release(buffer)
        memory.close()


def _threads(lib: Any, state: Any) -> None:
    failed: list[int] = []

    def work(i: int) -> None:
        if lib.model_work(state, i) != 0:
            failed.append(i)

    team = [threading.Thread(target=work, args=(i,)) for i in range(COMPLETERS)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    if failed:
        raise ContenderFailedError("a completer had no memory")


def complete_in_processes(lib: Any, state: Any, patience: float) -> None:
    """Runs the completers as children that end with this process, and with it in any case after `patience` seconds.

    Raises:
        ContenderFailedError: one failed, or they did not end; then all of them are killed.
    """
    parent, children = os.getpid(), set[int]()
    try:
        for i in range(COMPLETERS):
            pid = os.fork()
            if pid == 0:
                _complete(lib, state, i, parent)
            children.add(pid)
        deadline = time.monotonic() + patience
        while children:
            for pid in tuple(children):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    children.remove(pid)
                if status:
                    raise ContenderFailedError("a completer process failed")
            if children and time.monotonic() > deadline:
                raise ContenderFailedError(f"{len(children)} completer processes did not end within {patience:g} s")
            time.sleep(0.002)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _complete(lib: Any, state: Any, i: int, parent: int) -> NoReturn:
    """A child: leaves without running anything of the parent's."""
    status = 1
    try:
        processes.die_with(parent)
        status = 0 if lib.model_work(state, i) == 0 else 1
    finally:
        os._exit(status)


def _sums(lib: Any, state: Any, case: Case, window_ns: int) -> dict[str, float]:
    workers = [state.workers[i] for i in range(COMPLETERS)]

    def total(name: str) -> int:
        return sum(int(getattr(worker, name)) for worker in workers)

    confirmed, holds = total("confirmed"), total("holds")
    heads = sum(int(state.streams[i].head) for i in range(case.streams))
    if confirmed != heads or not confirmed:
        raise ContenderFailedError(f"{confirmed} confirmations, but the heads advanced by {heads}")
    latency = [sum(column) for column in zip(*(list(worker.latency) for worker in workers), strict=True)]
    delay = [sum(column) for column in zip(*(list(worker.delay) for worker in workers), strict=True)]
    return {
        "confirmed_per_s": confirmed * 1e9 / window_ns,
        "confirmed_per_hold": confirmed / holds,
        "empty_holds_share": total("empty_holds") / holds,
        "holds_per_confirmation": holds / confirmed,
        "contended_share": total("contended") / holds,
        "lock_wait_ns_per_confirmation": total("wait_ns") / confirmed,
        "lock_held_ns_per_confirmation": total("hold_ns") / confirmed,
        "longest_run": max(int(worker.longest_run) for worker in workers),
        "wakes_per_confirmation": total("wakes") / confirmed,
        **{f"latency_{name}_us": value for name, value in _percentiles(lib, latency).items()},
        **{f"delay_{name}_us": value for name, value in _percentiles(lib, delay).items()},
    }


def _percentiles(lib: Any, buckets: list[int]) -> dict[str, float]:
    """p50, p99, p99.9 in microseconds from 32 buckets an octave (3 % wide)."""
    count, found, seen = sum(buckets), {}, 0
    wanted = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)]
    for i, n in enumerate(buckets):
        seen += n
        while wanted and seen >= wanted[0][1] * count:
            found[wanted.pop(0)[0]] = lib.model_bucket_floor(i) / 1e3
    return found
