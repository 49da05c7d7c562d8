"""Side files, held against their digests. Nothing in them is missed by anybody: what is damaged is made again."""

from __future__ import annotations

import os
import struct
from collections.abc import Container, Iterator

import xxhash

from ringwal.log import sidefile
from ringwal.log.checkpoint import Checkpoint
from ringwal.log.directory import SEGMENTS, Directory
from ringwal.log.files import PAGE, opened, read_all
from ringwal.log.manifest import Manifest
from ringwal.log.premise import Fault

_AGAIN = "nothing is lost, an engine makes it again"


_STRANGE = (
    "a side file of another history of the log, with blocks that its segment has not got: nothing is lost, it is made again at"
    " the next start of the keeper; remove it"
)


def check(
    directory: Directory, manifest: Manifest, checkpoint: Checkpoint, bad: Container[int | None], *, deep: bool
) -> Iterator[tuple[int, Fault]]:
    """What is wrong with each, by the segment that it belongs to: the first damaged page of it, or that it is not of that
    segment; its last block tells it, or any one, if `deep`, unless the segment is one of the `bad` ones. Raises OSError."""
    if not directory.has_segments():
        return
    for number in sidefile.numbers(directory):
        if manifest.first_segment <= number < sidefile.limit(manifest):
            yield from ((number, fault) for fault in _check(directory, manifest, checkpoint, number))
            if number not in bad and not _is_of(directory, manifest, number, every=deep):
                yield number, Fault(f"{SEGMENTS}/{sidefile.name_of(number)}", 0, _STRANGE)


def _check(directory: Directory, manifest: Manifest, checkpoint: Checkpoint, number: int) -> Iterator[Fault]:
    file = f"{SEGMENTS}/{sidefile.name_of(number)}"
    found = sidefile.SideFile.open(directory, manifest.uuid, manifest.segment_bytes, number)
    if found is None and not _there(directory, number):  # freed just now
        return
    if found is None:
        yield Fault(file, 0, f"a side file that is damaged, or of another log: {_AGAIN}")
        return
    bad = _first_bad_page(directory, number, found.size)
    if bad is not None:
        yield Fault(file, bad, f"a page of a side file is damaged: {_AGAIN}")
    elif found.epochs() != sidefile.extents_of(checkpoint, manifest.segment_bytes, number):
        yield Fault(file, 0, f"a side file states other epochs than the checkpoint: {_AGAIN}")


def _is_of(directory: Directory, manifest: Manifest, number: int, *, every: bool) -> bool:
    found = sidefile.SideFile.open(directory, manifest.uuid, manifest.segment_bytes, number)
    try:
        return found is None or found.is_of(directory, every=every)
    except sidefile.Unproven:  # told already
        return True


def _there(directory: Directory, number: int) -> bool:
    try:
        os.stat(sidefile.name_of(number), dir_fd=directory.segments)
    except FileNotFoundError:
        return False
    return True


def _first_bad_page(directory: Directory, number: int, size: int) -> int | None:
    """The byte at which it begins; None: none is. The header and the digests are known to be good."""
    data = bytearray(size)
    with opened(sidefile.name_of(number), os.O_RDONLY, at=directory.segments) as fd:
        read_all(fd, memoryview(data), 0)
    pages = size // PAGE - 1
    tables = next(n for n in range(pages + 1) if n * PAGE >= 8 * (pages - n))  # of digests, which have none themselves
    for page in range(pages - tables):
        begin = (1 + tables + page) * PAGE
        (digest,) = struct.unpack_from("<Q", data, PAGE + 8 * page)
        if xxhash.xxh3_64_intdigest(memoryview(data)[begin : begin + PAGE]) != digest:
            return begin
    return None
