"""What is set for a stream is kept to: not less is kept, and not much more, without anybody asking."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support.rig import WAIT, Engine, stop_process, until

RECORD = 16_000
PER_SEGMENT = 256  # records, about
SEGMENT_PAYLOAD = PER_SEGMENT * RECORD


def fill(stream: ringwal.Stream, segments: float, size: int = RECORD) -> int:
    """Returns the offset behind the last record."""
    receipts = [stream.append(bytes(size)) for _ in range(int(segments * PER_SEGMENT * RECORD / size))]
    return receipts[-1].result(WAIT).offset + 1


def start_of(stream: ringwal.Stream) -> int:
    return stream.stat().start_offset


def test_of_so_many_records_exactly_so_many_are_kept(start: Callable[..., Engine], directory: Path) -> None:
    start()
    with ringwal.connect(directory) as client:
        few = client.create_stream("few", retention_records=10)
        many = client.create_stream("many", retention_records=1000)
        all_of_it = client.stream("all")
        for stream in (few, many, all_of_it):
            fill(stream, 1, size=8000)
        until(lambda: start_of(few) == few.stat().confirmed_offset - 10, "the others to be trimmed", WAIT)
        assert len(few.read(ringwal.EARLIEST)) == 10
        few.append(b"one more").result(WAIT)
        until(lambda: start_of(few) == few.stat().confirmed_offset - 10, "one more to be trimmed", WAIT)
        assert start_of(many) == start_of(all_of_it) == 0
        all_of_it.configure(retention_records=1)
        until(lambda: len(all_of_it.read(ringwal.EARLIEST)) == 1, "the setting to be kept to", WAIT)


def test_what_is_older_goes_by_segments_and_frees_them(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        short, long, kept = (
            client.create_stream("short", retention_age=1.5),
            client.create_stream("long", retention_age="1h"),
            client.create_stream("kept"),
        )
        for stream in (short, long, kept):
            stream.append(b"early").result(WAIT)
        middle = fill(short, 2.5)
        until(lambda: start_of(short) > 1, "what is old to be trimmed", WAIT)
        assert start_of(short) <= middle
        client.delete_stream("long")
        kept.trim(1)
        until(lambda: running.status()["space"]["freed"] > 0, "segments to be freed", WAIT)
        now = short.append(b"new").result(WAIT).offset
        assert short.read(now)[0].data == b"new"


def test_no_record_goes_before_its_time(start: Callable[..., Engine], directory: Path) -> None:
    start()
    age = 2.0
    sent: list[float] = []
    with ringwal.connect(directory) as client:
        stream = client.create_stream("s", retention_age=age)
        trims: set[int] = set()
        deadline = time.monotonic() + WAIT
        while len(trims) < 3 and time.monotonic() < deadline:
            sent.append(time.time())
            stream.append(bytes(RECORD)).result(WAIT)
            if (before := start_of(stream)) > 0:
                trims.add(before)
                assert time.time() - sent[before - 1] > age
        assert len(trims) == 3


def test_of_so_many_bytes_not_less_is_kept_and_about_a_segment_more(start: Callable[..., Engine], directory: Path) -> None:
    start()
    limit = 2 * SEGMENT_PAYLOAD
    with ringwal.connect(directory) as client:
        stream = client.create_stream("s", retention_bytes=limit)
        other = client.create_stream("other", retention_bytes="1GiB")
        end = 0
        for _ in range(12):
            fill(other, 0.25)
            end = fill(stream, 0.5)
            assert (end - start_of(stream)) * RECORD >= min(limit, end * RECORD)
        until(lambda: (end - start_of(stream)) * RECORD <= limit + 2 * SEGMENT_PAYLOAD, "the rest to be trimmed", WAIT)
        assert (end - start_of(stream)) * RECORD >= limit
        assert start_of(other) == 0


def test_a_stream_that_is_held_keeps_all_and_is_named(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        held = client.create_stream("held", retention_records=1, retention_age=1, retain_until=["ship", "bill"])
        free = client.create_stream("free", retention_records=1)
        for stream in (held, free):
            fill(stream, 0.1)
        until(lambda: start_of(free) > 0, "the other one to be trimmed", WAIT)
        assert running.status()["space"]["held_by"] == [
            {"stream": "held", "start_offset": 0, "consumers": ["ship", "bill"], "held_from": 0, "slowest": ["ship", "bill"],
             "missing": ["ship", "bill"]},
        ]  # fmt: skip
        assert start_of(held) == 0
        held.configure(retain_until=[])
        until(lambda: len(held.read(ringwal.EARLIEST)) == 1, "it to be let go", WAIT)
        assert running.status()["space"]["held_by"] == []


def test_a_full_log_lets_go_of_what_is_held_when_it_is_told_so(start: Callable[..., Engine], directory: Path) -> None:
    """It takes no commits, so whoever holds a stream cannot let go of it."""
    start(max_log_bytes="24MiB")
    with ringwal.connect(directory, append_timeout=WAIT) as client:
        held = client.create_stream("held", retention_records=1, retain_until=["ship"])
        ship = client.consumer("ship", ["held"])
        pending = held.append(bytes(RECORD))
        with pytest.raises(ringwal.AckTimeout, match="max_log_bytes"):  # behind it nothing is confirmed, either
            while pending.result(2.0):
                pending = held.append(bytes(RECORD))
        ship.commit(ship.poll(10)[-1], wait=False)
        assert (start_of(held), client.consumers()[0].committed) == (0, 0)
        held.configure(retain_until=[])
        pending.result(WAIT)
        until(lambda: client.consumers()[0].committed == 10, "the commit", WAIT)


def test_a_log_at_its_limit_drops_what_is_held(start: Callable[..., Engine], directory: Path) -> None:
    start(max_log_bytes="24MiB", on_full="drop_oldest")
    with ringwal.connect(directory, append_timeout=WAIT) as client:
        held = client.create_stream("held", retain_until=["ship"])
        fill(held, 8)
        assert start_of(held) > 0


def test_the_engines_default_holds_for_who_says_nothing(start: Callable[..., Engine], directory: Path) -> None:
    running = start(retention_records=5)
    with ringwal.connect(directory) as client:
        usual, own = client.stream("usual"), client.create_stream("own", retention_records="none")
        for stream in (usual, own):
            fill(stream, 0.1)
        until(lambda: len(usual.read(ringwal.EARLIEST)) == 5, "the default to be kept to", WAIT)
        assert start_of(own) == 0
        running.kill()
        start()
        assert usual.append(b"x").result(WAIT).offset > 5  # and without the default, all is kept
        assert own.stat().own_settings == ("retention_records",)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_without_the_keeper_more_is_kept_and_appends_go_on(
    start: Callable[..., Engine], directory: Path, how: signal.Signals
) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        stream = client.create_stream("s", retention_records=10)
        keeper = running.status()["keeper_pid"]
        if how == signal.SIGSTOP:
            stop_process(keeper)
        else:
            os.kill(keeper, how)
        end = fill(stream, 2)
        if how == signal.SIGSTOP:
            assert start_of(stream) == 0
            os.kill(keeper, signal.SIGCONT)
        until(lambda: start_of(stream) == end - 10, "the keeper to see to it", WAIT)
