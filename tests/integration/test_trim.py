"""Trimming as its users meet it: what is gone, what stays, and what a trim that was confirmed survives."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import ringwal
from ringwal.config import KIB, MIB, Config
from ringwal.log.recovery import recover
from tests.support.asked import await_taken
from tests.support.log_place import log_at
from tests.support.log_writer import LogWriter
from tests.support.rig import CHECKOUT, WAIT, Engine, read_all, stop_process, until, verify

Start = Callable[..., Engine]


def payload(offset: int) -> bytes:
    return b"record %d" % offset


def fill(stream: ringwal.Stream, count: int) -> None:
    """So many records more, each with its offset as its payload."""
    try:
        begin = stream.stat().confirmed_offset
    except ringwal.NoSuchStream:
        begin = 0
    receipts = [stream.append(payload(begin + i)) for i in range(count)]
    assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(begin, begin + count))


def check(stream: ringwal.Stream, start: int, end: int) -> None:
    """The stream has these records and no others."""
    info = stream.stat()
    assert (info.start_offset, info.confirmed_offset, info.records) == (start, end, end - start)
    found = stream.read(ringwal.EARLIEST, max_records=end + 1)
    assert [(record.offset, record.data) for record in found] == [(n, payload(n)) for n in range(start, end)]
    if start:
        with pytest.raises(ringwal.OffsetTrimmed) as trimmed:
            stream.read(start - 1)
        assert trimmed.value.start_offset == start


def test_what_is_trimmed_is_not_read_again_and_offsets_go_on(directory: Path, start: Start) -> None:
    start()
    with ringwal.connect(directory) as client, ringwal.connect(directory) as other:
        stream = client.stream("s")
        fill(stream, 100)
        assert stream.trim(40) == 40
        for each in (stream, other.stream("s")):
            check(each, 40, 100)
            assert next(iter(each.tail(ringwal.EARLIEST))).offset == 40
            with pytest.raises(ringwal.OffsetTrimmed):
                next(iter(each.tail(0)))
        fill(stream, 10)
        check(stream, 40, 110)


def test_a_trim_goes_forward_only_and_may_be_repeated(directory: Path, start: Start) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        fill(stream, 50)
        found = [stream.trim(before) for before in (0, 20, 20, 5, 0, 21)]
        assert found == [0, 20, 20, 20, 20, 21]
        check(stream, 21, 50)


def test_all_of_a_stream_may_be_trimmed(directory: Path, start: Start) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        fill(stream, 7)
        assert stream.trim(7) == 7
        check(stream, 7, 7)
        assert stream.read(7) == []
    running.kill()
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        check(stream, 7, 7)
        fill(stream, 1)
        check(stream, 7, 8)


def test_a_trim_may_end_in_the_middle_of_a_batch(directory: Path, start: Start) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        stream.append_many([payload(n) for n in range(10)]).result(WAIT)
        assert stream.trim(4) == 4
        check(stream, 4, 10)
    running.kill()
    start()
    with ringwal.connect(directory) as client:
        check(client.stream("s"), 4, 10)


def test_an_offset_that_is_none_yet_is_refused_with_the_end(directory: Path, start: Start) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        fill(stream, 3)
        with pytest.raises(ValueError, match="ends at 3"):
            stream.trim(4)
        values: list[Any] = [-1, ringwal.EARLIEST, True, 1.0, "1", None, 1 << 64]
        for value in values:
            with pytest.raises(ValueError, match="before is"):
                stream.trim(value)
        check(stream, 0, 3)


def test_a_stream_that_does_not_exist_is_not_made_by_a_trim(directory: Path, start: Start) -> None:
    start()
    with ringwal.connect(directory) as client:
        with pytest.raises(ringwal.NoSuchStream):
            client.stream("s").trim(0)
        assert client.streams() == []
        assert client.create_stream("made").trim(0) == 0
        with pytest.raises(ValueError, match="ends at 0"):
            client.stream("made").trim(1)


def test_streams_of_the_engine_may_be_read_and_are_left_to_it(directory: Path, start: Start) -> None:
    config = Config(ring_bytes=MIB, segment_bytes=4 * MIB, max_streams=256, block_bytes=64 * KIB)
    LogWriter(directory, recover(log_at(directory), config)).put((0, [payload(0), payload(1)]), name="_own")
    start()
    with ringwal.connect(directory) as client:
        own = client.stream("_own")
        check(own, 0, 2)
        assert next(iter(own.tail(1))).data == payload(1)
        refused: list[Callable[[], object]] = [
            lambda: own.append(b"x"), lambda: own.append_many([b"x"]), lambda: client.create_stream("_own"),
            lambda: own.trim(0), lambda: client.delete_stream("_own"),
        ]  # fmt: skip
        for call in refused:
            with pytest.raises(ringwal.ConfigError, match="engine's own"):
                call()
        check(own, 0, 2)
        assert [info.name for info in client.streams()] == ["_own"]
        with pytest.raises(ringwal.ConfigError, match="engine's own"):
            client.create_stream("_other")
        with pytest.raises(ringwal.NoSuchStream):
            client.stream("_other").stat()


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_trim_that_has_returned_survives_the_engine(directory: Path, start: Start, end: str) -> None:
    trimmed = 0
    for life in range(4):
        running = start()
        with ringwal.connect(directory) as client:
            stream = client.stream("s")
            if life:
                check(stream, trimmed, 20 * life)
            fill(stream, 20)
            trimmed = stream.trim(trimmed + 13)
            if end == "killed":
                running.kill()
            else:
                assert running.terminate() == 0
    start()
    with ringwal.connect(directory) as client:
        check(client.stream("s"), 4 * 13, 4 * 20)


@pytest.mark.parametrize("role", ["wal", "drain"])
def test_trims_outlast_the_processes_that_make_and_confirm_them(directory: Path, start: Start, role: str) -> None:
    running = start(max_restarts=100)
    with ringwal.connect(directory, timeout=WAIT) as client:
        stream = client.stream("s")
        for n in range(1, 9):
            fill(stream, 10)
            running.strike(role)  # the successor may not be there yet
            assert stream.trim(10 * n - 3) == 10 * n - 3
            running.strike(role)
            check(stream, 10 * n - 3, 10 * n)
    running.kill()
    start()
    with ringwal.connect(directory) as client:
        check(client.stream("s"), 77, 80)


@pytest.mark.parametrize("fetched", [1, 1000])
def test_what_a_reader_holds_stays_its_own(directory: Path, start: Start, fetched: int) -> None:
    """Its next look at what is gone says so."""
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        fill(stream, 20)
        below, above = stream.tail(0, max_records=fetched), stream.tail(18, max_records=fetched)
        held = [next(below), next(above)]
        stream.trim(10)
        assert [record.data for record in held] == [payload(0), payload(18)]
        if fetched == 1:
            with pytest.raises(ringwal.OffsetTrimmed) as trimmed:
                next(below)
            assert trimmed.value.start_offset == 10
        else:  # fetched before the trim
            assert [next(below).offset for _ in range(19)] == list(range(1, 20))
        assert next(above).offset == 19
        fill(stream, 1)
        assert next(above).data == payload(20)


def test_of_many_trims_at_once_the_furthest_is_in_force(directory: Path, start: Start) -> None:
    start()
    clients = [ringwal.connect(directory) for _ in range(6)]
    fill(clients[0].stream("s"), 200)
    offsets = list(range(1, 181))
    random.Random(1).shuffle(offsets)

    def trim(k: int) -> list[tuple[int, int]]:
        return [(before, clients[k].stream("s").trim(before)) for before in offsets[k::6]]

    with ThreadPoolExecutor(len(clients)) as pool:
        results = list(itertools.chain.from_iterable(pool.map(trim, range(6))))
    assert all(in_force >= before for before, in_force in results)
    check(clients[3].stream("s"), 180, 200)
    for client in clients:
        client.close()


def test_a_trim_meanwhile_costs_nobody_a_record(directory: Path, start: Start, write: Callable[..., Any]) -> None:
    """Writers at work, a stream that is trimmed all the time, WAL and drain killed, then everything."""
    running = start(max_restarts=100)
    writers = write(CHECKOUT, 2, ["a", "b"])
    trimmed = end = 0
    with ringwal.connect(directory, timeout=WAIT, append_timeout=WAIT) as client:
        stream = client.stream("t")
        for n in range(30):
            receipts = [stream.append(payload(end + i)) for i in range(50)]
            if n % 5 == 4:
                running.strike("wal" if n % 2 else "drain")
            assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(end, end + 50))
            end += 50
            trimmed = stream.trim(end - 20)
            assert trimmed == end - 20
        writers.await_told()
    running.kill()
    start(max_restarts=100)
    assert writers.stop() == [0, 0]
    with ringwal.connect(directory) as client:
        check(client.stream("t"), trimmed, end)
        client.delete_stream("t")
        verify(client, writers.journals)


@pytest.mark.parametrize("role", ["wal", "drain"])
def test_a_trim_whose_end_is_not_seen_is_unknown_and_goes_on(directory: Path, start: Start, role: str) -> None:
    running = start()
    with ringwal.connect(directory, timeout=0.5) as client:
        stream = client.stream("s")
        fill(stream, 10)
        pid = running.pid(role)
        stop_process(pid)
        try:
            with pytest.raises(ringwal.AckTimeout) as late:
                stream.trim(4)
            assert (late.value.outcome, late.value.retriable) == ("unknown", True)
            assert stream.stat().start_offset == 0
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: stream.stat().start_offset == 4, "the trim is in force")
        assert stream.trim(4) == 4


def test_a_trim_that_nobody_answers_is_unknown_and_goes_on(directory: Path, start: Start) -> None:
    running = start()
    with ringwal.connect(directory, timeout=0.5) as client:
        stream = client.stream("s")
        fill(stream, 10)
        stop_process(running.process.pid)
        try:
            with pytest.raises(ringwal.AckTimeout) as late:
                stream.trim(4)
            assert late.value.outcome == "unknown"
        finally:
            os.kill(running.process.pid, signal.SIGCONT)
        until(lambda: stream.stat().start_offset == 4, "the trim is in force")


def test_a_trim_that_the_engine_does_not_outlive_is_unknown(directory: Path, start: Start) -> None:
    running = start()
    with ringwal.connect(directory, timeout=WAIT) as client:
        stream = client.stream("s")
        fill(stream, 10)
        stop_process(running.pid("wal"))
        with ThreadPoolExecutor(1) as pool:
            trim = pool.submit(stream.trim, 4)
            await_taken(trim)
            running.kill()
            error = trim.exception(WAIT)
        assert isinstance(error, ringwal.EngineFailed)
        assert error.outcome == "unknown"
        start()
        assert stream.stat().start_offset in (0, 4)
        assert stream.trim(4) == 4
        check(stream, 4, 10)


def test_a_trim_without_an_engine_is_refused(directory: Path, start: Start) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        fill(stream, 10)
        assert running.terminate() == 0
        with pytest.raises(ringwal.NotRunning):
            stream.trim(4)
        start()
        check(stream, 0, 10)


def test_a_writer_whose_lane_is_full_may_trim(directory: Path, start: Start) -> None:
    """The request does not go through the lane."""
    running = start(max_outstanding=64)
    with ringwal.connect(directory, append_timeout=0.0, timeout=WAIT) as client:
        stream = client.stream("s")
        fill(stream, 10)
        pid = running.pid("wal")
        stop_process(pid)
        receipts: list[ringwal.Receipt] = []
        try:
            with pytest.raises(ringwal.BackpressureTimeout):
                receipts.extend(stream.append(payload(n)) for n in range(10, 1000))
            with ThreadPoolExecutor(1) as pool:
                trim = pool.submit(stream.trim, 10)
                os.kill(pid, signal.SIGCONT)
                assert trim.result(WAIT) == 10
        finally:
            os.kill(pid, signal.SIGCONT)
        assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(10, 10 + len(receipts)))
        check(stream, 10, 10 + len(receipts))


def test_trims_go_on_over_many_segments_and_starts(directory: Path, start: Start) -> None:
    """Large records, so that segments change below the trims; the quiet stream beside keeps its one record."""
    rng, end, trimmed = random.Random(7), 0, 0
    running = start()
    client = ringwal.connect(directory, timeout=WAIT, append_timeout=WAIT)
    client.stream("quiet").append(b"still here").result(WAIT)
    for n in range(24):
        stream = client.stream("s")
        receipts = [stream.append(b"%d " % (end + i) + bytes(30_000)) for i in range(30)]
        assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(end, end + 30))
        end += 30
        trimmed = stream.trim(rng.randint(trimmed, end))
        found = list(read_all_from(stream, trimmed))
        assert [int(record.data.split(b" ", 1)[0]) for record in found] == list(range(trimmed, end))
        if n % 6 == 5:
            client.close()
            running.kill() if n % 12 == 5 else running.terminate()
            running = start()
            client = ringwal.connect(directory, timeout=WAIT, append_timeout=WAIT)
            assert client.stream("s").stat().start_offset == trimmed
    assert [record.data for record in read_all(client.stream("quiet"))] == [b"still here"]
    client.close()


def read_all_from(stream: ringwal.Stream, start: int) -> Any:
    while records := stream.read(start, max_records=100):
        yield from records
        start = records[-1].offset + 1


def test_threads_that_trim_and_read_agree(directory: Path, start: Start) -> None:
    """A reader meets each record as it is, or is told that it is gone."""
    start()
    stop = threading.Event()
    with ringwal.connect(directory, timeout=WAIT) as client:
        stream = client.stream("s")
        fill(stream, 400)
        wrong: list[object] = []

        def read() -> None:
            rng = random.Random(threading.get_ident())
            while not stop.is_set():
                at = rng.randint(0, 399)
                try:
                    found = stream.read(at, max_records=5)
                except ringwal.OffsetTrimmed as error:
                    if not at < (error.start_offset or 0):
                        wrong.append(error)
                    continue
                if [record.data for record in found] != [payload(n) for n in range(at, min(at + 5, 400))]:
                    wrong.append(found)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for before in range(0, 400, 4):
            assert stream.trim(before) == before
        stop.set()
        for thread in threads:
            thread.join(WAIT)
        assert wrong == []
