"""Is a copied directory a whole log? Asked at the first start on it, before anything is changed.

A copy of a log that nobody writes is a log. One that was made while an engine wrote (cp, rsync, tar) has each page as of a
moment of its own, between the beginning of the copying and its end. That is harmless where it is no other mix than a crash
leaves: pages of a block are written once, so what was persisted when the copying began is there, and what came later is
there or torn, as after a power cut. Recovery and its decision table take care of that. What they take for granted does not
hold for a copy, and is proven here:

    manifest     segments         checkpoint   what of the log is not there               proven by
    older        freed since      -            segments that it names                     every block, from the first segment on
    any          used again while it was read: blocks of two segments in one file         the same
    newer        older            -            blocks below the checkpoint                the same
    older        named since      -            blocks in files that it does not name      those files are searched
    older        newer            -            an epoch that it has not claimed           what is behind the log is searched
    older        newer            -            blocks further on than recovery looks      the same
    any          older            newer        what the other checkpoint is about         it is not beyond the log's end
    older        -                newer        the checkpoint that it names               its digest (checkpoint_file.py)
    newer        freed since      -            what the attic got of them, in the attic       verify (copied_attic.py)
    -            a hole, then blocks behind it that vouch for it                          the decision table (decision.py)
    none, cut    cut short        cut short    what had not been copied yet               all of the above

What passes is the log as of some moment of the copying, or as a crash at that moment would have left it: everything is there
that was confirmed before the copying began, and every record that it says it has can be read. All of the log is read for
that, once: afterwards the directory has a home of its own (home.py), and starts like any other.

A directory whose file `home` is missing is no copy that anybody knows of, so removing it forgoes the proof. That is the way
to start a true copy of a log that was damaged itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError
from ringwal.log import checkpoint_file, segment
from ringwal.log.checkpoint import Checkpoint, extents
from ringwal.log.directory import Directory
from ringwal.log.files import open_synced, page_buffer, read_all
from ringwal.log.manifest import Manifest
from ringwal.log.proof import prove
from ringwal.log.walk import Walk
from ringwal.log.window import WINDOW_BYTES, Window


def prove_whole(
    directory: Directory,
    manifest: Manifest,
    known: Checkpoint | None,
    walk: Walk,
    cut: int,
    tell: Callable[[int, int], object],
    *,
    direct: bool,
) -> None:
    """Prove that a copy is whole, which recovery would accept: `walk` has come to its end, and `cut` is the log's. `tell` is
    called with the bytes that were read, and those that there are to read. Nothing is changed.

    Raises:
        CorruptionError: it cannot be proven.
        VersionMismatch, OSError: as `segment.open_for_reading`.
    """
    size = manifest.segment_bytes
    first, end = manifest.first_segment * size, manifest.named_end * size
    _other_checkpoint(directory, manifest, cut)
    window = Window(directory, manifest, direct=direct)
    try:
        for extent in extents(known.epochs if known else (), first, walk.begin, size):
            prove(window, manifest.uuid, extent)
            tell(extent.end - first, end - first)
    finally:
        window.close()
    search = _Search(manifest, max(walk.limit, cut))
    for number in segment.numbers(directory):
        if number >= cut // size:
            search.file(directory, number, cut, direct=direct)
            tell(min((number + 1) * size, end) - first, end - first)


@contextlib.contextmanager
def refused(directory: Directory, *, copied: bool) -> Iterator[None]:
    """What recovery says of a directory that was `copied`, with the words that its owner needs."""
    try:
        yield
    except CorruptionError as damage:
        if not copied:
            raise
        told = CorruptionError(
            f"{directory.path} is a copy of another directory, and not whole: {damage}. (If the log was damaged before it was"
            " copied: without the file `home` in it the copy starts as its original would.) Copies made while an engine"
            " writes are like that, or cut short: `ringwal backup` copies a log in use, cp one whose engine is stopped"
        )
        told.segment, told.position = damage.segment, damage.position
        raise told from damage


def _other_checkpoint(directory: Directory, manifest: Manifest, cut: int) -> None:
    """One is written when everything below its position is persisted, and only then named."""
    found = checkpoint_file.other(directory, manifest)
    if found is None:
        return
    if found.epoch > manifest.claimed or (found.epoch == manifest.epoch and found.position > cut):
        raise CorruptionError(
            f"the log ends at position {cut}, and {checkpoint_file.name_of(1 - manifest.checkpoint_file)} is about position"
            f" {found.position} of epoch {found.epoch}"
        )


class _Search:
    """For blocks that cannot be where the log has ended."""

    def __init__(self, manifest: Manifest, beyond: int) -> None:
        """From log position `beyond` on there is no block of the epoch in force."""
        self._manifest = manifest
        self._beyond = beyond
        self._memory = page_buffer(WINDOW_BYTES)
        self._epoch: Any = ffi.new("uint64_t *")

    def file(self, directory: Directory, number: int, begin: int, *, direct: bool) -> None:
        """In segment `number`, named or not, from log position `begin` on. Raises CorruptionError, OSError."""
        size = self._manifest.segment_bytes
        begin, end = max(begin, number * size), (number + 1) * size
        fd = open_synced(segment.name_of(number), at=directory.segments, direct=direct)
        try:
            while begin < end:
                wanted = min(WINDOW_BYTES, end - begin)
                with memoryview(self._memory) as whole:
                    got = read_all(fd, whole[:wanted], segment.HEADER_BYTES + begin % size)
                self._piece(begin, got)
                begin += wanted
        finally:
            os.close(fd)

    def _piece(self, begin: int, held: int) -> None:
        manifest, at = self._manifest, 0
        with ffi.from_buffer("uint8_t[]", self._memory) as memory:
            while True:
                at += lib.rw_prove_search(memory + at, held - at, manifest.uuid, begin + at, self._epoch)
                if at >= held:
                    return
                self._found(begin + at, int(self._epoch[0]))
                at += segment.HEADER_BYTES

    def _found(self, position: int, epoch: int) -> None:
        manifest = self._manifest
        if epoch > manifest.claimed:
            told = f"the manifest is older than the log: it knows no epoch {epoch}, of which there is a block here"
        elif epoch == manifest.epoch and position >= self._beyond:
            told = "the log ends before, and here is a block of it"
        else:
            return  # of a start that was cut short, or in flight at a crash
        raise CorruptionError(told, position // manifest.segment_bytes, position)
