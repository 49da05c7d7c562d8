"""A client takes one place of `max_clients`, whatever it does."""

from __future__ import annotations

import threading
from collections.abc import Callable

import ringwal
from tests.support.rig import WAIT, Engine, until


def test_who_appends_and_then_tails_takes_one_place(start: Callable[..., Engine]) -> None:
    running = start(max_clients=1)
    with ringwal.connect(running.directory, timeout=WAIT) as client:
        stream = client.stream("s")
        stream.append(b"0").result(WAIT)
        tail = stream.tail(0)
        for n in range(20):
            assert next(tail).data == b"%d" % n
            stream.append(b"%d" % (n + 1)).result(WAIT)
        assert list(stream.tail(idle_timeout=0.05)) == []  # it has waited
        assert client.status()["clients_attached"] == 1


def test_who_tails_and_then_appends_takes_one_place(start: Callable[..., Engine]) -> None:
    running = start(max_clients=1)
    with ringwal.connect(running.directory, timeout=WAIT) as client:
        stream = client.create_stream("s")
        seen: list[bytes] = []

        def follow() -> None:
            for record in stream.tail(0):
                seen.append(record.data)
                if record.data == b"last":
                    return

        threads = [threading.Thread(target=follow) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: client.status()["clients_attached"] == 1, "they wait in a lane")
        stream.append(b"first").result(WAIT)
        assert client.status()["clients_attached"] == 1
        stream.append(b"last").result(WAIT)
        for thread in threads:
            thread.join(WAIT)
        assert sorted(seen) == [b"first", b"first", b"last", b"last"]


def test_where_there_is_another_place_it_is_given_back(start: Callable[..., Engine]) -> None:
    running = start(max_clients=2)
    with (
        ringwal.connect(running.directory, timeout=WAIT) as one,
        ringwal.connect(running.directory, timeout=WAIT) as two,
    ):
        for client in (one, two):
            assert list(client.create_stream("s").tail(idle_timeout=0.05)) == []
        for n, client in enumerate((one, two)):
            assert client.stream("s").append(b"x").result(WAIT).offset == n
        assert one.status()["clients_attached"] == 2
        assert list(two.stream("s").tail(idle_timeout=0.05)) == []
        assert one.status()["clients_attached"] == 2
