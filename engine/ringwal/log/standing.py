"""How a log stands while no engine has it: what a start would make of it, found in memory, with nothing written.

The same recovery decides (recovery.py). Where it would carry records over from behind the cut, they are read where they
lie: the epoch in force then has further parts, one for each run of blocks that are valid.

    ------------------------+--------+-------+--------+----------
     the epoch, to its cut  | hole   | valid | hole   | valid
    ------------------------+--------+-------+--------+----------
    part                              part             part
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ringwal._native import ffi, lib
from ringwal.log import checkpoint_file
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import EpochRow
from ringwal.log.directory import Directory
from ringwal.log.files import ANY_LENGTH, PAGE
from ringwal.log.manifest import Manifest
from ringwal.log.pages import Pages
from ringwal.log.recovery import RecoveredStream, accepted, streams_of
from ringwal.log.walk import Walk


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """What there is to be read."""

    manifest: Manifest
    epochs: tuple[EpochRow, ...]
    """Oldest first, each with its end; at least one. The last one may be there in several parts."""
    streams: tuple[RecoveredStream, ...]
    """Those that live, in order of their numbers, with what a start would carry over."""


def look(directory: Directory) -> Standing:
    """Raises:
        FileNotFoundError: there is no log.
        CorruptionError: a start would refuse it.
        VersionMismatch: it is of another format.
        OSError: a file cannot be read.
    """
    manifest = manifests.load(directory)
    if not manifest.epoch:
        return Standing(manifest, (EpochRow(0, 0, 0),), ())
    known = checkpoint_file.load(directory, manifest)
    known.rows()  # C believes them
    with Walk(directory, manifest, known, lambda _done, _total: None, direct=True) as walk:
        cut = accepted(directory, walk, manifest)
        parts = [EpochRow(manifest.epoch, known.epochs[-1].begin, cut)]
        if walk.scan.kept:
            parts += _runs(directory, manifest, cut, int(walk.scan.valid_end))
        return Standing(manifest, (*known.epochs[:-1], *parts), streams_of(walk))


def _runs(directory: Directory, manifest: Manifest, begin: int, end: int) -> list[EpochRow]:
    """The runs of valid blocks of the epoch in force between two log positions."""
    runs: list[EpochRow] = []
    pages = Pages(directory, manifest.segment_bytes)
    try:
        position = begin
        while position < end:
            span = _valid_span(pages, manifest, position)
            if span and runs and runs[-1].end == position:
                runs[-1] = runs[-1]._replace(end=position + span)
            elif span:
                runs.append(EpochRow(manifest.epoch, position, position + span))
            position += span or PAGE
    finally:
        pages.close()
    return runs


def _valid_span(pages: Pages, manifest: Manifest, position: int) -> int:
    """How much log the valid block covers that lies there; 0: there is none."""
    left = manifest.segment_bytes - position % manifest.segment_bytes
    at = _shown(pages, position, PAGE)
    if lib.rw_block_check(at, ANY_LENGTH, manifest.uuid, manifest.epoch, position) != lib.RW_OK:
        return 0
    head = ffi.cast("const rw_block *", at)
    length, span = int(head.length), int(head.span)
    if length > left or span > left:
        return 0
    return span if lib.rw_block_verify(_shown(pages, position, length)) == lib.RW_OK else 0


def _shown(pages: Pages, position: int, size: int) -> Any:
    window, base, _ = pages.show(position, size)
    return window + (position - base)
