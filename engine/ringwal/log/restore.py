"""A log made of a backup: with files of its own, a uuid and a home of its own.

The uuid is new, because it names a log and not its contents. A client that was attached to the log that is lost has been told
of appends that the backup may not have; it must not take the restored log for the one that it knows, nor go on where that
one ended. So each block gets the new uuid while it is copied. The checksums of its frames know epoch and position only,
and stay as they are: what a record is made of is not touched, and its digest is checked on the way.

Everything is read and proven: each block up to the backup's end, by its chain (proof.py), against manifest and checkpoint.
Side files are not restored, as they name the log that they are of, and are made again.

DIR is no log before all is durable (new_log.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ringwal.errors import ConfigError, CorruptionError, Locked
from ringwal.log import attic_copy, backup_note, checkpoint_file, segment
from ringwal.log import home as homes
from ringwal.log import manifest as manifests
from ringwal.log.backup_note import Made
from ringwal.log.checkpoint import STREAM_BYTES, Checkpoint, extents
from ringwal.log.directory import Directory
from ringwal.log.files import opened, sync_directory, write_all
from ringwal.log.manifest import Manifest
from ringwal.log.new_log import new_log
from ringwal.log.proof import prove
from ringwal.log.window import Window
from ringwal.points import point


def restore(backup: Path, path: Path) -> tuple[Made, bytes, int]:
    """Make a log in `path`, which is empty or does not exist. Returns what the backup is, the new uuid, and the bytes that were
    copied.

    Raises:
        ConfigError: `backup` is none, or unfinished; `path` is not empty.
        CorruptionError: the backup is damaged.
        Locked: the backup is being written.
        VersionMismatch, StorageFull, OSError.

    Whatever is raised, nothing is left in `path` that was made there.
    """
    with Directory(backup) as source, _refused(backup):
        try:
            fcntl.flock(source.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            backup_note.refuse_log(source)
            raise Locked(f"{backup} is being written by a backup: wait for it") from None
        made, manifest = backup_note.in_force(source)
        known = checkpoint_file.load(source, manifest)
        known.rows()
        known.owner_rows()
        if backup.resolve() in (path.resolve(), *path.resolve().parents):
            raise ConfigError(f"{path} is in the backup, of which nothing is changed: choose another directory")
        with new_log(path, "restore") as directory:
            uuid = os.urandom(16)
            copied = _segments(source, directory, manifest, known, uuid)
            attic_copy.renamed(source, directory, manifest.uuid, manifest.first_segment * manifest.segment_bytes, uuid)
            _name(directory, manifest, known, uuid)
    return made, uuid, copied


@contextlib.contextmanager
def _refused(backup: Path) -> Iterator[None]:
    """What is said of damage, with what to do about it."""
    try:
        yield
    except CorruptionError as damage:
        told = CorruptionError(
            f"the backup {backup} is damaged: {damage}. `ringwal verify {backup}` says what is damaged, and `ringwal salvage"
            f" {backup} DIR` makes a log of all that is good in it"
        )
        told.segment, told.position = damage.segment, damage.position
        raise told from damage


def _segments(source: Directory, directory: Directory, manifest: Manifest, known: Checkpoint, uuid: bytes) -> int:
    size, copied = manifest.segment_bytes, 0
    window = Window(source, manifest, direct=True)
    try:
        for number in range(manifest.first_segment, manifest.named_end):
            segment.create(directory, uuid, number, size, direct=False, fill=False)
            with opened(segment.name_of(number), os.O_WRONLY, at=directory.segments) as fd:
                begin, end = number * size, min((number + 1) * size, known.position)
                into = _writer(fd, size)
                for extent in extents(known.epochs, begin, end, size):
                    prove(window, manifest.uuid, extent, renamed=uuid, into=into)
                    copied += extent.end - extent.begin
                os.fsync(fd)
            point("restore.segment")
    finally:
        window.close()
    return copied


def _writer(fd: int, size: int) -> Callable[[memoryview, int], None]:
    def into(piece: memoryview, position: int) -> None:
        write_all(fd, piece, segment.HEADER_BYTES + position % size)

    return into


def _name(directory: Directory, manifest: Manifest, known: Checkpoint, uuid: bytes) -> None:
    own = dataclasses.replace(manifest, uuid=uuid, checkpoint_bytes=0)
    renamed = dataclasses.replace(known, uuid=uuid)
    own = checkpoint_file.put(directory, own, renamed, len(known.streams) // STREAM_BYTES)
    homes.keep(directory, homes.look(directory))
    sync_directory(directory.fd)
    point("restore.checkpoint")
    manifests.create(directory, dataclasses.replace(own, end=known.position, backup=False))
    point("restore.named")
