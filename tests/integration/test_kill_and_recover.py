"""A process dies at a named point under load. Everybody else goes on, and nothing confirmed is lost."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support import shm_names
from tests.support.points import POINTS, Point, Victim, Way
from tests.support.rig import CHECKOUT, Engine, Writers, arm, until, verify

WRITERS = 3
STREAMS = ["hot", "left", "right"]
SUPERVISOR = [p for p in POINTS if p.victim is Victim.SUPERVISOR and p.way is not Way.START]
# The second row: several blocks in flight, so that deaths leave holes.
SETTINGS: dict[int, dict[str, object]] = {1: {}, 5: {"pipeline_bytes": 1, "block_bytes": "16KiB", "lane_quota_bytes": "4KiB"}}


def provoke(way: Way, running: Engine, writers: Writers) -> None:
    if way is Way.WRITER_DIES:
        os.kill(writers.pids[0], signal.SIGKILL)
    elif way is Way.WAL_DIES:
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.status()["wal_pid"], signal.SIGKILL)
    elif way is Way.STOP:
        running.process.send_signal(signal.SIGTERM)
    elif way is Way.CLIENT_COMES:
        with contextlib.suppress(ringwal.Error), ringwal.connect(running.directory) as client:
            client.stream("hot").append(b"never answered")


def await_slots(running: Engine, pids: list[int]) -> None:
    until(lambda: {client["pid"] for client in running.status()["clients"]} == set(pids), "the slot of the dead comes back")


def check_and_end(running: Engine, writers: Writers, start: Callable[..., Engine], codes: list[int]) -> None:
    """The end of every test: the engine is killed whole while all write, started again, and everything is read."""
    running.kill()
    assert shm_names.left() == []
    assert writers.stop() == codes
    last = start()
    with ringwal.connect(running.directory) as client:
        verify(client, writers.journals)
    assert last.terminate() == 0
    assert shm_names.left() == []


def test_writers_die_at_every_point_and_the_others_go_on(
    points_build: Path, directory: Path, start: Callable[..., Engine], write: Callable[..., Writers]
) -> None:
    orders = [(p.name, hit) for p in POINTS if p.victim is Victim.WRITER for hit in p.hits]
    places = [directory.parent / f"once-{k}" for k in range(len(orders))]
    running = start()
    writers = write(points_build, len(orders) + 2, STREAMS, once=places)
    for k, (name, hit) in enumerate(orders):
        writers.await_told(*range(k, len(orders) + 2))
        arm(places[k], f"{name}:{hit}:kill")
        writers.await_gone(places[k], f"writer {k} to come by {name}")
        await_slots(running, writers.pids[k + 1 :])
    writers.await_told(len(orders), len(orders) + 1)
    assert running.status()["restarts"] == 0
    check_and_end(running, writers, start, [-signal.SIGKILL] * len(orders) + [0, 0])


@pytest.mark.parametrize("point", SUPERVISOR, ids=lambda point: point.name)
def test_the_supervisor_dies_and_all_go_on_with_the_next(
    point: Point, points_build: Path, directory: Path, start: Callable[..., Engine], write: Callable[..., Writers]
) -> None:
    once = directory.parent / "once"
    running = start(points_build, once=once)
    writers = write(CHECKOUT, WRITERS, STREAMS)
    writers.await_told()
    arm(once, f"{point.name}:{point.hits[0]}:kill")
    provoke(point.way, running, writers)
    assert running.wait() == -signal.SIGKILL
    running = start()
    assert not once.exists()
    dead = [0] if point.way is Way.WRITER_DIES else []
    writers.await_told(*(k for k in range(WRITERS) if k not in dead))
    check_and_end(running, writers, start, [-signal.SIGKILL if k in dead else 0 for k in range(WRITERS)])


def test_recovery_dies_again_and_again_and_the_result_is_as_if_it_had_not(
    points_build: Path, directory: Path, start: Callable[..., Engine], write: Callable[..., Writers]
) -> None:
    once = directory.parent / "once"
    running = start(**SETTINGS[5])
    writers = write(CHECKOUT, WRITERS, STREAMS)
    for _ in range(2):
        writers.await_told()
        running.kill()
        for point in POINTS:
            if point.way is Way.START:
                arm(once, f"{point.name}:{point.hits[0]}:kill")
                assert start(points_build, once=once, **SETTINGS[5]).wait() == -signal.SIGKILL, point.name
        running = start(**SETTINGS[5])
    writers.await_told()
    check_and_end(running, writers, start, [0] * WRITERS)


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
    replaced, codes, living = 0, [0] * WRITERS, list(range(WRITERS))
    for point in POINTS:
        if point.victim is not victim or (point.hits != (1, 5) and (hit == 5) != (max(point.hits) > 1)):
            continue
        writers.await_told(*living)
        arm(once, f"{point.name}:{hit if hit in point.hits else point.hits[0]}:kill")
        provoke(point.way, running, writers)
        while point.way is Way.WAL_DIES and once.exists():
            # What a successor finds to do is a matter of luck: it had nothing to write again.
            writers.await_told(*living)
            provoke(point.way, running, writers)
        writers.await_gone(once, f"somebody to come by {point.name}")
        if point.way is Way.WRITER_DIES:
            living, codes[0] = living[1:], -signal.SIGKILL
            await_slots(running, [writers.pids[k] for k in living])
        writers.await_told(*living)
        before = replaced  # what is persisted is told also while the dead one is not replaced yet
        until(lambda before=before: running.status()["restarts"] > before, f"a successor of who died at {point.name}")  # type: ignore[misc]
        replaced = running.status()["restarts"]
    assert replaced > 5
    check_and_end(running, writers, start, codes)
