"""Running an engine and its writers as a user would: separate processes, a real directory, signals."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ringwal.demo.journal import Kind, Tally

SMALL = (
    *("--ring-bytes", "1MiB", "--lane-bytes", "64KiB", "--block-bytes", "64KiB"),
    *("--segment-bytes", "4MiB", "--max-streams", "256"),
)
"""Settings under which a short run sees every wrap-around, segment change and full ring."""

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = float(os.environ.get("RINGWAL_FAULT_PATIENCE", "60"))
"""Seconds after which something that takes milliseconds counts as hung."""


class Hung(AssertionError):
    """Something that had to happen did not, for much longer than it ever takes."""


class NotRun(Exception):
    """This machine lacks what the fault needs; the message says what."""


def pause(seconds: float) -> None:
    """Lets time pass: where its length is the fault itself, or the state of another process has nothing to wait on."""
    time.sleep(seconds)


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Returns when ``condition`` holds, which nothing signals. Raises Hung."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Hung(f"waited {seconds:g} s for {what}")
        pause(0.002)


def children_of(pid: int) -> set[int]:
    """Pids of its children; none if it has gone."""
    with contextlib.suppress(OSError):
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return set()


def await_death(pidfds: Sequence[int], seconds: float = PATIENCE) -> None:
    """Returns when all of them are gone, and closes the descriptors. Raises Hung."""
    try:
        for fd in pidfds:
            if not select.select([fd], [], [], seconds)[0]:
                raise Hung("a process does not die")
    finally:
        for fd in pidfds:
            os.close(fd)


def inherited() -> dict[str, str]:
    """This environment without what one engine is told by it."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RINGWAL_") or name.startswith("RINGWAL_FAULT_")
    }


def package_of(root: Path) -> dict[str, str]:
    """The environment in which Python processes import the package of the checkout at ``root``."""
    return {"PYTHONPATH": str(root / "engine")}


class Engine:
    """One life of an engine on a directory."""

    def __init__(
        self,
        directory: Path,
        *flags: str,
        env: Mapping[str, str] | None = None,
        root: Path = ROOT,
        wrapper: Sequence[str] = (),
        log: Path | None = None,
        cwd: Path | None = None,
        preexec: Callable[[], None] | None = None,
        program: Sequence[str] = ("-m", "ringwal", "run", "--json"),
        wait: bool = True,
    ) -> None:
        """``root`` is the checkout whose build is run, ``wrapper`` a command that runs the engine's, ``log`` for what it says.
        Without ``wait`` the caller has to call `await_ready`.

        Raises:
            EngineEnded: it ended before it was ready.
        """
        self.directory = directory
        self.log = log or directory.parent / f"{directory.name}.log"
        with self.log.open("ab") as said:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, *program, str(directory), *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
                cwd=cwd or root,
                env={**inherited(), **package_of(root), **(env or {})},
                preexec_fn=preexec,  # noqa: PLW1509  who asks for it has no other threads then
            )
        self.facts: dict[str, Any] = {}
        if wait:
            try:
                self.await_ready()
            except BaseException:  # who called has nothing to end it by
                self.__exit__(None, None, None)
                raise

    def await_ready(self) -> None:
        """Raises EngineEnded, Hung."""
        self.facts = json.loads(self._first_line())

    def _first_line(self) -> bytes:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            self.kill()
            raise Hung("the engine did not become ready")
        line = self.process.stdout.readline()
        if not line:
            raise EngineEnded(self.process.wait(), self.log.read_text()[-500:])
        return line

    def status(self) -> dict[str, Any]:
        from ringwal.protocol.client import Registration

        with contextlib.closing(Registration(self.directory, 30.0)) as registration:
            return registration.status()

    def pid(self, role: str) -> int:
        """Of `supervisor`, `wal` or `drain`."""
        return int(self.facts["pid"]) if role == "supervisor" else int(self.status()[f"{role}_pid"])

    def strike(self, role: str, number: signal.Signals = signal.SIGKILL) -> int:
        """A signal to one process; returns its pid."""
        while True:
            pid = self.pid(role)
            with contextlib.suppress(ProcessLookupError):  # the one before it, whose successor has just been started
                os.kill(pid, number)
                return pid

    def pidfds_of_others(self) -> list[int]:
        """Of its processes without the supervisor."""
        found = []
        for pid in children_of(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                found.append(os.pidfd_open(pid))
        return found

    def kill(self) -> None:
        """SIGKILL to all of it; returns when the last one is gone."""
        pidfds = self.pidfds_of_others()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        await_death(pidfds)

    def die(self, role: str) -> bool:
        """SIGKILL to that process, or to all of them for "all". True: this engine is over, and its last process gone."""
        if role == "all":
            self.kill()
            return True
        self.strike(role)
        if role == "supervisor":
            self.await_end()
        return role == "supervisor"

    def stop(self) -> int:
        """Orderly; returns the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        return self.await_exit()

    def await_exit(self) -> int:
        """The exit code of the supervisor, which has proven the death of the others by then."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Hung("the engine did not end") from None

    def await_end(self) -> int:
        """After a strike at the supervisor: the others die on the kernel's word."""
        code = self.await_exit()
        with (self.directory / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # every process of the engine holds it
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()


class EngineEnded(RuntimeError):
    """The engine ended before it was ready."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(f"the engine ended with {code}: {said}")
        self.code = code


class Writers:
    """Writer processes with their journals."""

    _tallies: Sequence[Tally] = ()

    def __init__(
        self,
        directory: Path,
        journals: Path,
        streams: list[list[str]],
        *,
        window: int,
        seconds: float,
        wrapper: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        own: Sequence[Mapping[str, str]] = (),
        root: Path = ROOT,
        stderr: IO[bytes] | int = subprocess.DEVNULL,
    ) -> None:
        """``env`` is for all of them, each of ``own`` for one, from the first on; ``root`` is the checkout whose
        package they use."""
        self.journals = {f"w{i}": journals / f"w{i}.journal" for i in range(len(streams))}
        self.processes = [
            subprocess.Popen(
                [
                    *(*wrapper, sys.executable, "-m", "tests.support.writer", str(directory)),
                    *(str(self.journals[f"w{i}"]), f"w{i}", ",".join(names), str(window), str(seconds)),
                ],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                cwd=ROOT,
                start_new_session=True,
                env={**inherited(), **package_of(root), **(env or {}), **(own[i] if i < len(own) else {})},
            )
            for i, names in enumerate(streams)
        ]

    def await_progress(self, records: int = 10, skip: int | None = None, only: Sequence[int] = ()) -> None:
        """Every writer, or each of ``only`` but ``skip``, has seen so many confirmations since the call. Raises Hung."""
        if not self._tallies:
            self._tallies = [Tally(path, Kind.CONFIRMED) for path in self.journals.values()]
        asked = {i for i in only or range(len(self._tallies)) if i != skip}
        chosen = [self._tallies[i] for i in sorted(asked)]
        before = [tally.count() for tally in chosen]

        def gone_on() -> bool:
            for i, process in enumerate(self.processes):
                if i in asked and process.poll() is not None:
                    raise RuntimeError(f"writer w{i} ended with {process.returncode}")
            return all(tally.count() >= told + records for tally, told in zip(chosen, before, strict=True))

        until(gone_on, "every writer to go on")

    def stop(self) -> list[int]:
        """Each comes to the end of what it has appended and goes; their exit codes, or -signal."""
        for process in self.processes:
            process.terminate()
        return [process.wait(2 * PATIENCE) for process in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextlib.contextmanager
def writers(directory: Path, journals: Path, streams: list[list[str]], **options: Any) -> Iterator[Writers]:
    """Writers that are gone at the end, whatever happens. Options as `Writers`; window 32 and no end unless told."""
    fleet = Writers(directory, journals, streams, **{"window": 32, "seconds": 1e6, **options})
    try:
        yield fleet
    finally:
        fleet.kill()
