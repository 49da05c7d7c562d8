"""Storms: signals at every process and every thread, processes that are stopped and go on all the time, forks."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

from tests.faults.oracle import Verdict
from tests.faults.scene import Scene, scene
from tests.faults.shim import library
from tests.faults.table import Fault, often
from tests.support.host import pause

ROLES = ("supervisor", "wal", "drain", "writers", "reader")
SIGNALS = (signal.SIGCHLD, signal.SIGUSR1, signal.SIGALRM, signal.SIGWINCH)


def faults(tier: str) -> list[Fault]:
    seconds = often(tier, 0.2, 5)

    def inside(name: str, kind: str) -> Fault:
        return Fault("time", name, partial(in_writers, seconds, kind))

    rows = [
        Fault("time", "signal storm at every process", partial(signals, seconds)),
        Fault("time", "stop-and-go storm at every process", partial(stop_and_go, seconds)),
        inside("fork storm among writers' threads", "forks among threads"),
    ]
    if tier != "change":
        rows += [
            inside("writers whose threads spawn", "spawns"),
            inside("fork storm in the writers", "forks"),
            inside("signal storm in the writers", "signals"),
        ]
    return rows


def tasks(s: Scene) -> list[int]:
    """Every thread of everybody. A signal to a thread's number is offered to that thread first."""
    found = []
    for role in ROLES:
        for pid in s.pids(role):
            with contextlib.suppress(OSError):
                found += [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return found


def signals(seconds: float, directory: Path, seed: int) -> Verdict:
    """Each interrupts what it finds, and no system call is taken up again by the kernel."""
    chance, env = random.Random(f"{seed}/signals"), {"LD_PRELOAD": str(library("signal_shim"))}
    with scene(directory, engine_env=env, client_env=env) as s:
        before, targets, end = s.workers(), tasks(s), time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(50):
                os.kill(chance.choice(targets), chance.choice(SIGNALS))
                s.verdict.runs += 1
            pause(0.002)
        s.await_progress()
        s.unharmed(*before)
    return s.verdict


def stop_and_go(seconds: float, directory: Path, seed: int) -> Verdict:
    """SIGCONT ends some system calls too early, handler or not."""
    chance = random.Random(f"{seed}/stop")
    with scene(directory) as s:
        before, end = s.workers(), time.monotonic() + seconds
        targets = [pid for role in ROLES for pid in s.pids(role)]
        try:
            while time.monotonic() < end:
                victims = chance.sample(targets, 3)
                for number in (signal.SIGSTOP, signal.SIGCONT):
                    for pid in victims:
                        os.kill(pid, number)
                    pause(chance.random() * 0.004)
                s.verdict.runs += 3
        finally:
            for pid in targets:
                os.kill(pid, signal.SIGCONT)
        s.await_progress()
        s.unharmed(*before)
    return s.verdict


def in_writers(seconds: float, kind: str, directory: Path, seed: int) -> Verdict:
    with scene(directory, client_env={"RINGWAL_FAULT_STORM": kind}, strangers=("children",)) as s:
        pause(seconds)
        s.await_progress()
    s.verdict.runs = 1
    return s.verdict
