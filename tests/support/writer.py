"""A writer process under test. Its journal, outside the engine's directory, says what it submitted and what was confirmed.

    python -m tests.support.writer DIR JOURNAL WRITER STREAMS WINDOW SECONDS

Its journal is the one of `ringwal.demo.journal`: an append is noted before it is made, an answer after it was given.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import ringwal
from ringwal.demo.journal import Journal, Kind, digest
from tests.support.company import keep
from tests.support.host import PATIENCE, pause
from tests.support.payload import Origin, mixed, own_time, payload

RECONNECT_SECONDS = 60.0
T = TypeVar("T")


class Writer:
    """Appends in a window of outstanding receipts, round robin over the streams, and survives the engine."""

    def __init__(
        self, directory: Path, journal: Path, name: str, streams: list[str], window: int, client: ringwal.Client | None = None
    ) -> None:
        """``client`` is one that others use as well; else it has its own."""
        self.directory, self.name, self.window = directory, name, window
        self.journal = Journal(journal)
        self.streams = streams
        self.numbers = dict.fromkeys(streams, 0)
        self.ends = dict.fromkeys(streams, 0)
        """Behind the last record of each stream that it was told is confirmed."""
        self.pending: collections.deque[tuple[Origin, list[int], ringwal.Receipt]] = collections.deque()
        self.client = client or connect(directory)
        self.children: list[int] = []
        self.stopped = False
        self.make: Callable[[Origin], bytes] = payload
        self.between: Callable[[], None] | None = None
        """Called every hundredth append."""

    def run(self, seconds: float) -> None:
        """Until that much time is over, or somebody sets `stopped`; then what is outstanding is waited for."""
        end = time.monotonic() + seconds
        turn = 0
        while time.monotonic() < end and not self.stopped:
            stream = self.streams[turn % len(self.streams)]
            turn += 1
            if self.between is not None and turn % 100 == 0:
                self.between()
            self.outlive(partial(self.step, Origin(stream, self.name, self.numbers[stream]), 3 if turn % 7 == 5 else 1))
        while self.pending:
            self.outlive(self.settle)

    def step(self, origin: Origin, count: int) -> None:
        self.append(origin, count)
        while len(self.pending) >= self.window:
            self.settle()

    def outlive(self, act: Callable[[], None]) -> None:
        """If the engine ends in it, the next one comes. What was raised has hold of the attachment, and with it of a file
        system that may have to be unmounted: it is let go first."""
        try:
            act()
            return
        except (ringwal.EngineFailed, ringwal.NotRunning):
            pass
        self.reconnect()

    def fill(self, count: int, records: int) -> None:
        """So many appends to the first stream, ``count`` outstanding at a time."""
        stream = self.streams[0]
        for _ in range(records):
            self.append(Origin(stream, self.name, self.numbers[stream]))
            while len(self.pending) >= count:
                self.settle()
        while self.pending:
            self.settle()

    def pour(self, records: int) -> None:
        """So many appends to the first stream, settling only what has settled."""
        for _ in range(records):
            self.append(Origin(self.streams[0], self.name, self.numbers[self.streams[0]]))
            while self.pending and self.pending[0][2].done():
                self.settle()

    def append(self, origin: Origin, count: int = 1) -> None:
        """One record, or a batch of ``count`` that begins with this one."""
        batch = [self.make(origin._replace(number=origin.number + i)) for i in range(count)]
        digests = list(map(digest, batch))
        self.numbers[origin.stream] = origin.number + count
        self.journal.submitted(origin.stream, origin.number, digests)
        self.journal.push()
        try:
            stream = self.client.stream(origin.stream)
            receipt = self.send(stream, batch, origin.number)
        except ringwal.Error as error:
            self.note(error, origin, digests)
            raise
        self.pending.append((origin, digests, receipt))

    def send(self, stream: ringwal.Stream, batch: list[bytes], number: int) -> ringwal.Receipt:
        own = own_time(self.name, number)
        if len(batch) == 1:
            return stream.append(batch[0], timestamp_ns=own)
        return stream.append_many(
            batch, timestamp_ns=None if own is None else [own_time(self.name, number + i) or 0 for i in range(len(batch))]
        )

    def note(self, error: ringwal.Error, origin: Origin, digests: list[int]) -> None:
        """The end of an append that is no confirmation. An error that does not say which one is a complaint."""
        if isinstance(error, ringwal.AckTimeout):
            kind = Kind.HUNG
        else:
            kind = Kind.REFUSED if error.outcome == "not_appended" else Kind.UNKNOWN
        self.journal.ended(kind, origin.stream, origin.number, digests)
        self.journal.push()
        if error.outcome is None:
            self.journal.complain(f"{error!r} does not say what became of {origin}")

    def settle(self) -> None:
        origin, digests, receipt = self.pending.popleft()
        try:
            ack = receipt.result(timeout=PATIENCE)
        except ringwal.NoSuchStream as error:  # it has been deleted: by this writer, who may go on
            self.note(error, origin, digests)
            return
        except ringwal.Error as error:
            self.note(error, origin, digests)
            raise
        if (ack.stream, ack.count) != (origin.stream, len(digests)):
            raise AssertionError(f"the proof of an append of {len(digests)} to {origin.stream} is {ack}")
        self.journal.confirmed(origin.stream, origin.number, ack.offset, digests)
        self.journal.push()
        self.ends[origin.stream] = ack.offset + len(digests)

    def abandon(self) -> None:
        """The engine is gone: what is outstanding ends."""
        while self.pending:
            with contextlib.suppress(ringwal.Error):
                self.settle()

    def reconnect(self) -> None:
        """Goes on with the next engine; if it has been stopped, there need not be one."""
        self.abandon()
        try:
            persist(self.client._attachment, lambda: self.stopped)
        except (ringwal.NotRunning, ringwal.ShmUnavailable, OSError):
            if not self.stopped:
                raise


def persist(attempt: Callable[[], T], stopped: Callable[[], bool] = lambda: False) -> T:
    """Tries until there is an engine; its file system may be away for a while, too. Raises as the last attempt did, which
    is the first one after ``stopped``."""
    end = time.monotonic() + RECONNECT_SECONDS
    while True:
        try:
            return attempt()
        except (ringwal.NotRunning, ringwal.ShmUnavailable, OSError):
            if stopped() or time.monotonic() > end:
                raise
        pause(0.02)


def connect(directory: Path) -> ringwal.Client:
    return persist(lambda: ringwal.connect(directory, timeout=RECONNECT_SECONDS))


def main() -> None:
    directory, journal, name, streams, window, seconds = sys.argv[1:]
    if os.environ.get("RINGWAL_FAULT_ASYNCIO"):
        from tests.support import writer_aio

        other = writer_aio.Writer(Path(directory), Path(journal), name, streams.split(","), int(window))
        asyncio.run(other.run(float(seconds)))
        return
    writer = Writer(Path(directory), Path(journal), name, streams.split(","), int(window))
    signal.signal(signal.SIGTERM, lambda *_: setattr(writer, "stopped", True))
    if size := os.environ.get("RINGWAL_FAULT_LARGE"):
        writer.make = partial(mixed, large=int(size))
    keep(os.environ.get("RINGWAL_FAULT_STORM", ""), writer)
    try:
        writer.run(float(seconds))
    except BaseException as error:
        writer.journal.complain(f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
