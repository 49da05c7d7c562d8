"""Appending a long input: batches go ahead of their confirmations, within a bound, and what is confirmed is counted."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ringwal.errors import Error
from ringwal.textio import Progress

if TYPE_CHECKING:
    import ringwal

AHEAD = 256  # appends in flight; the lane bounds their bytes


class Ingest:
    """Appends to one stream in order. `records`, `bytes` and the offsets speak of what is confirmed, nothing else."""

    def __init__(self, stream: ringwal.Stream, timeout: float) -> None:
        self._stream = stream
        self._timeout = timeout
        self._pending: deque[tuple[ringwal.Receipt, int]] = deque()
        self.records = 0
        self.bytes = 0
        self.first_offset: int | None = None
        self.last_offset: int | None = None

    def one(self, data: bytes) -> None:
        """A record."""
        self._sent(self._stream.append(data), len(data))

    def many(self, lines: Sequence[bytes]) -> None:
        """A record for each line, all or none of them."""
        self._sent(self._stream.append_many(lines), sum(map(len, lines)))

    def _sent(self, receipt: ringwal.Receipt, size: int) -> None:
        self._pending.append((receipt, size))
        while len(self._pending) > AHEAD or (self._pending and self._pending[0][0].done()):
            self._confirm()

    def _confirm(self) -> None:
        receipt, size = self._pending[0]
        ack = receipt.result(self._timeout)
        self._pending.popleft()
        self.records += ack.count
        self.bytes += size
        self.first_offset = ack.offset if self.first_offset is None else self.first_offset
        self.last_offset = ack.offset + ack.count - 1

    def _settle(self, wait: bool) -> None:
        """After an error: counts what is confirmed all the same, up to the first append that is not."""
        with contextlib.suppress(Exception):
            while self._pending and (wait or self._pending[0][0].done()):
                self._confirm()

    def _say_unknown(self, error: Exception) -> None:
        """An error may know the fate of its own append only; here the caller asks about the whole input."""
        error.add_note(f"{sum(receipt.count for receipt, _ in self._pending)} records after these: outcome unknown")
        if isinstance(error, Error):
            error.outcome, error.retriable = "unknown", False

    def finish(self) -> None:
        """Waits until everything is confirmed."""
        while self._pending:
            self._confirm()

    def run(self, batches: Iterable[Sequence[bytes]], progress: Progress) -> None:
        """Appends every batch and waits for all confirmations. An error carries a note of how far it came."""
        try:
            for batch in batches:
                if len(batch) == 1:
                    self.one(batch[0])
                else:
                    self.many(batch)
                progress.update(self.records, self.bytes)
            self.finish()
        except Exception as error:
            self._settle(wait=not isinstance(error, TimeoutError))
            error.add_note(f"confirmed before that: the first {self.records} records ({self.bytes} bytes) of the input")
            if self._pending:
                self._say_unknown(error)
            raise
        finally:
            progress.close()
