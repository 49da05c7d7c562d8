"""What goes wrong with files, descriptors and dying writers, and how soon and in what words it is told."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support.rig import NOBODY, WAIT, Engine, OfNobody, arm, environment, until

SMALL_SEGMENTS = {"ring_bytes": "1MiB", "segment_bytes": "3MiB", "max_streams": 16, "lane_bytes": "1MiB"}


def test_an_engine_opens_no_more_files_than_it_has_reckoned(directory: Path, start: Callable[..., Engine]) -> None:
    reckoned = 64 * (1 + 2) + 24
    running = start(wrapper=("prlimit", f"--nofile={reckoned}:{reckoned}"), blocks_in_flight=64, **SMALL_SEGMENTS)
    with ringwal.connect(directory, append_timeout=WAIT) as client:
        stream = client.stream("s")
        receipts = [stream.append(bytes(400_000)) for _ in range(80)]  # ten segments
        assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(80))
        assert client.status()["segments"]["current"] >= 9
    assert running.terminate() == 0


def test_more_segments_than_the_soft_limit_of_open_files_are_recovered(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(**SMALL_SEGMENTS)
    with ringwal.connect(directory, append_timeout=WAIT) as client:
        stream = client.stream("s")
        receipts = [stream.append(bytes(500_000)) for _ in range(320)]
        assert receipts[-1].result(WAIT).offset == 319
        assert client.status()["segments"]["files"] > 50
    running.kill()
    again = start(wrapper=("prlimit", "--nofile=50:1000"), **SMALL_SEGMENTS)
    with ringwal.connect(directory) as client:
        assert client.stream("s").stat().confirmed_offset == 320
    assert again.terminate() == 0


def test_a_segment_that_cannot_be_made_is_a_failed_write(
    points_build: Path, directory: Path, start: Callable[..., Engine]
) -> None:
    once = directory.parent / "once"
    running = start(points_build, once=once)
    arm(once, f"seg.reserved:1:errno:{errno.EIO}")
    # It may end between two appends, or before the first one, when a segment is made ahead.
    with pytest.raises((ringwal.EngineFailed, ringwal.NotRunning)), ringwal.connect(directory, append_timeout=WAIT) as client:
        stream = client.stream("s")
        while True:
            stream.append(bytes(16_000)).result(WAIT)
    assert running.wait() == os.EX_IOERR
    assert os.strerror(errno.EIO) in running.said()


def test_a_failed_write_is_told_while_a_segment_is_being_filled(
    points_build: Path, directory: Path, start: Callable[..., Engine]
) -> None:
    once = directory.parent / "once"
    running = start(points_build, once=once)
    with ringwal.connect(directory, append_timeout=WAIT) as client:
        stream = client.stream("s")
        stream.append(b"its lane is known").result(WAIT)
        arm(once, f"seg.filling:1:delay:{int(3 * WAIT * 1e3)}")
        while once.exists():
            stream.append(bytes(16_000)).result(WAIT)
        resource.prlimit(running.facts["wal_pid"], resource.RLIMIT_FSIZE, (0, 0))
        with pytest.raises(ringwal.EngineFailed) as caught:
            stream.append(b"x").result(WAIT)
    assert caught.value.errno == errno.EFBIG
    assert running.wait() == os.EX_IOERR


WRITER = """
import sys, ringwal
client = ringwal.connect(sys.argv[1])
stream = client.stream("s")
stream.append(b"first").result(30)
print("ready", flush=True)
sys.stdin.readline()
stream.append(b"last words")
"""


def test_what_a_writer_published_before_it_was_killed_is_confirmed_at_once(
    points_build: Path, directory: Path, start: Callable[..., Engine]
) -> None:
    running = start()
    once = directory.parent / "once"
    command = [sys.executable, "-c", WRITER, str(directory)]
    with (
        ringwal.connect(directory, timeout=WAIT) as client,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(points_build, once)
        ) as writer,
    ):
        assert writer.stdin is not None
        assert writer.stdout is not None

        def at_rest() -> bool:  # the first block is vouched for: nothing wakes the engine by itself from then on
            tasks = Path(f"/proc/{running.facts['wal_pid']}/task").iterdir()
            written = client.status()["counters"]["wal_writes"] == 2
            return written and all((task / "stat").read_text().rsplit(") ", 1)[1][0] == "S" for task in tasks)

        assert writer.stdout.readline() == b"ready\n"
        until(at_rest, "the engine is at rest")
        arm(once, "w.publish.post:1:kill")
        writer.stdin.write(b"\n")
        writer.stdin.flush()
        stream = client.stream("s")
        until(lambda: stream.stat().confirmed_offset == 2, "its last record is confirmed")
        assert stream.read(1)[0].data == b"last words"
        assert writer.wait(WAIT) < 0


@pytest.mark.parametrize("lost", [".", "segments"])
def test_a_directory_whose_owner_takes_its_permissions_away_is_a_failed_write(lost: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("an engine of another user needs root")
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        directory = Path(place, "log")
        directory.mkdir(mode=0o700)
        os.chown(directory, NOBODY, NOBODY)
        running = OfNobody(directory)
        try:
            with ringwal.connect(directory, append_timeout=WAIT) as client:
                stream = client.stream("s")
                stream.append(b"kept").result(WAIT)
                (directory / lost).chmod(0)
                with pytest.raises((ringwal.EngineFailed, ringwal.NotRunning)):  # at the next segment
                    while True:
                        stream.append(bytes(16_000)).result(WAIT)
            assert running.wait() == os.EX_IOERR
            assert os.strerror(errno.EACCES) in running.said()
            assert "Traceback" not in running.said()
            (directory / lost).chmod(0o700)
        finally:
            running.close()
        again = OfNobody(directory)
        try:
            with ringwal.connect(directory) as client:
                assert client.stream("s").read(0)[0].data == b"kept"
            assert again.terminate() == 0
        finally:
            again.close()
