"""The directory's lock: one engine per directory, down to its last process.

It is an flock on DIR/lock. Children inherit the descriptor, so the kernel releases the lock only when the supervisor
and every WAL and drain process are gone: also one that is stuck in a write after its supervisor was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from ringwal.errors import Locked

LOCK_NAME = "lock"
DYING_SECONDS = 5.0
"""How long to wait for the rest of an engine whose supervisor is dead already; the kernel needs a moment to end it."""


class DirectoryLock:
    """The lock, held from construction to `release()`. `fd` is close-on-exec and is meant to be inherited by forks."""

    def __init__(self, directory: Path) -> None:
        """Take the lock. Raises Locked with the holder's pid; OSError where the file cannot be opened."""
        path = directory / LOCK_NAME
        deadline = time.monotonic() + DYING_SECONDS
        while (fd := _try_lock(path)) is None:
            holder = _holder(path)
            if holder is None or _alive(holder) or time.monotonic() > deadline:
                named = f"process {holder}" if holder else "another process"
                raise Locked(f"{directory} is in use by the engine of {named}; stop it with `ringwal stop`", holder)
            time.sleep(0.01)  # flock has no wait with a deadline
        self.fd = fd
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go. The file stays: removing it would let two engines lock two files of one name."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _try_lock(path: Path) -> int | None:
    """A locked descriptor of the file that is at `path` now, or None if somebody else holds the lock."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), path.stat()):
                    return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # somebody removed or replaced the file meanwhile: this lock guards nothing


def _holder(path: Path) -> int | None:
    """The pid in the lock file; None if there is none to read."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _alive(pid: int) -> bool:
    """Whether the process still runs, as far as this pid namespace shows. A zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    except (OSError, IndexError):
        return True
    return state not in ("Z", "X")
