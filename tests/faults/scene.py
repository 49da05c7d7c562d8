"""A small engine at work with its writers and a reader, watched; what the rows of the group `time` disturb."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ringwal.demo.journal import Kind, Tally
from tests.faults.oracle import Verdict, judge
from tests.faults.watch import Watch
from tests.support.host import ROOT, SMALL, Engine, Writers, await_death, pause, until, writers

WRITERS = 3
STREAMS = [["hot", f"own-{i}"] for i in range(WRITERS)]
WINDOW = 4
"""Appends outstanding at each writer: enough for every wrap-around, few enough to be judged quickly."""
LOCKED = 75
LOCK_SECONDS = 20.0
"""An engine tries for a while to get the lock of one that is about to end; then it has to give up."""


class Reader:
    """A process that follows `hot` from its beginning."""

    def __init__(self, directory: Path, journal: Path, env: Mapping[str, str] | None) -> None:
        self.journal = journal
        self._seen = Tally(journal, Kind.SEEN)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.reader", str(directory), str(journal), "hot"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )

    def await_progress(self, records: int = 3) -> None:
        """It has seen so many since the call. Raises Hung."""
        before = self._seen.count()

        def gone_on() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"the reader ended with {self.process.returncode}")
            return self._seen.count() >= before + records

        until(gone_on, "the reader to go on")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Scene:
    """Made by `scene`. A row disturbs it, and adds to `verdict` what has to hold beside the records."""

    def __init__(self, directory: Path, flags: Sequence[str], engine_env: Mapping[str, str] | None) -> None:
        self.directory = directory
        self._flags, self._env = flags, engine_env
        self.verdict = Verdict()
        self.running: Engine
        self.fleet: Writers
        self.reader: Reader
        self.watch: Watch

    def start(self, wrapper: Sequence[str] = ()) -> None:
        """The first engine, or the next one after its end; ``wrapper`` as in `Engine`."""
        flags = (*SMALL, "--max-restarts", "1000", *self._flags)
        self.running = Engine(self.directory, *flags, env=self._env, wrapper=wrapper)
        self._replaced = 0

    def await_progress(self, skip: int | None = None, *, reader: bool = True) -> None:
        """Writers and the reader have all gone on since the call; ``skip`` is a writer who is not asked."""
        self.fleet.await_progress(3, skip)
        if reader:
            self.reader.await_progress()

    def pids(self, role: str) -> list[int]:
        """Of one process of the engine, of the writers, or of the reader."""
        if role == "writers":
            return [process.pid for process in self.fleet.processes]
        return [self.reader.process.pid] if role == "reader" else [self.running.pid(role)]

    def await_successor(self) -> None:
        """Of WAL or drain process, one of which was killed since the call before. By count: pids come back."""
        until(lambda: self.running.status()["restarts"] > self._replaced, "a dead process to be replaced")
        self._replaced += 1

    def await_attached(self, clients: int) -> None:
        """That many clients have a slot."""
        until(lambda: self.running.status()["clients_attached"] == clients, f"{clients} slots to be taken, and no more")

    def let_pass(self, seconds: float, skip: int = 0) -> None:
        """Time, in which one writer goes on: what all of them would write takes longer to judge than it is worth."""
        with held(*(process.pid for i, process in enumerate(self.fleet.processes[:-1]) if i >= skip)):
            pause(seconds)

    def unharmed(self, wal: int, drain: int) -> None:
        """These two still run: nobody was replaced."""
        status = self.running.status()
        self.verdict.expect((status["wal_pid"], status["drain_pid"]) == (wal, drain), f"WAL and drain process {wal}, {drain}"
                            f" became {status['wal_pid']}, {status['drain_pid']}")  # fmt: skip
        self.verdict.expect(status["restarts"] == 0, f"{status['restarts']} processes were replaced")

    def expect_locked(self, afterwards: contextlib.ExitStack, directory: Path | None = None) -> None:
        """Another engine on this directory is refused. ``afterwards`` ends one that is not: it may hang until then."""
        at, log = directory or self.directory, self.directory.parent / "second.log"
        second = afterwards.enter_context(Engine(at, *SMALL, log=log, wait=False))
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = second.process.wait(LOCK_SECONDS)
        self.verdict.expect(code == LOCKED, f"a second engine was not refused: code {code}")

    def orphan(self, stuck: contextlib.AbstractContextManager[object]) -> None:
        """The supervisor dies while the WAL process is ``stuck`` and cannot: no other engine starts beside it."""
        wal = self.running.pid("wal")
        pidfd = os.pidfd_open(wal)
        with contextlib.ExitStack() as afterwards, stuck:
            self.running.strike("supervisor")
            self.running.await_exit()
            self.expect_locked(afterwards)
            self.verdict.expect(self.watch.look() == [wal], "the WAL process was not stuck, or another could write")
        await_death([pidfd])
        until(lambda: not self.watch.look(), "nobody to write")
        self.start()
        self.await_progress()

    def workers(self) -> tuple[int, int]:
        """The pids of WAL and drain process."""
        return self.running.pid("wal"), self.running.pid("drain")


@contextlib.contextmanager
def scene(
    directory: Path,
    *flags: str,
    engine_dir: Path | None = None,
    engine_env: Mapping[str, str] | None = None,
    client_env: Mapping[str, str] | None = None,
    first: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
    writer_wrapper: Sequence[str] = (),
    strangers: tuple[str, ...] = (),
) -> Iterator[Scene]:
    """Everybody at work. If the row succeeds: an orderly stop, and the verdict on records and watch. ``flags`` and ``wrapper``
    are the engine's, ``first`` is the first writer's environment, ``strangers`` are streams of others than the writers."""
    at = engine_dir or directory / "engine"
    found = Scene(at, flags, engine_env)
    found.start(wrapper)
    try:
        with Watch(at) as found.watch:
            fleet = writers(at, directory, STREAMS, window=WINDOW, env=client_env, own=[first or {}], wrapper=writer_wrapper)
            with fleet as found.fleet:
                found.reader = Reader(at, directory / "reader.journal", client_env)
                try:
                    found.await_progress()
                    yield found
                finally:
                    found.reader.kill()
            found.await_attached(0)
            found.verdict.expect((code := found.running.stop()) == 0, f"the engine ended with code {code}")
        found.verdict.add(found.watch.judge())
        found.verdict.add(judge(at, found.fleet.journals, strangers=strangers, seen=(found.reader.journal,)))
    finally:
        found.running.__exit__(None, None, None)


@contextlib.contextmanager
def held(*pids: int) -> Iterator[None]:
    """These processes are stopped meanwhile; one that dies in it is let go."""
    pidfds = [os.pidfd_open(pid) for pid in pids]
    try:
        for fd in pidfds:
            signal.pidfd_send_signal(fd, signal.SIGSTOP)
        until(lambda: all(map(stopped, pids)), f"{pids} to stop", 10)
        yield
    finally:
        for fd in pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGCONT)
            os.close(fd)


def stopped(pid: int) -> bool:
    """Every thread of it: one that hangs in a write stops when the write returns."""
    states = [state(pid, int(task)) for task in os.listdir(f"/proc/{pid}/task")]
    return all(each in ("T", "D", "Z") for each in states) and "T" in states


def state(pid: int, task: int | None = None) -> str:
    """As in /proc: R, S, D, T, Z; empty if it has gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/task/{task or pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""
