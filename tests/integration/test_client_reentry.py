"""A client whose own thread is interrupted before any bytecode, by an exception or by a handler that uses the client, too."""

from __future__ import annotations

import collections
import contextlib
import gc
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import ringwal
from tests.support.rig import WAIT, Engine, read_all, until

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # an interrupt in a destructor is lost
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # what is interrupted while it opens leaves that to the collector
]

PACKAGE = str(Path(ringwal.__file__).parent) + os.sep


class Strike:
    """Calls ``act`` before the bytecode with that number of those that the package executes, or before the line.

    An exception strikes before lines: raised between two bytecodes of one call it confuses the interpreter itself
    (CPython 3.11: "'traceback' object is not callable").
    """

    def __init__(self, at: int, act: Callable[[], object], event: str) -> None:
        self.left = at
        self.act = act
        self.event = event
        self.struck = False

    def __enter__(self) -> None:
        sys.settrace(self.enter)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def enter(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = self.event == "opcode", self.event == "line"
        return self.step

    def step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == self.event and not self.struck:
            self.left -= 1
            if self.left < 0:
                self.struck = True
                self.act()
        return self.step


def interrupt() -> None:
    raise KeyboardInterrupt


class User:
    """One client and what it was told. Its records are numbers that never repeat."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.numbers = itertools.count()
        self.told: list[bytes] = []
        self.attempts = 0
        self.begin()

    def begin(self) -> None:
        self.client = ringwal.connect(self.directory, timeout=WAIT, append_timeout=WAIT)
        self.stream = self.client.stream("s")

    def append(self) -> ringwal.Receipt:
        data = b"%d" % next(self.numbers)
        receipt = self.stream.append(data)
        self.told.append(data)
        return receipt

    # What is struck.

    def appends(self) -> None:
        for _ in range(3):  # a page of numbers is two of them
            self.append()

    def batch(self) -> None:
        data = [b"%d" % next(self.numbers) for _ in range(2)]
        self.stream.append_many(data)
        self.told += data

    def result(self) -> None:
        self.append().result(WAIT)

    def flush(self) -> None:
        self.append()
        self.stream.flush(WAIT)

    def requests(self) -> None:
        self.client.status()
        self.client.create_stream(f"name {next(self.numbers) % 100}").stat()

    def first_append(self) -> None:
        self.client.close(WAIT)
        self.begin()
        self.append()

    def read(self) -> None:
        self.stream.read(0, 3)
        next(self.stream.tail(0))

    def future(self) -> None:
        self.append().future().result(WAIT)

    # What a handler does, and what is done afterwards.

    def handle(self) -> None:
        with contextlib.suppress(ringwal.ClosedError):
            self.append()
            self.requests()
            self.read()
            self.append().future()

    def go_on(self) -> None:
        """Whatever has happened, this works."""
        with contextlib.suppress(ringwal.ClosedError):
            self.append().result(WAIT)
            self.client.status()
            return
        self.client.close(WAIT)
        self.begin()
        self.append().result(WAIT)

    def from_another_thread(self) -> None:
        thread = threading.Thread(target=self.go_on, daemon=True)
        thread.start()
        thread.join(WAIT)
        assert not thread.is_alive()

    def lanes(self) -> int:
        return sum(row["pid"] == os.getpid() and not row["closing"] for row in self.client.status()["clients"])


# With the stride of its strikes: what executes thousands of bytecodes is struck at some of them.
CALLS: list[tuple[Callable[[User], None], int]] = [
    (User.appends, 1),
    (User.batch, 1),
    (User.result, 1),
    (User.flush, 3),
    (User.requests, 3),
    (User.first_append, 11),
    (User.read, 47),
    (User.future, 3),
]


@pytest.fixture
def user(directory: Path, start: Callable[..., Engine]) -> Iterator[User]:
    start(max_outstanding=16, max_streams=256)
    found = User(directory)
    yield found
    found.client.close(WAIT)


@pytest.mark.parametrize("acts", ["an exception", "a handler"])
@pytest.mark.parametrize(("call", "stride"), CALLS, ids=lambda value: getattr(value, "__name__", None))
def test_a_call_that_is_struck_anywhere_leaves_a_client_that_works(
    user: User, call: Callable[[User], None], stride: int, acts: str
) -> None:
    user.go_on()
    call(user)
    for at in itertools.count(0, stride):
        strike = Strike(at, interrupt, "line") if acts == "an exception" else Strike(at, user.handle, "opcode")
        with contextlib.suppress(KeyboardInterrupt), strike:
            call(user)
        user.go_on()
        if at % 20 == 0:
            user.from_another_thread()
        if not strike.struck:
            break
    user.client.close(WAIT)
    user.begin()
    found = [record.data for record in read_all(user.stream)]
    assert len(found) == len(set(found))  # nothing is there twice
    assert set(user.told) <= set(found)
    if acts == "an exception":  # a handler's number is greater than one that is taken and not yet appended
        assert found == sorted(found, key=int)
    gc.collect()  # clients whose making was interrupted
    until(lambda: user.lanes() <= 2, "no lane is kept for nobody")


def descriptors() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing
            found[entry.name] = str(entry.readlink()).partition("[")[0]
    return found


@pytest.mark.parametrize(("call", "stride"), [(User.first_append, 1), (User.requests, 1), (User.read, 9)])
def test_a_call_that_is_struck_anywhere_leaves_no_descriptor_open(
    user: User, call: Callable[[User], None], stride: int
) -> None:
    user.go_on()
    call(user)
    gc.collect()
    before = collections.Counter(descriptors().values())
    for at in itertools.count(0, stride):
        strike = Strike(at, interrupt, "line")
        with contextlib.suppress(KeyboardInterrupt), strike:
            call(user)
        user.go_on()
        if not strike.struck:
            break
    gc.collect()
    assert collections.Counter(descriptors().values()) - before == {}
