"""DIR/home: which directory this is, as the manifest says which log it holds.

The uuid in the manifest is the log's: a copy of the directory has it, too. The home is the directory's own, random, and is
kept with what the file system knows the directory by: its inode number and the time of its making (not its device, whose
number changes over reboots). Where these differ at a start, the directory is a copy of the one that the file speaks of,
and gets a home of its own.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from ringwal._native import lib
from ringwal.log.directory import Directory
from ringwal.log.files import opened, read_all, replace_file

NAME = "home"
_BYTES_MAX = 4096


class Home(NamedTuple):
    """`id` is 32 hex digits; `copied_from` is the home that was found, if it is another directory's."""

    id: str
    copied_from: str | None = None


def settle(directory: Directory) -> Home:
    """The home of the directory, made and stored if it has none of its own. Raises OSError."""
    here = {"inode": os.fstat(directory.fd).st_ino, "created_ns": lib.rw_birth_ns(directory.fd)}
    found = _load(directory)
    if found is not None and {key: found.get(key) for key in here} == here:
        return Home(str(found["home"]))
    fresh = os.urandom(16).hex()
    replace_file(NAME, json.dumps({"home": fresh, **here}, indent=1).encode() + b"\n", at=directory.fd)
    return Home(fresh, None if found is None else str(found["home"]))


def _load(directory: Directory) -> dict[str, object] | None:
    """What the file says; None if there is none that makes sense."""
    content = bytearray(_BYTES_MAX)
    try:
        with opened(NAME, os.O_RDONLY, at=directory.fd) as fd:
            length = read_all(fd, memoryview(content), 0)
        found = json.loads(content[:length])
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("home"), str) else None
