"""The last block of a log is vouched for within a second or so, also where nothing but the segment's end is left behind it; and
damage to it is found by whoever reads it, and hinders nobody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support.rig import WAIT, Engine, until

PAGE = 4096
SEGMENT = 3 << 20


@pytest.mark.parametrize("left", [0, 1, 2], ids=lambda left: f"{left} pages left")
def test_damage_to_the_last_record_of_a_full_segment_is_found(left: int, directory: Path, start: Callable[..., Engine]) -> None:
    running = start(ring_bytes="1MiB", segment_bytes="3MiB", max_streams=16)
    path = directory / "segments" / f"{0:020d}.seg"
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        pages = SEGMENT // PAGE - 2 - left  # of records: before them is the first block, behind them the segment's end
        for n in range(pages - 1):
            stream.append(b"%d" % n).result(WAIT)

        def blocks() -> int:
            return int(client.status()["counters"]["wal_blocks"])

        before = blocks()
        assert stream.append(b"the last one").result(WAIT).offset == pages - 1
        at = path.read_bytes().rfind(b"the last one")
        assert at // PAGE == (path.stat().st_size // PAGE - 1) - 1 - left, "it is not where this test wants it"
        until(lambda: blocks() > before + 1, "a block vouches for the last one")
        assert stream.stat().confirmed_offset == pages
    assert running.terminate() == 0
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"T")
    start(ring_bytes="1MiB", segment_bytes="3MiB", max_streams=16)
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        assert stream.append(b"later").result(WAIT).offset == pages
        assert [record.data for record in stream.read(pages - 2, 1)] == [b"%d" % (pages - 2)]
        with pytest.raises(ringwal.CorruptionError) as caught:
            stream.read(pages - 1)
        assert caught.value.position == at - PAGE - 216
        assert [record.data for record in stream.read(pages)] == [b"later"]
