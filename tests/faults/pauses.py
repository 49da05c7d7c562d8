"""Processes that stop and go on, storms of signals and forks, other pid namespaces, a disk that hangs."""

from __future__ import annotations

import os
import select
import shutil
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from tests.faults.disk import disk
from tests.faults.host import (
    PATIENCE,
    SMALL,
    Engine,
    EngineEnded,
    NotRun,
    await_death,
    children_of,
    forget_shared_memory,
    pause,
    until,
    writers,
)
from tests.faults.oracle import Verdict, judge
from tests.faults.table import Fault, often

WRITERS = 3
STREAMS = [["hot", f"own-{i}"] for i in range(WRITERS)]
LOCKED = 75


def faults(tier: str) -> list[Fault]:
    seconds, times = often(tier, 1, 30), often(tier, 2, 3)
    storm_seconds = often(tier, 2, 60)

    def storm(name: str, kind: str) -> Fault:
        return Fault("time", name, partial(stormy, storm_seconds, {"RINGWAL_FAULT_STORM": kind}))

    return [
        *(
            Fault("time", f"SIGSTOP {role} for {seconds} s", partial(stopped, role, seconds, times))
            for role in ("wal", "drain", "supervisor")
        ),
        Fault("time", f"SIGSTOP a writer for {seconds} s", partial(writer_stopped, seconds, often(tier, 3, 10))),
        Fault("time", "SIGSTOP, then SIGKILL in the stop", partial(stopped_and_killed, often(tier, 3, 30))),
        Fault("time", "everything frozen at once", partial(all_stopped, seconds)),
        storm("signal storm in the writers", "signals"),
        storm("fork storm in the writers", "forks"),
        storm("writers whose threads spawn", "threads"),
        Fault("time", "writers in pid namespaces", partial(namespaces, often(tier, 2, 20))),
        Fault("time", "frozen file system", partial(frozen, seconds)),
        Fault("time", "supervisor killed, file system frozen", frozen_and_killed),
    ]


def finish(
    running: Engine, engine_dir: Path, journals: Mapping[str, Path], verdict: Verdict, **options: tuple[str, ...]
) -> Verdict:
    """An orderly stop and the records."""
    verdict.expect((code := running.stop()) == 0, f"the engine ended with code {code}")
    verdict.add(judge(engine_dir, dict(journals), **options))
    return verdict


def stopped(role: str, seconds: int, times: int, directory: Path, seed: int) -> Verdict:
    """A stopped process is not a dead one: nobody replaces it, and it goes on where it was."""
    engine_dir, verdict = directory / "engine", Verdict(runs=times)
    with Engine(engine_dir, *SMALL) as running, writers(engine_dir, directory, STREAMS) as crowd:
        for _ in range(times):
            crowd.await_progress()
            pid = running.strike(role, signal.SIGSTOP)
            pause(seconds)
            if role == "supervisor":
                crowd.await_progress()  # nobody needs it to append
            os.kill(pid, signal.SIGCONT)
            crowd.await_progress()
            verdict.expect(running.pid(role) == pid, f"{role} process {pid} was replaced while it lived")
        crowd.kill()
        return finish(running, engine_dir, crowd.journals, verdict)


def writer_stopped(seconds: int, times: int, directory: Path, seed: int) -> Verdict:
    """Wherever it stops, claims and all, the others go on at once."""
    engine_dir, verdict = directory / "engine", Verdict(runs=times)
    with Engine(engine_dir, *SMALL) as running, writers(engine_dir, directory, STREAMS) as crowd:
        for i in range(times):
            crowd.await_progress()
            victim = crowd.processes[i % WRITERS]
            victim.send_signal(signal.SIGSTOP)
            crowd.await_progress(skip=i % WRITERS)
            pause(seconds)
            crowd.await_progress(skip=i % WRITERS)
            verdict.expect(running.status()["clients_attached"] == WRITERS, "a stopped writer was taken for a dead one")
            victim.send_signal(signal.SIGCONT)
        crowd.await_progress()
        crowd.kill()
        return finish(running, engine_dir, crowd.journals, verdict)


def stopped_and_killed(times: int, directory: Path, seed: int) -> Verdict:
    """Stopped in the middle of something, then killed there: the successor goes on."""
    engine_dir, verdict = directory / "engine", Verdict(runs=2 * times)
    with Engine(engine_dir, *SMALL, "--max-restarts", "1000") as running, writers(engine_dir, directory, STREAMS) as crowd:
        for i in range(2 * times):
            crowd.await_progress()
            pid = running.strike(("wal", "drain")[i % 2], signal.SIGSTOP)
            pause(0.05)
            os.kill(pid, signal.SIGKILL)
            crowd.await_progress()
        crowd.kill()
        return finish(running, engine_dir, crowd.journals, verdict)


def all_stopped(seconds: int, directory: Path, seed: int) -> Verdict:
    """As when a machine is suspended: time passes for nobody, and nobody draws conclusions from it."""
    engine_dir, verdict = directory / "engine", Verdict(runs=1)
    with Engine(engine_dir, *SMALL) as running, writers(engine_dir, directory, STREAMS) as crowd:
        crowd.await_progress()
        everybody = [running.process.pid, *children_of(running.process.pid), *(process.pid for process in crowd.processes)]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in everybody:
                os.kill(pid, number)
            if number == signal.SIGSTOP:
                pause(seconds)
        crowd.await_progress()
        verdict.expect(running.status()["restarts"] == 0, "somebody was replaced")
        verdict.expect(running.status()["clients_attached"] == WRITERS, "a writer was thrown out")
        crowd.kill()
        return finish(running, engine_dir, crowd.journals, verdict)


def stormy(seconds: int, env: Mapping[str, str], directory: Path, seed: int) -> Verdict:
    engine_dir, verdict = directory / "engine", Verdict(runs=1)
    with Engine(engine_dir, *SMALL) as running:
        with writers(engine_dir, directory, STREAMS, env=env) as crowd:
            crowd.await_progress()
            pause(seconds)
            crowd.await_progress()
        until(lambda: running.status()["clients_attached"] == 0, "all slots to be free again")
        return finish(running, engine_dir, crowd.journals, verdict, strangers=("children",))


def namespaces(times: int, directory: Path, seed: int) -> Verdict:
    """Whose pid means nothing to the engine: killed, they are let go all the same."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        raise NotRun("needs root and unshare, for pid namespaces")
    engine_dir, total, journals = directory / "engine", Verdict(runs=times), {}
    with Engine(engine_dir, *SMALL) as running:
        for number in range(times):
            part = directory / f"life-{number}"
            part.mkdir()
            names = [[f"hot-{number}", f"own-{number}-{i}"] for i in range(WRITERS)]
            with writers(engine_dir, part, names, wrapper=("unshare", "-p", "-f", "--kill-child", "--mount-proc")) as crowd:
                crowd.await_progress()
            until(lambda: running.status()["clients_attached"] == 0, "all slots to be free again")
            journals[number] = crowd.journals
        total.expect((code := running.stop()) == 0, f"the engine ended with code {code}")
    for number, paths in journals.items():
        others = [name for other in journals if other != number for name in _names(other)]
        total.add(judge(engine_dir, paths, strangers=tuple(others)))
    return total


def _names(number: int) -> list[str]:
    return [f"hot-{number}", *(f"own-{number}-{i}" for i in range(WRITERS))]


def frozen(seconds: int, directory: Path, seed: int) -> Verdict:
    """A disk that does not answer: everybody waits, nobody is replaced, and it goes on when the disk does."""
    with disk(directory, "ext4") as medium:
        engine_dir, verdict = medium.mount / "engine", Verdict(runs=1)
        with Engine(engine_dir, *SMALL) as running, writers(engine_dir, directory, STREAMS) as crowd:
            crowd.await_progress()
            before = running.pid("wal"), running.pid("drain")
            medium.freeze()
            try:
                pause(seconds)
                after = tuple(int(running.status()[f"{role}_pid"]) for role in ("wal", "drain"))
                verdict.expect(after == before, f"processes {before} became {after}")
            finally:
                medium.thaw()
            crowd.await_progress()
            crowd.kill()
            return finish(running, engine_dir, crowd.journals, verdict)


def gone(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def frozen_and_killed(directory: Path, seed: int) -> Verdict:
    """The supervisor dies, the WAL process hangs in a write and cannot: no other engine starts beside it."""
    with disk(directory, "ext4") as medium, ThreadPoolExecutor() as pool:
        # Only the segments hang, so that the next engine gets as far as it is let.
        engine_dir, verdict = directory / "engine", Verdict(runs=1)
        (medium.mount / "segments").mkdir()
        engine_dir.mkdir()
        (engine_dir / "segments").symlink_to(medium.mount / "segments")
        running = Engine(engine_dir, *SMALL)
        try:
            with writers(engine_dir, directory, STREAMS) as crowd:
                crowd.await_progress()
                wal = os.pidfd_open(running.pid("wal"))
                medium.freeze()
                try:
                    pause(0.2)  # until it is in a write that hangs
                    running.strike("supervisor")
                    running.await_exit()
                    second = pool.submit(Engine, engine_dir, *SMALL, log=directory / "second.log")
                    wait([second], timeout=20)
                    verdict.expect(not gone(wal), "the write did not hang: this shows nothing")
                    refused = second.exception() if second.done() else None
                    verdict.expect(
                        isinstance(refused, EngineEnded) and refused.code == LOCKED, f"the second engine: {refused or second}"
                    )
                finally:
                    medium.thaw()
                await_death([wal])
                if refused is None:
                    second.result(PATIENCE).kill()
                running = Engine(engine_dir, *SMALL)
                crowd.await_progress()
                crowd.kill()
                return finish(running, engine_dir, crowd.journals, verdict)
        finally:
            running.__exit__(None, None, None)
            forget_shared_memory(engine_dir)
