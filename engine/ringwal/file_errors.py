"""What the system refuses about files, as errors of the tree: they name the path, its owner, and who asks."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from types import TracebackType

from ringwal.errors import Error, FileError, StorageFull

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM)
_TOO_MANY = (errno.EMFILE, errno.ENFILE)
NO_MORE = (errno.ENOMEM, errno.EAGAIN)
"""What says that there is no other process, thread or memory to be had."""


class FileErrors:
    """While the body runs, an OSError that is none of ours is raised as `FileError`, or as `StorageFull`: no room."""

    def __init__(self, path: Path, doing: str) -> None:
        """``doing`` that with ``path`` is what may not be possible."""
        self._path = path
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, OSError) and not isinstance(error, Error):
            raise file_error(error, self._path, self._doing) from error


def file_error(error: OSError, path: Path, doing: str, *, named: str | None = None) -> Error:
    """What to raise for ``error``; ``named`` is the file of that directory, or elsewhere, that it is about."""
    number = error.errno or 0
    place = path / (named or "")
    what = f"cannot {doing} {path}: {f'{named}: ' if place != path else ''}{os.strerror(number) if number else error}"
    if number in _NO_ROOM:
        return StorageFull(f"{what}; free space there, and try again", number)
    owner = _owner(place)
    if number == errno.ENXIO:
        what += "; it is no regular file"
    if number in _NOT_ALLOWED and owner is not None:
        what += f"; it belongs to user {owner}, and this process is user {os.geteuid()}"
    return FileError(what + advice(number), number, str(place), owner)


def advice(number: int) -> str:
    """What to do about an errno, as the end of a sentence; empty where it speaks for itself."""
    if number in _TOO_MANY:
        return f"; this process may open {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} files (ulimit -n)"
    if number == errno.EROFS:
        return "; it is mounted read-only: mount it for writing, or use another directory"
    if number == errno.EFBIG:
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if most == resource.RLIM_INFINITY:
            return "; a limit of its writer (ulimit -f), or the file system, allows no files of that size"
        return f"; this process may write files of {most} bytes: raise that limit (ulimit -f)"
    if number in NO_MORE:
        return (
            "; the system gives no other process, thread or memory: raise what limits it (ulimit -v, ulimit -u, the cgroup),"
            " or end others"
        )
    return ""


def check_proc() -> None:
    """Raises Error if there is no /proc, through which engine and clients find each other and their own descriptors."""
    if not Path("/proc/self/fd").is_dir():
        raise Error(
            "no /proc is mounted here, and ringwal cannot do without it: mount it (mount -t proc proc /proc)",
            outcome="not_appended",
        )


def _owner(path: Path) -> int | None:
    """Of the path, or of what it is to be made in; None: that cannot be seen."""
    for place in (path, *path.parents):
        try:
            return place.stat().st_uid
        except OSError:
            continue
    return None
