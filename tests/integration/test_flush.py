"""What `flush` tells of appends that nobody has asked about, in each face of the client."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support.faces import Face
from tests.support.rig import WAIT, Engine, stop_process


@pytest.mark.parametrize("asked", [False, True])
def test_an_engine_that_is_killed_under_a_flush(
    face: Face, directory: Path, start: Callable[..., Engine], *, asked: bool
) -> None:
    running = start()
    with face.connect(directory) as client:
        client.append("s", b"0")
        stop_process(running.status()["wal_pid"])
        pending = client.begin("s", b"lost, or not")
        killer = threading.Timer(0.05, running.kill)  # whether before the flush, or under it: the same is told
        killer.start()
        if asked:
            with pytest.raises(ringwal.EngineFailed):
                pending.result()
            client.flush("s")
        else:
            with pytest.raises(ringwal.EngineFailed) as told:
                client.flush("s")
            assert told.value.outcome == "unknown"
            client.flush("s")  # it has been told
        killer.join(WAIT)
