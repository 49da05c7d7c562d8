"""The attic: whole blocks of segments that were mostly dead, kept so that the segments could go.

    segments     7: one live block      8: two live blocks       9 ...
    attic file   | header | index | block of 7 | block of 8 | block of 8 |
    catalogue    what attic files there are, and that nothing alive in segments below 9 is anywhere else

A block is copied as it is, with its epoch and log position in every checksum, so whoever reads it checks what it always checks.
An attic file is written and synced, its name too; then the catalogue that names it takes the place of the one before, durably;
only then the keeper's word lets the WAL process free the segments. While a segment is there, it is what is read. An attic file
is never changed: what is alive of several is written to another one. The side file of a segment of which there are blocks in
the attic stays.

Written by the keeper alone. docs/format.md has every byte.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import os
import re
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import xxhash

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError, VersionMismatch
from ringwal.log import manifest as manifests
from ringwal.log.directory import Directory
from ringwal.log.files import (
    PAGE,
    check_regular,
    opened,
    page_up,
    read_all,
    replace_file,
    sync_directory,
    unlink,
    write_all,
)  # fmt: skip
from ringwal.points import point

NAME = "attic"
"""The catalogue, in DIR; attic files are in DIR/segments."""
DRAFT_SUFFIX = ".draft"
_FILE_NAME = re.compile(r"(\d{20})\.attic")
_DRAFT = re.compile(r"\d{20}\.attic" + re.escape(DRAFT_SUFFIX))
_CATALOGUE = struct.Struct("<8sII16sQQII")
_CATALOGUE_MAGIC = b"RWATTIC1"
_NAMED = struct.Struct("<QQQ")
_HEADER = struct.Struct("<8sII16sQQIIQ")
_HEADER_MAGIC = b"RWATTICF"
_DIGEST = struct.Struct("<Q")
_ROW = struct.Struct("<QQQII")
_FRAMES = 256


class Kept(NamedTuple):
    """One block in the attic, at log position `position`: `length` bytes, in attic file `file` at byte `place`."""

    position: int
    epoch: int
    length: int
    file: int
    place: int


class Named(NamedTuple):
    """An attic file as the catalogue has it."""

    number: int
    bytes: int
    digest: int
    """Of its index."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What attic files there are."""

    uuid: bytes
    end: int = 0
    """Of segments below, everything that was alive is in these files, or still in the segment."""
    next_file: int = 0
    """No attic file ever had it or a larger number."""
    files: tuple[Named, ...] = ()


def name_of(number: int) -> str:
    """The name of attic file `number` in the directory of segments."""
    return f"{number:020d}.attic"


# ---------------------------------------------------------------------------------------------------------- reading


def load(directory: Directory, uuid: bytes) -> Catalogue:
    """The catalogue in force; an empty one where there is none.

    Raises:
        CorruptionError: it is damaged, or of another log.
        VersionMismatch: of a format that this build does not know.
        OSError: it cannot be read.
    """
    check_regular(NAME, at=directory.fd)
    try:
        with opened(NAME, os.O_RDONLY, at=directory.fd) as fd:
            data = bytearray(os.fstat(fd).st_size)
            read_all(fd, memoryview(data), 0)
    except FileNotFoundError:
        return Catalogue(uuid=uuid)
    rows_at = _CATALOGUE.size + _DIGEST.size
    if len(data) < rows_at:
        raise CorruptionError("the catalogue of the attic is too short")
    magic, version, features, its_uuid, end, next_file, count, _ = _CATALOGUE.unpack_from(data)
    (digest,) = _DIGEST.unpack_from(data, _CATALOGUE.size)
    if magic != _CATALOGUE_MAGIC or digest != _digest_of(data, _CATALOGUE.size):
        raise CorruptionError("the catalogue of the attic is damaged")
    _check_version(version, features, "the catalogue of the attic")
    if its_uuid != uuid or len(data) != rows_at + count * _NAMED.size:
        raise CorruptionError("the catalogue of the attic is another log's, or contradicts itself")
    files = tuple(Named(*row) for row in _NAMED.iter_unpack(data[rows_at:]))
    return Catalogue(uuid=uuid, end=end, next_file=next_file, files=files)


def index_of(directory: Directory, uuid: bytes, named: Named) -> list[Kept]:
    """The blocks of an attic file, in log order.

    Raises:
        FileNotFoundError: it is gone: the catalogue has changed.
        CorruptionError, VersionMismatch, OSError: as `load`.
    """
    check_regular(name_of(named.number), at=directory.segments)
    with opened(name_of(named.number), os.O_RDONLY, at=directory.segments) as fd:
        head = bytearray(PAGE)
        read_all(fd, memoryview(head), 0)
        magic, version, features, its_uuid, number, size, count, _, digest = _HEADER.unpack_from(head)
        good = magic == _HEADER_MAGIC and _DIGEST.unpack_from(head, _HEADER.size)[0] == _digest_of(head[: _HEADER.size])
        rows = bytearray(count * _ROW.size if good and count * _ROW.size <= named.bytes else 0)
        read_all(fd, memoryview(rows), PAGE)
    if not good or digest != _digest_of(rows) or (its_uuid, number, size, digest) != (uuid, *named):
        raise CorruptionError(f"attic file {named.number} is damaged, or is another one")
    _check_version(version, features, f"attic file {number}")
    found = [Kept(position, epoch, length, number, place) for position, epoch, place, length, _ in _ROW.iter_unpack(rows)]
    if any(a.position + a.length > b.position for a, b in itertools.pairwise(found)):
        raise CorruptionError(f"the index of attic file {number} contradicts itself")
    return found


class Attic:
    """All blocks that a catalogue has, in log order. Immutable, so any thread may ask."""

    def __init__(self, directory: Directory, catalogue: Catalogue) -> None:
        """A file that is damaged denies its own records only. Raises FileNotFoundError: the catalogue has changed. OSError."""
        self.catalogue = catalogue
        self.damage: list[CorruptionError] = []
        self._directory = directory
        rows: dict[int, Kept] = {}
        for named in catalogue.files:
            try:
                rows.update((kept.position, kept) for kept in index_of(directory, catalogue.uuid, named))
            except CorruptionError as damage:
                self.damage.append(damage)
        self.rows = [rows[position] for position in sorted(rows)]

    @classmethod
    def look(cls, directory: Directory, uuid: bytes) -> Attic:
        """As the catalogue in force has it, which a keeper may be changing. Raises as `load`."""
        while True:
            catalogue = load(directory, uuid)
            try:
                return cls(directory, catalogue)
            except FileNotFoundError:
                if load(directory, uuid) == catalogue:
                    raise CorruptionError("an attic file that the catalogue names is missing") from None

    def at(self, position: int) -> Kept | None:
        """The block that holds the log byte at `position`, or else the next one; None if there is none."""
        place = bisect.bisect_right(self.rows, position, key=_position)
        if place and position < self.rows[place - 1].position + self.rows[place - 1].length:
            return self.rows[place - 1]
        return self.rows[place] if place < len(self.rows) else None

    def within(self, begin: int, end: int) -> Sequence[Kept]:
        """Those that begin at log positions begin <= position < end."""
        low = bisect.bisect_left(self.rows, begin, key=_position)
        return self.rows[low : bisect.bisect_left(self.rows, end, key=_position)]

    def read(self, position: int, into: memoryview) -> None:
        """Fill `into` from log position `position` on: a part of one block. What it is, is for the caller to check.

        Raises:
            FileNotFoundError: the file is gone: look anew.
            CorruptionError: there is no such part.
            OSError: it cannot be read.
        """
        kept = self.at(position)
        if kept is None or position < kept.position or position + len(into) > kept.position + kept.length:
            raise CorruptionError(f"the attic does not have {len(into)} bytes at {position}")
        check_regular(name_of(kept.file), at=self._directory.segments)
        with opened(name_of(kept.file), os.O_RDONLY, at=self._directory.segments) as fd:
            if read_all(fd, into, kept.place + position - kept.position) < len(into):
                raise CorruptionError(f"attic file {kept.file} ends early")


def segments_of(directory: Directory, uuid: bytes, segment_bytes: int) -> set[int]:
    """Numbers of the segments of which the attic has blocks; none where it cannot be read. Raises OSError."""
    try:
        return {kept.position // segment_bytes for kept in Attic.look(directory, uuid).rows}
    except (CorruptionError, VersionMismatch):
        return set()


# ---------------------------------------------------------------------------------------------------------- writing


class Content(NamedTuple):
    """A block to be kept, and its bytes."""

    position: int
    epoch: int
    data: bytes


def is_whole(uuid: bytes, block: Content) -> bool:
    """Is it a valid block of that epoch at that position, payloads and all?"""
    held = ffi.from_buffer("uint8_t[]", block.data)
    found = lib.rw_block_check(held, len(block.data), uuid, block.epoch, block.position)
    return bool(found == lib.RW_OK == lib.rw_block_verify(held))


def batches(data: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
    """Stream number, first offset and count of each batch in a block that `is_whole`."""
    at, frames = ffi.new("uint64_t *", ffi.sizeof("rw_block")), ffi.new("rw_frame_info[]", _FRAMES)
    block = ffi.from_buffer("uint8_t[]", data)
    while count := int(lib.rw_block_frames(block, at, frames, _FRAMES)):
        for i in range(count):
            if frames[i].kind == lib.RW_FRAME_BATCH:
                yield int(frames[i].stream), int(frames[i].base_offset), int(frames[i].count)


def write(directory: Directory, uuid: bytes, number: int, blocks: Sequence[Content]) -> Named:
    """Make attic file `number` of these blocks, which are in log order, durably, its name too. Nothing names it yet.

    Raises OSError: a draft may be left behind.
    """
    index_bytes = page_up(len(blocks) * _ROW.size)
    place, rows = PAGE + index_bytes, []
    for block in blocks:
        rows.append(_ROW.pack(block.position, block.epoch, place, len(block.data), 0))
        place += len(block.data)
    index = b"".join(rows)
    digest = _digest_of(index)
    head = _HEADER.pack(
        _HEADER_MAGIC, lib.RW_FORMAT_VERSION, manifests.FEATURES, uuid, number, place, len(blocks), 0, digest
    )
    head += _DIGEST.pack(_digest_of(head))
    draft, at = name_of(number) + DRAFT_SUFFIX, directory.segments
    unlink(draft, at=at)
    with opened(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, at=at) as fd:
        write_all(fd, memoryview(head.ljust(PAGE, b"\0") + index.ljust(index_bytes, b"\0")), 0)
        offset = PAGE + index_bytes
        for block in blocks:
            write_all(fd, memoryview(block.data), offset)
            offset += len(block.data)
        point("k.attic.filled")
        os.fsync(fd)
    os.rename(draft, name_of(number), src_dir_fd=at, dst_dir_fd=at)
    sync_directory(at)
    point("k.attic.written")
    return Named(number, place, digest)


def store(directory: Directory, catalogue: Catalogue) -> None:
    """Put that catalogue in force, durably. Raises OSError: the old or the new one is in force."""
    head = _CATALOGUE.pack(
        _CATALOGUE_MAGIC,
        lib.RW_FORMAT_VERSION,
        manifests.FEATURES,
        catalogue.uuid,
        catalogue.end,
        catalogue.next_file,
        len(catalogue.files),
        0,
    )
    data = bytearray(head + bytes(_DIGEST.size) + b"".join(_NAMED.pack(*named) for named in catalogue.files))
    _DIGEST.pack_into(data, _CATALOGUE.size, _digest_of(data, _CATALOGUE.size))
    point("k.attic.naming")
    replace_file(NAME, bytes(data), at=directory.fd)
    point("k.attic.named")


def clear(directory: Directory, catalogue: Catalogue) -> None:
    """Remove drafts, and attic files that the catalogue does not name. For the keeper, which makes them. Raises OSError."""
    named = {each.number for each in catalogue.files}
    with opened(".", os.O_RDONLY | os.O_DIRECTORY, at=directory.segments) as fd:
        names = os.listdir(fd)
    for name in names:
        match = _FILE_NAME.fullmatch(name)
        if _DRAFT.fullmatch(name) or (match and int(match[1]) not in named):
            unlink(name, at=directory.segments)


def _digest_of(data: bytes | bytearray, blank: int | None = None) -> int:
    """With the digest itself, at `blank`, as 0."""
    if blank is not None:
        data = data[:blank] + bytes(_DIGEST.size) + data[blank + _DIGEST.size :]
    return xxhash.xxh3_64_intdigest(data)


def _check_version(version: int, features: int, what: str) -> None:
    if version != lib.RW_FORMAT_VERSION:
        raise VersionMismatch(f"{what} has format {version}, this build reads {lib.RW_FORMAT_VERSION}")
    manifests.check_features(features, what)


def _position(kept: Kept) -> int:
    return kept.position
