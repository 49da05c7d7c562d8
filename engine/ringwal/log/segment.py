"""Segment files: made whole before they are used, named by number, recognisable as ours.

`DIR/segments/<number, 20 digits>.seg` is one page of header and then `segment_bytes` of data: log position P lies in
segment P // segment_bytes, at byte 4096 + P % segment_bytes of its file. The data area is written with zeros ahead of
time, because a durable write into blocks that exist is much faster than one that has to make them; under a load that
would spend too much of the disk on zeros it is reserved only (pace.py), which reads as zeros too.
docs/format.md has every byte of the header.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

import xxhash

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError, VersionMismatch
from ringwal.log import manifest as manifests
from ringwal.log.directory import Directory
from ringwal.log.files import (
    ANY_LENGTH,
    PAGE,
    open_synced,
    opened,
    page_buffer,
    page_up,
    read_all,
    reserve,
    storage_full,
    sync_directory,
    unlink,
    write_all,
)
from ringwal.log.manifest import Manifest
from ringwal.points import point

HEADER_BYTES = PAGE
_FILL_BYTES = 1 << 20
_MAGIC = b"RWSEGMT1"
_HEADER = struct.Struct("<8sII16sQQQ")
_DIGEST = struct.Struct("<Q")
_NAME = re.compile(r"(\d{20})\.seg")


def name_of(number: int) -> str:
    """The name of segment `number` in the directory of segments."""
    return f"{number:020d}.seg"


def numbers(directory: Directory) -> list[int]:
    """Numbers of all segment files, named in the manifest or not, in order. Raises OSError."""
    # An open of its own: processes that share one would also share the place up to which they have listed.
    with opened(".", os.O_RDONLY | os.O_DIRECTORY, at=directory.segments) as fd:
        return sorted(int(match[1]) for name in os.listdir(fd) if (match := _NAME.fullmatch(name)))


def create(
    directory: Directory,
    uuid: bytes,
    number: int,
    segment_bytes: int,
    *,
    direct: bool,
    fill: bool = True,
    meanwhile: Callable[[], None] | None = None,
) -> None:
    """Make segment `number`, durable, name included; its data is zeros, written (`fill`) or, where the file system can,
    reserved. A file of that name is replaced. `meanwhile` is called after every MiB that was written: filling takes long.

    Raises:
        StorageFull: there is no room; nothing is left behind.
        OSError: another write or sync failed; nothing is left behind.
    """
    name, at = name_of(number), directory.segments
    unlink(name, at=at)
    try:
        with storage_full(f"cannot make segment {number}"):
            with opened(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | (os.O_DIRECT if direct else 0), at=at) as fd:
                reserved = reserve(fd, HEADER_BYTES + segment_bytes)
                point("seg.reserved")
                _fill(fd, _encode(uuid, number, segment_bytes), segment_bytes if fill or not reserved else 0, meanwhile)
                point("seg.filled")
                os.fsync(fd)
            sync_directory(at)
    except BaseException:
        unlink(name, at=at)
        raise


def prepare(
    directory: Directory,
    manifest: Manifest,
    number: int,
    *,
    direct: bool,
    fill: bool = True,
    meanwhile: Callable[[], None] | None = None,
    manifest_fd: int | None = None,
) -> Manifest:
    """Make segment `number` usable: make it, then name it in the manifest. Returns the manifest in force afterwards.

    `number` is `manifest.named_end`; nothing happens if the segment is named already. `fill` and `meanwhile` as for `create`,
    `manifest_fd` as for `manifest.store`.

    Raises:
        StorageFull: there is no room; nothing has changed, and it may be tried again.
        OSError: a write or sync failed: end the epoch.
        ValueError: `number` leaves a gap.
    """
    if number < manifest.named_end:
        return manifest
    if number > manifest.named_end:
        raise ValueError(f"segment {number} cannot follow segment {manifest.named_end - 1}")
    create(directory, manifest.uuid, number, manifest.segment_bytes, direct=direct, fill=fill, meanwhile=meanwhile)
    point("seg.made")
    named = manifests.store(directory, dataclasses.replace(manifest, named_end=number + 1), fd=manifest_fd)
    point("seg.named")
    return named


def open_for_writing(directory: Directory, manifest: Manifest, number: int, count: int, *, direct: bool) -> list[int]:
    """`count` descriptors for writing blocks of a named segment, each of an open of its own; the caller closes them.

    Raises:
        CorruptionError: the file is missing, has another size or is not this segment.
        OSError: it cannot be opened so many times; none is left open.
    """
    os.close(open_for_reading(directory, manifest, number))
    flags = os.O_WRONLY | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
    with contextlib.ExitStack() as until_all_are_open:
        fds: list[int] = []
        for _ in range(count):
            fds.append(os.open(name_of(number), flags, dir_fd=directory.segments))
            until_all_are_open.callback(os.close, fds[-1])
        until_all_are_open.pop_all()
    return fds


def open_for_reading(directory: Directory, manifest: Manifest, number: int, *, direct: bool = True) -> int:
    """A descriptor that reads what is on the disk (files.open_synced) of a named segment; the caller closes it.

    Raises:
        CorruptionError: the file is missing, cannot be read, has another size or is not this segment.
        VersionMismatch: written in a format that this build does not know.
        OSError: it cannot be opened.
    """
    place = (number, number * manifest.segment_bytes)
    try:
        fd = open_synced(name_of(number), at=directory.segments, direct=direct)
    except FileNotFoundError:
        raise CorruptionError("a segment that the manifest names is missing", *place) from None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise CorruptionError("what was written to this segment cannot be synced", *place) from error
    try:
        _check(fd, manifest, number, place)
    except BaseException:
        os.close(fd)
        raise
    return fd


def remove_orphans(directory: Directory, manifest: Manifest) -> list[int]:
    """Remove segment files that the manifest does not name yet: their making was cut short. Returns their numbers.

    Raises:
        CorruptionError: one of them holds blocks, which are written into named segments only: the manifest is an older one.
        OSError: they cannot be removed.
    """
    orphans = [number for number in numbers(directory) if number >= manifest.named_end]
    for number in orphans:
        if block_at(directory, manifest, number * manifest.segment_bytes) is not None:
            place = (number, number * manifest.segment_bytes)
            raise CorruptionError("the manifest is older than the log: it does not name this segment, which is in use", *place)
    for number in orphans:
        os.unlink(name_of(number), dir_fd=directory.segments)
    if orphans:
        sync_directory(directory.segments)
    return orphans


def unshare(directory: Directory, manifest: Manifest, first: int, *, direct: bool) -> None:
    """Make segments from `first` on anew that have several names: in a copy made of hard links they are the original's files,
    too. They hold nothing that anybody believes in. Raises StorageFull, OSError."""
    for number in range(first, manifest.named_end):
        if is_shared(directory, number):
            create(directory, manifest.uuid, number, manifest.segment_bytes, direct=direct)


def is_shared(directory: Directory, number: int) -> bool:
    """Does the file have several names? Then a copy made of hard links has it, too. Raises OSError."""
    return os.stat(name_of(number), dir_fd=directory.segments).st_nlink > 1


def missing(directory: Directory, manifest: Manifest, end: int) -> list[int]:
    """Numbers of named segments below `end` whose files are not there, or are of a wrong size. Nothing else is looked at: there
    may be very many. Raises OSError."""
    there = set(numbers(directory))
    expected = HEADER_BYTES + manifest.segment_bytes

    def whole(number: int) -> bool:
        return number in there and os.stat(name_of(number), dir_fd=directory.segments).st_size == expected

    return [number for number in range(manifest.first_segment, end) if not whole(number)]


def block_at(directory: Directory, manifest: Manifest, position: int) -> int | None:
    """The epoch of the block at this log position, whichever it is, if its header is a block's; else None. Raises OSError."""
    page = bytearray(PAGE)
    with opened(name_of(position // manifest.segment_bytes), os.O_RDONLY, at=directory.segments) as fd:
        read_all(fd, memoryview(page), HEADER_BYTES + position % manifest.segment_bytes)
    block = ffi.from_buffer("uint8_t[]", page)
    epoch = int(ffi.cast("const rw_block *", block).epoch)
    good = lib.rw_block_check(block, ANY_LENGTH, manifest.uuid, epoch, position) == lib.RW_OK
    return epoch if good else None


class Header(NamedTuple):
    """What the header of a segment's file says."""

    uuid: bytes
    number: int
    segment_bytes: int
    version: int
    features: int


def header_of(page: bytes) -> Header | None:
    """What the first page of a file says; None: it is no segment's header, or a damaged one."""
    body = page[: _HEADER.size]
    if len(page) < _HEADER.size + _DIGEST.size:
        return None
    (digest,) = _DIGEST.unpack_from(page, _HEADER.size)
    magic, version, features, uuid, number, size, _ = _HEADER.unpack(body)
    if magic != _MAGIC or digest != xxhash.xxh3_64_intdigest(body):
        return None
    return Header(uuid, number, size, version, features)


def write_header(fd: int, manifest: Manifest, number: int) -> None:
    """Make the file that is open as `fd` segment `number`; not synced. Raises OSError."""
    page = page_buffer(HEADER_BYTES)
    header = _encode(manifest.uuid, number, manifest.segment_bytes)
    page[: len(header)] = header
    write_all(fd, memoryview(page), 0)


def _fill(fd: int, header: bytes, segment_bytes: int, meanwhile: Callable[[], None] | None = None) -> None:
    """Write the header page and zeros behind it."""
    end = HEADER_BYTES + segment_bytes
    zeros = memoryview(page_buffer(_FILL_BYTES))
    zeros[: len(header)] = header
    write_all(fd, zeros[:HEADER_BYTES], 0)
    zeros[: len(header)] = bytes(len(header))
    for offset in range(HEADER_BYTES, end, _FILL_BYTES):
        write_all(fd, zeros[: min(_FILL_BYTES, end - offset)], offset)
        point("seg.filling")
        if meanwhile is not None:
            meanwhile()


def _encode(uuid: bytes, number: int, segment_bytes: int) -> bytes:
    body = _HEADER.pack(_MAGIC, lib.RW_FORMAT_VERSION, manifests.FEATURES, uuid, number, segment_bytes, time.time_ns())
    return body + _DIGEST.pack(xxhash.xxh3_64_intdigest(body))


def _check(fd: int, manifest: Manifest, number: int, place: tuple[int, int]) -> None:
    size = os.fstat(fd).st_size
    if size != HEADER_BYTES + manifest.segment_bytes:
        have = max(0, min(page_up(size + 1) - PAGE - HEADER_BYTES, manifest.segment_bytes))
        expected = HEADER_BYTES + manifest.segment_bytes
        raise CorruptionError(f"the segment's file has {size} bytes instead of {expected}", number, place[1] + have)
    page = page_buffer(HEADER_BYTES)
    try:
        read_all(fd, memoryview(page), 0)
    except OSError as error:
        raise CorruptionError(f"the segment's header cannot be read: {error.strerror}", *place) from error
    found = header_of(page[:])
    if found is None:
        raise CorruptionError("the segment's header is damaged", *place)
    if found.version != lib.RW_FORMAT_VERSION:
        raise VersionMismatch(f"segment {number} has format {found.version}, this build reads {lib.RW_FORMAT_VERSION}")
    manifests.check_features(found.features, f"segment {number}")
    if found.uuid != manifest.uuid:
        raise CorruptionError("the segment belongs to another log", *place)
    if found.number != number:
        raise CorruptionError(f"the file is segment {found.number} under another name", *place)
    if found.segment_bytes != manifest.segment_bytes:
        raise CorruptionError(f"the segment was made for {found.segment_bytes} bytes of data", *place)
