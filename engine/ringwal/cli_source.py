"""What verbs read from: an engine, as its client, or the files of a log without one."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ringwal import cli_kit as kit
from ringwal.errors import FileError, NotRunning

if TYPE_CHECKING:
    import ringwal
    from ringwal.log.directory import Directory

offline_option = click.option("--offline", is_flag=True, help="Read the log without asking an engine, also where one runs.")


@contextlib.contextmanager
def reading(directory: Path, timeout: float, *, offline: bool) -> Iterator[ringwal.Client | ringwal.ReadOnlyLog]:
    """A client of the engine; where none runs, or with `offline`, the log without one."""

    with contextlib.ExitStack() as stack:
        absent: NotRunning | None = None
        found: ringwal.Client | ringwal.ReadOnlyLog | None = None
        if not offline:
            try:
                found = stack.enter_context(kit.client(directory, timeout))
            except NotRunning as error:
                if error.why != "absent":
                    raise
                absent = error
        if found is None:
            found = stack.enter_context(_without_engine(directory, absent))
        yield found


def _without_engine(directory: Path, absent: NotRunning | None) -> ringwal.ReadOnlyLog:
    """Raises `absent`, if that is given, where there is no log either; as `ringwal.open_readonly`."""
    import ringwal

    try:
        return ringwal.open_readonly(directory)
    except FileError as error:
        if absent is None or error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        raise absent from None


@contextlib.contextmanager
def log_of(path: Path) -> Iterator[tuple[Directory, bool]]:
    """The directory, held open, and whether an engine holds it: for verbs that look at files. Raises FileError."""
    from ringwal import lock_file
    from ringwal.file_errors import FileErrors
    from ringwal.log.directory import Directory

    with FileErrors(path, "read"), Directory(path) as directory:
        yield directory, lock_file.held(directory.fd)
