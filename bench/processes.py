"""What processes cost: processor time and memory from /proc; and starting and ending the servers of a turn."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.contender import ContenderFailedError

START_TIMEOUT = 30.0
STOP_TIMEOUT = 15.0
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG, PR_SET_TIMERSLACK = 1, 29


def tree(pid: int) -> list[int]:
    """The process and all its descendants that live now."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found.extend(int(child) for child in (task / "children").read_text().split())
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor seconds the processes have used so far, with those of children they have waited for.

    From the scheduler's nanosecond account, as clock ticks of 10 ms would hide an idle process; only what ended children
    used (a server that forks for each connection) is known in ticks alone.
    """
    total, ended = 0, 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    total += int((task / "schedstat").read_text().split()[0])
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ended += int(fields[13]) + int(fields[14])
    return total / 1e9 + ended / os.sysconf("SC_CLK_TCK")


def memory(pids: Iterable[int]) -> dict[str, int]:
    """Resident bytes, each shared page counted once: `private` (heap, stacks, libraries) and `shared` (shared memory)."""
    sums = {"Pss_Anon": 0, "Pss_File": 0, "Pss_Shmem": 0}
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                key, _, value = line.partition(":")
                if key in sums:
                    sums[key] += int(value.split()[0]) * 1024
    return {"private": sums["Pss_Anon"] + sums["Pss_File"], "shared": sums["Pss_Shmem"]}


def end_with(parent: int, number: int = signal.SIGTERM) -> None:
    """In a child: it does not outlive the runner, however that ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def die_with(parent: int) -> None:
    """In a writer: ends with the runner, and its sleeps end on time. Servers keep the sleep that they have everywhere."""
    end_with(parent, signal.SIGKILL)
    LIBC.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


class Server:
    """One server process of a contender, from start to certain end. Its output goes to a file for error messages."""

    def __init__(self, command: Sequence[str], log: Path, **options: Any) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(end_with, os.getpid()),  # noqa: PLW1509  (the runner has no threads)
                **options,
            )

    def wait_until(self, ready: Callable[[], bool], timeout: float = START_TIMEOUT) -> None:
        """Returns once `ready()` is true; raises ContenderFailedError with the end of its log if it never is."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.log.read_text(errors="replace").strip().splitlines()[-3:]
                self.stop()
                raise ContenderFailedError("server did not start: " + " | ".join(said))
            time.sleep(0.01)

    def pids(self) -> list[int]:
        """It and its children."""
        return tree(self.process.pid)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Asks it to end, then kills whatever is left of its process group."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
