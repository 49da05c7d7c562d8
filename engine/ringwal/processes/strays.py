"""What is left of an engine whose supervisor was killed, and what the kernel does not end.

A child asks for its death with the supervisor's as the first thing it does. Who is stopped or frozen before that outlives the
supervisor, and has by its fork all that the supervisor had: the directory's locks, the listener, clients' connections. It would
end of itself when it went on, as its parent is another one by then; until somebody lets it go on, the next start would be
refused. So that start ends it.

It is known by three things, which no other process has together: the name that a child has from its fork on (children.py); a
descriptor of this directory or of its lock file, with the engine's lock; a parent that has no such. Where one of them cannot
be seen, for another pid namespace or another user, nobody is ended. A fork that C code of the program around an engine made
has the descriptors, and not the name.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from ringwal import lock_file

NAMES = "ringwal-"
"""How the names of an engine's processes begin, apart from the supervisor, which has its program's."""
_STAT_PARENT = 1


def end(directory: int) -> list[int]:
    """SIGKILL to those that hold the locks of the directory that is open as `directory`, while its supervisor is dead. Returns
    their pids. That they are gone is seen by their locks."""
    said = lock_file.read(directory)
    if said is not None and said.start is not None and lock_file.started(said.pid) == said.start:
        return []
    files = [os.fstat(directory)]
    with contextlib.suppress(OSError):
        files.append(os.stat(lock_file.NAME, dir_fd=directory))
    return [pid for pid in _named() if _ended(pid, files)]


def _named() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and (entry / "comm").read_text().startswith(NAMES):
                found.append(int(entry.name))
    return found


def _ended(pid: int, files: list[os.stat_result]) -> bool:
    try:
        pidfd = os.pidfd_open(pid)  # before it is looked at: the number may be another one's afterwards
    except OSError:
        return False
    try:
        if not _is_stray(pid, files):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def _is_stray(pid: int, files: list[os.stat_result]) -> bool:
    """Raises OSError: it has gone, or may not be looked at."""
    if not _holds(pid, files):
        return False
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_STAT_PARENT])
    if parent == 0:  # outside of this pid namespace
        return False
    try:
        return not _holds(parent, files)
    except PermissionError:  # a supervisor may be looked at by whoever may look at its children
        return Path(f"/proc/{parent}").stat().st_uid != Path(f"/proc/{pid}").stat().st_uid


def _holds(pid: int, files: list[os.stat_result]) -> bool:
    """Has it one of the files open, with an engine's lock? Raises OSError as above."""
    for entry in list(Path(f"/proc/{pid}/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # it opens and closes files meanwhile
            found = entry.stat()
            if any(os.path.samestat(found, file) for file in files) and lock_file.locks(pid, int(entry.name)):
                return True
    return False
