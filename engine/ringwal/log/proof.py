"""Proving all of a log, block by block, from its oldest segment up to its checkpoint (csrc/prove.h).

Recovery believes what the checkpoint says of everything below its position. Who has reason not to (the log was copied, is
being backed up or restored) reads it: each part that a segment has of an epoch (`checkpoint.extents`) is a chain of blocks,
each valid, each beginning where the one before ends, from the first byte of the extent to the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError
from ringwal.log.checkpoint import EpochRow
from ringwal.log.files import PAGE
from ringwal.log.window import Window


def prove(
    window: Window,
    uuid: bytes,
    extent: EpochRow,
    *,
    renamed: bytes | None = None,
    into: Callable[[memoryview, int], object] | None = None,
) -> int:
    """Go through the blocks of `extent`. Returns how many there are.

    `into` is called with what was proven, piece by piece, and the log position of its first byte; with `renamed`, blocks are
    given that uuid first.

    Raises:
        CorruptionError: a block is missing or damaged, or so is the segment.
        VersionMismatch, OSError: as `segment.open_for_reading`.
    """
    proof: Any = ffi.new("rw_proof *", {"epoch": extent.epoch, "position": extent.begin})
    ffi.memmove(proof.uuid, uuid, len(uuid))
    if renamed is not None:
        ffi.memmove(proof.renamed, renamed, len(renamed))
        proof.renames = 1
    need, status = PAGE, lib.RW_PENDING
    while status == lib.RW_PENDING:
        at = proof.position
        if need > extent.end - at:
            raise _damaged(at, extent, window)
        skip, held = window.show(at, need)
        with ffi.from_buffer("uint8_t[]", window.memory) as memory:
            status = lib.rw_prove(memory + skip, min(held, extent.end - at), proof, extent.end)
        if status == lib.RW_BAD:
            raise _damaged(proof.position, extent, window)
        if into is not None and proof.position > at:
            with memoryview(window.memory) as whole:
                into(whole[skip : skip + min(held, proof.position - at)], at)
        need = max(int(proof.need), PAGE)
    return int(proof.blocks)


def _damaged(position: int, extent: EpochRow, window: Window) -> CorruptionError:
    what = f"a block of epoch {extent.epoch} is missing or damaged"
    return CorruptionError(what, position // window.segment_bytes, position)
