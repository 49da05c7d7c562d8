"""Backup and restore, for programs: what stands in log/backup.py and log/restore.py, with the engine that may be running."""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ringwal import limits
from ringwal._native import lib
from ringwal.client.attachment import Attachment
from ringwal.errors import AckTimeout, ConfigError, EngineFailed, NotRunning
from ringwal.file_errors import FileErrors
from ringwal.log import backup as backups
from ringwal.log.backup import Pace, Reach
from ringwal.log.directory import Directory
from ringwal.log.restore import restore as restore_log
from ringwal.steps import park

RATE = 32 << 20
"""Bytes a second that are read or copied beside an engine, where nothing else is asked for."""
_REST = 0.005


class Backup(NamedTuple):
    """What `backup` made. Everything that was confirmed at the time `began` is in it."""

    backup: str
    directory: str
    uuid: str
    """Of the log, in hex digits."""
    began: str
    """ISO 8601, UTC."""
    position: int
    """Log position at which it ends."""
    segments: int
    linked: int
    """Segments that are now the log's own files, too."""
    copied: int
    """Segments that were copied, the one in use included."""
    kept: int
    """Segments that an earlier backup there had."""
    bytes_copied: int
    streams: int
    seconds: float


class Restored(NamedTuple):
    """What `restore` made: a log at the end of the backup, whose streams have the same offsets."""

    directory: str
    backup: str
    uuid: str
    """Of the new log, in hex digits."""
    began: str
    """When the backup was begun."""
    segments: int
    bytes_copied: int
    streams: int
    seconds: float


def backup(
    directory: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    incremental: bool = False,
    copies: bool = False,
    rate: int | None = None,
    timeout: float | None = 60.0,
) -> Backup:
    """Backs up the log in `directory`, whether or not an engine runs there, to the directory `dest`.

    Sealed segments are linked where `dest` is on the same file system (they are never changed), else copied; the one in use is
    copied. `restore` makes a log of it.

    Args:
        directory: of the log.
        dest: where the backup is to be. It must not exist, or be empty.
        incremental: `dest` may have an older backup of this directory, or an unfinished one, which stays in force until the
            new one is whole. What the log has freed since is removed from it.
        copies: link nothing, so that the backup shares no file with the log.
        rate: bytes a second to be read or copied at most; None: 32 MiB while an engine runs, and no limit without.
        timeout: seconds to wait for the engine to answer, and for what is under way to be confirmed; None for ever.

    Raises:
        ValueError: a number outside of its limits.
        ConfigError: `dest` is in use for something else; or the log cannot be backed up as it is, and why.
        CorruptionError: the log is damaged.
        NotRunning, EngineFailed: the engine does not answer, or ended meanwhile; `dest` has the older backup, or an unfinished.
        AckTimeout: what was under way is not confirmed in time.
        Locked: another backup is being made in `dest`.
        StorageFull, FileError: the system refuses a file.
    """
    began, timeout = time.monotonic(), limits.seconds(timeout)
    rate = None if rate is None else limits.whole(rate, "rate", 1)
    path, to = (limits.path(each, error=ConfigError).absolute() for each in (directory, dest))
    make = partial(backups.make, dest=to, incremental=incremental, copies=copies)
    attachment = _attached(path, timeout)
    with FileErrors(to, "back up to"):
        if attachment is None:
            with FileErrors(path, "read from"):
                source = Directory(path)
            with source:
                made, counts = make(source, reach=None, pace=Pace(rate))
        else:
            with contextlib.closing(attachment):
                reach = _Engine(path, attachment, timeout)
                made, counts = make(attachment.directory, reach=reach, pace=Pace(rate or RATE))
    return Backup(
        backup=str(to),
        directory=str(path),
        uuid=made.uuid,
        began=made.began,
        position=made.position,
        segments=made.named_end - made.first_segment,
        linked=counts.linked,
        copied=counts.copied_segments,
        kept=counts.kept,
        bytes_copied=counts.copied,
        streams=len(made.streams),
        seconds=round(time.monotonic() - began, 3),
    )


def restore(backup: str | os.PathLike[str], directory: str | os.PathLike[str]) -> Restored:
    """Makes a log in `directory` of the backup, with files, a uuid and a home of its own. Everything is read, and proven.

    Args:
        backup: as `backup` made it.
        directory: must not exist, or be empty.

    Raises:
        ConfigError: `backup` is none, or unfinished; `directory` is not empty.
        CorruptionError: the backup is damaged.
        Locked: it is being written.
        StorageFull, FileError: the system refuses a file.
    """
    began = time.monotonic()
    source, path = (limits.path(each, error=ConfigError).absolute() for each in (backup, directory))
    with FileErrors(path, "restore"):
        with FileErrors(source, "read from"):
            Directory(source).close()
        made, uuid, copied = restore_log(source, path)
    return Restored(
        directory=str(path),
        backup=str(source),
        uuid=uuid.hex(),
        began=made.began,
        segments=made.named_end - made.first_segment,
        bytes_copied=copied,
        streams=len(made.streams),
        seconds=round(time.monotonic() - began, 3),
    )


def _attached(path: Path, timeout: float | None) -> Attachment | None:
    """To the engine that runs there; one that is ending is waited for. None: there is none. Raises as `backup`."""
    began = time.monotonic()
    while True:
        try:
            return park(Attachment.steps(path, autostart=False, timeout=timeout))
        except NotRunning as error:
            if error.why == "absent":
                return None
            if error.why != "ending" or (timeout is not None and time.monotonic() - began > timeout):
                raise
        time.sleep(_REST)


class _Engine:
    """How far a running engine's log is confirmed: at least up to the last block that was sealed when it was first asked."""

    def __init__(self, path: Path, attachment: Attachment, timeout: float | None) -> None:
        self._path, self._attachment, self._timeout = path, attachment, timeout
        self._wanted = int(lib.rw_engine_sealed_end(attachment.control))

    def __call__(self) -> Reach:
        """Raises EngineFailed: it has ended. AckTimeout."""
        attachment, began = self._attachment, time.monotonic()
        while True:
            end = int(lib.rw_engine_released_end(attachment.control))
            if not attachment.usable():
                raise EngineFailed(f"the engine on {self._path} ended during the backup: make it again")
            if end >= self._wanted:
                return Reach(attachment.epoch, end)
            if self._timeout is not None and time.monotonic() - began > self._timeout:
                raise AckTimeout(f"what was under way on {self._path} is not confirmed after {self._timeout:g} s: try again")
            time.sleep(_REST)
