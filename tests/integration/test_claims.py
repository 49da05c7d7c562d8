"""Claims of producers that come in numbers, find no place, or meet the end of their stream or of the engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ringwal
from tests.integration.test_requests import Raw, raw
from tests.integration.test_space import FILE, RECORD, impatient
from tests.support.rig import WAIT, Engine, until

MANY = 1500
"""More than a program may have calls within calls."""


def ask(connection: Raw, tag: int, **request: Any) -> None:
    connection.send(json.dumps({"tag": tag, **request}).encode())


def claim(connection: Raw, tag: int, stream: str = "s", name: str = "p") -> None:
    ask(connection, tag, op="claim", stream=stream, name=name)


def answers(connection: Raw, count: int) -> list[dict[str, Any]]:
    found = [connection.answer() for _ in range(count)]
    return [answer for answer in found if answer is not None]


def test_an_engine_that_remembers_nobody_says_so_each_time(directory: Path, start: Callable[..., Engine]) -> None:
    start(max_producers=0)
    with ringwal.connect(directory, timeout=WAIT) as client:
        for _ in range(2):
            with pytest.raises(ringwal.ShmUnavailable, match="remembers 0 producers"):
                client.producer("s", "p")
        assert client.stream("s").append(b"x").result(WAIT).offset == 0


def test_claims_of_one_name_follow_each_other(directory: Path, start: Callable[..., Engine]) -> None:
    with raw(start()) as connection:
        for tag in range(50):
            claim(connection, tag)
        assert [(found["tag"], found["epoch"]) for found in answers(connection, 50)] == [(n, n + 1) for n in range(50)]


def test_an_engine_stops_in_order_with_many_claims_of_one_name_on_their_way(
    directory: Path, start: Callable[..., Engine]
) -> None:
    running = start()
    with raw(running) as connection:
        for tag in range(MANY):
            claim(connection, tag)
        ask(connection, MANY, op="stop")
        assert running.wait() == 0, running.said()


def test_claims_leave_a_full_log_the_room_that_it_needs_to_be_trimmed(directory: Path, start: Callable[..., Engine]) -> None:
    start(max_log_bytes=4 * FILE)
    with impatient(directory) as client:
        stream, producer = client.stream("s"), client.producer("s", "p")
        with pytest.raises(ringwal.StorageFull):
            while True:
                stream.append(bytes(RECORD))
        for _ in range(3):
            with pytest.raises(ringwal.StorageFull, match="trim or delete streams") as caught:
                client.producer("s", "p")
            assert caught.value.outcome == "not_appended"
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        stream.trim(stream.stat().confirmed_offset)
        until(lambda: client.status()["storage_full"] is None, "there is room again")
        assert client.producer("s", "p").next == producer.next


def test_a_claim_and_the_deletion_of_its_stream_come_one_after_the_other(directory: Path, start: Callable[..., Engine]) -> None:
    """In either order, however close: the producer is that of a stream, or of none, and the engine has not failed."""
    with raw(start(max_producers=2)) as connection, ringwal.connect(directory) as client:
        for _ in range(40):
            client.stream("s").append(b"x").result(WAIT)
            ask(connection, 0, op="stream", name="s")
            (stream,) = answers(connection, 1)
            claim(connection, 1)
            ask(connection, 2, op="delete", name="s", number=stream["number"])
            claim(connection, 3)
            found = answers(connection, 3)
            assert all(answer["ok"] or answer["error"] == "StreamDeleted" for answer in found), found


def test_a_start_has_room_for_all_that_the_log_has(directory: Path, start: Callable[..., Engine]) -> None:
    """Also where it is told of less: a crash may leave more than there was room for. A claim takes an old one's place."""
    running = start(max_producers=3)
    with ringwal.connect(directory) as client:
        for name in "abc":
            client.producer("s", name).append(b"x").result(WAIT)
    running.kill()
    running = start(max_producers=1, producer_age=0)
    with ringwal.connect(directory) as client:
        assert [client.producer("s", name).next for name in "abc"] == [1, 1, 1]
        assert client.producer("s", "d").next == 0
        assert [client.producer("s", name).next for name in "bcd"] == [1, 1, 0]
    running.kill()
    start(max_producers=1)
    with ringwal.connect(directory) as client:
        assert [client.producer("s", name).next for name in "bcd"] == [1, 1, 0]
