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


def file_error(error: OSError, path: Path, doing: str) -> Error:
    """What to raise for ``error``."""
    number = error.errno or 0
    what = f"cannot {doing} {path}: {os.strerror(number) if number else error}"
    if number in _NO_ROOM:
        return StorageFull(f"{what}; free space there, and try again", number)
    owner = _owner(path)
    if number == errno.ENXIO:
        what += "; it is no regular file"
    if number in _TOO_MANY:
        what += f"; this process may open {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} files (ulimit -n)"
    elif number in _NOT_ALLOWED and owner is not None:
        what += f"; it belongs to user {owner}, and this process is user {os.geteuid()}"
    return FileError(what, number, str(path), owner)


def _owner(path: Path) -> int | None:
    """Of the path, or of what it is to be made in; None: that cannot be seen."""
    for place in (path, *path.parents):
        try:
            return place.stat().st_uid
        except OSError:
            continue
    return None
