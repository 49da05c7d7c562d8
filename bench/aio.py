"""Awaited appends: what an application with an event loop gets, beside what it would do otherwise.

One process, one loop, coroutines that each await their append: of `ringwal.aio`; of the synchronous client behind a thread
that waits and tells the loop, once per batch (the bridge, as users write it); of `redis.asyncio` with `appendfsync always`.
All in one run, in turns of shuffled order, each in a fresh process on a fresh server. And how long the loop is held: by a task
in it that wants to run every millisecond, beside one in an idle loop of another process at the same time.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import report, stats, subject
from bench.contender import ContenderFailedError
from bench.peers.redis_streams import RedisStreams
from bench.processes import Server
from bench.scenario import ONE

CONTENDERS = ("ringwal", "bridge", "redis")
COROUTINES = 64
RECORD_BYTES = 300
OUTSTANDING = 10_000
GOALS = (("ringwal", "bridge", 0.9), ("ringwal", "redis", 9.0))


class Loads:
    """Starts loads in fresh processes, each with a fresh server below `directory`."""

    def __init__(self, directory: Path, loop: str, seconds: float, say: Callable[[str], None]) -> None:
        self.directory, self.loop, self.seconds, self.say = directory, loop, seconds, say
        self._turn = 0

    @contextlib.contextmanager
    def server(self, who: str) -> Iterator[tuple[str, Server]]:
        """The place to connect to, and what stops it."""
        self._turn += 1
        place = self.directory / f"{who}-{self._turn}"
        place.mkdir()
        if who == "redis":
            redis = RedisStreams()
            redis.setup(place, ONE)
            try:
                assert redis.server is not None
                yield str(redis.path), redis.server
            finally:
                redis.teardown()
        else:
            server = subject.start(place / "engine", {}, place / "engine.log")
            try:
                yield str(place / "engine"), server
            finally:
                server.stop()

    def begin(self, who: str, place: str, **more: Any) -> subprocess.Popen[str]:
        """A load, in a process of its own."""
        task = {"who": who, "place": place, "loop": self.loop, **more}
        if "outstanding" in task:
            del task["who"]
        else:
            defaults = {"coroutines": COROUTINES, "record_bytes": RECORD_BYTES, "seconds": self.seconds}
            task = {**defaults, **task}
        return subprocess.Popen(
            [sys.executable, "-m", "bench.aio_loads", json.dumps(task)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=subject.CHECKOUT,
            env={**os.environ, "PYTHONPATH": f"{subject.CHECKOUT / 'engine'}"},
        )  # fmt: skip

    def end(self, load: subprocess.Popen[str], patience: float = 60.0) -> dict[str, Any]:
        """What it found."""
        try:
            out, err = load.communicate(timeout=self.seconds + patience)
        except subprocess.TimeoutExpired:
            load.kill()
            out, err = load.communicate()
        if load.returncode:
            raise ContenderFailedError(" | ".join(err.strip().splitlines()[-3:]) or f"ended with {load.returncode}")
        found: dict[str, Any] = json.loads(out)
        return found

    def measure(self, who: str, **more: Any) -> dict[str, Any]:
        """One load on a server of its own."""
        with self.server(who) as (place, _):
            return self.end(self.begin(who, place, **more))


def throughput(loads: Loads, rounds: int, seed: int, contenders: tuple[str, ...] = CONTENDERS) -> dict[str, Any]:
    """Medians over rounds, of contenders in turns."""
    chance = random.Random(seed)
    turns: dict[str, list[dict[str, Any]]] = {who: [] for who in contenders}
    for number in range(rounds):
        for who in chance.sample(contenders, len(contenders)):
            loads.say(f"round {number + 1} of {rounds}: {who}, {loads.loop}")
            turns[who].append(loads.measure(who))
    found: dict[str, Any] = {}
    for who, of in turns.items():
        middle, spread = stats.medians(of)
        found[who] = {"median": middle, "spread": {key: list(ends) for key, ends in spread.items()}}
    found["ratios"] = {
        f"{us}/{them}": statistics.median(
            ours["appends_per_s"] / theirs["appends_per_s"] for ours, theirs in zip(turns[us], turns[them], strict=True)
        )
        for us, them, _ in GOALS
        if us in turns and them in turns
    }
    return found


def hold(loads: Loads, contenders: tuple[str, ...] = CONTENDERS) -> dict[str, Any]:
    """How late a beat of the loop under load is, and, at the same time, one of an idle loop."""
    found: dict[str, Any] = {}
    for who in contenders:
        loads.say(f"hold: {who}, {loads.loop}")
        with loads.server(who) as (place, _):
            idle = loads.begin("idle", place)
            load = loads.begin(who, place, beat=True)
            found[who] = {"loaded": loads.end(load)["late_us"], "idle": loads.end(idle)["late_us"]}
    return found


def hold_over_restart(loads: Loads, *, autostart: bool) -> dict[str, Any]:
    """The same while the engine is killed and started again: by the client, or by somebody else."""
    loads.say(f"hold over a restart by {'the client' if autostart else 'another'}, {loads.loop}")
    with loads.server("ringwal") as (place, server):
        load = loads.begin("ringwal", place, beat=True, reconnect=True, autostart=autostart)
        time.sleep(0.5 + loads.seconds / 2)
        with contextlib.ExitStack() as stack:
            killed = time.perf_counter()
            server.stop(9)
            if not autostart:
                again = subject.start(Path(place), {}, Path(place).with_suffix(".again.log"))
                stack.callback(again.stop)
            found = loads.end(load)
            for worst in found["late_us"]["worst"]:
                worst["after_kill_s"] = worst.pop("at_s") - killed
            return found


def outstanding(loads: Loads) -> dict[str, Any]:
    """10,000 awaits, half of them cancelled."""
    loads.say(f"{OUTSTANDING} awaits, {loads.loop}")
    with loads.server("ringwal") as (place, _):
        return loads.end(loads.begin("", place, outstanding=OUTSTANDING))


PARTS = ("throughput", "hold", "restart", "outstanding")


def measure(
    directory: Path, seconds: float, rounds: int, say: Callable[[str], None], loop: str = "uvloop",
    parts: tuple[str, ...] = PARTS, contenders: tuple[str, ...] = CONTENDERS, seed: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """All of it, by part."""
    with tempfile.TemporaryDirectory(prefix="aio-", dir=directory) as place:
        loads = Loads(Path(place), loop, seconds, say)
        found: dict[str, Any] = {}
        if "throughput" in parts:
            found["throughput"] = throughput(loads, rounds, seed, contenders)
        if "hold" in parts:
            found["hold"] = hold(loads, contenders)
        if "restart" in parts:
            found["restart"] = {
                who: hold_over_restart(loads, autostart=auto) for who, auto in (("another", False), ("the client", True))
            }
        if "outstanding" in parts:
            found["outstanding"] = outstanding(loads)
        return found


def tables(found: dict[str, Any]) -> str:
    """For people."""
    number, text = report.number, []
    if "throughput" in found:
        rows: list[tuple[str, ...]] = [("", "appends/s", "p50 us", "p99 us", "CPU us/append")]
        for who, cell in found["throughput"].items():
            if who != "ratios":
                of = cell["median"]
                keys = ("appends_per_s", "append_us.p50", "append_us.p99", "cpu_us_per_append")
                rows.append((who, *(number(of[key]) for key in keys)))
        text += [report.table(rows), ""]
        text += [f"{pair}: {ratio:.2f}" for pair, ratio in found["throughput"]["ratios"].items()] + [""]
    if "hold" in found or "restart" in found:
        rows = [("loop held, ms", "p50", "p99", "p99.9", "max")]
        for who, cell in found.get("hold", {}).items():
            rows += [(f"{who}, {how}", *_late(cell[how])) for how in ("loaded", "idle")]
        rows += [(f"engine restarted by {who}", *_late(cell["late_us"])) for who, cell in found.get("restart", {}).items()]
        text += [report.table(rows), ""]
    for name in ("outstanding", "tails"):
        if name in found:
            text.append(f"{name}: {json.dumps(found[name])}")
    return "\n".join(text)


def _late(cell: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{cell[key] / 1e3:.2f}" if key in cell else "" for key in ("p50", "p99", "p999", "max"))
