"""The file `backup`: what a directory is that is a backup, or is being restored, and no log that an engine may run on.

    DEST/backup     {"what": "backup", "made": {...}, "previous": {...} or null, "digest": "..."}
    DIR/backup      {"what": "restore", ...}: while the log is restored there, and if that was cut short

It is the first file of both and, of a restored log, removed as the last step. A backup is made anew in an order that leaves
the one before in force until the manifest is replaced: `made` says what comes into force then, `previous` what was before.
The one whose checkpoint the manifest names is the one that is there; where there is no manifest, the backup is unfinished.

The manifest of a backup says so, too: where this file is lost, no engine starts there either.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import xxhash

from ringwal.errors import ConfigError, CorruptionError, VersionMismatch
from ringwal.log import manifest as manifests
from ringwal.log.directory import Directory
from ringwal.log.files import opened, replace_file
from ringwal.log.manifest import Manifest

NAME = "backup"
UNUSED = {"lost+found", NAME + ".tmp"}
"""What may be in a directory that counts as empty."""
_BEGINS = b'{\n "what": "'
_BYTES_MAX = 256 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One backup: of what, when, up to where."""

    uuid: str
    """Of the log, in hex digits."""
    home: str | None
    """Of the directory (home.py); None: it has none."""
    source: str
    """Its path."""
    began: str
    """When, ISO 8601 in UTC. What was confirmed then is in it."""
    ended: str
    epoch: int
    position: int
    """Log position at which it ends."""
    first_segment: int
    named_end: int
    checkpoint_digest: str
    """In hex digits: which manifest it belongs to."""
    streams: dict[str, dict[str, int]]
    """By name: `number`, `start_offset`, `next_offset`."""

    def is_of(self, manifest: Manifest) -> bool:
        """Does that manifest name it?"""
        mine = (self.uuid, self.checkpoint_digest, self.position)
        return mine == (manifest.uuid.hex(), f"{manifest.checkpoint_digest:016x}", manifest.checkpoint_position)


@dataclasses.dataclass(frozen=True, slots=True)
class Note:
    """What the file says."""

    what: str
    made: Made | None = None
    previous: Made | None = None


def store(directory: Directory, note: Note) -> None:
    """At once or not at all, durably. Raises OSError."""
    said = dataclasses.asdict(note)
    replace_file(NAME, json.dumps({**said, "digest": _digest(said)}, indent=1).encode() + b"\n", at=directory.fd)


def load(directory: Directory) -> Note | None:
    """None: there is no such file, or one that is nothing of ours. Raises CorruptionError: it is damaged. OSError."""
    try:
        with opened(NAME, os.O_RDONLY | os.O_NONBLOCK, at=directory.fd) as fd, open(os.dup(fd), "rb") as file:  # noqa: PTH123
            content = file.read(_BYTES_MAX)
        if not content.startswith(_BEGINS):
            return None
        said = json.loads(content)
        if said.pop("digest") != _digest(said):
            raise ValueError("digest")
        return Note(said["what"], _made(said["made"]), _made(said["previous"]))
    except (FileNotFoundError, IsADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CorruptionError(f"{directory.path / NAME} is damaged") from None


def in_force(directory: Directory) -> tuple[Made, Manifest]:
    """Of a backup: what is there.

    Raises:
        ConfigError: it is none, or is not finished.
        CorruptionError: it is damaged, or this file is lost.
        VersionMismatch, OSError.
    """
    note = load(directory)
    if note is None and is_backup(directory):
        raise CorruptionError(f"its file {NAME!r}, which says of what it is, is lost")
    if note is None or note.what != "backup":
        raise ConfigError(f"{directory.path} is no backup: it has no file {NAME!r} that says so")
    try:
        manifest = manifests.load(directory)
    except FileNotFoundError:
        raise ConfigError(
            f"{directory.path} is a backup that was not finished: make it anew with `ringwal backup --incremental`"
        ) from None
    for made in (note.made, note.previous):
        if made is not None and made.is_of(manifest):
            return made, manifest
    raise CorruptionError(f"{directory.path / manifests.NAME} is none of the backups that {NAME} knows")


def is_backup(directory: Directory) -> bool:
    """By the manifest alone, as far as one can be read."""
    with contextlib.suppress(CorruptionError, VersionMismatch, OSError):
        return manifests.load(directory).backup
    return False


def refuse_log(directory: Directory) -> None:
    """Raises ConfigError: it is a log, and no backup. CorruptionError, OSError."""
    if load(directory) is None and manifests.NAME in os.listdir(directory.path):
        raise ConfigError(f"{directory.path} is a log, on which an engine or another program is at work, and no backup")


def refuse_unfinished(path: Path, note: Note | None) -> None:
    """Raises ConfigError: what was being made there was cut short, and is none that is finished later."""
    if note is not None and note.what in ("restore", "salvage"):
        raise ConfigError(f"{path} is a log whose {note.what} was cut short: remove it, and run `ringwal {note.what}` again")


def refuse_engine(path: Path) -> None:
    """Raises ConfigError: no engine may run there."""
    note = None
    with contextlib.suppress(OSError), Directory(path) as directory:
        try:
            note = load(directory) or (Note("backup") if is_backup(directory) else None)
        except CorruptionError:
            note = Note("backup")
    if note is None:
        return
    refuse_unfinished(path, note)
    raise ConfigError(
        f"{path} is a backup, and shares files with its log: `ringwal restore {path} DIR` makes a log of it that an engine can"
        " run on"
    )


def _digest(said: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(said, sort_keys=True).encode())


def _made(said: dict[str, Any] | None) -> Made | None:
    return None if said is None else Made(**said)
