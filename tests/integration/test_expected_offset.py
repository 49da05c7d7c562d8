"""Appends at one offset or not at all, in each face of the client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import ringwal
from tests.support.faces import Connected, Face
from tests.support.rig import WAIT, Engine, read_all


@pytest.fixture
def engine(start: Callable[..., Engine]) -> Engine:
    return start(max_outstanding=16)


@pytest.fixture
def client(face: Face, directory: Path, engine: Engine) -> Iterator[Connected]:
    with face.connect(directory) as made:
        yield made


def mismatch(call: Callable[[], object]) -> int:
    with pytest.raises(ringwal.OffsetMismatch, match=r"nothing was appended: read .* expected_offset=") as caught:
        call()
    assert (caught.value.outcome, caught.value.retriable) == ("not_appended", False)
    assert caught.value.actual is not None and f"goes on at offset {caught.value.actual}," in str(caught.value)
    return caught.value.actual


def test_it_is_appended_there_or_not_at_all(client: Connected) -> None:
    assert client.begin("s", b"0", expected_offset=0).result() == ("s", 0, 1)
    assert mismatch(client.begin("s", b"again", expected_offset=0).result) == 1
    assert mismatch(client.begin("s", bytearray(b"early"), expected_offset=5).result) == 1
    assert client.begin_many("s", [b"1", b"2"], expected_offset=1).result() == ("s", 1, 2)
    assert mismatch(client.begin_many("s", [b"3", b"4"], expected_offset=1).result) == 3
    assert client.begin("s", b"3", timestamp_ns=7, expected_offset=3).result().offset == 3
    assert client.begin_many("s", [b"4"], timestamp_ns=[8], expected_offset=4).result().offset == 4
    assert client.append("s", b"5") == 5
    assert [record.data for record in client.read("s")] == [b"%d" % n for n in range(6)]
    assert [record.own_timestamp_ns for record in client.read("s", 2)] == [None, 7, 8, None]


def test_several_that_are_sent_at_once_are_looked_at_in_their_order(client: Connected) -> None:
    sent = [client.begin("s", b"%d" % n, expected_offset=n) for n in range(40)]
    late = [client.begin("s", b"late", expected_offset=n) for n in range(40)]
    assert [each.result().offset for each in sent] == list(range(40))
    assert [mismatch(each.result) for each in late] == [40] * 40


def test_the_stream_that_it_is_not_appended_to_is_not_made(
    client: Connected, engine: Engine, directory: Path, start: Callable[..., Engine]
) -> None:
    assert mismatch(client.begin("none", b"x", expected_offset=3).result) == 0
    client.append("other", b"x")
    client.close()
    engine.stop()
    start()
    with ringwal.connect(directory) as reader:
        assert [info.name for info in reader.streams()] == ["other"]


@pytest.mark.parametrize("wrong", [-1, 1 << 63, 1.0, "1", True])
def test_what_is_no_offset_is_refused_in_place(client: Connected, wrong: Any) -> None:
    for call in (client.begin, lambda name, data, **terms: client.begin_many(name, [data], **terms)):
        with pytest.raises(ValueError, match=r"expected_offset is .*; it must be a whole number from 0 to"):
            call("s", b"x", expected_offset=wrong)
    assert client.append("s", b"0") == 0


def test_flush_tells_of_one_that_nobody_asked(client: Connected) -> None:
    client.append("s", b"0")
    client.begin("s", b"x", expected_offset=7)
    assert mismatch(lambda: client.flush("s")) == 1
    client.flush("s")  # it has been told
    asked = client.begin("s", b"x", expected_offset=7)
    assert mismatch(asked.result) == mismatch(asked.result) == 1
    client.flush("s")


def test_flush_tells_of_it_when_its_cell_is_anothers(client: Connected) -> None:
    client.append("s", b"0")
    first = client.begin("s", b"x", expected_offset=7)
    client.append_all("other", [b"%d" % n for n in range(64)])  # 16 are outstanding at the most
    assert mismatch(lambda: client.flush("s")) == 1
    assert mismatch(first.result) == 1


def test_of_those_who_decide_by_what_they_have_read_one_appends(
    face: Face, directory: Path, start: Callable[..., Engine]
) -> None:
    start()
    won: list[list[int]] = [[] for _ in range(4)]
    lost: list[list[tuple[int, int, int]]] = [[] for _ in range(4)]

    def count(who: int, client: Connected) -> None:
        while (at := client.stat("n").confirmed_offset) < 100:
            last = int(client.read("n", at - 1)[0].data) if at else -1
            try:
                won[who].append(client.begin("n", b"%d" % (last + 1), expected_offset=at).result().offset)
            except ringwal.OffsetMismatch as error:
                lost[who].append((at, error.actual or 0, len(client.read("n", (error.actual or 1) - 1))))

    with ExitStack() as stack:
        clients = [stack.enter_context(face.connect(directory)) for _ in range(4)]
        clients[0].create("n")
        threads = [threading.Thread(target=count, args=pair) for pair in enumerate(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        numbers = [int(record.data) for record in clients[0].read("n")]
        assert sorted(chain(*won)) == numbers == list(range(len(numbers)))
        # and what the others are told of can be read by then
        assert all(actual > at and found for at, actual, found in chain(*lost))


def test_after_a_kill_the_stream_goes_on_where_it_is_said_to(
    face: Face, directory: Path, start: Callable[..., Engine]
) -> None:
    engine = start()
    with face.connect(directory, reconnect=WAIT) as client:
        assert client.begin("s", b"0", expected_offset=0).result().offset == 0
        engine.kill()
        start()
        assert mismatch(client.begin("s", b"again", expected_offset=0).result) == 1
        assert client.begin("s", b"1", expected_offset=1).result().offset == 1
    with ringwal.connect(directory) as reader:
        assert [record.data for record in read_all(reader.stream("s"))] == [b"0", b"1"]
