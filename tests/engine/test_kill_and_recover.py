"""A process dies at a named point under load. Everybody else goes on, and nothing confirmed is lost."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from points import POINTS, Point, Victim, Way
from rig import WAIT, Engine, Writers, verify

import engine
from engine import memory

WRITERS = 3
STREAMS = ["hot", "left", "right"]
CASES = [pytest.param(point, hit, id=f"{point.name}-{hit}") for point in POINTS for hit in point.hits]


def await_fired(once: Path, writers: Writers) -> None:
    """The first visit that counts removes `once`. There is no descriptor to wait on, but writers tell of the time."""
    for _ in range(int(WAIT / 0.05)):
        if not once.exists():
            return
        for fd in select.select(writers.progress, [], [], 0.05)[0]:
            os.read(fd, 65536)
    pytest.fail("nobody came by the point")


def provoke(way: Way, running: Engine, writers: Writers) -> None:
    if way is Way.WRITER_DIES:
        os.kill(writers.pids[0], signal.SIGKILL)
    elif way is Way.WAL_DIES:
        os.kill(running.facts["wal_pid"], signal.SIGKILL)
    elif way is Way.DRAIN_DIES:
        os.kill(running.facts["drain_pid"], signal.SIGKILL)
    elif way is Way.STOP:
        running.process.send_signal(signal.SIGTERM)
    elif way is Way.CLIENT_COMES:
        with contextlib.suppress(engine.Error), engine.connect(running.directory) as client:
            client.stream(STREAMS[0]).append(b"never answered")


@pytest.mark.parametrize(("point", "hit"), CASES)
def test_a_death_at(
    point: Point, hit: int, points_build: Path, directory: Path, start: Callable[..., Engine], write: Callable[..., Writers]
) -> None:
    once = directory.parent / "once"
    action = {"point": f"{point.name}:{hit}:kill", "once": once}
    at_writer = point.victim is Victim.WRITER
    # Several blocks in flight in every other run.
    settings = {"pipeline_bytes": 1} if hit > 1 else {}
    running = start(points_build, **({} if at_writer else action), **settings)
    writers = write(points_build, WRITERS, STREAMS, **(action if at_writer else {}))
    writers.await_progress()

    if point.way is Way.START:
        running.kill()
        once.touch()
        assert start(points_build, **action, **settings).wait() == -signal.SIGKILL
        running = start(points_build, **settings)
    else:
        once.touch()
        provoke(point.way, running, writers)
        if point.victim is Victim.SUPERVISOR:
            assert running.wait() == -signal.SIGKILL
            running = start(points_build, **settings)
        await_fired(once, writers)

    survivors = [1, 2] if at_writer or point.way is Way.WRITER_DIES else [0, 1, 2]
    writers.await_progress(*survivors)
    assert running.process.poll() is None
    if point.victim in (Victim.WAL, Victim.DRAIN):
        assert running.status()["restarts"] == (2 if point.way in (Way.WAL_DIES, Way.DRAIN_DIES) else 1)
    if 0 not in survivors:
        slots = {client["pid"] for client in running.status()["clients"] if not client["closing"]}
        assert slots == {writers.pids[k] for k in survivors}

    running.kill()
    codes = writers.stop()
    assert codes == [0 if k in survivors else -signal.SIGKILL for k in range(WRITERS)]
    last = start(points_build, **settings)
    journals = writers.journals()
    with engine.connect(directory) as client:
        assert verify(client, journals) >= sum(len(journal.confirmed) for journal in journals) > 0
    assert last.terminate() == 0
    assert memory.leftovers(bytes.fromhex(last.facts["uuid"])) == []
