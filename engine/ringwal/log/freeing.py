"""Segments in which nothing is left to read: freed, oldest first, and used again where the log wants another one.

    1  `first_segment` is raised in the manifest, in both copies: from here on the file is nobody's
    2  the file is removed; or it gets the name of the next segment, and its header is written anew and synced
    3  the directory of segments is synced
    4  `named_end` is raised: the next segment may be used

A death in between leaves a file below `first_segment`, or one at `named_end` that is not named: the next start removes the one
(`clear`) and the other (segment.remove_orphans). What was in a file that is used again stays there. Nobody takes it for
anything, as epoch and log position are in every checksum.

A segment's side file goes before the segment, unless the attic has blocks of it; one that is left over is cleared by the next
start (sidefile.clear).

A file with several names is somebody else's, too: a copy or a backup made of hard links. It is removed, never used again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from ringwal.log import manifest as manifests
from ringwal.log import segment, sidefile
from ringwal.log.directory import Directory
from ringwal.log.files import opened, sync_directory, unlink
from ringwal.log.manifest import Manifest
from ringwal.points import point


def free(
    directory: Directory,
    manifest: Manifest,
    end: int,
    *,
    wanted: int,
    direct: bool,
    announce: Callable[[int], None],
    manifest_fd: int | None = None,
    attic_end: int = 0,
) -> Manifest:
    """Free all segments below `end`. Their files become the next segments, until there are those below `wanted`.

    Nothing below `end` may be needed: by nobody who reads, nor by recovery from the checkpoint that `manifest` names, which
    both of its copies do. `announce` is called with `end` before the first file goes. `manifest_fd` as for `manifest.store`.
    Of segments below `attic_end` the attic may have blocks: their side files stay.

    Returns the manifest in force afterwards.

    Raises:
        ValueError: `end` lies beyond the checkpoint.
        OSError: a write or sync failed: end the epoch.
    """
    first = manifest.first_segment
    if end <= first:
        return manifest
    if end * manifest.segment_bytes > manifest.checkpoint_position:
        raise ValueError(f"segment {end - 1} is not below the checkpoint")
    raised = dataclasses.replace(manifest, first_segment=end)
    manifest = manifests.store(directory, raised, fd=manifest_fd)
    announce(end)
    point("seg.first_raised")
    named_end = manifest.named_end
    for number in range(first, end):
        if number >= attic_end:
            sidefile.remove(directory, number)
        if named_end < wanted and _use_again(directory, manifest, number, named_end, direct=direct):
            named_end += 1
        else:
            unlink(segment.name_of(number), at=directory.segments)
    sync_directory(directory.segments)
    if named_end == manifest.named_end:
        return manifest
    manifest = manifests.store(directory, dataclasses.replace(manifest, named_end=named_end), fd=manifest_fd)
    point("seg.named")
    return manifest


def left_over(directory: Directory, manifest: Manifest) -> list[int]:
    """Numbers of the files below `first_segment`: freeing them was cut short. Raises OSError."""
    return [number for number in segment.numbers(directory) if number < manifest.first_segment]


def clear(directory: Directory, manifest: Manifest) -> list[int]:
    """Remove the files that are left over, which both copies of the manifest have to say. Returns their numbers. Raises
    OSError."""
    left = left_over(directory, manifest)
    for number in left:
        unlink(segment.name_of(number), at=directory.segments)
    if left:
        sync_directory(directory.segments)
    return left


def _use_again(directory: Directory, manifest: Manifest, old: int, new: int, *, direct: bool) -> bool:
    """Make the file of segment `old`, which is freed, segment `new`, which is not named yet. False: it cannot be."""
    at = directory.segments
    try:
        found = os.stat(segment.name_of(old), dir_fd=at)
    except FileNotFoundError:
        return False
    if found.st_size != segment.HEADER_BYTES + manifest.segment_bytes:
        return False
    os.rename(segment.name_of(old), segment.name_of(new), src_dir_fd=at, dst_dir_fd=at)
    point("seg.renamed")
    with opened(segment.name_of(new), os.O_WRONLY | (os.O_DIRECT if direct else 0), at=at) as fd:
        if os.fstat(fd).st_nlink > 1:  # looked at here, as nobody links it any more who knows it by its old name
            unlink(segment.name_of(new), at=at)
            return False
        segment.write_header(fd, manifest, new)
        os.fsync(fd)
    point("seg.header")
    return True
