"""A process of the engine that is stopped before it has asked for its death with the supervisor's, and outlives that."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support.host import await_death, children_of
from tests.support.rig import WAIT, Engine, arm, state_of, until


def leave_stray(running: Engine, once: Path, role: str) -> tuple[int, int]:
    """Kills the process of that role; its successor stops at its birth; kills the supervisor. The stray's pid and pidfd."""
    before = children_of(running.process.pid)
    arm(once, f"{role}.born:1:stop")
    os.kill(running.status()[f"{role}_pid"], signal.SIGKILL)
    until(lambda: not once.exists(), "the successor has begun")
    stray = (children_of(running.process.pid) - before).pop()
    until(lambda: state_of(stray) == "T", "it is stopped")
    pidfd = os.pidfd_open(stray)
    others = [os.pidfd_open(pid) for pid in children_of(running.process.pid) - {stray}]
    running.process.kill()
    running.process.wait()
    await_death(others)
    assert state_of(stray) == "T"
    return stray, pidfd


@pytest.mark.parametrize("role", ["keeper", "wal", "drain"])
def test_what_outlives_its_supervisor_is_ended_by_the_next_start(
    start: Callable[..., Engine], directory: Path, tmp_path: Path, points_build: Path, role: str
) -> None:
    once = tmp_path / "once"
    running = start(points_build, once=once)
    with ringwal.connect(directory) as client:
        client.stream("s").append(b"before").result(WAIT)
        stray, pidfd = leave_stray(running, once, role)
        try:
            # Though the stray has the other end of its connection.
            with pytest.raises((ringwal.EngineFailed, ringwal.NotRunning)):
                client.stream("s").append(b"meanwhile").result(WAIT)
            following = start()
            assert following.facts.get("ready"), following.said()
            await_death([pidfd])
            assert f"ended process {stray}, which a dead engine has left" in following.said()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stray, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(stray, 0)
    with ringwal.connect(directory) as client:
        client.stream("s").append(b"after").result(WAIT)
        assert [record.data for record in client.stream("s").read(0)] == [b"before", b"after"]


def test_one_that_goes_on_ends_by_itself(
    start: Callable[..., Engine], directory: Path, tmp_path: Path, points_build: Path
) -> None:
    stray, pidfd = leave_stray(start(points_build, once=tmp_path / "once"), tmp_path / "once", "keeper")
    os.kill(stray, signal.SIGCONT)
    await_death([pidfd])
    os.waitpid(stray, 0)
    assert start().facts["ready"]


def test_its_processes_have_names_and_the_program_around_it_keeps_its_own(start: Callable[..., Engine]) -> None:
    facts = start().facts
    names = {what: Path(f"/proc/{facts[what]}/comm").read_text() for what in ("pid", "wal_pid", "drain_pid", "keeper_pid")}
    own = Path(sys.executable).name[:15] + "\n"
    assert names == {"pid": own, "wal_pid": "ringwal-WAL\n", "drain_pid": "ringwal-drain\n", "keeper_pid": "ringwal-keeper\n"}


def test_of_an_engine_that_lives_nobody_is_ended(start: Callable[..., Engine], directory: Path) -> None:
    """Whatever its lock file says."""
    running = start()
    (directory / "lock").write_text(f"{(1 << 22) - 1}\nstart 1\n")
    second = start()
    assert second.wait() == os.EX_TEMPFAIL
    assert '"error": "Locked"' in second.said()
    assert "dead engine" not in second.said()
    assert running.status()["state"] == "running"
    assert running.status()["restarts"] == 0
