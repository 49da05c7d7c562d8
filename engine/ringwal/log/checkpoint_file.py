"""The two files of checkpoints, `DIR/checkpoint-0` and `DIR/checkpoint-1`: one is named in the manifest, one is free.

The free one is written, synced, then named. Both are allocated ahead, for as many streams as the engine can have, so that a
checkpoint is possible on a full disk. A file that has several names is another directory's, too (a copy made of hard
links), and is left to that one.
"""

from __future__ import annotations

import dataclasses
import errno
import os

from ringwal.errors import CorruptionError, VersionMismatch
from ringwal.log import checkpoint, files
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import HEADER_BYTES, OWNER_BYTES, STREAM_BYTES, Checkpoint
from ringwal.log.directory import Directory
from ringwal.log.files import open_synced, opened, page_up, read_all, storage_full, sync_directory, unlink, write_all
from ringwal.log.manifest import Manifest

_PIECE_BYTES = 512 << 10
_EPOCHS_BYTES = 64 << 10
_READS_MAX = 100
"""How often a reader begins anew because a checkpoint was written while it read: not twice, unless it is held up."""


def name_of(number: int) -> str:
    """The name of checkpoint file 0 or 1."""
    return f"checkpoint-{number}"


def prepare(directory: Directory, max_streams: int, max_owners: int = 0) -> None:
    """Make both files as long as they may have to be; what they hold stays as it is. Raises StorageFull, OSError."""
    for number in (0, 1):
        name = name_of(number)
        files.check_regular(name, at=directory.fd)
        with storage_full(f"cannot make {name}"), opened(name, os.O_WRONLY | os.O_CREAT, at=directory.fd) as fd:
            found = os.fstat(fd)
            if found.st_size < _room(max_streams, max_owners) and found.st_nlink == 1:
                _allocate(fd, _room(max_streams, max_owners))
                os.fsync(fd)
                sync_directory(directory.fd)


def put(directory: Directory, manifest: Manifest, what: Checkpoint, max_streams: int, max_owners: int = 0) -> Manifest:
    """Write `what` to the file that `manifest` does not name, durably. Returns a manifest that names it, not stored yet.

    Raises:
        StorageFull: the file has to be made or to grow, and there is no room; nothing has changed.
        OSError: a write or sync failed: end the epoch.
    """
    number = 1 - manifest.checkpoint_file if manifest.checkpoint_bytes else 0
    data, digest = checkpoint.encode(what)
    with storage_full(f"cannot make {name_of(number)}"):
        _write(directory, name_of(number), data, max(_room(max_streams, max_owners), page_up(len(data))))
    return dataclasses.replace(
        manifest,
        checkpoint_position=what.position,
        checkpoint_bytes=len(data),
        checkpoint_digest=digest,
        checkpoint_file=number,
        end=0,
    )


def load(directory: Directory, manifest: Manifest) -> Checkpoint:
    """The checkpoint that `manifest` names.

    Raises:
        CorruptionError: it is missing, damaged, or not the one that is named.
        VersionMismatch: it is of another format.
        OSError: it cannot be read.
    """
    path = directory.path / name_of(manifest.checkpoint_file)
    data = _read(directory, manifest, manifest.checkpoint_bytes)
    try:
        found = checkpoint.decode(data)
    except CorruptionError as damage:
        _refuse_older_manifest(directory, manifest)
        raise CorruptionError(f"{path}: {damage}") from None
    named = (manifest.uuid, manifest.epoch, manifest.checkpoint_position, manifest.checkpoint_digest)
    if (found.uuid, found.epoch, found.position, checkpoint.digest_of(data)) != named:
        _refuse_older_manifest(directory, manifest)
        raise CorruptionError(f"{path} is not the checkpoint that the manifest names")
    return found


def other(directory: Directory, manifest: Manifest) -> Checkpoint | None:
    """The one that `manifest` does not name, if it is whole and of the same log. Raises OSError: it cannot be read."""
    try:
        data = _read(directory, dataclasses.replace(manifest, checkpoint_file=1 - manifest.checkpoint_file))
        found = checkpoint.decode(data[: checkpoint.size_of(data)])
    except (CorruptionError, VersionMismatch):
        return None
    return found if found.uuid == manifest.uuid else None


def _read(directory: Directory, manifest: Manifest, size: int | None = None) -> bytes:
    """The first `size` bytes of the file that is named, or all of it."""
    name = name_of(manifest.checkpoint_file)
    try:
        fd = open_synced(name, at=directory.fd, direct=False)
    except FileNotFoundError:
        raise CorruptionError(f"{directory.path / name} is missing: the manifest names it") from None
    data = bytearray(os.fstat(fd).st_size if size is None else size)
    try:
        length = read_all(fd, memoryview(data), 0)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise CorruptionError(f"{directory.path / name} cannot be read: {error.strerror}") from error
    finally:
        os.close(fd)
    return bytes(data[:length])


def _refuse_older_manifest(directory: Directory, manifest: Manifest) -> None:
    """Raises CorruptionError if a later checkpoint of the same log is where the one is looked for."""
    try:
        data = _read(directory, manifest)
        found = checkpoint.decode(data[: checkpoint.size_of(data)])
    except CorruptionError:
        return
    if found.uuid == manifest.uuid and found.position > manifest.checkpoint_position:
        raise CorruptionError("the manifest is older than the log: a later checkpoint stands where it names one")


def look(directory: Directory, uuid: bytes) -> Checkpoint | None:
    """The checkpoint in force of the log of that uuid, which an engine may be writing; None: another log is there. Raises as
    `manifest.load` and `load`."""
    manifest = manifests.load(directory)
    for _ in range(_READS_MAX):
        if manifest.uuid != uuid:
            return None
        try:
            return load(directory, manifest)
        except CorruptionError:
            newer = manifests.load(directory)
            if newer.counter == manifest.counter:
                raise  # else the file was being written again
            manifest = newer
    return load(directory, manifest)


def _room(max_streams: int, max_owners: int) -> int:
    return page_up(HEADER_BYTES + max_streams * STREAM_BYTES + _EPOCHS_BYTES + max_owners * OWNER_BYTES)


def _write(directory: Directory, name: str, data: bytes, room: int) -> None:
    at = directory.fd
    try:
        if os.stat(name, dir_fd=at).st_nlink > 1:
            unlink(name, at=at)
    except FileNotFoundError:
        pass
    with opened(name, os.O_WRONLY | os.O_CREAT, at=at) as fd:
        made = os.fstat(fd).st_size < room
        if made:
            _allocate(fd, room)
            os.fsync(fd)
        # In pieces: the log's own writes wait behind one that is as large as a table of many streams.
        for offset in range(0, len(data), _PIECE_BYTES):
            write_all(fd, memoryview(data)[offset : offset + _PIECE_BYTES], offset)
            os.fdatasync(fd)
    if made:
        sync_directory(at)


def _allocate(fd: int, size: int) -> None:
    """Make room in the file up to `size`."""
    if not files.reserve(fd, size):
        for offset in range(os.fstat(fd).st_size, size, files.PAGE):
            write_all(fd, memoryview(bytes(min(files.PAGE, size - offset))), offset)
