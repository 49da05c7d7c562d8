"""The directory of a log, by descriptor: what its path leads to may change, what was opened stays the same directory.

Every file of a log is opened, made, renamed and removed relative to these descriptors (openat and its kin). So whoever
holds a `Directory` works on one log until its end, also when the directory is moved, when another one is put in its
place, or when the process changes its current directory. Whether the path still leads there is asked by `leads_here`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

from ringwal.held import Held

SEGMENTS = "segments"
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)


class Directory:
    """DIR and DIR/segments, held open until `close`, or until the last reference goes."""

    def __init__(self, path: str | os.PathLike[str], give: Callable[[Held], None] | None = None) -> None:
        """Hold the directory that `path` leads to now, or the one that is open already, as the descriptor that `give`
        makes this object's; `path` is for messages then. Raises OSError."""
        self.path = Path(path).absolute()
        self._held = Held()
        if give is None:
            self._held.open(self.path, _FLAGS)
        else:
            give(self._held)
        with contextlib.suppress(FileNotFoundError):  # a log that is not made yet
            self._held.open(SEGMENTS, _FLAGS, at=self.fd)

    @property
    def fd(self) -> int:
        """Of DIR."""
        return self._held[0]

    @property
    def segments(self) -> int:
        """The descriptor of DIR/segments. Raises FileNotFoundError: there is none."""
        if len(self._held) < 2:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path / SEGMENTS))
        return self._held[1]

    def has_segments(self) -> bool:
        """Is DIR/segments there, and held?"""
        return len(self._held) > 1

    def make_segments(self) -> None:
        """Make DIR/segments, for its owner only, durably, and hold it. Nothing happens if it is there. Raises OSError."""
        if len(self._held) == 1:
            with contextlib.suppress(FileExistsError):
                os.mkdir(SEGMENTS, 0o700, dir_fd=self.fd)
                os.fsync(self.fd)
            self._held.open(SEGMENTS, _FLAGS, at=self.fd)
            give_to_owner(self.segments, at=self.fd)

    def reopened(self) -> int:
        """Another open of DIR, with nothing of this one's locks; the caller closes it. Raises OSError."""
        return os.open(".", _FLAGS, dir_fd=self.fd)

    def unlocked(self) -> Directory:
        """The same directory, opened once more, with nothing of this one's locks. Raises OSError."""

        def again(held: Held) -> None:
            held.open(".", _FLAGS, at=self.fd)

        return Directory(self.path, again)

    def leads_here(self) -> bool:
        """Does the path lead to this directory now? Where that cannot be seen (no permission), True: nothing is known.

        Raises OSError where the kernel cannot say for another reason.
        """
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self.fd))
        except PermissionError:
            return True
        except OSError as error:
            if error.errno not in _LEADS_NOWHERE:
                raise
            return False

    def close(self) -> None:
        """Let go. Calling it again does nothing."""
        self._held.close()

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Directory {str(self.path)!r}>"


def give_to_owner(fd: int, *, at: int) -> None:
    """What root makes in the directory that is open as `at` belongs to the directory's owner, who has to go on with it."""
    owner = os.fstat(at)
    if os.geteuid() == 0 and os.fstat(fd).st_uid != owner.st_uid:
        os.fchown(fd, owner.st_uid, owner.st_gid)
