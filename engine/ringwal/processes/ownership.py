"""Whose directory it is: one engine for a directory, down to its last process, as long as the directory is there.

OWNERSHIP hangs on the directory itself and not on a name in it. The engine holds DIR open and locks it (flock), and then
DIR/lock, too. Children inherit both, so the kernel releases them only when the supervisor and every WAL and drain process
are gone: also one that is stuck in a write after its supervisor was killed.

    DIR             the lock that counts. Whoever removes or replaces the file `lock` opens no door
    DIR/lock        for people, who find the pid in it, and for file systems that lock no directories
    DIR/manifest    against a copy made of hard links, whose files are the same
    DIR/segments    against a copy whose `segments` is a link that leads to the same directory

WATCHING. Names may be disturbed by whoever may write above DIR: cleaners of temporary files, deployments, backups put
back. Everything is done relative to the descriptors (log/directory.py), so the engine works on in a directory that is moved
away or deleted, and what it confirms then nobody will find. So the names are looked at: `check` once a second by the
supervisor, and before each new segment by the WAL process; the lock file and the socket by the supervisor alone, who made
them (watch.py):

    lock or engine.sock gone                                      made again, when missed twice in a row
    DIR's path absent, or leading elsewhere; DIR deleted          the epoch ends, code 72
    manifest, segments/ or a segment in use gone, or another      the epoch ends, code 72
    lock or engine.sock another's                                 the epoch ends, code 72
    lock gone, where the file system locks no directories         the epoch ends, code 72: nothing guards the log any more

Until that is seen, a second at most and never into a new segment, appends are confirmed: they stand in the directory that
was moved or replaced, and are gone with one that was deleted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ringwal import lock_file
from ringwal.errors import Locked
from ringwal.lock_file import Holder
from ringwal.log import manifest, segment
from ringwal.log.directory import SEGMENTS, Directory, give_to_owner
from ringwal.log.files import check_regular, make_directory, replace_file
from ringwal.processes import strays
from ringwal.processes.forks import Private

LOG = logging.getLogger("ringwal")
DYING_SECONDS = 5.0
"""How long to wait for the rest of an engine whose supervisor is dead already; the kernel needs a moment to end it."""
PROBE_SECONDS = 0.1
"""How long a lock whose holder says nothing is tried again: somebody may just be looking."""
STRAYS_SECONDS = 1.0
"""How long until it is looked again for what the kernel does not end of a dead engine; first after `PROBE_SECONDS`."""
_LOCKS_NO_DIRECTORY = (errno.EBADF, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOLCK)


class Ownership:
    """A directory and its locks, held from construction to `release()`. WAL and drain inherit the descriptors, other forks of
    the program around the engine do not (`private`)."""

    def __init__(self, path: Path) -> None:
        """Make the directory if it is missing, and take it.

        Raises:
            Locked: an engine holds it; with its pid.
            OSError: it cannot be made or opened.
        """
        self._manifest = -1
        self._directory_locked = True
        self._segments: dict[int, tuple[int, int] | None] = {}  # as the latest look saw them; the WAL process has its own
        self.lock_fd = -1
        make_directory(path)
        self.directory = Directory(path)
        self.private = Private()
        self._held = contextlib.ExitStack()
        self._held.enter_context(self.private.held(self._close))
        began = time.monotonic()
        self._strays_at, self._strays = PROBE_SECONDS, set[int]()
        while True:
            try:
                if self._lock_directory() and self._lock_file():
                    break
                self._give_up(time.monotonic() - began)
            except BaseException:
                self.release()
                raise
            self._close()
            time.sleep(0.01)  # flock has no wait with a deadline
            make_directory(path)
            self.directory = Directory(path)
        try:
            self.hold_manifest()
        except BaseException:
            self.release()
            raise
        self.describe()

    def descriptors(self) -> set[int]:
        """What the children of the supervisor keep."""
        return {self.directory.fd, self.directory.segments, self.lock_fd, self._manifest}

    def describe(self, control: int | None = None, ring: int | None = None, progress: int | None = None) -> None:
        """Say in the lock file who holds it, and where its memory is. Raises OSError."""
        self._said = Holder(os.getpid(), lock_file.started(os.getpid()), self.lock_fd, control, ring, progress)
        lock_file.write(self.lock_fd, self._said)

    @property
    def manifest(self) -> int:
        """The descriptor of the manifest that is held, for writing: whatever has its name by now."""
        return self._manifest

    def hold_manifest(self) -> None:
        """From now on the manifest is this file, if there is one, and it is locked, and `segments/` with it: before anything is
        read from them. A manifest that a copy made of hard links shares is replaced by one of our own: it is written in place.

        Raises:
            Locked: another engine writes this very manifest, or these segments.
            CorruptionError: its name leads to no file.
            OSError: it cannot be opened or replaced.
        """
        at = self.directory.fd
        check_regular(manifest.NAME, at=at)
        while self._manifest < 0:
            try:
                fd = os.open(manifest.NAME, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
            except FileNotFoundError:
                return
            if _locked(fd) is False:
                os.close(fd)
                raise Locked(self._shares("manifest", "made of hard links"))
            if os.fstat(fd).st_nlink > 1:
                content = os.pread(fd, manifest.FILE_BYTES, 0)
                os.close(fd)
                replace_file(manifest.NAME, content, at=at)
            else:
                self._manifest = fd
        if self.directory.has_segments() and _locked(self.directory.segments) is False:
            raise Locked(self._shares(SEGMENTS, f"whose {SEGMENTS} is a link"))

    def _shares(self, what: str, how: str) -> str:
        return (
            f"another engine runs on the {what} of {self.directory.path}: one of the two directories is a copy {how};"
            " stop that engine, or make a copy with files of its own (cp -a, following links)"
        )

    def release(self) -> None:
        """Let go. The lock file stays: removing it would let two engines lock two files of one name."""
        self._held.close()
        self._close()

    def _close(self) -> None:
        fds, self.lock_fd, self._manifest = (self.lock_fd, self._manifest), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)
        self.directory.close()

    # ------------------------------------------------------------------------------------------------- watching

    def check(self, segments: Iterable[int] = (), first: Callable[[], int] = lambda: 0) -> str | None:
        """What has happened to the directory so that nothing may be confirmed any more; None: nothing.

        `segments` are the numbers of those in use; `first` says below which the engine itself frees them, and is asked when one
        is missed. Raises OSError where the kernel cannot say.
        """
        return next(self._losses(segments, first), None)

    def _losses(self, segments: Iterable[int], first: Callable[[], int]) -> Iterator[str]:
        directory = self.directory
        if os.fstat(directory.fd).st_nlink == 0:
            yield "was deleted"
        if not directory.leads_here():
            yield "is not where it was: it was moved or deleted, or something else was put in its place"
        if not _is(directory.fd, SEGMENTS, directory.segments):
            yield f"has lost its {SEGMENTS}, or has got others"
        if not _is(directory.fd, manifest.NAME, self._manifest):
            yield "has lost its manifest, or has got another"
        seen, self._segments = self._segments, {}
        for number in segments:
            here = self._segments[number] = _identity(directory.segments, segment.name_of(number))
            if (here is None or seen.get(number, here) != here) and number >= first():
                yield f"has lost segment {number}, which is in use"

    def opened(self, number: int, fd: int) -> None:
        """The WAL process writes that segment from now on: `check` holds its name against this file."""
        found = os.fstat(fd)
        self._segments[number] = found.st_dev, found.st_ino

    def lock_file_state(self) -> str | None:
        """None: the lock file is the one that is held. "missing": somebody removed it, and it can be made again, as DIR is
        locked, too. "lost": there is another one, or nothing but the removed one was locked. Of the process that made it."""
        if _is(self.directory.fd, lock_file.NAME, self.lock_fd):
            return None
        return "missing" if self._directory_locked and _identity(self.directory.fd, lock_file.NAME) is None else "lost"

    def make_lock_file(self) -> None:
        """Put a lock file where it was removed. Those that WAL and drain have inherited are of the removed one; the directory's
        own lock was, and is, held by all. Raises OSError."""
        removed, self.lock_fd = self.lock_fd, -1
        try:
            if not self._lock_file():
                raise Locked(f"somebody else has locked a new lock file in {self.directory.path}")
        except BaseException:
            self.lock_fd = removed
            raise
        os.close(removed)
        self.describe(self._said.control, self._said.ring)

    # -------------------------------------------------------------------------------------------------- locking

    def _lock_directory(self) -> bool:
        locked = _locked(self.directory.fd)
        if locked is None:
            self._directory_locked = False
            LOG.warning("the file system of %s locks no directories; its lock file has to do", self.directory.path)
        elif not locked:
            return False
        return self.directory.leads_here()  # else it was moved between the open and the lock: try what is there now

    def _lock_file(self) -> bool:
        """Lock the file that is at DIR/lock now. False: somebody else has."""
        at = self.directory.fd
        while True:
            fd = os.open(lock_file.NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=at)
            try:
                give_to_owner(fd, at=at)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_nlink > 1:  # another directory's, too: a copy made of hard links
                    os.unlink(lock_file.NAME, dir_fd=at)
                elif _is(at, lock_file.NAME, fd):
                    self.lock_fd = fd
                    return True
            except BlockingIOError:
                os.close(fd)
                return False
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # it was removed or replaced meanwhile, or is not ours alone: this lock guards nothing

    def _give_up(self, waited: float) -> None:
        """Raises Locked unless the holder is about to go."""
        holder = lock_file.holder(self.directory.fd)  # proven: what a copy's lock file says is the original's
        lives = holder is not None
        if not lives:
            holder = lock_file.read(self.directory.fd)
            if waited > self._strays_at:
                self._end_strays()
                self._strays_at = waited + STRAYS_SECONDS
        if lives or waited > (DYING_SECONDS if holder or self._strays else PROBE_SECONDS):
            named = f"process {holder.pid}" if holder else "another process"
            raise Locked(
                f"{self.directory.path} is in use by the engine of {named}; stop it with `ringwal stop {self.directory.path}`",
                holder.pid if holder else None,
            )

    def _end_strays(self) -> None:
        found = set(strays.end(self.directory.fd))
        for pid in found - self._strays:
            LOG.warning("ended process %d, which a dead engine has left on %s", pid, self.directory.path)
        self._strays |= found


def _locked(fd: int) -> bool | None:
    """Lock the file or directory. False: somebody else has; None: the file system locks no such thing, the lock file has to
    do."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _LOCKS_NO_DIRECTORY:
            raise
        return None
    return True


def _is(directory: int, name: str, fd: int) -> bool:
    """Does the name lead to the file that is open as `fd`?"""
    try:
        return os.path.samestat(os.stat(name, dir_fd=directory), os.fstat(fd))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _identity(directory: int, name: str) -> tuple[int, int] | None:
    """What file has that name. While an engine writes it, it keeps its number, which no other can have."""
    try:
        found = os.stat(name, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
