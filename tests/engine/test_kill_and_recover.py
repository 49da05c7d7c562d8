"""A process dies at a named point under load. Everybody else goes on, and nothing confirmed is lost."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from points import POINTS, Point, Victim, Way
from rig import Engine, Writers, arm, until, verify

import engine
from engine import memory

WRITERS = 3
STREAMS = ["hot", "left", "right"]
CASES = [pytest.param(p, hit, id=f"{p.name}-{hit}") for p in POINTS if not p.chained for hit in p.hits]
# The second row: several blocks in flight, so that deaths leave holes.
SETTINGS: dict[int, dict[str, object]] = {1: {}, 5: {"pipeline_bytes": 1, "block_bytes": "16KiB", "lane_quota_bytes": "4KiB"}}


def provoke(way: Way, running: Engine, writers: Writers) -> None:
    if way is Way.WRITER_DIES:
        os.kill(writers.pids[0], signal.SIGKILL)
    elif way is Way.WAL_DIES:
        os.kill(running.status()["wal_pid"], signal.SIGKILL)
    elif way is Way.STOP:
        running.process.send_signal(signal.SIGTERM)
    elif way is Way.CLIENT_COMES:
        with contextlib.suppress(engine.Error), engine.connect(running.directory) as client:
            client.stream("another").append_many([])


def check_and_end(running: Engine, writers: Writers, start: Callable[..., Engine], codes: list[int]) -> None:
    """The end of every test: the engine is killed whole while all write, started again, and everything is read."""
    running.kill()
    assert writers.stop() == codes
    last = start()
    journals = writers.journals()
    with engine.connect(running.directory) as client:
        assert verify(client, journals) >= sum(len(journal.confirmed) for journal in journals) > 0
    assert last.terminate() == 0
    assert memory.leftovers(bytes.fromhex(last.facts["uuid"])) == []


@pytest.mark.parametrize(("point", "hit"), CASES)
def test_a_death_at(
    point: Point, hit: int, points_build: Path, directory: Path, start: Callable[..., Engine], write: Callable[..., Writers]
) -> None:
    once = directory.parent / "once"
    at_writer = point.victim is Victim.WRITER
    place = {"once": once}
    order = f"{point.name}:{hit}:kill"
    settings = SETTINGS[5 if hit > 1 else 1]
    running = start(points_build, **({} if at_writer else place), **settings)
    writers = write(points_build, WRITERS, STREAMS, **(place if at_writer else {}))
    writers.await_progress()

    if point.way is Way.START:
        running.kill()
        arm(once, order)
        assert start(points_build, **place, **settings).wait() == -signal.SIGKILL
    else:
        arm(once, order)
        provoke(point.way, running, writers)
        if not at_writer:
            assert running.wait() == -signal.SIGKILL
    if not at_writer:
        running = start(points_build, **settings)
    writers.await_gone(once, f"somebody to come by {point.name}")

    survivors = [1, 2] if at_writer or point.way is Way.WRITER_DIES else [0, 1, 2]
    writers.await_progress(*survivors)
    if 0 not in survivors:
        alive = {writers.pids[k] for k in survivors}
        until(lambda: {client["pid"] for client in running.status()["clients"]} == alive, "the slot has come back")
    check_and_end(running, writers, start, [0 if k in survivors else -signal.SIGKILL for k in range(WRITERS)])


@pytest.mark.parametrize("hit", [1, 5])
@pytest.mark.parametrize("victim", [Victim.WAL, Victim.DRAIN], ids=lambda victim: victim.name)
def test_one_engine_lives_through_deaths_at_every_point(
    victim: Victim,
    hit: int,
    points_build: Path,
    directory: Path,
    start: Callable[..., Engine],
    write: Callable[..., Writers],
) -> None:
    once = directory.parent / "once"
    running = start(points_build, once=once, max_restarts=1000, **SETTINGS[hit])
    writers = write(points_build, WRITERS, STREAMS)
    deaths, codes, living = 0, [0] * WRITERS, list(range(WRITERS))
    for point in POINTS:
        if point.victim is not victim or (point.hits != (1, 5) and (hit == 5) != (max(point.hits) > 1)):
            continue
        writers.await_progress(*living)
        arm(once, f"{point.name}:{hit if hit in point.hits else point.hits[0]}:kill")
        provoke(point.way, running, writers)
        writers.await_gone(once, f"somebody to come by {point.name}")
        if point.way is Way.WRITER_DIES:
            living, codes[0] = living[1:], -signal.SIGKILL
            alive = {writers.pids[k] for k in living}
            until(lambda: {c["pid"] for c in running.status()["clients"]} == alive, "the slot has come back")  # noqa: B023
        writers.await_progress(*living)
        deaths += 2 if point.way is Way.WAL_DIES else 1
        assert running.status()["restarts"] == deaths, point.name
    assert deaths > 5
    check_and_end(running, writers, start, codes)
