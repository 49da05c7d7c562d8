"""Looking at a stream makes none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support.rig import WAIT, Engine


def test_looking_creates_nothing_and_says_so(directory: Path, start: Callable[..., Engine]) -> None:
    start(max_streams=1)
    with ringwal.connect(directory) as client:
        stream = client.stream("mistyped")
        for look in (stream.stat, stream.read, stream.tail, lambda: stream.tail(0)):
            for _ in range(2):
                with pytest.raises(ringwal.NoSuchStream, match="mistyped"):
                    look()
        assert client.streams() == []
        with pytest.raises(ringwal.ConfigError):
            client.stream("")
        assert client.create_stream("made").stat().records == 0  # the only place of the table is still free
        with pytest.raises(ringwal.ShmUnavailable) as full:
            stream.append(b"no place")
        assert full.value.outcome == "not_appended"
        assert client.stream("made").append(b"x").result(WAIT).offset == 0
        assert [info.name for info in client.streams()] == ["made"]


def test_a_tail_may_wait_for_its_stream(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    with ringwal.connect(directory) as client:
        late = client.stream("late")
        assert list(late.tail(missing="wait", idle_timeout=0.0)) == []
        found: list[bytes] = []
        tail = late.tail(missing="wait")
        follower = threading.Thread(target=lambda: found.extend(next(tail).data for _ in range(2)))
        follower.start()
        client.create_stream("another")
        late.append_many([b"1", b"2"]).result(WAIT)
        follower.join(WAIT)
        assert found == [b"1", b"2"]
