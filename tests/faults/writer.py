"""A writer process under test. Its journal, outside the engine's directory, says what it submitted and what was confirmed.

    python -m tests.faults.writer DIR JOURNAL WRITER STREAMS WINDOW SECONDS

Journal lines: `b STREAM N COUNT` before a batch, then `s STREAM N` before its append, for each of its records;
`c STREAM N OFFSET` after the confirmation, `n STREAM N` certainly not written, `u STREAM N` unknown, `g MILLISECONDS` for
a pause between two confirmations that is longer than any before, `e REASON` if it ends early. A line is written whole or,
if this process is killed, not at all past its last newline. With RINGWAL_FAULT_STAMPS in the environment `t NANOSECONDS`
of CLOCK_MONOTONIC comes before the lines of each write: the append comes later, the confirmation has been seen.
"""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import ringwal
from tests.faults.company import keep
from tests.faults.host import PATIENCE, pause
from tests.faults.payload import Origin, payload

RECONNECT_SECONDS = 60.0
STAMPS = "RINGWAL_FAULT_STAMPS"
T = TypeVar("T")


class Journal:
    """Appends lines with one write each; what was written survives this process."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._stamped = STAMPS in os.environ

    def line(self, text: str) -> None:
        stamp = f"t {time.monotonic_ns()}\n" if self._stamped else ""
        os.write(self._fd, f"{stamp}{text}\n".encode())


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
        self.pending: collections.deque[tuple[list[Origin], ringwal.Receipt]] = collections.deque()
        self.client = client or connect(directory)
        self.last = time.monotonic()
        self.longest = 0.0
        self.children: list[int] = []
        self.between: Callable[[], None] | None = None
        """Called every hundredth append."""

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        turn = 0
        while time.monotonic() < end:
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
            while self.pending and self.pending[0][1].done():
                self.settle()

    def append(self, origin: Origin, count: int = 1) -> None:
        """One record, or a batch of ``count`` that begins with this one."""
        batch = [Origin(origin.stream, origin.writer, origin.number + i) for i in range(count)]
        self.numbers[origin.stream] = origin.number + count
        if count > 1:
            self.journal.line(f"b {origin.stream} {origin.number} {count}")
        self.note("s", batch)
        try:
            stream = self.client.stream(origin.stream)
            receipt = stream.append(payload(origin)) if count == 1 else stream.append_many(list(map(payload, batch)))
        except ringwal.Error as error:
            self.note("u" if error.outcome == "unknown" else "n", batch)
            raise
        self.pending.append((batch, receipt))

    def note(self, kind: str, batch: list[Origin]) -> None:
        self.journal.line("\n".join(f"{kind} {origin.stream} {origin.number}" for origin in batch))

    def settle(self) -> None:
        batch, receipt = self.pending.popleft()
        try:
            ack = receipt.result(timeout=PATIENCE)
        except ringwal.Error as error:
            self.note("n" if error.outcome == "not_appended" else "u", batch)
            raise
        if ack.stream != batch[0].stream:
            raise AssertionError(f"the proof of an append to {batch[0].stream} names {ack.stream}")
        now = time.monotonic()
        if now - self.last > self.longest:
            self.longest = now - self.last
            self.journal.line(f"g {self.longest * 1e3:.1f}")
        self.last = now
        lines = (f"c {origin.stream} {origin.number} {ack.offset + i}" for i, origin in enumerate(batch))
        self.journal.line("\n".join(lines))

    def abandon(self) -> None:
        """The engine is gone: what is outstanding ends."""
        while self.pending:
            with contextlib.suppress(ringwal.Error):
                self.settle()

    def reconnect(self) -> None:
        """Goes on with the next engine."""
        self.abandon()
        persist(self.client.attachment)


def persist(attempt: Callable[[], T]) -> T:
    """Tries until there is an engine; its file system may be away for a while, too. Raises as the last attempt did."""
    end = time.monotonic() + RECONNECT_SECONDS
    while True:
        try:
            return attempt()
        except (ringwal.NotRunning, ringwal.ShmUnavailable, OSError):
            if time.monotonic() > end:
                raise
        pause(0.02)


def connect(directory: Path) -> ringwal.Client:
    return persist(lambda: ringwal.connect(directory, timeout=RECONNECT_SECONDS))


def main() -> None:
    directory, journal, name, streams, window, seconds = sys.argv[1:]
    writer = Writer(Path(directory), Path(journal), name, streams.split(","), int(window))
    keep(os.environ.get("RINGWAL_FAULT_STORM", ""), writer)
    try:
        writer.run(float(seconds))
    except BaseException as error:
        writer.journal.line(f"e {type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
