"""Processes that are stopped and go on where they were: one, all, for a long time, and over the end of their engine."""

from __future__ import annotations

import contextlib
import os
import signal
from functools import partial
from pathlib import Path

from tests.faults.oracle import Verdict
from tests.faults.scene import WRITERS, held, scene, state
from tests.faults.table import Fault, often
from tests.support.host import await_death, pause, until


def faults(tier: str) -> list[Fault]:
    seconds = often(tier, 0.1, 30)
    name = "30 s" if tier != "change" else "a moment"
    return [
        *(Fault("time", f"SIGSTOP {role} for {name}", partial(stop, role, seconds)) for role in ("wal", "drain", "supervisor")),
        Fault("time", f"SIGSTOP a writer for {name}", partial(writer, seconds)),
        Fault("time", f"SIGSTOP the reader for {name}", partial(reader, seconds)),
        Fault("time", f"everybody stopped for {name}", partial(everybody, seconds)),
        Fault("time", "SIGSTOP, then SIGKILL in the stop", partial(killed_in_it, often(tier, 2, 30))),
        Fault("time", "WAL and drain stopped over a takeover", partial(takeover, often(tier, 1, 10))),
        Fault("time", "clients stopped over a takeover", partial(clients_over_takeover, often(tier, 1, 10))),
        Fault("time", "WAL dead, supervisor stopped", partial(unreaped, often(tier, 0.1, 5))),
    ]


def stop(role: str, seconds: float, directory: Path, seed: int) -> Verdict:
    """A stopped process is not a dead one: nobody replaces it, and it goes on where it was."""
    with scene(directory) as s:
        before = s.workers()
        with held(*s.pids(role)):
            if role == "supervisor":
                s.await_progress()  # nobody needs it to append or to read
            s.let_pass(seconds)
            if role != "supervisor":
                s.unharmed(*before)
        s.await_progress()
        s.unharmed(*before)
    s.verdict.runs = 1
    return s.verdict


def writer(seconds: float, directory: Path, seed: int) -> Verdict:
    """Wherever it stops, claims and all, the others go on at once, and it keeps its lane."""
    with scene(directory) as s:
        attached = s.running.status()["clients_attached"]
        with held(s.fleet.processes[0].pid):
            s.await_progress(skip=0)
            s.let_pass(seconds, skip=1)
            s.await_progress(skip=0)
            s.verdict.expect(s.running.status()["clients_attached"] == attached, "a stopped writer was taken for a dead one")
        s.await_progress()
    s.verdict.runs = 1
    return s.verdict


def reader(seconds: float, directory: Path, seed: int) -> Verdict:
    """What it was about to read is overwritten in the ring meanwhile: it reads it from the files, and reads the same."""
    with scene(directory) as s:
        ring = s.running.status()["ring"]["bytes"]
        with held(s.reader.process.pid):
            written = s.running.status()["counters"]["wal_block_bytes"]
            until(lambda: s.running.status()["counters"]["wal_block_bytes"] > written + 2 * ring, "the ring to be overwritten")
            s.let_pass(seconds)
        s.await_progress()
    s.verdict.runs = 1
    return s.verdict


def everybody(seconds: float, directory: Path, seed: int) -> Verdict:
    """As when a machine is suspended: time passes for nobody, and nobody draws conclusions from it."""
    with scene(directory) as s:
        before, attached = s.workers(), s.running.status()["clients_attached"]
        with held(*before, s.running.pid("supervisor"), *s.pids("writers"), *s.pids("reader")):
            pause(seconds)
        s.await_progress()
        s.unharmed(*before)
        s.verdict.expect(s.running.status()["clients_attached"] == attached, "a client was thrown out")
    s.verdict.runs = 1
    return s.verdict


def killed_in_it(times: int, directory: Path, seed: int) -> Verdict:
    """Stopped in the middle of something, then killed there: a successor goes on, whatever the dead one had begun."""
    with scene(directory) as s:
        for i in range(2 * times):
            role = ("wal", "drain")[i % 2]
            pid = s.running.strike(role, signal.SIGSTOP)
            pause(0.02)
            os.kill(pid, signal.SIGKILL)
            s.await_successor()
            s.await_progress()
    s.verdict.runs = 2 * times
    return s.verdict


def takeover(times: int, directory: Path, seed: int) -> Verdict:
    """Stopped, WAL and drain process see their supervisor die and another engine take over. Told to go on, they are dead."""
    with scene(directory) as s:
        for _ in range(times):
            old = s.workers()
            pidfds = [os.pidfd_open(pid) for pid in old]
            with held(*old):
                s.running.strike("supervisor")
                s.running.await_exit()
                s.start()
                for pid, fd in zip(old, pidfds, strict=True):
                    gone = True
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(fd, signal.SIGCONT)
                        gone = state(pid) in ("Z", "X", "")
                    s.verdict.expect(gone, f"another engine was started while process {pid} lived")
            await_death(pidfds)
            s.await_progress()
    s.verdict.runs = times
    return s.verdict


def clients_over_takeover(times: int, directory: Path, seed: int) -> Verdict:
    """A writer and the reader miss the end of their engine and the start of the next: what they still have mapped is
    nobody's, and they find out."""
    with scene(directory) as s:
        for i in range(times):
            with held(s.fleet.processes[i % WRITERS].pid, s.reader.process.pid):
                s.running.kill()
                s.start()
                s.await_progress(skip=i % WRITERS, reader=False)
            s.await_progress()
    s.verdict.runs = times
    return s.verdict


def unreaped(seconds: float, directory: Path, seed: int) -> Verdict:
    """A dead WAL process stays a zombie while the supervisor sleeps. Everybody waits, and nothing is lost."""
    with scene(directory) as s:
        pid = s.running.pid("wal")
        with held(s.running.pid("supervisor")):
            os.kill(pid, signal.SIGKILL)
            until(lambda: state(pid) == "Z", "the WAL process to be a zombie")
            pause(seconds)
            s.verdict.expect(not s.watch.look(), "somebody else writes")
        s.await_successor()
        s.await_progress()
    s.verdict.runs = 1
    return s.verdict
