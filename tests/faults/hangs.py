"""A disk that does not answer: a file system frozen under load. Writes to it hang, and nobody can kill who waits in one."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import ringwal
from ringwal.demo.journal import Kind, Tally, read
from tests.faults import decode
from tests.faults.disk import Disk, disk
from tests.faults.oracle import Verdict
from tests.faults.scene import Scene, scene
from tests.faults.table import Fault, often
from tests.support.host import PATIENCE, pause
from tests.support.payload import Origin, origin_of

RING = 1 << 20
"""Log bytes that can be in flight under the settings of the campaign."""


def faults(tier: str) -> list[Fault]:
    seconds = often(tier, 0.3, 30)
    return [
        Fault("time", "frozen file system", partial(frozen, seconds)),
        Fault("time", "WAL killed, file system frozen", partial(wal_killed, often(tier, 1, 5))),
        Fault("time", "supervisor killed, file system frozen", supervisor_killed),
    ]


@contextlib.contextmanager
def hanging(s: Scene, medium: Disk) -> Iterator[None]:
    """No write to the disk returns, and what had returned before has been told to everybody."""
    medium.freeze()
    try:
        before = -1
        while before != (before := told(s)):
            pause(0.1)
        yield
    finally:
        medium.thaw()


def told(s: Scene) -> int:
    """How many confirmations there were so far."""
    return sum(Tally(path, Kind.CONFIRMED).count() for path in s.fleet.journals.values())


def unwritten(s: Scene) -> set[Origin]:
    """What writers were told is confirmed and cannot be read from the files now, past what hangs."""
    confirmed = {
        Origin(row.stream, writer, row.number)
        for writer, path in s.fleet.journals.items()
        for row in read(path)
        if row.kind == Kind.CONFIRMED
    }
    log = decode.Log(s.directory)
    written: set[Origin | None] = set()
    epoch, position, _ = log.epochs()[-1]
    end = position + RING
    while position < min(end, log.manifest.named_end * log.manifest.segment_bytes):
        block = log.block(position, epoch)
        position += decode.PAGE if block is None else block.span
        for frame in () if block is None else block.frames:
            end = position + RING  # a hole is no longer than what can be in flight
            if frame.kind == decode.BATCH:
                written.update(origin_of(record.data) for record in decode.records_of(frame))
    return confirmed - written


def frozen(seconds: float, directory: Path, seed: int) -> Verdict:
    """Nothing is confirmed and nobody is replaced. Callers wait as long as they want to, and no longer; what they
    appended is confirmed when the disk is back, what was refused is not there."""
    with (
        disk(directory, "ext4") as medium,
        scene(directory, engine_dir=medium.mount / "engine", strangers=("patience",)) as s,
    ):
        before = s.workers()
        with ringwal.connect(s.directory, append_timeout=0.1, lane_bytes=64 << 10) as client:
            stream = client.stream("patience")
            stream.append(b"first").result(PATIENCE)
            with hanging(s, medium):
                confirmed, receipts = told(s), [stream.append(b"second")]
                with contextlib.suppress(ringwal.AckTimeout):
                    s.verdict.notes.append(f"confirmed on a disk that hangs: {receipts[0].result(0.1)}")
                with contextlib.suppress(ringwal.BackpressureTimeout):
                    while True:
                        receipts.append(stream.append(bytes(4000)))
                pause(seconds)
                s.unharmed(*before)
                s.verdict.expect(told(s) == confirmed, "something was confirmed while nothing could be written")
                s.verdict.expect(not (early := unwritten(s)), f"confirmed and not written: {sorted(early)[:5]}")
                s.verdict.expect(s.watch.look() == [before[0]], "another process could write to the log")
            offsets = [receipt.result(PATIENCE).offset for receipt in receipts]
            s.verdict.expect(offsets == list(range(1, 1 + len(receipts))), f"the late ones are at {offsets}")
            confirmed = stream.stat().confirmed_offset
            s.verdict.expect(confirmed == 1 + len(receipts), "a record that was refused is there all the same")
        s.await_progress()
    s.verdict.runs = 1
    return s.verdict


def wal_killed(times: int, directory: Path, seed: int) -> Verdict:
    """SIGKILL does not reach a process in a write that hangs: its successor waits for its death."""
    with disk(directory, "ext4") as medium, scene(directory, engine_dir=medium.mount / "engine") as s:
        for _ in range(times):
            pid = s.running.pid("wal")
            with hanging(s, medium):
                os.kill(pid, signal.SIGKILL)
                pause(0.3)  # until a supervisor that does not wait would have replaced it
                s.verdict.expect(s.running.pid("wal") == pid, f"WAL process {pid} was replaced while it hung in a write")
                s.verdict.expect(s.watch.look() == [pid], "this shows nothing: the write did not hang, or another could write")
            s.await_successor()
            s.await_progress()
    s.verdict.runs = times
    return s.verdict


def supervisor_killed(directory: Path, seed: int) -> Verdict:
    """The supervisor dies, the WAL process hangs in a write and cannot: no other engine starts beside it."""
    with disk(directory, "ext4") as medium:
        # Only the segments hang, so that the next engine gets as far as it is let.
        engine_dir = directory / "engine"
        (medium.mount / "segments").mkdir()
        engine_dir.mkdir()
        (engine_dir / "segments").symlink_to(medium.mount / "segments")
        with scene(directory) as s:
            s.orphan(hanging(s, medium))
    s.verdict.runs = 1
    return s.verdict
