"""Every error that an append raises says what became of the record, and so does every receipt."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

import ringwal
from ringwal._native import lib
from ringwal.processes.context import FINISH
from tests.support.rig import WAIT, Engine, append_and_hold, read_all, stop_process, until


def refused(append: Callable[[], object]) -> ringwal.Error:
    with pytest.raises(ringwal.Error) as caught:
        append()
    assert caught.value.outcome == "not_appended", repr(caught.value)
    return caught.value


def test_appends_to_a_closed_client(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    client = ringwal.connect(directory)
    used, fresh = client.stream("used"), client.stream("fresh")
    used.append(b"x").result(WAIT)
    client.close()
    for stream in (used, fresh):
        for append in (lambda s=stream: s.append(b"x"), lambda s=stream: s.append_many([b"x", b"y"])):
            assert isinstance(refused(append), ringwal.ClosedError)
    with pytest.raises(ringwal.ClosedError):
        client.stream("another")


def test_appends_after_a_stop_and_all_that_cannot_attach(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(max_clients=1)
    with ringwal.connect(directory, timeout=1.0) as client, ringwal.connect(directory, timeout=1.0) as other:
        stream = client.stream("s")
        stream.append(b"x").result(WAIT)
        assert isinstance(refused(lambda: other.stream("s").append(b"no place")), ringwal.ShmUnavailable)
        assert isinstance(refused(lambda: stream.append(bytes(1 << 20))), ringwal.RecordTooLarge)
        assert running.terminate() == 0
        for _ in range(3):
            assert isinstance(refused(lambda: stream.append(b"y")), ringwal.NotRunning)
            assert isinstance(refused(lambda: stream.append_many([b"y", b"z"])), ringwal.NotRunning)


def test_what_is_pending_when_the_client_is_closed_is_unknown(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    client = ringwal.connect(directory)
    client.stream("s").append(b"x").result(WAIT)
    stop_process(running.status()["wal_pid"])
    receipt = client.stream("s").append(b"y")
    with pytest.raises(ringwal.AckTimeout):
        client.close(timeout=0.0)
    with pytest.raises(ringwal.ClosedError) as caught:
        receipt.result(WAIT)
    assert str(caught.value.outcome) == "unknown"  # the class says what it is elsewhere


def test_a_stopping_engine_confirms_what_it_has_taken(
    points_build: Path, directory: Path, start: Callable[..., Engine]
) -> None:
    """Though an append was refused meanwhile, which says so itself and ends nobody else's."""
    once = directory.parent / "once"
    running = start(points_build, once=once)
    client = ringwal.connect(directory)
    stream = client.stream("s")
    stream.append(b"0").result(WAIT)
    receipts = append_and_hold(stream, once, [b"%d" % n for n in range(1, 50)])
    wal = running.facts["wal_pid"]
    running.process.send_signal(signal.SIGTERM)
    until(lambda: client._attachment().control.state == lib.RW_STOPPING, "the engine is stopping")
    for _ in range(3):
        assert isinstance(refused(lambda: stream.append(b"late")), ringwal.NotRunning)
    os.kill(wal, signal.SIGCONT)
    assert running.wait() == 0
    assert isinstance(refused(lambda: stream.append(b"too late")), ringwal.NotRunning)
    assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(1, 50))
    client.close()
    start()
    with ringwal.connect(directory) as reader:
        assert [record.data for record in read_all(reader.stream("s"))] == [b"%d" % n for n in range(50)]


def pending(pid: int) -> int:
    """The signals that a process has not taken yet, as a mask."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("ShdPnd:")[2].split()[0], 16)


def test_a_stop_confirms_what_a_client_has_appended_that_has_just_come(
    directory: Path, start: Callable[..., Engine]
) -> None:
    running = start()
    wal = running.facts["wal_pid"]
    with ringwal.connect(directory, timeout=WAIT) as earlier:
        earlier.stream("t").append(b"it works").result(WAIT)
    stop_process(wal)  # it has not met the lane
    try:
        with ringwal.connect(directory, timeout=WAIT) as client:
            receipts = [client.stream("s").append(b"%d" % n) for n in range(100)]
            os.kill(running.process.pid, signal.SIGTERM)
            until(lambda: bool(pending(wal) & 1 << FINISH - 1), "it is asked to end")
            os.kill(wal, signal.SIGCONT)
            assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(100))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(wal, signal.SIGCONT)
    assert running.wait() == 0


def test_an_append_that_meets_the_end_of_the_engine_goes_to_its_successor(
    directory: Path, start: Callable[..., Engine]
) -> None:
    with_append: list[Callable[[ringwal.Stream], ringwal.Receipt]] = [
        lambda s: s.append(b"y"),
        lambda s: s.append(bytearray(b"y")),
        lambda s: s.append_many([b"y"]),
    ]
    for n, append in enumerate(with_append):
        running = start()
        with ringwal.connect(directory, timeout=WAIT) as client:
            stream = client.stream("s")
            assert stream.append(b"x").result(WAIT).offset == 2 * n
            if n == 0:
                running.kill()
            else:
                assert running.terminate() == 0
            running = start()
            assert append(stream).result(WAIT).offset == 2 * n + 1
            assert [record.data for record in stream.read(0)] == [b"x", b"y"] * (n + 1)
        running.kill()


def test_an_append_does_not_come_behind_a_gap_that_nobody_was_told_of(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory, timeout=WAIT) as client:
        stream, other = client.stream("s"), client.stream("other")
        stream.append(b"0").result(WAIT)
        other.append(b"0").result(WAIT)
        for asked in (False, True):
            stop_process(running.status()["wal_pid"])
            pending = stream.append(b"lost, or not")
            running.kill()
            running = start()
            if asked:
                assert isinstance(pending.exception(WAIT), ringwal.EngineFailed)
            else:
                assert isinstance(refused(lambda: stream.append(b"1")), ringwal.NotRunning)
            assert other.append(b"1").result(WAIT).offset > 0  # nothing of this one is lost
            assert stream.append(b"1").result(WAIT).offset > 0
            if not asked:
                with pytest.raises(ringwal.EngineFailed):
                    stream.flush(WAIT)


def test_an_engine_that_hangs_holds_up_no_other_engines_futures(directory: Path, start: Callable[..., Engine]) -> None:
    hanging, healthy = start(), Engine(directory.with_name("other"))
    try:
        with ringwal.connect(healthy.directory) as other, ringwal.connect(directory) as client:
            client.stream("s").append(b"x").result(WAIT)
            wal = hanging.status()["wal_pid"]
            stop_process(wal)
            pending = [client.stream("s").append(b"y").future() for _ in range(300)]
            begun = [thread for thread in threading.enumerate() if thread.name == "ringwal-futures"]
            resolved: list[Future[ringwal.Ack]] = [other.stream("s").append(b"z").future() for _ in range(20)]
            assert [future.result(WAIT).offset for future in resolved] == list(range(20))
            assert not any(future.done() for future in pending)
            assert len(begun) == 1
            os.kill(wal, signal.SIGCONT)
            assert [future.result(WAIT).offset for future in pending] == list(range(1, 301))
    finally:
        healthy.close()


def test_what_a_dying_engine_still_confirms_is_confirmed_for_good(directory: Path, start: Callable[..., Engine]) -> None:
    """A drain process may outlive by a moment the look that found its supervisor dead. One thread of a client is told by its
    cell then that an append is confirmed, and no thread is told something else afterwards."""
    running = start()
    drain = running.facts["drain_pid"]
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        stream.append(b"0").result(WAIT)
        stop_process(drain)
        receipt, bound = stream.append(b"1"), stream._bound
        assert bound is not None
        bound.lane.end(ringwal.EngineFailed("the engine ended before this append was confirmed"))  # as by another thread
        assert isinstance(receipt.exception(WAIT), ringwal.EngineFailed)
        os.kill(drain, signal.SIGCONT)
        until(lambda: receipt.exception(WAIT) is None, "the drain to say it")
        assert [receipt.result(WAIT).offset for _ in range(2)] == [1, 1]
