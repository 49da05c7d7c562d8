"""Running an engine and its writers as a user would: separate processes, a real directory, signals."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SMALL = ("--ring-bytes", "1MiB", "--segment-bytes", "4MiB", "--max-streams", "256", "--block-bytes", "64KiB")
"""Settings under which a short run sees every wrap-around, segment change and full ring."""

ROOT = Path(__file__).resolve().parents[2]


class Hung(Exception):
    """Something that had to happen did not, for much longer than it ever takes."""


class Engine:
    """One life of an engine on a directory."""

    def __init__(self, directory: Path, *flags: str, env: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.log = directory.parent / f"{directory.name}.log"
        started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine", "run", str(directory), "--json", *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
        self.ready = json.loads(self._first_line())
        self.start_seconds = time.monotonic() - started

    def _first_line(self) -> bytes:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], 60)[0]:
            self.kill()
            raise Hung("the engine did not become ready")
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise RuntimeError(f"the engine ended with {self.process.returncode}: {self.log.read_text()[-500:]}")
        return line

    def status(self) -> dict[str, Any]:
        from engine.registration import Registration

        with contextlib.closing(Registration(self.directory, 30.0)) as registration:
            return registration.status()

    def pid(self, role: str) -> int:
        """Of `supervisor`, `wal` or `drain`."""
        return self.process.pid if role == "supervisor" else int(self.status()[f"{role}_pid"])

    def strike(self, role: str) -> int:
        """SIGKILL to one process; returns its pid."""
        pid = self.pid(role)
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill(self) -> None:
        """SIGKILL to all of it; returns when the last one is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._await_unlocked()

    def stop(self) -> int:
        """Orderly; returns the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise Hung("the engine did not stop") from None

    def await_end(self) -> int:
        """After a strike at the supervisor, or a failed write."""
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise Hung("the engine did not end") from None
        self._await_unlocked()
        return code

    def _await_unlocked(self) -> None:
        """Every process of the engine holds the lock; when it can be had, all are gone."""
        import fcntl

        with (self.directory / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()


def forget_shared_memory(directory: Path) -> None:
    """Removes what a killed engine left in shared memory when no successor will."""
    from engine import memory
    from tests.faults.decode import manifest

    for name in memory.leftovers(manifest(directory).uuid):
        memory.unlink(name)


class Writers:
    """A crowd of writer processes with their journals."""

    def __init__(self, directory: Path, journals: Path, streams: list[list[str]], *, window: int, seconds: float) -> None:
        self.journals = {f"w{i}": journals / f"w{i}.journal" for i in range(len(streams))}
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.faults.writer", str(directory), str(self.journals[f"w{i}"]), f"w{i}"),
                    *(",".join(names), str(window), str(seconds)),
                ],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                start_new_session=True,
            )
            for i, names in enumerate(streams)
        ]

    def await_progress(self, lines: int = 20) -> None:
        """Every writer that lives has confirmed something since the call."""
        before = {name: self._size(path) for name, path in self.journals.items()}
        end = time.monotonic() + 60
        while time.monotonic() < end:
            living = [name for name, p in zip(self.journals, self.processes, strict=True) if p.poll() is None]
            if all(self._size(self.journals[name]) > before[name] + 10 * lines for name in living):
                return
            time.sleep(0.01)  # other processes' files: there is nothing to wait on
        raise Hung("a writer made no progress for 60 s")

    def _size(self, path: Path) -> int:
        return path.stat().st_size if path.exists() else 0

    def finish(self) -> int:
        """Waits for all; returns how many hung and had to be killed."""
        hung = 0
        for process in self.processes:
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                hung += 1
                process.kill()
                process.wait()
        return hung

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


@contextlib.contextmanager
def writers(directory: Path, journals: Path, streams: list[list[str]], *, window: int, seconds: float) -> Iterator[Writers]:
    """A crowd that is gone at the end, whatever happens."""
    crowd = Writers(directory, journals, streams, window=window, seconds=seconds)
    try:
        yield crowd
    finally:
        crowd.kill()
