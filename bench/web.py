"""A web service that answers 200 only when the body is durable: requests a second, beside the same service on another store.

FastAPI under uvicorn, several worker processes that share one port by SO_REUSEPORT, and one client process with connections
that stay. The handler awaits `ringwal.aio`; or `redis.asyncio` on a server with `appendfsync always`; or nothing at all, which
is what the service itself costs. All in one run, in turns of shuffled order, each on fresh workers and a fresh store; after
each turn the store is asked whether it has what was answered.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import aio, report, stats, subject
from bench.aio_loads import STREAM
from bench.contender import ContenderFailedError, missing, optional
from bench.peers.redis_streams import RedisStreams
from bench.processes import Server, end_with

CONTENDERS = ("ringwal", "redis", "nothing")
RECORD_BYTES = 300
GOALS = (("ringwal", "redis", 1.6), ("ringwal", "nothing", 0.6))
ENVIRONMENT = {"PYTHONPATH": str(subject.CHECKOUT / "engine")}


@dataclass(frozen=True, slots=True)
class Shape:
    """Of one turn."""

    seconds: float
    workers: int = 4
    connections: int = 64


def not_run(who: str) -> str | None:
    """Why this contender cannot be measured here, or None."""
    if who == "redis":
        return RedisStreams().unavailable() or missing("redis", "redis")
    return None


def _stored(who: str, place: str) -> int:
    """Records in the store."""
    if who == "redis":
        with optional("redis").Redis(unix_socket_path=place) as redis:
            return int(redis.xlen(STREAM))
    import ringwal

    with ringwal.connect(place) as client, contextlib.suppress(ringwal.NoSuchStream):
        return client.stream(STREAM).stat().records
    return 0


@contextlib.contextmanager
def serving(who: str, place: str, logs: Path, workers: int) -> Iterator[tuple[int, list[Server]]]:
    """The service: its port, and its workers, all of which accept connections."""
    from bench import web_app

    with contextlib.ExitStack() as stack:
        port: int = stack.enter_context(web_app.bound(0)).getsockname()[1]  # held, so that nobody else is given it
        task = json.dumps({"who": who, "place": place, "port": port})
        started = []
        for number in range(workers):
            log = logs / f"worker-{number}.log"
            command = [sys.executable, "-m", "bench.web_app", task]
            started.append(Server(command, log, cwd=subject.CHECKOUT, env={**os.environ, **ENVIRONMENT}))
            stack.callback(started[-1].stop)
        for worker in started:
            worker.wait_until(partial(_ready, worker.log))
        yield port, started


def _ready(log: Path) -> bool:
    return b"ready\n" in log.read_bytes()


def _client(port: int, shape: Shape) -> subprocess.Popen[str]:
    task = {"port": port, **asdict(shape), "record_bytes": RECORD_BYTES}
    task["loop"] = "asyncio" if missing("uvloop", "uvloop") else "uvloop"
    return subprocess.Popen(
        [sys.executable, "-m", "bench.web_client", json.dumps(task)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=subject.CHECKOUT, env={**os.environ, **ENVIRONMENT},
        preexec_fn=partial(end_with, os.getpid(), signal.SIGKILL),  # noqa: PLW1509  (the runner has no threads)
    )  # fmt: skip


def turn(loads: aio.Loads, who: str, shape: Shape) -> dict[str, Any]:
    """One contender, once: fresh store, fresh workers, fresh client; nothing of it is left."""
    with contextlib.ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{who}-logs-", dir=loads.directory)))
        place = "" if who == "nothing" else stack.enter_context(loads.server(who))[0]
        port, workers = stack.enter_context(serving(who, place, logs, shape.workers))
        client = stack.enter_context(_client(port, shape))
        stack.callback(client.kill)
        try:
            found = loads.end(client)
        except ContenderFailedError as error:
            said = [line for worker in workers for line in worker.log.read_text(errors="replace").splitlines()[1:]]
            raise ContenderFailedError(" | ".join([f"{who}: {error}", *said[-3:]])) from None
        if place and (stored := _stored(who, place)) < found["answered"]:
            raise ContenderFailedError(f"{who}: {found['answered']} requests were answered with 200, {stored} are stored")
        return found


def measure(
    directory: Path, shape: Shape, rounds: int, say: Callable[[str], None],
    contenders: tuple[str, ...] = CONTENDERS, seed: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Medians over rounds, of contenders in turns; raises ContenderFailedError if one cannot do its turn."""
    for needed in ("fastapi", "uvicorn"):
        if reason := missing(needed, needed):
            raise ContenderFailedError(reason)
    chance = random.Random(seed)
    found: dict[str, Any] = {"service": _service(shape), "contenders": {}, "ratios": {}}
    turns: dict[str, list[dict[str, Any]]] = {}
    for who in contenders:
        if reason := not_run(who):
            found["contenders"][who] = {"not_run": reason}
        else:
            turns[who] = []
    with tempfile.TemporaryDirectory(prefix="web-", dir=directory) as place:
        Path(place).chmod(0o711)  # a server that will not run as root must be able to enter
        loads = aio.Loads(Path(place), "", shape.seconds, say)
        for number in range(rounds):
            for who in chance.sample(list(turns), len(turns)):
                say(f"round {number + 1} of {rounds}: {who}")
                turns[who].append(turn(loads, who, shape))
    for who, of in turns.items():
        middle, spread = stats.medians(of)
        found["contenders"][who] = {"median": middle, "spread": {key: list(ends) for key, ends in spread.items()}}
    for us, them, goal in GOALS:
        if us in turns and them in turns:
            pairs = zip(turns[us], turns[them], strict=True)
            ratio = statistics.median(ours["requests_per_s"] / theirs["requests_per_s"] for ours, theirs in pairs)
            found["ratios"][f"{us}/{them}"] = {"ratio": ratio, "goal": goal}
    return found


def _service(shape: Shape) -> str:
    """What serves, in one line: uvicorn takes the quicker parser and loop where they are installed."""
    parser = "h11" if missing("httptools", "httptools") else "httptools"
    loop = "asyncio" if missing("uvloop", "uvloop") else "uvloop"
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("fastapi", "uvicorn"))
    return (
        f"{versions} ({parser}, {loop}), {shape.workers} workers, {shape.connections} connections,"
        f" POST of {RECORD_BYTES} bytes, turns of {shape.seconds:g} s"
    )


def tables(found: dict[str, Any]) -> str:
    """For people."""
    keys = ("requests_per_s", "request_us.p50", "request_us.p99")
    rows: list[tuple[str, ...]] = [("", "requests/s", "lowest", "highest", "p50 us", "p99 us")]
    absent = []
    for who, cell in found["contenders"].items():
        if "not_run" in cell:
            absent.append(f"{who} was not run: {cell['not_run']}")
            continue
        rate, p50, p99 = (report.number(cell["median"][key]) if key in cell["median"] else "" for key in keys)
        rows.append((who, rate, *(report.number(end) for end in cell["spread"][keys[0]]), p50, p99))
    ratios = [
        f"{pair}: {cell['ratio']:.2f} (goal: at least {cell['goal']:g})" for pair, cell in found["ratios"].items()
    ]
    return "\n".join([found["service"], "", report.table(rows), "", *absent, *ratios])
