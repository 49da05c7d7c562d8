"""Threads use a client while another one closes it, or meets the end of its engine."""

from __future__ import annotations

import contextlib
import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import ringwal
from tests.support.rig import WAIT, Engine

HANDLES = 20


class Opener:
    """A thread that opens one more stream, and comes to the step that notes it when the main thread is among the streams."""

    def __init__(self, client: ringwal.Client) -> None:
        self._client = client
        self._there, self._go, self._done = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._open)

    def _open(self) -> None:
        sys.settrace(self._trace)
        with contextlib.suppress(ringwal.Error):
            self._client.stream("one more")
        sys.settrace(None)
        self._done.set()

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_name != "stream" or not frame.f_code.co_filename.endswith("core.py"):
            return None
        if event == "line" and "setdefault" in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            self._there.set()
            assert self._go.wait(WAIT)
        return self._trace

    @contextlib.contextmanager
    def between_the_streams(self) -> Iterator[None]:
        """What the body does lets the thread go on when it lets go of its first stream."""
        self._thread.start()
        assert self._there.wait(WAIT)
        sys.setprofile(self._meet)
        try:
            yield
        finally:
            sys.setprofile(None)
            met = self._go.is_set()
            self._go.set()
            self._thread.join(WAIT)
        assert met, "the streams were not gone through"

    def _meet(self, frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_code.co_name == "_detach" and not self._go.is_set():
            self._go.set()
            assert self._done.wait(WAIT)


@pytest.fixture
def running(start: Callable[..., Engine]) -> Engine:
    return start()


@pytest.fixture
def client(directory: Path, running: Engine) -> ringwal.Client:
    client = ringwal.connect(directory)
    receipts = [client.stream(f"s{n}").append(b"x") for n in range(HANDLES)]
    assert [receipt.result(WAIT).offset for receipt in receipts] == [0] * HANDLES
    return client


def test_a_stream_may_be_opened_while_the_client_is_closed(client: ringwal.Client) -> None:
    with Opener(client).between_the_streams():
        client.close(WAIT)
    with pytest.raises(ringwal.ClosedError):
        client.stream("s0").append(b"y")


def test_a_stream_may_be_opened_while_an_append_meets_the_end_of_the_engine(client: ringwal.Client, running: Engine) -> None:
    running.kill()
    with Opener(client).between_the_streams(), pytest.raises(ringwal.NotRunning) as refused:
        client.stream("s0").append(b"y")
    assert refused.value.outcome == "not_appended"
    client.close(WAIT)
