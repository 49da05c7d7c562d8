"""Small blocks that wait for more, in a whole engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ringwal
from tests.support.rig import WAIT, Engine, read_all


def test_everything_is_confirmed_in_order_and_what_it_took_is_told(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(linger_us=2000)
    with ringwal.connect(directory) as client:
        assert client.status()["space"]["written_per_byte"] is None
        streams = [client.stream(f"s{n}") for n in range(3)]
        receipts = [streams[n % 3].append(b"%d" % n) for n in range(300)]
        for receipt in receipts:
            receipt.result(WAIT)
        for n in range(20):  # one that waits for each
            streams[0].append(b"%d" % n).result(WAIT)
        assert streams[0].trim(before=50) == 50
        assert [record.data for record in read_all(streams[1])] == [b"%d" % n for n in range(1, 300, 3)]
        status = client.status()
        counters = status["counters"]
        told = round(counters["wal_block_bytes"] / counters["wal_payload_bytes"], 3)
        assert status["space"]["written_per_byte"] == told
    assert running.terminate() == 0


def test_what_the_last_writer_left_is_taken_when_the_engine_stops(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(linger_us=100_000)
    with ringwal.connect(directory) as client:
        receipt = client.stream("s").append(b"last")
        assert running.terminate() == 0
        assert receipt.result(WAIT).offset == 0
    start()
    with ringwal.connect(directory) as client:
        assert [record.data for record in read_all(client.stream("s"))] == [b"last"]
