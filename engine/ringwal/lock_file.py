"""DIR/lock: what the engine that holds the directory says of itself there, and when that may be believed.

    1234                 the supervisor's pid
    start 567890         when that process began, in the kernel's ticks since boot (/proc/PID/stat)
    lock 5               its descriptors, as /proc/PID/fd has them: of this file,
    control 9            of the control area,
    ring 11              of the log ring,
    progress 7           while it recovers: of the words that say how far

A pid alone may be anybody's by now. So `holder` believes the file only where the process that it names began at that
moment and holds the lock of this very file: /proc/PID/fdinfo says so.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
from pathlib import Path

NAME = "lock"
_BYTES_MAX = 4096
_FACTS = ("start", "lock", "control", "ring", "progress")
_STAT_START = 19
"""Field `starttime` of /proc/PID/stat, counted from behind the command's name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """The engine that a lock file names. Descriptors are numbers in that process; None where it has not said."""

    pid: int
    start: int | None = None
    lock: int | None = None
    control: int | None = None
    ring: int | None = None
    progress: int | None = None

    def text(self) -> bytes:
        """The file's content."""
        facts = [(name, getattr(self, name)) for name in _FACTS]
        return "\n".join([str(self.pid), *(f"{name} {value}" for name, value in facts if value is not None), ""]).encode()


def parse(text: str) -> Holder | None:
    """What a lock file says; None: nothing that can be understood."""
    first, *rest = text.split("\n")
    try:
        facts = {name: int(value) for name, value in (line.split() for line in rest if line)}
        return Holder(int(first), *(facts.get(name) for name in _FACTS))
    except ValueError:
        return None


def read(directory: int) -> Holder | None:
    """What the lock file of the directory that is open as `directory` says, true or not."""
    try:
        fd = os.open(NAME, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    try:
        return parse(os.pread(fd, _BYTES_MAX, 0).decode(errors="replace"))
    except OSError:  # no regular file
        return None
    finally:
        os.close(fd)


def write(fd: int, holder: Holder) -> None:
    """Store it in the lock file that is open as `fd`. A reader meets the old or the new text. Raises OSError."""
    text = holder.text()
    os.pwrite(fd, text, 0)
    os.ftruncate(fd, len(text))


def holder(directory: int) -> Holder | None:
    """The engine that holds the directory now, as far as that can be proven; None: nobody, or it cannot be seen from here
    (another pid namespace, another user's process)."""
    found = read(directory)
    if found is None or found.lock is None or found.start is None or started(found.pid) != found.start:
        return None
    try:
        there = Path(f"/proc/{found.pid}/fd/{found.lock}").stat()
        same = os.path.samestat(there, os.stat(NAME, dir_fd=directory))
        return found if same and locks(found.pid, found.lock) else None
    except OSError:
        return None


def held(directory: int) -> bool:
    """Does somebody hold the lock of the directory that is open as `directory`, for reading, seen from here or not? It is
    tried for a moment, with a lock that may be shared; an engine that starts just then tries again."""
    try:
        fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(directory, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def locks(pid: int, fd: int) -> bool:
    """Does that descriptor of that process hold a lock as an engine's? Raises OSError."""
    return any(_is_flock(line) for line in Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines())


def _is_flock(line: str) -> bool:
    return line.startswith("lock:") and "FLOCK" in line and "WRITE" in line


def started(pid: int) -> int | None:
    """When the process began, in ticks since boot; None if there is none that lives (a zombie does not)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else int(fields[_STAT_START])
    except (OSError, IndexError, ValueError):
        return None
