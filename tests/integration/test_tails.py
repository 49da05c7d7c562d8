"""Tails and reads that wait, in each face of the client: where they begin, what is trimmed, an engine that ends and returns."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

import ringwal
from ringwal import EARLIEST, LATEST, Last
from ringwal.log.directory import SEGMENTS
from ringwal.log.segment import name_of
from tests.support import cli_rig
from tests.support.faces import BEGINNING_AT_THE_CALL, FACES, WAIT, Connected, Face
from tests.support.rig import Engine, arm, stop_process, until

LONG = 60.0
"""Seconds of `reconnect`: longer than a test takes."""


@pytest.fixture(params=BEGINNING_AT_THE_CALL, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Face:
    found: Face = request.param
    return found


def data(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(first, first + count)]


def datas(records: Iterator[ringwal.Record] | list[ringwal.Record]) -> list[bytes]:
    return [record.data for record in records]


class Taker:
    """Takes from an iterator in a thread of its own."""

    def __init__(self, records: Iterator[ringwal.Record], count: int) -> None:
        self.taken: list[bytes] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._take, args=(records, count))
        self._thread.start()

    def _take(self, records: Iterator[ringwal.Record], count: int) -> None:
        try:
            for record in islice(records, count):
                self.taken.append(record.data)
        except ringwal.Error as error:
            self.error = error

    def end(self) -> list[bytes]:
        self._thread.join(WAIT)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.taken


# ------------------------------------------------------------------------------------------------- where it begins


def test_the_last_records_are_those_that_are_confirmed_at_the_call(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    start()
    with face.connect(directory) as client:
        client.append_all("s", data(10))
        tail = client.tail("s", Last(3), idle_timeout=0.0)
        none = client.tail("s", Last(0), idle_timeout=0.0)
        client.append("s", b"10")
        assert datas(tail) == data(4, 7)
        assert datas(none) == [b"10"]
        assert datas(client.read("s", Last(2))) == data(2, 9)
        assert datas(client.records("s", Last(2))) == data(2, 9)
        assert datas(client.read("s", Last(1 << 40))) == data(11)
        assert datas(client.read("s", 5, until=Last(2))) == data(4, 5)
        client.trim("s", 9)
        assert datas(client.read("s", Last(5))) == datas(client.tail("s", Last(5), idle_timeout=0.0)) == data(2, 9)
    with ringwal.open_readonly(directory) as log:
        assert datas(log.stream("s").read(Last(1))) == [b"10"]
    for wrong in (-1, 1.5, "1", None, True):
        with pytest.raises(ValueError, match="count"):
            Last(wrong)  # type: ignore[arg-type]


def test_a_read_waits_for_the_first_record_and_no_longer(directory: Path, start: Callable[..., Engine], face: Face) -> None:
    start()
    with face.connect(directory) as client, face.connect(directory) as writer:
        client.create("s")
        assert client.read("s", wait=0.0) == client.read("s", wait=0.01) == client.read("s", wait=None) == []
        found: list[ringwal.Record] = []
        reader = threading.Thread(target=lambda: found.extend(client.read("s", 0, wait=WAIT)))
        reader.start()
        writer.append("s", b"0")
        reader.join(WAIT)
        assert datas(found) == [b"0"]
        writer.append("s", b"1")
        assert datas(client.read("s", 0, wait=WAIT)) == data(2)  # what is there is not waited for
        assert datas(client.read("s", 1, wait=WAIT, max_records=1)) == [b"1"]
        assert client.read("s", 2, wait=WAIT, until=2) == client.read("s", 2, wait=WAIT, max_records=0) == []
        with pytest.raises(ringwal.NoSuchStream):
            client.read("t", wait=WAIT)


def test_a_read_that_waits_forever_sees_a_record_that_lies_ahead(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    start()
    with face.connect(directory) as client, face.connect(directory) as writer:
        client.create("s")
        found: list[ringwal.Record] = []
        reader = threading.Thread(target=lambda: found.extend(client.read("s", 3, wait=float("inf"), max_records=1)))
        reader.start()
        writer.append_all("s", data(5))
        reader.join(WAIT)
        assert datas(found) == [b"3"]


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
def test_beyond_the_end_there_is_nothing_and_a_tail_waits_for_it(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    """As after a slip of the finger. The command line refuses that: nobody means it there."""
    start()
    with face.connect(directory) as client:
        client.append_all("s", data(3))
        assert client.read("s", 30) == list(client.records("s", 30)) == client.read("s", 30, wait=0.01) == []
        tail, merged = client.tail("s", 5, idle_timeout=0.0), client.merged({"s": 5}, idle_timeout=0.0)
        client.append_all("s", [b"3", b"4", b"5"])
        assert [record.data for record in tail] == [record.data for record in merged] == [b"5"]
        assert list(client.tail("s", 30, idle_timeout=0.0)) == []
        assert list(client.merged({"s": 30}, idle_timeout=0.0)) == []
        with ringwal.open_readonly(directory) as log:
            assert log.stream("s").read(30) == list(log.stream("s").records(30)) == []
        for verb in (["read"], ["read", "--offline"], ["tail"]):
            done = cli_rig.ringwal(*verb, directory, "s", "--start", "30")
            assert (done.returncode, done.stdout) == (os.EX_NOINPUT, b"")
            assert b"there is no offset 30 in stream 's': the next record gets 6" in done.stderr


# --------------------------------------------------------------------------------------------------------- trimmed


def test_what_is_trimmed_is_passed_over_only_if_that_was_said(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    start()
    with face.connect(directory) as client:
        client.append_all("s", data(20))
        strict = client.tail("s", 0, max_records=2)
        tail = client.tail("s", 0, max_records=2, idle_timeout=0.0, on_trimmed="earliest")
        records = client.records("s", 0, on_trimmed="earliest")
        assert datas(islice(strict, 2)) == datas(islice(tail, 2)) == data(2)
        client.trim("s", 15)
        with pytest.raises(ringwal.OffsetTrimmed) as refusal:
            next(strict)
        assert refusal.value.start_offset == 15
        assert [record.offset for record in tail] == list(range(15, 20))
        assert datas(records) == data(5, 15)
        assert next(client.tail("s", 3, on_trimmed="earliest")).offset == 15  # at the call, too
        with pytest.raises(ringwal.OffsetTrimmed):
            next(client.records("s", 3))
        client.trim("s", 20)
        assert list(client.records("s", 3, on_trimmed="earliest")) == []
        for call in (client.tail, client.records):
            with pytest.raises(ValueError, match="on_trimmed"):
                call("s", 0, on_trimmed="skip")


def test_a_tail_holds_a_few_megabytes_however_large_its_records_are(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    start(lane_bytes="1MiB", segment_bytes="16MiB")
    with face.connect(directory) as client:
        client.append_all("s", (bytes(200_000) for _ in range(100)))
        tail = client.tail("s", 0)
        tracemalloc.start()
        try:
            assert sum(1 for _ in islice(tail, 100)) == 100
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 12 << 20  # of 20 MB: the batch at hand, the next one, and what the files are read through


# ---------------------------------------------------------------------------------------------- an engine that ends


def test_a_tail_goes_on_over_the_ends_of_engines(directory: Path, start: Callable[..., Engine], face: Face) -> None:
    running = start()
    count = 60
    with face.connect(directory, reconnect=LONG) as reader:
        reader.create("s")
        taker = Taker(reader.tail("s"), count)
        for first in range(0, count, 20):
            with face.connect(directory) as writer:
                writer.append_all("s", data(20, first))
            running.kill()
            running = start()
        assert taker.end() == data(count)


def test_a_tail_that_has_begun_needs_no_supervisor(directory: Path, start: Callable[..., Engine], face: Face) -> None:
    running = start()
    with face.connect(directory) as writer, face.connect(directory) as reader:
        writer.append_all("s", data(2))
        tail = reader.tail("s", 0)
        assert next(tail).data == b"0"
        stop_process(running.process.pid)
        try:
            taker = Taker(tail, 2)  # it has not waited before
            writer.append_all("s", data(1, 2))
            assert taker.end() == data(2, 1)
        finally:
            os.kill(running.process.pid, signal.SIGCONT)


def test_a_tail_that_has_fallen_behind_goes_on_in_the_files(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    running = start()
    with face.connect(directory, reconnect=LONG) as client:
        client.append_all("s", (b"%d " % n + bytes(16_000) for n in range(600)))  # two segments, nine times the ring
        tail = client.tail("s", 0, max_records=10)
        seen = [record.offset for record in islice(tail, 25)]
        running.kill()
        running = start()
        with face.connect(directory) as other:
            other.trim("s", 590)
            first = directory / SEGMENTS / name_of(0)
            until(lambda: not first.exists(), "a segment goes, of which the old engine knows nothing")
            other.append("s", b"600")
        with pytest.raises(ringwal.OffsetTrimmed):
            seen += [record.offset for record in tail]
        assert seen == list(range(len(seen)))
        late = client.tail("s", 3, on_trimmed="earliest", idle_timeout=0.0)
        assert [record.offset for record in late] == list(range(590, 601))


def test_a_read_waits_over_the_end_of_an_engine(directory: Path, start: Callable[..., Engine], face: Face) -> None:
    running = start()
    with face.connect(directory, reconnect=LONG) as reader:
        reader.append("s", b"0")
        found: list[ringwal.Record] = []
        thread = threading.Thread(target=lambda: found.extend(reader.read("s", 1, wait=LONG)))
        thread.start()
        running.kill()
        start()
        with face.connect(directory) as writer:
            writer.append("s", b"1")
        thread.join(WAIT)
        assert datas(found) == [b"1"]


def replaced(client: Connected) -> None:
    client.delete("s")
    client.append("s", b"another one's")


@pytest.mark.parametrize("meanwhile", [replaced, lambda client: client.delete("s")], ids=["replaced", "deleted"])
def test_a_tail_does_not_go_on_in_another_stream_of_its_name(
    directory: Path, start: Callable[..., Engine], face: Face, meanwhile: Callable[[Connected], None]
) -> None:
    running = start()
    with face.connect(directory, reconnect=LONG) as reader:
        reader.append_all("s", data(3))
        tail = reader.tail("s", 0)
        assert datas(islice(tail, 3)) == data(3)
        running.kill()
        start()
        with face.connect(directory) as other:
            meanwhile(other)
        with pytest.raises(ringwal.StreamDeleted):
            next(tail)


def test_a_tail_of_a_stream_that_was_never_on_the_disk_waits_for_it(
    directory: Path, start: Callable[..., Engine], points_build: Path, tmp_path: Path, face: Face
) -> None:
    once = tmp_path / "once"
    running = start(points_build, once=once)
    writer = ringwal.connect(directory)
    with face.connect(directory, reconnect=LONG) as reader:
        arm(once, "l.block.built:1:stop")
        writer.stream("s").append(b"lost")
        tail = reader.tail("s", LATEST, missing="wait")
        early = Taker(tail, 2)
        running.kill()
        start()
        with face.connect(directory) as other:
            other.append_all("s", data(2))
        assert early.end() == data(2)
    with contextlib.suppress(ringwal.Error):
        writer.close()


def test_without_reconnect_a_tail_ends_with_its_engine(directory: Path, start: Callable[..., Engine], face: Face) -> None:
    running = start()
    with face.connect(directory) as client:
        client.append_all("s", data(2))
        tail = client.tail("s", EARLIEST, max_records=1)
        assert next(tail).data == b"0"
        running.kill()
        start()
        assert next(tail).data == b"1"  # confirmed before the end
        with pytest.raises(ringwal.NotRunning):
            next(tail)


def test_a_tail_waits_no_longer_for_the_engine_than_was_said(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    running = start()
    with face.connect(directory, reconnect=0.2) as client:
        client.append("s", b"0")
        tail = client.tail("s", 0)
        assert next(tail).data == b"0"
        running.kill()
        with pytest.raises(ringwal.NotRunning):
            next(tail)
