"""Processes frozen by a control group, as a container manager does it: the whole engine, the WAL process alone."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

from tests.faults.cgroup import group
from tests.faults.oracle import Verdict
from tests.faults.scene import scene
from tests.faults.table import Fault, often
from tests.support.host import pause


def faults(tier: str) -> list[Fault]:
    long, short = often(tier, 0.1, 30), often(tier, 0.1, 5)
    rows = [
        Fault("time", f"{what} frozen, cgroup v{version}", partial(freeze, version, whole, long if version == 1 else short))
        for version in (1, 2)
        for what, whole in (("engine", True), ("WAL alone", False))
        if tier != "change" or whole == (version == 2)
    ]
    if tier != "change":  # a second engine waits for seconds before it gives up
        rows.append(Fault("time", "supervisor killed, WAL frozen, cgroup v1", frozen_orphan))
    rows.append(Fault("time", "WAL killed in the freezer, cgroup v2", partial(killed_in_it, often(tier, 1, 10))))
    return rows


def freeze(version: int, whole: bool, seconds: float, directory: Path, seed: int) -> Verdict:
    """Frozen is not dead: nobody is replaced, and it goes on where it was."""
    with group(version) as cold, scene(directory) as s:
        before = s.workers()
        cold.add(*((s.running.pid("supervisor"), *before) if whole else before[:1]))
        with cold.frozen():
            pause(seconds)
            if not whole:
                s.unharmed(*before)
        s.await_progress()
        s.unharmed(*before)
    s.verdict.runs = 1
    return s.verdict


def killed_in_it(times: int, directory: Path, seed: int) -> Verdict:
    """Its successor starts when it is dead, frozen or not."""
    with group(2) as cold, scene(directory) as s:
        for _ in range(times):
            pid = s.running.pid("wal")
            cold.add(pid)
            with cold.frozen():
                pause(0.1)
                os.kill(pid, signal.SIGKILL)
                s.await_successor()
                s.await_progress()
    s.verdict.runs = times
    return s.verdict


def frozen_orphan(directory: Path, seed: int) -> Verdict:
    """The supervisor dies, its WAL process is frozen and cannot: no other engine starts until it is gone."""
    with group(1) as cold, scene(directory) as s:
        cold.add(s.running.pid("wal"))
        s.orphan(cold.frozen())
    s.verdict.runs = 1
    return s.verdict
