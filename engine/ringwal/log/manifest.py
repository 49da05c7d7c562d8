"""The manifest: which segments exist, which epoch is the last, how far its blocks in flight could reach.

`DIR/manifest` has two copies, each in a page of its own. The copy with the higher counter holds; counters grow by one
with each write and the counter's last bit picks the copy, so the copy in force is never the one being written. No clock
decides.

    0   magic            8   b"RWMANIF1"          48  epoch_segment  8
    8   format version   4                        56  first_segment  8
    12  zero             4                        64  named_end      8
    16  counter          8                        72  segment_bytes  8
    24  uuid            16                        80  window_bytes   8
    40  epoch            8                        88  XXH3-64 of all bytes before  8

Every change is written to both copies, one after the other, each synced. Whatever one copy suffers later, the other says
the same: an older state would make recovery overwrite what has been confirmed since.

Written by recovery, then by the WAL process; never by both at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import struct

import xxhash

from ringwal._native import lib
from ringwal.errors import CorruptionError, VersionMismatch
from ringwal.log.directory import Directory
from ringwal.log.files import PAGE, open_synced, opened, page_buffer, read_all, replace_file, write_all

NAME = "manifest"
FILE_BYTES = 2 * PAGE
"""Of both copies."""
_MAGIC = b"RWMANIF1"
_COPY = struct.Struct("<8sIIQ16sQQQQQQ")
_DIGEST = struct.Struct("<Q")
_NUMBERS_END = 1 << 62
"""Log positions, epochs and counters stay below: what is computed from them fits into 64 bits."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One state of the log. Segment fields are segment numbers, sizes are bytes."""

    uuid: bytes
    """16 random bytes, made with the directory; every segment and block carries them."""
    segment_bytes: int
    """Data bytes of a segment; fixed when the directory was made."""
    window_bytes: int
    """Bound, in this epoch, on the log between the first block not persisted and the last block in flight."""
    epoch: int = 0
    """The last epoch; 0 if there was none."""
    epoch_segment: int = 0
    """Where its barrier begins."""
    first_segment: int = 0
    """The first segment that is still there."""
    named_end: int = 0
    """Segments below are whole and may be in use; a file at or above is an orphan."""
    counter: int = 0
    """Of the newest copy."""


def create(directory: Directory, manifest: Manifest) -> Manifest:
    """Write the first manifest of `directory`, at once or not at all. Returns it with its counter. Raises OSError."""
    first = dataclasses.replace(manifest, counter=1)
    second = dataclasses.replace(manifest, counter=2)
    replace_file(NAME, b"".join(map(_encode, sorted((first, second), key=_copy_offset))), at=directory.fd)
    return second


def store(directory: Directory, manifest: Manifest, *, fd: int | None = None) -> Manifest:
    """Make `manifest`, a changed copy of the state in force, the state in force. Returns it with its new counter.

    `fd` is the manifest, held open for writing since it was loaded, whatever has its name by now; else it is opened by name. A
    crash in between leaves the old or the new state.

    Raises:
        OSError: a write or sync failed. It is unknown which state is in force: end the epoch, do not try again.
    """
    with opened(NAME, os.O_WRONLY, at=directory.fd) if fd is None else contextlib.nullcontext(fd) as file:
        for _ in range(2):
            manifest = dataclasses.replace(manifest, counter=manifest.counter + 1)
            write_all(file, memoryview(_encode(manifest)), _copy_offset(manifest))
            os.fdatasync(file)
    return manifest


def load(directory: Directory) -> Manifest:
    """The state in force.

    Raises:
        FileNotFoundError: there is no manifest.
        CorruptionError: no copy is good, or they contradict each other or themselves.
        VersionMismatch: written in a format that this build does not know.
        OSError: it cannot be read.
    """
    good = [state for state in map(_decode, (0, 1), _read_copies(directory)) if state is not None]
    if not good:
        raise CorruptionError(f"{directory.path / NAME}: neither copy is readable")
    if len({state.uuid for state in good}) > 1 or len({state.segment_bytes for state in good}) > 1:
        raise CorruptionError(f"{directory.path / NAME}: its two copies belong to different logs")
    if not all(map(_possible, good)):
        raise CorruptionError(f"{directory.path / NAME}: its numbers contradict each other")
    return max(good, key=lambda state: state.counter)


def _possible(m: Manifest) -> bool:
    """Could a program of ours have written it? A right digest alone does not say so."""
    in_order = m.first_segment <= m.epoch_segment <= m.named_end - (m.epoch > 0)
    return in_order and max(m.named_end * m.segment_bytes, m.window_bytes, m.epoch, m.counter) < _NUMBERS_END


def _read_copies(directory: Directory) -> tuple[bytes, bytes]:
    fd = open_synced(NAME, at=directory.fd)
    pages = page_buffer(FILE_BYTES)
    try:
        for copy in (0, 1):
            _read_copy(fd, memoryview(pages)[copy * PAGE : (copy + 1) * PAGE], copy)
    finally:
        os.close(fd)
    return pages[:PAGE], pages[PAGE:]


def _read_copy(fd: int, page: memoryview, copy: int) -> None:
    """An unreadable copy is a bad copy: the other one may be good."""
    try:
        read_all(fd, page, copy * PAGE)
    except OSError:
        page[:] = bytes(PAGE)


def _copy_offset(manifest: Manifest) -> int:
    return manifest.counter % 2 * PAGE


def _encode(m: Manifest) -> bytes:
    body = _COPY.pack(
        _MAGIC,
        lib.RW_FORMAT_VERSION,
        0,
        m.counter,
        m.uuid,
        m.epoch,
        m.epoch_segment,
        m.first_segment,
        m.named_end,
        m.segment_bytes,
        m.window_bytes,
    )
    return (body + _DIGEST.pack(xxhash.xxh3_64_intdigest(body))).ljust(PAGE, b"\0")


def _decode(copy: int, page: bytes) -> Manifest | None:
    """The state in a copy, or None if the copy is bad. Raises VersionMismatch."""
    body = page[: _COPY.size]
    (digest,) = _DIGEST.unpack_from(page, _COPY.size)
    magic, version, _, counter, uuid, epoch, epoch_segment, first, named_end, size, window = _COPY.unpack(body)
    # A copy's counter belongs to its place: so two copies never have the same one.
    if magic != _MAGIC or digest != xxhash.xxh3_64_intdigest(body) or counter % 2 != copy:
        return None
    if version != lib.RW_FORMAT_VERSION:
        raise VersionMismatch(f"the log has format {version}, this build reads format {lib.RW_FORMAT_VERSION}")
    return Manifest(
        uuid=uuid,
        segment_bytes=size,
        window_bytes=window,
        epoch=epoch,
        epoch_segment=epoch_segment,
        first_segment=first,
        named_end=named_end,
        counter=counter,
    )
