"""Every named point, at several visits: the process there is killed, stopped for a while, or held up."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from functools import partial
from pathlib import Path

import ringwal
from tests.faults import build
from tests.faults.oracle import Verdict, judge
from tests.faults.table import Fault
from tests.support.host import SMALL, Engine, NotRun, Writers, children_of, pause, until, writers
from tests.support.points import POINTS, Point, Victim, Way

ACTIONS = ("kill", "stop", "delay:200")
STREAMS = [["hot", f"own-{i}"] for i in range(3)]
RARE_SECONDS = 3.0
"""A visit that has not come by then under this load does not come: not every point is passed five times."""

STRIKES_MAX, STRIKE_SECONDS = 40, 0.2
"""A successor passes some points only if its predecessor died between seal and persisted: tried so often, so far apart."""


SAMPLE = 12
"""In the change tier every so many points, and only what the engine's own tests do not do: stop."""


def faults(tier: str) -> list[Fault]:
    if tier == "change":
        return [Fault("points", f"stop at {point.name}", partial(run, point, "stop", (1,))) for point in POINTS[::SAMPLE]]
    return [
        Fault("points", f"{action.partition(':')[0]} at {point.name}", partial(run, point, action, (1, 2, 5)))
        for point in POINTS
        for action in ACTIONS
    ]


def run(point: Point, action: str, hits: tuple[int, ...], directory: Path, seed: int) -> Verdict:
    total = Verdict()
    for hit in hits if point.way is Way.LOAD else (1,):
        part = directory / f"hit-{hit}"
        part.mkdir()
        found = one(point, hit, action, part)
        found.notes = [f"{point.name}:{hit}:{action}: {note}" for note in found.notes]
        total.add(found)
    if total.runs == 0 and total.kept():
        raise NotRun("nobody came by in time")
    return total


def one(point: Point, hit: int, action: str, directory: Path) -> Verdict:
    """One visit under load; then everything is killed, and the log judged."""
    engine_dir, once, root = directory / "engine", directory / "once", build.with_points()
    trap = build.at(point.name, hit, action, once)
    at_writer = point.victim is Victim.WRITER
    flags = (*SMALL, "--max-restarts", "1000", "--pipeline-bytes", "1" if hit > 1 else "64KiB")
    first = trap if at_writer else None
    running = Engine(engine_dir, *flags, root=root, env=None if at_writer else trap)
    verdict = Verdict()
    try:
        with writers(engine_dir, directory, STREAMS, root=root, own=[first or {}]) as fleet:
            fleet.await_progress()
            dies = action == "kill" and (at_writer or point.way is Way.WRITER_DIES)
            if point.way is Way.START:
                running.kill()
                once.touch()
                running = Engine(engine_dir, *flags, root=root, env=trap, wait=False)
            else:
                once.touch()
                provoke(point.way, running, fleet, once)
            visited = came_by(once, RARE_SECONDS) or came_after_all(once)
            if visited and action == "stop":
                go_on(running, fleet)
            ends = visited and point.victim is Victim.SUPERVISOR and action == "kill"
            if ends or point.way is Way.STOP:
                code = running.await_exit()
                verdict.expect(code == (-signal.SIGKILL if ends else 0), f"the engine ended with code {code}")
                running = Engine(engine_dir, *flags, root=root)
            elif point.way is Way.START:
                running.await_ready()
            dies = (dies and visited) or point.way is Way.WRITER_DIES
            fleet.await_progress(skip=0 if dies else None)
            verdict.runs += visited
        running.kill()
        with Engine(engine_dir, *flags) as last:
            verdict.expect((code := last.stop()) == 0, f"the orderly stop ended with code {code}")
        verdict.add(judge(engine_dir, fleet.journals))
        return verdict
    finally:
        running.__exit__(None, None, None)


def provoke(way: Way, running: Engine, fleet: Writers, once: Path) -> None:
    """Brings the victim to the point."""
    if way is Way.WRITER_DIES:
        fleet.processes[0].kill()
        fleet.processes[0].wait()
    elif way is Way.WAL_DIES:
        for _ in range(STRIKES_MAX):
            running.strike("wal")
            if came_by(once, STRIKE_SECONDS):
                break
    elif way is Way.STOP:
        running.process.terminate()
    elif way is Way.CLIENT_COMES:
        with contextlib.suppress(ringwal.Error), ringwal.connect(running.directory, timeout=1.0) as client:
            client._attachment().lane(None)


def came_by(once: Path, seconds: float) -> bool:
    """The visit that counts removes the file."""
    end = time.monotonic() + seconds
    while (waiting := once.exists()) and time.monotonic() < end:
        pause(0.01)
    return not waiting


def came_after_all(once: Path) -> bool:
    """Calls the visit off."""
    with contextlib.suppress(FileNotFoundError):
        once.unlink()
        return False
    return True


def go_on(running: Engine, fleet: Writers) -> None:
    """Whoever stopped at the point stays there for a while, and is told to go on."""
    everybody = [running.process.pid, *children_of(running.process.pid), *(process.pid for process in fleet.processes)]
    stopped = [pid for pid in everybody if state(pid) == "T"]
    if not stopped:
        until(lambda: any(state(pid) == "T" for pid in everybody), "a process to stop", 5)
    pause(0.2)
    for pid in everybody:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def state(pid: int) -> str:
    """As in /proc: T is stopped; empty if it has gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""
