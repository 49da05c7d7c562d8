"""Appending a long input: batches go ahead of their confirmations, within a bound, and what is confirmed is counted."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ringwal.errors import AckTimeout, Error, RecordTooLarge, StorageFull, describe_full, full_errno
from ringwal.interrupts import Fate, Interrupts
from ringwal.textio import Progress, counted

if TYPE_CHECKING:
    import ringwal

AHEAD = 256  # appends in flight; the lane bounds their bytes
SETTLE_SECONDS = 1.0
"""How long an interrupted verb still waits for what is on its way."""


class Ingest(Fate):
    """Appends to one stream in order. `records`, `bytes` and the offsets speak of what is confirmed, nothing else."""

    def __init__(
        self,
        client: ringwal.Client,
        stream: ringwal.Stream | ringwal.Producer,
        timeout: float,
        limit: int,
        interrupts: Interrupts,
        timestamp_ns: int | None = None,
    ) -> None:
        """``stream``: or the producer that numbers what is appended to it."""
        self._client = client
        self._stream = stream
        self._timeout = timeout
        self._limit = limit
        self._interrupts = interrupts
        self._timestamp_ns = timestamp_ns
        self._pending: deque[tuple[ringwal.Receipt | ringwal.ProducerReceipt, int]] = deque()
        self._begun = 0  # records whose append was called; counted before the call
        self.records = 0
        self.bytes = 0
        self.first_offset: int | None = None
        self.last_offset: int | None = None

    def one(self, data: bytes) -> None:
        """A record."""
        if len(data) > self._limit:
            raise too_large(f"record {self._begun + 1} of the input", self._limit)
        self._send(lambda: self._stream.append(data, timestamp_ns=self._timestamp_ns), 1, len(data))

    def many(self, lines: Sequence[bytes]) -> None:
        """A record for each line, all or none of them."""
        self._send(lambda: self._stream.append_many(lines, timestamp_ns=self._timestamp_ns), len(lines), sum(map(len, lines)))

    def _send(
        self, append: Callable[[], ringwal.Receipt | ringwal.ProducerReceipt], count: int, size: int
    ) -> None:
        self._begun += count
        try:
            receipt = append()
        except Error as error:
            if error.outcome != "unknown":
                self._begun -= count
            raise
        self._pending.append((receipt, size))
        while len(self._pending) > AHEAD or (self._pending and self._pending[0][0].done()):
            self._confirm(self._timeout)
        self._interrupts.check()

    def _confirm(self, timeout: float) -> None:
        receipt, size = self._pending[0]
        ack = receipt.result(timeout)
        self._interrupts.hold()
        self._pending.popleft()
        self.records += ack.count
        self.bytes += size
        self.first_offset = ack.offset if self.first_offset is None else self.first_offset
        self.last_offset = ack.offset + ack.count - 1
        self._interrupts.let_go()

    def _settle(self, seconds: float) -> None:
        """After an error: counts what is confirmed all the same, or is so by then, up to the first append that is not."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(Exception):
            while self._pending:
                self._confirm(max(0.0, deadline - time.monotonic()))

    def notes(self) -> list[str]:
        unknown = self._begun - self.records
        said = []
        if self.records:
            said.append(f"confirmed before that: the first {counted(self.records, 'record')} ({self.bytes} bytes) of the input")
        if unknown:
            said.append(f"{counted(unknown, 'record')} {'after these' if self.records else 'of the input'}: outcome unknown")
        else:
            said.append("nothing after these was appended" if self.records else "nothing of the input was appended")
        return said

    def facts(self) -> dict[str, int | None]:
        return {
            "records": self.records,
            "bytes": self.bytes,
            "first_offset": self.first_offset,
            "last_offset": self.last_offset,
            "unknown_records": self._begun - self.records,
        }

    def tell(self, error: BaseException) -> None:
        """Notes on the error what became of the input: it may know the fate of its own append only."""
        tell(error, self)

    def finish(self) -> None:
        """Waits until everything is confirmed."""
        while self._pending:
            self._confirm(self._timeout)

    def run(self, batches: Iterable[Sequence[bytes]], progress: Progress) -> None:
        """Appends every batch and waits for all confirmations. An error carries notes of how far it came."""
        try:
            for batch in batches:
                if len(batch) == 1:
                    self.one(batch[0])
                else:
                    self.many(batch)
                progress.update(self.records, self.bytes)
            self.finish()
        except AckTimeout as error:
            self._settle(0.0)
            told = self._storage_full() or error
            self.tell(told)
            raise told from None
        except KeyboardInterrupt as error:
            self._settle(SETTLE_SECONDS)
            self.tell(error)
            raise
        except Exception as error:
            self._settle(0.0 if isinstance(error, (TimeoutError, StorageFull)) else self._timeout)
            self.tell(error)
            raise
        finally:
            progress.close()

    def _storage_full(self) -> StorageFull | None:
        """Why nothing was confirmed in time, if it is the disk."""
        reason = None
        with contextlib.suppress(Exception):
            reason = self._client.status().get("storage_full")
        if not reason:
            return None
        number = full_errno(reason)
        return StorageFull(
            f"not confirmed within {self._timeout:g} s: the engine cannot prepare another segment ({describe_full(number)});"
            " then it goes on by itself", number,
        )


def tell(error: BaseException, fate: Fate) -> None:
    """Notes on the error what became of the input, in words and, as `progress`, in numbers."""
    for note in fate.notes():
        error.add_note(note)
    facts: Any = error
    facts.progress = fate.facts()
    outcome = fate.outcome()
    if outcome == "unknown" or not isinstance(error, Error):
        facts.outcome = outcome
    if outcome == "unknown" and isinstance(error, Error):
        facts.retriable = False


def too_large(what: str, limit: int) -> RecordTooLarge:
    return RecordTooLarge(
        f"{what} is larger than {limit} bytes, the most that this writer's lane takes: ask for a larger one with "
        "--lane-bytes (a record may take half of it), or start the engine with a larger --ring-bytes", limit,
    )
