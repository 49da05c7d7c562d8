"""Blocks complete out of order, and each stream is confirmed in order all the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support.rig import WAIT, Engine, arm, stop_process, until

DELAY_MS = 3000
# Three blocks, of the streams a, b, a. What may be confirmed while the first, second or third is out: everything but
# that block and what follows it, in its stream or in the log.
MEANWHILE = {"stream": [{1}, {0, 2}, {0, 1}], "log": [set(), {0}, {0, 1}]}


@pytest.mark.parametrize("order", ["stream", "log"])
def test_a_block_that_is_late_holds_up_its_own_streams_only(
    order: str, points_build: Path, directory: Path, start: Callable[..., Engine]
) -> None:
    once = directory.parent / "once"
    running = start(
        points_build,
        once=once,
        confirm_order=order,
        pipeline_bytes=1,
        block_bytes=4096,
        lane_quota_bytes=4096,
    )
    with ringwal.connect(directory) as client:
        a, b = client.stream("a"), client.stream("b")
        a.append(b"warm").result(WAIT)
        b.append(b"warm").result(WAIT)
        until(lambda: client.status()["ring"]["used"] == 0, "nothing is in flight")
        writes = client.status()["counters"]["wal_writes"]
        arm(once, f"l.write.submitted:1:delay:{DELAY_MS}")
        # One block for each, because only one fits; all are there before the first is composed. The three are written
        # by three threads, and the one that comes first to its write is late.
        stop_process(running.facts["wal_pid"])
        receipts = [stream.append(bytes(3000)) for stream in (a, b, a)]
        os.kill(running.facts["wal_pid"], signal.SIGCONT)
        until(lambda: client.status()["counters"]["wal_writes"] == writes + 2, "two of three are on the disk")
        allowed = MEANWHILE[order]
        until(lambda: {k for k in range(3) if receipts[k].done()} in allowed, "two of three have been looked at")
        done = {k for k in range(3) if receipts[k].done()}
        assert done in allowed
        assert a.stat().confirmed_offset == 1 + len(done & {0, 2})
        assert b.stat().confirmed_offset == 1 + len(done & {1})
        assert client.status()["counters"]["wal_writes"] == writes + 2
        assert [receipt.result(WAIT).offset for receipt in receipts] == [1, 1, 2]
    assert running.terminate() == 0


def test_what_comes_after_a_stuck_write_does_not_wait_for_it(
    points_build: Path, directory: Path, start: Callable[..., Engine]
) -> None:
    once = directory.parent / "once"
    running = start(points_build, once=once)
    with ringwal.connect(directory) as client:
        stuck, free = client.stream("stuck"), client.stream("free")
        stuck.append(b"warm").result(WAIT)
        free.append(b"warm").result(WAIT)
        arm(once, f"l.write.submitted:1:delay:{DELAY_MS}")
        late = stuck.append(b"late")
        until(lambda: not once.exists(), "its write has begun")
        # Too little for a further block in flight, were it not for the one that is stuck.
        for _ in range(5):
            free.append(b"now").result(WAIT)
        assert not late.done()
        assert late.result(WAIT).offset == 1
    assert running.terminate() == 0


def test_a_backlog_through_many_segments_is_confirmed_to_its_end(directory: Path, start: Callable[..., Engine]) -> None:
    # Used up as fast as this, segments are reserved and not filled: blocks are composed ahead of the two that are written.
    running = start(lane_bytes="512KiB", block_bytes="64KiB")
    with ringwal.connect(directory, append_timeout=WAIT) as client:
        stream = client.stream("s")
        receipts = [stream.append(n.to_bytes(4, "little") * 1024) for n in range(12_000)]
        assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(12_000))
        found = stream.read(max_records=12_000)
        assert [record.data for record in found] == [n.to_bytes(4, "little") * 1024 for n in range(12_000)]
    assert running.terminate() == 0
