"""One turn of one contender: writer processes, a common start, and what they bring back.

Writers are forked before anything is connected; each opens its own session, says that it is ready, and sleeps until the
start time that the runner publishes once all are ready. Nobody disconnects before all have finished. Processor time, memory
and counters of the contender are read while all are connected: after the first and before the last of the load, so that
connecting and making streams is nobody's cost per record. Results come back through files, so that a million samples cost
the measured window nothing.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import multiprocessing
import os
import resource
import shutil
import struct
import tempfile
import threading
import time
import traceback
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bench import host, loops, processes
from bench.contender import Contender, ContenderFailedError, Plan
from bench.scenario import Scenario

OPEN_TIMEOUT = 60.0
"""Seconds for all writers to connect, besides half a second for each and a millisecond for each stream."""
GRACE = 60.0
"""Seconds beyond the window after which writers are killed and the turn counts as failed."""
START_DELAY_NS = 20_000_000


class Gate:
    """Start and finish line, in memory shared with the writers: word 0 is the start time, word 1 lets them go, word 2 + i is
    writer i's state."""

    WAITING, READY, FINISHED, FAILED = 0, 1, 2, 3

    def __init__(self, writers: int) -> None:
        self.writers = writers
        self.words = mmap.mmap(-1, 8 * (writers + 2))

    def _get(self, i: int) -> int:
        return int(struct.unpack_from("<Q", self.words, 8 * i)[0])

    def _set(self, i: int, value: int) -> None:
        struct.pack_into("<Q", self.words, 8 * i, value)

    def fail(self, writer: int) -> None:
        """By the writer, when its error is written down."""
        self._set(writer + 2, self.FAILED)

    def wait(self, writer: int) -> int:
        """By the writer: says ready, returns the start time when it has come."""
        self._set(writer + 2, self.READY)
        while not (start := self._get(0)):
            time.sleep(0.001)
        loops.sleep_until(start)
        return start

    def finish(self, writer: int) -> None:
        """By the writer: says that its load is over, returns when it may disconnect."""
        self._set(writer + 2, self.FINISHED)
        while not self._get(1):
            time.sleep(0.001)

    def gather(self, state: int, alive: Callable[[], bool], deadline: float, otherwise: str) -> None:
        """By the runner: returns once all writers are in that state. `alive` tells whether all still run."""
        while (states := [self._get(i + 2) for i in range(self.writers)]).count(state) < self.writers:
            if self.FAILED in states:
                raise ContenderFailedError("a writer failed")
            if not alive():
                raise ContenderFailedError("a writer ended without a result")
            if time.monotonic() > deadline:
                raise ContenderFailedError(otherwise)
            time.sleep(0.002)

    def start(self) -> int:
        """By the runner: publishes the start."""
        start = loops.clock() + START_DELAY_NS
        self._set(0, start)
        return start

    def release(self) -> None:
        """By the runner: the writers may disconnect."""
        self._set(1, 1)


@dataclass(slots=True)
class Turn:
    """What one contender did in one turn, all writers together."""

    records: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    """Records per second of each writer."""
    late: int = 0
    samples: array[int] = field(default_factory=lambda: array("Q"))
    start_ns: int = 0
    writer_cpu_s: float = 0.0
    server_cpu_s: dict[str, float] = field(default_factory=dict)
    """By process."""
    server_memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """By process: resident private and shared bytes at the end, the writers still connected."""
    total_records: int = 0
    """Warm-up included: what counters and processor time refer to."""
    counters: dict[str, int] = field(default_factory=dict)
    stolen: float = 0.0
    """Share of the processors' time that the hypervisor gave to others, from start to finish."""


def run_turn(contender: Contender, scenario: Scenario, directory: Path, warm: float, window: float) -> Turn:
    """Sets the contender up, lets its writers work for `warm` + `window` seconds, takes it down.

    Raises:
        ContenderFailedError: a writer failed or did not end in time; the message is its error.
    """
    directory.mkdir(parents=True)
    try:
        contender.setup(directory, scenario)
        return _measured(contender, scenario, directory, warm, window)
    finally:
        try:
            contender.teardown()
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            os.sync()  # what one contender leaves to the kernel is not to disturb the next


def _measured(contender: Contender, scenario: Scenario, directory: Path, warm: float, window: float) -> Turn:
    writers = contender.writers(scenario)
    plans = [Plan(i, scenario, contender.commit_records(scenario), int(warm * 1e9), int(window * 1e9)) for i in range(writers)]
    patience = OPEN_TIMEOUT + 0.5 * writers + scenario.streams / 1000
    gate, results = Gate(writers), Path(tempfile.mkdtemp(prefix="results-", dir=directory.parent))
    teams = [plans] if contender.workers == "threads" else [[plan] for plan in plans]
    turn = Turn()
    try:
        with _teams(contender, teams, gate, results) as children:

            def alive() -> bool:
                return all(child.is_alive() for child in children)

            try:
                gate.gather(Gate.READY, alive, time.monotonic() + patience, "not all writers could connect")
                # Now, and not before: some servers start a process for each connection.
                servers, counters = contender.server_processes(), contender.counters()
                before = {name: processes.cpu_seconds(pids) for name, pids in servers.items()}
                ticks = host.ticks()
                turn.start_ns = gate.start()
                deadline = time.monotonic() + warm + window + plans[0].cool_ns / 1e9 + GRACE
                gate.gather(Gate.FINISHED, alive, deadline, f"writers did not end within {GRACE:g} s after the window")
                turn.stolen = host.stolen(ticks)
            except ContenderFailedError as error:
                raise ContenderFailedError(_told(results) or str(error)) from None
            servers = contender.server_processes()
            turn.server_cpu_s = {name: processes.cpu_seconds(pids) - before.get(name, 0) for name, pids in servers.items()}
            turn.counters = {key: value - counters.get(key, 0) for key, value in contender.counters().items()}
            turn.server_memory = {name: processes.memory(pids) for name, pids in servers.items()}
            gate.release()
            for child in children:
                child.join(max(0.1, deadline - time.monotonic()))
            if any(child.is_alive() for child in children):
                raise ContenderFailedError("a writer could not disconnect")
        _collect(turn, results, writers, window)
        return turn
    finally:
        shutil.rmtree(results, ignore_errors=True)


@contextlib.contextmanager
def _teams(contender: Contender, teams: list[list[Plan]], gate: Gate, results: Path) -> Iterator[list[BaseProcess]]:
    fork = multiprocessing.get_context("fork")
    children: list[BaseProcess] = [
        fork.Process(target=_team, args=(contender, team, gate, results, os.getpid())) for team in teams
    ]
    try:
        for child in children:
            child.start()
        yield children
    finally:
        for child in children:
            if child.is_alive():
                child.kill()
            if child.pid is not None:
                child.join()


def _team(contender: Contender, team: list[Plan], gate: Gate, results: Path, parent: int) -> None:
    """A writer process: one writer, or all of them as threads."""
    processes.die_with(parent)
    if len(team) == 1:
        _write(contender, team[0], gate, results)
        return
    threads = [threading.Thread(target=_write, args=(contender, plan, gate, results)) for plan in team]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _write(contender: Contender, plan: Plan, gate: Gate, results: Path) -> None:
    answer: dict[str, Any] = {}
    samples: array[int] = array("Q")
    try:
        session = contender.open(plan)
        start = gate.wait(plan.writer)
        who = resource.RUSAGE_THREAD if contender.workers == "threads" else resource.RUSAGE_SELF
        used = resource.getrusage(who)
        tally = loops.run(session, plan, start)
        after = resource.getrusage(who)
        cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
        samples = tally.samples
        answer = {
            "records": tally.records,
            "total": tally.total,
            "late": tally.late,
            "cpu": cpu,
        }
        gate.finish(plan.writer)
        session.close()
    except Exception as error:  # noqa: BLE001  (whatever a peer raises is its result)
        answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    with (results / f"{plan.writer}.samples").open("wb") as file:
        samples.tofile(file)
    (results / f"{plan.writer}.json").write_text(json.dumps(answer))
    if "error" in answer:
        gate.fail(plan.writer)


def _told(results: Path) -> str | None:
    """The first error that a writer wrote down, given a moment to write it."""
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        for path in sorted(results.glob("*.json")):
            with contextlib.suppress(ValueError):
                if found := json.loads(path.read_text()).get("error"):
                    return str(found)
        time.sleep(0.02)
    return None


def _collect(turn: Turn, results: Path, writers: int, window: float) -> None:
    for i in range(writers):
        try:
            answer = json.loads((results / f"{i}.json").read_text())
        except FileNotFoundError:
            raise ContenderFailedError(f"writer {i} ended without a result") from None
        if "error" in answer:
            raise ContenderFailedError(answer["error"])
        turn.records.append(answer["records"])
        turn.rates.append(answer["records"] / window)
        turn.late += answer["late"]
        turn.total_records += answer["total"]
        turn.writer_cpu_s += answer["cpu"]
        path = results / f"{i}.samples"
        with path.open("rb") as file:
            turn.samples.fromfile(file, path.stat().st_size // 8)
