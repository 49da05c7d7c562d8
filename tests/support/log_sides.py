"""Side files of a log that a test has made."""

from __future__ import annotations

from collections.abc import Container

from ringwal.log import checkpoint_file, sidefile
from ringwal.log import manifest as manifests
from tests.support.log_maker import LogMaker
from tests.support.log_place import log_at


def write_sides(log: LogMaker, *, but: Container[int] = ()) -> list[int]:
    """Take a checkpoint here, and write the side files of all segments below, except of some. Returns which have one."""
    log.checkpoint()
    at = log_at(log.directory)
    manifest = manifests.load(at)
    checkpoint = checkpoint_file.load(at, manifest)
    ends, written = b"", []
    for number in range(sidefile.limit(manifest)):
        epochs = sidefile.extents_of(checkpoint, manifest.segment_bytes, number)
        maker = sidefile.gather(at, manifest, epochs, number, direct=False)
        ends = sidefile.write(at, manifest, checkpoint, number, maker, ends)
        if number in but:
            sidefile.remove(at, number)
        else:
            written.append(number)
    return written
