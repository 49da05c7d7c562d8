"""The directory in which a log is made of another one's files: a restored or a salvaged one.

The first file in it says what is being made there, and is removed when all else is durable: until then no engine runs there.
Who fails takes away what it has made; that file goes last, so who is killed meanwhile leaves what is refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ringwal.errors import ConfigError, CorruptionError
from ringwal.log import backup_note
from ringwal.log.backup_note import Note
from ringwal.log.directory import SEGMENTS, Directory
from ringwal.log.files import make_directory, opened, sync_directory, unlink

_MADE = {"restore": "restored", "salvage": "salvaged"}


@contextlib.contextmanager
def new_log(path: Path, what: str) -> Iterator[Directory]:
    """The directory `path`, which is empty or does not exist, for a "restore" or a "salvage"; a log when the body ends.

    Raises:
        ConfigError: it is not empty.
        OSError.
    """
    is_new = False
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)  # what is missing above it was rather mistyped
        is_new = True
    make_directory(path)
    with Directory(path) as directory:
        _refuse_used(directory, what)
        before = set(os.listdir(directory.fd))
        try:
            backup_note.store(directory, Note(what))
            directory.make_segments()
            yield directory
            unlink(backup_note.NAME, at=directory.fd)
            sync_directory(directory.fd)
        except BaseException:
            with contextlib.suppress(OSError):
                _take_away(directory, before)
                if is_new and directory.leads_here():
                    path.rmdir()
            raise


def _refuse_used(directory: Directory, what: str) -> None:
    """Raises ConfigError: something is there."""
    if not set(os.listdir(directory.fd)) - backup_note.UNUSED:
        return
    with contextlib.suppress(CorruptionError):
        backup_note.refuse_unfinished(directory.path, backup_note.load(directory))
    raise ConfigError(f"{directory.path} is not empty: a log is {_MADE[what]} into a directory of its own")


def _take_away(directory: Directory, before: set[str]) -> None:
    """All that is not from `before`. Raises OSError."""
    if directory.has_segments():
        with opened(".", os.O_RDONLY | os.O_DIRECTORY, at=directory.segments) as fd:
            for name in os.listdir(fd):
                unlink(name, at=fd)
        os.rmdir(SEGMENTS, dir_fd=directory.fd)
    for name in sorted(set(os.listdir(directory.fd)) - before - {backup_note.NAME}):
        unlink(name, at=directory.fd)
    sync_directory(directory.fd)
    unlink(backup_note.NAME, at=directory.fd)
