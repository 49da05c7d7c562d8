"""Who is who: pids that somebody else has by now, zombies, other pid namespaces, children of a fork."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.faults.oracle import Verdict, judge
from tests.faults.scene import STREAMS, WINDOW, WRITERS, Scene, held, scene, state
from tests.faults.table import Fault, often
from tests.faults.watch import Watch
from tests.support.host import SMALL, Engine, NotRun, children_of, pause, until, writers

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
NAMESPACE = ("unshare", "-p", "-f", "--kill-child", "--mount-proc")
ADOPT = (  # PR_SET_CHILD_SUBREAPER
    "import ctypes, os, signal, subprocess, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0);"
    " child = subprocess.Popen(sys.argv[1:]);"
)
CARELESS = (sys.executable, "-c", ADOPT + " signal.pause()")
"""Starts an engine, is given its orphans, and never asks what became of any of them."""
CAREFUL = (sys.executable, "-c", ADOPT + " [os.wait() for _ in range(3)]")
"""Reaps all three at once: a pid is free only then."""
FREE_SECONDS = 10.0
"""Somebody may have to reap its former owner first."""


def faults(tier: str) -> list[Fault]:
    times = often(tier, 1, 5)
    return [
        Fault("time", "pid of a dead writer reused", partial(writer_reused, times)),
        Fault("time", "pids of dead WAL and drain reused", partial(workers_reused, times)),
        Fault("time", "pid of a dead WAL reused by its successor", partial(reused_by_successor, times)),
        Fault("time", "pid of a dead supervisor reused", partial(supervisor_reused, times)),
        Fault("time", "writer killed, never reaped", unreaped_writer),
        Fault("time", "engine killed, never reaped", unreaped_engine),
        Fault("time", "writers in pid namespaces", writers_in_namespaces),
        Fault("time", "engine in a pid namespace", partial(engine_in_namespace, times)),
        Fault("time", "a fork's child outlives the writer", outlived),
    ]


@contextlib.contextmanager
def stranger(pid: int, verdict: Verdict) -> Iterator[None]:
    """A process that has this pid, and has nothing to do with the engine: nobody may harm it. Raises NotRun."""
    end = time.monotonic() + FREE_SECONDS
    while (process := take(pid)) is None:
        if time.monotonic() > end:
            raise NotRun(f"pid {pid} cannot be had")
        pause(0.01)
    try:
        yield
        verdict.expect(process.poll() is None, f"a stranger was killed because it had the pid {pid}")
    finally:
        process.kill()
        process.wait()


def take(pid: int) -> subprocess.Popen[bytes] | None:
    """A process with this pid; None if it is not free, or somebody else was quicker. Raises NotRun."""
    ask_for(pid)
    process = subprocess.Popen(["sleep", "10000"])
    if process.pid == pid:
        return process
    process.kill()
    process.wait()
    return None


def ask_for(pid: int) -> None:
    """The next process that anybody makes gets this pid, if it is free. Raises NotRun."""
    try:
        LAST_PID.write_text(str(pid - 1))
    except OSError as error:
        raise NotRun(f"{LAST_PID} cannot be written: {error}") from error


def writer_reused(times: int, directory: Path, seed: int) -> Verdict:
    """Before the supervisor looks. The dead one's slot is free all the same."""
    total = Verdict()
    for number in range(times):
        part = directory / f"life-{number}"
        part.mkdir()
        with contextlib.ExitStack() as strangers, scene(part) as s:
            attached, victim = s.running.status()["clients_attached"], s.fleet.processes[0]
            with held(s.running.pid("supervisor")):
                victim.kill()
                victim.wait()
                strangers.enter_context(stranger(victim.pid, total))
            s.await_attached(attached - 1)
            s.await_progress(skip=0)
        total.add(s.verdict)
    total.runs = times
    return total


def workers_reused(times: int, directory: Path, seed: int) -> Verdict:
    """Their successors are killed and stopped, too: whoever signals a pid from memory hits the stranger."""
    verdict = Verdict()
    with contextlib.ExitStack() as strangers, scene(directory) as s:
        for role in ("wal", "drain") * times:
            pid = s.running.pid(role)
            while s.running.pid(role) == pid:  # its successor may have been given it
                s.running.strike(role)
                s.await_successor()
            strangers.enter_context(stranger(pid, verdict))
            s.running.strike(role)
            s.await_successor()
            s.await_progress()
    verdict.add(s.verdict)
    verdict.runs = 2 * times
    return verdict


def reused_by_successor(times: int, directory: Path, seed: int) -> Verdict:
    """One process dies, the next one has its number: they are two all the same."""
    with scene(directory) as s:
        found = 0
        for _ in range(50 * times):
            pid = s.running.pid("wal")
            with held(s.running.pid("supervisor")):
                os.kill(pid, signal.SIGKILL)
                until(lambda pid=pid: state(pid) == "Z", "the WAL process to be dead")  # type: ignore[misc]
                ask_for(pid)
            s.await_successor()
            found += s.running.pid("wal") == pid
            s.await_progress()
            if found == times:
                break
        if not found:
            raise NotRun("others took the pid first, every time")
    s.verdict.runs = found
    return s.verdict


def supervisor_reused(times: int, directory: Path, seed: int) -> Verdict:
    """The lock's file names a process that lives, and the lock is free: the next engine goes by the lock."""
    verdict = Verdict()
    with contextlib.ExitStack() as strangers, scene(directory, wrapper=CAREFUL) as s:
        for left in reversed(range(times)):
            pid = s.running.strike("supervisor")
            s.running.await_end()
            strangers.enter_context(stranger(pid, verdict))
            named = (s.directory / "lock").read_text().partition("\n")[0]
            s.verdict.expect(named == str(pid), f"the lock names {named} and not the dead {pid}")
            s.start(CAREFUL if left else ())  # the last one is stopped in order, which those that adopt do not pass on
            s.await_progress()
    verdict.add(s.verdict)
    verdict.runs = times
    return verdict


def unreaped_writer(directory: Path, seed: int) -> Verdict:
    """Its parent does not ask what became of it; its slot is free, and the others went on."""
    with scene(directory) as s:
        attached, victim = s.running.status()["clients_attached"], s.fleet.processes[0]
        victim.send_signal(signal.SIGKILL)
        s.await_attached(attached - 1)
        s.await_progress(skip=0)
        s.verdict.expect(state(victim.pid) == "Z", "the dead writer was no zombie: this shows nothing")
    s.verdict.runs = 1
    return s.verdict


def unreaped_engine(directory: Path, seed: int) -> Verdict:
    """All three of it are zombies when its successor starts, and stay it."""
    with contextlib.ExitStack() as careless, scene(directory, wrapper=CARELESS) as s:
        careless.enter_context(s.running)
        dead = [s.running.pid("supervisor"), *s.workers()]
        s.running.strike("supervisor")
        until(lambda: all(state(pid) == "Z" for pid in dead), "the whole engine to be dead")
        s.start()
        s.await_progress()
        s.verdict.expect(all(state(pid) == "Z" for pid in dead), "somebody reaped them: this shows nothing")
    s.verdict.runs = 1
    return s.verdict


def need_namespaces() -> None:
    """Raises NotRun."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        raise NotRun("needs root and unshare, for pid namespaces")


def writers_in_namespaces(directory: Path, seed: int) -> Verdict:
    """Each is the first process of a namespace of its own. Killed, they are let go one by one."""
    need_namespaces()
    with scene(directory, writer_wrapper=NAMESPACE) as s:
        attached = s.running.status()["clients_attached"]
        for number, victim in enumerate(s.fleet.processes[:-1], 1):
            os.killpg(victim.pid, signal.SIGKILL)
            victim.wait()
            s.await_attached(attached - number)
            s.reader.await_progress()
    s.verdict.runs = WRITERS - 1
    return s.verdict


def engine_in_namespace(times: int, directory: Path, seed: int) -> Verdict:
    """Its supervisor has the pid 1, its writers are outside and have no pid that it knows."""
    need_namespaces()
    at, verdict = directory / "engine", Verdict(runs=2 * times)
    with Watch(at) as watch, Engine(at, *SMALL, "--max-restarts", "1000", wrapper=NAMESPACE) as running:
        # The pids that this engine reports are not ours: it must not be struck by them.
        (supervisor,) = children_of(running.process.pid)
        try:
            with writers(at, directory, STREAMS, window=WINDOW) as fleet:
                fleet.await_progress()
                for i in range(2 * times):
                    keeper = running.status()["keeper_pid"]  # whose death is no replacement
                    workers = sorted(pid for pid in children_of(supervisor) if _inner(pid) != keeper)
                    os.kill(workers[i % 2], signal.SIGKILL)
                    until(lambda n=i: running.status()["restarts"] > n, "a successor")  # type: ignore[misc]
                    fleet.await_progress(5)
            until(lambda: running.status()["clients_attached"] == 0, "all slots to be free again")
            verdict.expect(running.status()["pid"] == 1, "the supervisor is not the first process: this shows nothing")
            os.kill(supervisor, signal.SIGTERM)
            verdict.expect((code := running.await_exit()) == 0, f"the engine ended with code {code}")
        finally:
            running.__exit__(None, None, None)
    verdict.add(watch.judge())
    verdict.add(judge(at, fleet.journals))
    return verdict


def _inner(pid: int) -> int:
    """The number of that process in its own pid namespace."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])


def outlived(directory: Path, seed: int) -> Verdict:
    """The child inherited the parent's connection, and must not keep it alive: the dead parent's slot becomes free."""
    with scene(directory, first={"RINGWAL_FAULT_STORM": "child"}) as s:
        parent = s.fleet.processes[0]
        until(lambda: bool(children_of(parent.pid)), "the writer's child")
        (child,) = children_of(parent.pid)
        try:
            _outlive(s, parent, child)
        finally:
            os.kill(child, signal.SIGKILL)
    s.verdict.runs = 1
    return s.verdict


def _outlive(s: Scene, parent: subprocess.Popen[bytes], child: int) -> None:
    attached = s.running.status()["clients_attached"]
    parent.kill()
    parent.wait()
    s.await_attached(attached - 1)
    s.await_progress(skip=0)
    s.verdict.expect(state(child) == "S", "the child did not outlive its parent: this shows nothing")
