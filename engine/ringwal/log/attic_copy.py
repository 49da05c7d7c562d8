"""The attic in backups, and in logs that are made of them.

Its files are never changed, so they are linked or copied as segments are. They are held before the manifest is read: what is
dead by a later checkpoint than the backup's may leave the attic, and what is freed meanwhile may come into it; then it is
begun anew (`covers`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError, VersionMismatch
from ringwal.log import attic
from ringwal.log.attic import Attic, Catalogue, Content, Named
from ringwal.log.backup_part import PART, has_link
from ringwal.log.directory import Directory
from ringwal.log.files import PAGE, check_regular, opened, read_all, sync_directory, unlink, write_all

PIECE_BYTES = 1 << 20
FILE_BYTES = 16 << 20


def hold(source: Directory, dest: Directory, uuid: bytes, *, links: bool) -> Catalogue:
    """Get every attic file into `dest`, durably. Returns the catalogue that names them. Raises CorruptionError, OSError."""
    while True:
        catalogue = attic.load(source, uuid)
        try:
            for named in catalogue.files:
                _hold(source, dest, uuid, named, links=links)
        except FileNotFoundError:
            if attic.load(source, uuid) == catalogue:
                raise CorruptionError("an attic file that the catalogue names is missing") from None
            continue  # a keeper is at work
        sync_directory(dest.segments)
        return catalogue


def covers(source: Directory, held: Catalogue, first: int) -> bool:
    """Is everything in `held` that was alive in segments below `first` when they were freed, as far as they were freed because
    the attic has it? Raises CorruptionError, OSError."""
    return first <= held.end or attic.load(source, held.uuid).end <= held.end


def name(dest: Directory, held: Catalogue, *, also_before: bool) -> None:
    """Put `held` in force in `dest`. With `also_before`, what the backup before has stays named, until the next call.

    Raises CorruptionError, OSError.
    """
    files = held.files
    if also_before:
        before = attic.load(dest, held.uuid)
        files = (*files, *(each for each in before.files if each not in files))
    if files or held.end:
        attic.store(dest, dataclasses.replace(held, files=files))
    if not also_before:
        attic.clear(dest, held)


def _hold(source: Directory, dest: Directory, uuid: bytes, named: Named, *, links: bool) -> None:
    file, at = attic.name_of(named.number), dest.segments
    if _has(source, dest, uuid, named):
        return
    if not (links and has_link(file, source, dest)):
        _copy(source, dest, file)
    os.rename(file + PART, file, src_dir_fd=at, dst_dir_fd=at)


def _has(source: Directory, dest: Directory, uuid: bytes, named: Named) -> bool:
    """Is the file of that number in `dest` the one that is in `source`? Another history of the log has the same numbers
    (same_history.py). Raises FileNotFoundError: it is not in `source`."""
    file = attic.name_of(named.number)
    check_regular(file, at=source.segments)
    check_regular(file, at=dest.segments)
    try:
        here = os.stat(file, dir_fd=dest.segments)
    except FileNotFoundError:
        return False
    if os.path.samestat(os.stat(file, dir_fd=source.segments), here):
        return True
    try:
        blocks = attic.index_of(dest, uuid, named)
    except CorruptionError:
        return False
    pages = []
    for each in (source, dest) if here.st_size == named.bytes and blocks else ():
        page = bytearray(PAGE)
        with opened(file, os.O_RDONLY, at=each.segments) as fd:
            read_all(fd, memoryview(page), blocks[-1].place)
        pages.append(page)
    return len(pages) == 2 and pages[0] == pages[1]


def _copy(source: Directory, dest: Directory, file: str) -> None:
    unlink(file + PART, at=dest.segments)
    with (
        opened(file, os.O_RDONLY, at=source.segments) as original,
        opened(file + PART, os.O_WRONLY | os.O_CREAT | os.O_EXCL, at=dest.segments) as copy,
    ):
        size, at, piece = os.fstat(original).st_size, 0, bytearray(PIECE_BYTES)
        while at < size:
            got = read_all(original, memoryview(piece)[: min(PIECE_BYTES, size - at)], at)
            write_all(copy, memoryview(piece)[:got], at)
            at += got
            if got == 0:
                raise CorruptionError(f"{file} ends early")
        os.fsync(copy)


def renamed(source: Directory, dest: Directory, uuid: bytes, first: int, new: bytes, *, whole: bool = True) -> None:
    """Make an attic in `dest` of the blocks below log position `first`, for the log of the uuid `new`; if not `whole`, of those
    that are not damaged.

    Raises CorruptionError: a block is damaged. OSError.
    """
    try:
        found = Attic.look(source, uuid)
    except (CorruptionError, VersionMismatch):
        if whole:
            raise
        return
    if found.damage and whole:
        raise found.damage[0]
    files: list[Named] = []
    for blocks in _pieces(found, uuid, first, new, whole=whole):
        files.append(attic.write(dest, new, len(files), blocks))
    if files:
        end = found.catalogue.end
        attic.store(dest, Catalogue(uuid=new, end=end, next_file=len(files), files=tuple(files)))


def _pieces(found: Attic, uuid: bytes, first: int, new: bytes, *, whole: bool) -> Iterator[list[Content]]:
    blocks: list[Content] = []
    for kept in found.within(0, first):
        data = bytearray(kept.length)
        try:
            found.read(kept.position, memoryview(data))
            if not attic.is_whole(uuid, Content(kept.position, kept.epoch, bytes(data))):
                raise CorruptionError(f"the attic's block at log position {kept.position} is damaged")
        except CorruptionError:
            if whole:
                raise
            continue
        block = ffi.from_buffer("rw_block *", data)
        ffi.memmove(block.uuid, new, len(new))
        lib.rw_block_stamp(block)
        blocks.append(Content(kept.position, kept.epoch, bytes(data)))
        if sum(len(each.data) for each in blocks) >= FILE_BYTES:
            yield blocks
            blocks = []
    if blocks:
        yield blocks
