"""A lane has 2^32 numbers for its appends. Here it begins with the last ones of them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from ringwal.client.lane import NUMBERS, Lane
from tests.support.rig import WAIT, Engine, environment, read_all

LEFT = 64  # of the numbers: with 16 outstanding, 32 pages of them


@pytest.fixture(autouse=True)
def near_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lane, "begins_at", NUMBERS - LEFT)


def test_a_client_outlives_the_numbers_of_a_lane(directory: Path, start: Callable[..., Engine]) -> None:
    start(max_outstanding=16)
    with ringwal.connect(directory) as client:
        streams = [client.stream("a"), client.stream("b")]
        receipts = [streams[n % 2].append(b"%d" % n) for n in range(300)]
        batch = streams[0].append_many([b"300", b"301"])
        streams[0].flush()
        assert [receipt.result(WAIT).offset for receipt in receipts] == [n // 2 for n in range(300)]
        assert batch.result(WAIT) == ("a", 150, 2)
        assert [int(record.data) for record in streams[1].read(0)] == list(range(1, 300, 2))
        assert receipts[0]._results.lane is not batch._results.lane


@pytest.mark.parametrize("others", [0, 3])
def test_batches_of_several_streams_meet_the_end(others: int, directory: Path, start: Callable[..., Engine]) -> None:
    """Each needs numbers in a row, and the last ones of a lane are too few. Others take single ones meanwhile."""
    start(max_outstanding=16)
    with ringwal.connect(directory, timeout=WAIT, append_timeout=WAIT) as client:
        ended = threading.Event()

        def work(k: int) -> None:
            while not ended.is_set():
                client.stream(f"o{k}").append(b"").result(WAIT)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(others)]
        for thread in threads:
            thread.start()
        try:
            for n in range(3 * LEFT // 5):
                with client.batch(timeout=WAIT) as batch:
                    for stream in range(5):
                        batch.append(f"s{stream}", b"%d" % n)
                assert [ack.offset for ack in batch.receipt.result(0)] == [n] * 5
        finally:
            ended.set()
            for thread in threads:
                thread.join(WAIT)


def test_another_lane_is_taken_and_nothing_else(directory: Path, start: Callable[..., Engine]) -> None:
    """Neither the connection nor who tails on it notices. And a place for a single lane is enough."""
    start(max_outstanding=16, max_clients=2)
    with ringwal.connect(directory, timeout=WAIT) as client:
        stream, attachment = client.create_stream("s"), client._attachment()
        tail = stream.tail(0)
        for n in range(5 * LEFT):
            stream.append(b"%d" % n)
            assert next(tail).data == b"%d" % n
        assert client._attachment() is attachment


def test_threads_meet_the_end_together(directory: Path, start: Callable[..., Engine]) -> None:
    start(max_outstanding=16)
    with ringwal.connect(directory, timeout=WAIT, append_timeout=WAIT) as client:
        told: list[list[ringwal.Receipt]] = [[] for _ in range(8)]

        def work(k: int) -> None:
            stream = client.stream(f"s{k % 2}")
            for n in range(200):
                told[k].append(stream.append(b"%d %d" % (k, n)))

        threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        client.close(WAIT)
        assert [receipt.exception(WAIT) for receipts in told for receipt in receipts] == [None] * 1600
    with ringwal.connect(directory) as reader:
        for name in ("s0", "s1"):
            found = [tuple(map(int, record.data.split())) for record in read_all(reader.stream(name))]
            assert len(found) == 800
            for k in range(int(name[1]), 8, 2):
                assert [n for who, n in found if who == k] == list(range(200))


SLOW = """
import json, os, sys, threading
import ringwal
from ringwal.client.lane import NUMBERS, Lane

Lane.begins_at = NUMBERS - {left}
with ringwal.connect({directory!r}, timeout=30.0, append_timeout=30.0) as client:
    stream = client.stream("s")
    for _ in range({left} - 1):
        stream.append(b"before").result(30.0)
    with open({once!r} + ".draft", "w") as order:
        order.write("w.claim.post:1:delay:1000")  # behind the permit, before the number
    os.rename({once!r} + ".draft", {once!r})
    slow = []
    thread = threading.Thread(target=lambda: slow.append(stream.append(b"slow")))
    thread.start()
    while os.path.exists({once!r}):
        os.sched_yield()
    quick = stream.append(b"quick")
    thread.join()
    print(json.dumps([slow[0].result(30.0).offset, quick.result(30.0).offset]))
"""


def test_the_last_append_may_be_slow_and_is_confirmed(
    points_build: Path, directory: Path, start: Callable[..., Engine]
) -> None:
    """The thread that has the last number has not published its record yet when another one takes the next lane."""
    start(points_build, max_outstanding=16)
    once = str(directory.parent / "once")
    program = SLOW.format(left=LEFT, directory=str(directory), once=once)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(points_build, Path(once)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [LEFT - 1, LEFT]
