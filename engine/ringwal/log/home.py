"""DIR/home: which directory this is, as the manifest says which log it holds.

The uuid in the manifest is the log's: a copy of the directory has it, too. The home is the directory's own, random, and is
kept with what the file system knows the directory by: its inode number and the time of its making (not its device, whose
number changes over reboots). Where these differ at a start, the directory is a copy of the one that the file speaks of. It
gets a home of its own, once it is proven that the copy is whole (copies.py): until then it is a copy at each start.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from typing import NamedTuple

from ringwal._native import lib
from ringwal.errors import ConfigError
from ringwal.log.directory import SEGMENTS, Directory
from ringwal.log.files import opened, read_all, replace_file

LOG = logging.getLogger("ringwal")
NAME = "home"
_BYTES_MAX = 4096


class Home(NamedTuple):
    """`id` is 32 hex digits; `copied_from` is the home that was found, if it is another directory's."""

    id: str
    copied_from: str | None = None
    stored: bool = True
    """The file says so; else it is to be stored (`keep`)."""


def look(directory: Directory) -> Home:
    """The home of the directory, or a fresh one if it has none of its own. Nothing is changed.

    Raises:
        ConfigError: it is a copy, and its segments are a link: the original's, which it must not write.
    """
    here, found = _here(directory), _load(directory)
    if found is not None and {key: found.get(key) for key in here} == here:
        return Home(str(found["home"]))
    if found is not None and directory.has_segments() and _is_link(directory):
        raise ConfigError(
            f"{directory.path} is a copy of another directory, and its {SEGMENTS} is a link to that one's; copy the segments,"
            f" too, or, if the other one is gone, remove {NAME} in it and start again"
        )
    return Home(os.urandom(16).hex(), None if found is None else str(found["home"]), stored=False)


def keep(directory: Directory, home: Home) -> None:
    """Store a fresh home. From the next start on the directory is no copy any more."""
    if home.stored:
        return
    try:
        replace_file(NAME, json.dumps({"home": home.id, **_here(directory)}, indent=1).encode() + b"\n", at=directory.fd)
    except OSError as error:  # it is for people to tell directories apart; the log does without
        LOG.warning("cannot store which directory this is in %s: %s", directory.path / NAME, error)


def _here(directory: Directory) -> dict[str, int]:
    """What the file system knows the directory by."""
    return {"inode": os.fstat(directory.fd).st_ino, "created_ns": lib.rw_birth_ns(directory.fd)}


def _is_link(directory: Directory) -> bool:
    return stat.S_ISLNK(os.stat(SEGMENTS, dir_fd=directory.fd, follow_symlinks=False).st_mode)


def _load(directory: Directory) -> dict[str, object] | None:
    """What the file says; None if there is none that makes sense."""
    content = bytearray(_BYTES_MAX)
    try:
        with opened(NAME, os.O_RDONLY | os.O_NONBLOCK, at=directory.fd) as fd:
            length = read_all(fd, memoryview(content), 0)
        found = json.loads(content[:length])
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("home"), str) else None
