"""A log made of a backup: with files of its own, a uuid and a home of its own.

The uuid is new, because it names a log and not its contents. A client that was attached to the log that is lost has been told
of appends that the backup may not have; it must not take the restored log for the one that it knows, nor go on where that
one ended. So each block gets the new uuid while it is copied. The checksums of its frames know epoch and position only,
and stay as they are: what a record is made of is not touched, and its digest is checked on the way.

Everything is read and proven: each block up to the backup's end, by its chain (proof.py), against manifest and checkpoint.
Side files are not restored, as they name the log that they are of, and are made again.

The first file in DIR says that it is being restored, and is removed when all else is durable: until then no engine runs there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from ringwal.errors import ConfigError, Locked
from ringwal.log import attic_copy, backup_note, checkpoint_file, segment
from ringwal.log import home as homes
from ringwal.log import manifest as manifests
from ringwal.log.backup_note import Made, Note
from ringwal.log.checkpoint import STREAM_BYTES, Checkpoint
from ringwal.log.directory import Directory
from ringwal.log.files import make_directory, opened, sync_directory, unlink, write_all
from ringwal.log.manifest import Manifest
from ringwal.log.proof import extents, prove
from ringwal.log.window import Window
from ringwal.points import point


def restore(backup: Path, path: Path) -> tuple[Made, bytes, int]:
    """Make a log in `path`, which is empty or does not exist. Returns what the backup is, the new uuid, and the bytes that were
    copied.

    Raises:
        ConfigError: `backup` is none, or unfinished; `path` is not empty.
        CorruptionError: the backup is damaged. What is in `path` then is no log.
        Locked: the backup is being written.
        VersionMismatch, StorageFull, OSError.
    """
    with Directory(backup) as source:
        try:
            fcntl.flock(source.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(f"{backup} is being written by a backup: wait for it") from None
        made, manifest = backup_note.in_force(source)
        known = checkpoint_file.load(source, manifest)
        known.rows()
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)  # what is missing above it was rather mistyped
        make_directory(path)
        with Directory(path) as directory:
            if set(os.listdir(directory.fd)) - backup_note.UNUSED:
                raise ConfigError(f"{path} is not empty: a log is restored into a directory of its own")
            uuid = os.urandom(16)
            backup_note.store(directory, Note("restore"))
            directory.make_segments()
            copied = _segments(source, directory, manifest, known, uuid)
            attic_copy.renamed(source, directory, manifest.uuid, manifest.first_segment * manifest.segment_bytes, uuid)
            _name(directory, manifest, known, uuid)
    return made, uuid, copied


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
    manifests.create(directory, dataclasses.replace(own, end=known.position))
    point("restore.named")
    unlink(backup_note.NAME, at=directory.fd)
    sync_directory(directory.fd)
