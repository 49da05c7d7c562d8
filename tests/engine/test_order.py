"""Blocks complete out of order, and each stream is confirmed in order all the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from rig import WAIT, Engine, arm, until

import engine

DELAY_MS = 3000


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
    with engine.connect(directory) as client:
        slow, fast = client.stream("slow"), client.stream("fast")
        slow.append(b"warm").result(WAIT)
        fast.append(b"warm").result(WAIT)
        writes = client.status()["counters"]["wal_writes"]
        arm(once, f"l.write.submitted:1:delay:{DELAY_MS}")
        # One block for each, because only one fits; all are there before the first is composed.
        os.kill(running.facts["wal_pid"], signal.SIGSTOP)
        late = slow.append(bytes(3000))
        early = fast.append(bytes(3000))
        behind = slow.append(bytes(3000))
        os.kill(running.facts["wal_pid"], signal.SIGCONT)
        until(lambda: client.status()["counters"]["wal_writes"] == writes + 2, "the later blocks are on the disk")
        if order == "stream":
            assert early.result(WAIT).offset == 1
            assert not late.done()
        else:
            assert not early.done()
        assert not behind.done()
        assert fast.stat().confirmed_offset == (2 if order == "stream" else 1)
        assert slow.stat().confirmed_offset == 1
        assert [late.result(WAIT).offset, early.result(WAIT).offset, behind.result(WAIT).offset] == [1, 1, 2]
        assert client.status()["counters"]["drain_waited"] == (1 if order == "stream" else 0)
    assert running.terminate() == 0
