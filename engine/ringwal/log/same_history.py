"""Do two directories have the same history of a log, up to some place?

Uuid, epoch and position do not say so: a snapshot that is put back goes on with the same numbers, once more. But a block that
is written has the time of its making and the digests of its frames in its first page. Where the last block is the same, so is
all before it: nothing follows a block that did not follow it when it was written.
"""

from __future__ import annotations

import os
from typing import Any

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError
from ringwal.log import segment
from ringwal.log.checkpoint import EpochRow, extents
from ringwal.log.directory import Directory
from ringwal.log.files import ANY_LENGTH, PAGE, page_buffer, read_all
from ringwal.log.manifest import Manifest

_PIECE_BYTES = 1 << 18


def last_extent(epochs: tuple[EpochRow, ...], begin: int, end: int, size: int) -> EpochRow | None:
    """Where the last blocks between two log positions are; None: there are none."""
    found = None
    for found in extents(epochs, begin, end, size):  # noqa: B007
        pass
    return found


def are_same(one: Directory, other: Directory, manifest: Manifest, extent: EpochRow) -> bool:
    """Is the last block of `extent` the same in both, which have a log of that uuid?

    Raises:
        CorruptionError: it cannot be read in one of them, or the segment is not there.
        VersionMismatch, OSError: as `segment.open_for_reading`.
    """
    first = _last_block(one, manifest, extent)
    if first is None:
        number = extent.begin // manifest.segment_bytes
        raise CorruptionError(f"no block of {one.path} ends at log position {extent.end}", number, extent.end)
    return first == _last_block(other, manifest, extent)


def _last_block(directory: Directory, manifest: Manifest, extent: EpochRow) -> bytes | None:
    """The first page of the block that ends where `extent` does. None: none does."""
    size, piece, behind = manifest.segment_bytes, page_buffer(_PIECE_BYTES), extent.end
    fd = segment.open_for_reading(directory, manifest, extent.begin // size)
    try:
        while behind > extent.begin:
            low = max(extent.begin, behind - _PIECE_BYTES)
            with memoryview(piece) as whole:
                read_all(fd, whole[: behind - low], segment.HEADER_BYTES + low % size)
            with ffi.from_buffer("uint8_t[]", piece) as memory:
                for position in range(behind - PAGE, low - PAGE, -PAGE):
                    block: Any = ffi.cast("const rw_block *", memory + (position - low))
                    good = lib.rw_block_check(memory + (position - low), ANY_LENGTH, manifest.uuid, extent.epoch, position)
                    if good == lib.RW_OK and position + block.span == extent.end:
                        return bytes(ffi.buffer(block, PAGE))
            behind = low
    except OSError as error:
        raise CorruptionError(f"the disk cannot read it: {error.strerror}", extent.begin // size, behind) from error
    finally:
        os.close(fd)
    return None
