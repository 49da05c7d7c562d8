"""The manifest: which segments exist, which epoch is in force, where its checkpoint is, which epoch numbers are used up.

`DIR/manifest` has two copies, each in a page of its own (docs/format.md has every byte). The copy with the higher counter
holds; counters grow by one with each write and the counter's last bit picks the copy, so the copy in force is never the one
being written. No clock decides.

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
_COPY = struct.Struct("<8sIIQ16sQQQQQQQQQQIIQ")
_DIGEST = struct.Struct("<Q")
FEATURES = 0
"""Bits of what a reader has to know beyond the format's version: none yet."""
_ROOM = {2: "keys and headers", 4: "compressed payloads"}
"""What the bits mean that docs/format.md has room for. Bit 1 is without a meaning, and refused as such."""
_BACKUP = 1
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
    claimed: int = 0
    """The last epoch number that any start has taken for itself, whether or not that epoch came into force."""
    epoch: int = 0
    """The epoch in force; 0 if there was none."""
    epoch_begin: int = 0
    """Log position of its first block."""
    first_segment: int = 0
    """The first segment that is still there: none of those below is needed, and what is left of their files is nobody's."""
    named_end: int = 0
    """Segments below are whole and may be in use; a file at or above is an orphan."""
    checkpoint_position: int = 0
    """Log position that the checkpoint is about: it has everything that was before."""
    checkpoint_bytes: int = 0
    """Of the checkpoint's file, from its beginning; 0: there is none."""
    checkpoint_digest: int = 0
    checkpoint_file: int = 0
    """Which of the two files has it."""
    end: int = 0
    """Where the log ends, if the engine stopped in order: its checkpoint is all there is. Else 0."""
    backup: bool = False
    """Is the directory a backup, on which no engine may run, whatever else says so?"""
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
    pages = _read_copies(directory)
    good = [state for state in map(_decode, (0, 1), pages) if state is not None]
    if not good:
        _refuse_other_format(pages)
        raise CorruptionError(f"{directory.path / NAME}: neither copy is readable")
    if len({state.uuid for state in good}) > 1 or len({state.segment_bytes for state in good}) > 1:
        raise CorruptionError(f"{directory.path / NAME}: its two copies belong to different logs")
    if not all(map(_possible, good)):
        raise CorruptionError(f"{directory.path / NAME}: its numbers contradict each other")
    return max(good, key=lambda state: state.counter)


def copies(directory: Directory) -> tuple[Manifest | None, Manifest | None]:
    """What each of the two copies says, None where it is damaged. Raises FileNotFoundError, VersionMismatch, OSError."""
    pages = _read_copies(directory)
    first, second = (_decode(copy, page) for copy, page in enumerate(pages))
    if first is None and second is None:
        _refuse_other_format(pages)
    return tuple(state if state is not None and _possible(state) else None for state in (first, second))  # type: ignore[return-value]


def check_features(features: int, what: str) -> None:
    """Raises VersionMismatch if `what` needs something that this build does not know."""
    if unknown := features & ~FEATURES:
        named = [meaning for bit, meaning in _ROOM.items() if unknown & bit]
        if nameless := unknown & ~sum(_ROOM):
            named.append(f"features {nameless:#x}")
        raise VersionMismatch(f"{what} has {' and '.join(named)}, which this build does not know: use a newer one")


def _possible(m: Manifest) -> bool:
    """Could a program of ours have written it? A right digest alone does not say so."""
    if m.segment_bytes == 0 or m.segment_bytes % PAGE or m.checkpoint_file > 1 or m.epoch > m.claimed:
        return False
    first, named_end = m.first_segment * m.segment_bytes, m.named_end * m.segment_bytes
    places = [first, m.epoch_begin, m.checkpoint_position, named_end]
    ordered = max(first, m.epoch_begin) <= m.checkpoint_position <= named_end  # what was freed may be of the epoch in force
    if m.epoch and not (ordered and m.epoch_begin % PAGE == m.checkpoint_position % PAGE == 0):
        return False
    if m.end not in (0, m.checkpoint_position):
        return False
    return max(*places, m.window_bytes, m.claimed, m.counter, m.checkpoint_bytes) < _NUMBERS_END


def _refuse_other_format(pages: tuple[bytes, bytes]) -> None:
    """Raises VersionMismatch if both copies say that they are of the same other format."""
    said = {_COPY.unpack_from(page)[:2] for page in pages}
    magic, version = said.pop()
    if said or magic != _MAGIC or version == lib.RW_FORMAT_VERSION:
        return
    raise VersionMismatch(
        f"the log has format {version}, this build reads format {lib.RW_FORMAT_VERSION}: read it with the version of ringwal"
        " that wrote it, and append its records to a new log"
    )


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
        FEATURES,
        m.counter,
        m.uuid,
        m.claimed,
        m.epoch,
        m.epoch_begin,
        m.first_segment,
        m.named_end,
        m.segment_bytes,
        m.window_bytes,
        m.checkpoint_position,
        m.checkpoint_bytes,
        m.checkpoint_digest,
        m.checkpoint_file,
        _BACKUP if m.backup else 0,
        m.end,
    )
    return (body + _DIGEST.pack(xxhash.xxh3_64_intdigest(body))).ljust(PAGE, b"\0")


def _decode(copy: int, page: bytes) -> Manifest | None:
    """The state in a copy, or None if the copy is bad. Raises VersionMismatch."""
    body = page[: _COPY.size]
    (digest,) = _DIGEST.unpack_from(page, _COPY.size)
    magic, version, features, counter, uuid, *numbers = _COPY.unpack(body)
    claimed, epoch, epoch_begin, first, named_end, size, window, position, length, its_digest, file, what, end = numbers
    # A copy's counter belongs to its place: so two copies never have the same one.
    if magic != _MAGIC or version != lib.RW_FORMAT_VERSION or digest != xxhash.xxh3_64_intdigest(body) or counter % 2 != copy:
        return None
    check_features(features, "the log")
    if what not in (0, _BACKUP):
        return None
    return Manifest(
        uuid=uuid,
        segment_bytes=size,
        window_bytes=window,
        claimed=claimed,
        epoch=epoch,
        epoch_begin=epoch_begin,
        first_segment=first,
        named_end=named_end,
        checkpoint_position=position,
        checkpoint_bytes=length,
        checkpoint_digest=its_digest,
        checkpoint_file=file,
        end=end,
        backup=what == _BACKUP,
        counter=counter,
    )
