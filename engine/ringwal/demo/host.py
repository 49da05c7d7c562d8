"""The processes of the demo: the engine under test and the writers, started, watched, killed and always cleaned up."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ringwal.demo import DemoError
from ringwal.demo.journal import Kind, Tally

READY_TIMEOUT = 20.0  # seconds until an engine must have recovered and said that it is ready
STOP_TIMEOUT = 10.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def spawn(arguments: Sequence[str], stderr: IO[bytes], stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """A Python process `python -m <arguments>` in a group of its own (Ctrl-C is handled here) that dies with this one.

    `-P` and PYTHONPATH make the child import the very package that runs here, whatever the working directory holds.
    """
    home = Path(__file__).resolve().parent.parent.parent
    environment = dict(os.environ)
    if home.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(home), environment.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=environment,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 (this process has one thread)
    )


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class EngineProcess:
    """An engine in the foreground of its own process group; ready when this returns."""

    def __init__(self, directory: Path, log: Path) -> None:
        self._log = log
        with log.open("ab") as stderr:
            self._process = spawn(["ringwal", "run", str(directory)], stderr, subprocess.PIPE)
        self._leader: int | None = os.pidfd_open(self._process.pid)
        try:
            self._wait_ready()
        except BaseException:
            self.kill()
            raise

    def _wait_ready(self) -> None:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], READY_TIMEOUT)
        if not readable or not self._process.stdout.readline():
            raise DemoError(f"the engine did not get ready: {tail_of(self._log)}")

    def kill(self) -> None:
        """SIGKILL to the whole group; returns when every process of it is gone. Nothing happens the second time."""
        if self._leader is None:
            return
        # The leader is not reaped before the signal is sent, so its number still stands for this group and no other.
        watched = [fd for pid in group_members(self._process.pid) if (fd := pidfd(pid)) is not None]
        os.killpg(self._process.pid, signal.SIGKILL)
        for fd in watched:
            select.select([fd], [], [], STOP_TIMEOUT)
            os.close(fd)
        os.close(self._leader)
        self._leader = None
        self._process.communicate()

    def stop(self) -> None:
        """An orderly stop, so that no shared memory stays behind; SIGKILL if it takes too long."""
        if self._leader is not None:
            signal.pidfd_send_signal(self._leader, signal.SIGTERM)
            select.select([self._leader], [], [], STOP_TIMEOUT)
            self.kill()


def pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def group_members(group: int) -> list[int]:
    """Pids of the living processes of a process group."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.getpgid(int(entry.name)) == group:
                    members.append(int(entry.name))
    return members


class Writers:
    """The writer processes; each has its journal and its log in `room`."""

    def __init__(self, directory: Path, room: Path, count: int) -> None:
        self.journals = [room / f"journal-{writer}" for writer in range(count)]
        self._logs = [room / f"writer-{writer}.log" for writer in range(count)]
        self._confirmed = [Tally(path, Kind.CONFIRMED) for path in self.journals]
        self._processes: list[subprocess.Popen[bytes]] = []
        self.killed: set[int] = set()
        try:
            for writer in range(count):
                arguments = ["ringwal.demo.writer", str(directory), str(self.journals[writer]), str(writer), str(count)]
                with self._logs[writer].open("wb") as stderr:
                    self._processes.append(spawn(arguments, stderr))
        except BaseException:
            self.close()
            raise

    def wait_busy(self, timeout: float) -> None:
        """Until each writer has its first confirmations."""
        deadline = time.monotonic() + timeout
        while not all(tally.count() for tally in self._confirmed):
            self.expect_alive()
            if time.monotonic() > deadline:
                raise DemoError(f"not every writer had a confirmation within {timeout:.0f} s")
            time.sleep(0.01)

    def expect_alive(self) -> None:
        for writer, process in enumerate(self._processes):
            if writer not in self.killed and process.poll() is not None:
                raise DemoError(f"writer {writer} ended by itself: {tail_of(self._logs[writer])}")

    def confirmed(self) -> int:
        """Records in all journals."""
        return sum(tally.count() for tally in self._confirmed)

    def kill(self, writer: int) -> int:
        """SIGKILL to one writer; its pid."""
        self.killed.add(writer)
        self._processes[writer].kill()
        return self._processes[writer].pid

    def join(self, timeout: float) -> None:
        """Until all have ended by themselves, as they do when the engine is gone."""
        deadline = time.monotonic() + timeout
        for writer, process in enumerate(self._processes):
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise DemoError(f"writer {writer} hangs although the engine is gone") from None

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


def tail_of(log: Path, lines: int = 5) -> str:
    text = log.read_text("utf-8", "replace").strip().splitlines() if log.exists() else []
    return " / ".join(text[-lines:]) or "it said nothing"
