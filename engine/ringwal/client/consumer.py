"""A consumer of streams, in threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ringwal.client.consuming import LOOK, ConsumerCore
from ringwal.errors import Error
from ringwal.limits import seconds, whole
from ringwal.steps import park

if TYPE_CHECKING:
    from ringwal.model import StreamRecord
    from ringwal.positions import Position


class Consumer(ConsumerCore):
    """Reads streams in log order, and keeps in the log how far it is. `Client.consumer` claims it. For one thread at a time.

    Iterating gives records for ever. What is given out and not committed is given out again after a restart: so a record is
    seen at least once; exactly once where what follows from it is in the same batch as the commit (`Batch.commit`).
    """

    def __iter__(self) -> Iterator[StreamRecord]:
        """Records, as they come; never ends. What is raised is what `poll` raises."""
        places = self._places
        while True:
            park(self._fetched_steps(None))
            while self._at < len(self._fetched):  # the caller may poll or seek in between
                record = self._fetched[self._at]
                self._at += 1
                places[record.stream].given = record.offset + 1
                yield record

    def poll(self, max_records: int = 1000, timeout: float | None = 0.0) -> list[StreamRecord]:
        """The next records, up to so many; waits so many seconds for the first one (``None``: for ever), else ``[]``.

        Raises:
            ConsumerFenced: another process has claimed the consumer since.
            OffsetTrimmed: records that were not read are gone; `seek` says where to go on.
            StreamDeleted: one of the streams was deleted.
            As `Client.tail`.
        """
        count = whole(max_records, "max_records", 1)
        return park(self._poll_steps(count, seconds(timeout, "timeout")))

    def commit(self, record: StreamRecord | None = None, *, wait: bool = True, timeout: float | None = 30.0) -> None:
        """Everything up to this record, of its stream, is done; ``None``: everything that was given out. Never goes back: see
        `seek`.

        Args:
            record: one that this consumer has given out.
            wait: return when that is on stable storage. Else return at once: it goes on its way together with later ones, at
                the latest when the consumer next waits for records, or is flushed or closed; what goes wrong is raised then.
            timeout: seconds to wait for that; ``None`` waits for ever.

        Raises:
            AckTimeout: not confirmed in time; it goes on.
            ConsumerFenced: another process has claimed the consumer since. Nothing was committed.
            EngineFailed: the engine ended first; with the client's ``reconnect`` it is committed in its successor instead.
            StreamDeleted: the stream was deleted.
            ValueError: a stream that it does not read, or a record that it has not given out.
            As `Stream.append`.
        """
        if not wait and record is not None and self._usable:
            place = self._places.get(record.stream)
            if place is not None and place.sent is not None and place.asked <= record.offset < place.given:
                place.looks += 1
                if place.looks % LOOK:
                    place.asked = place.wanted = record.offset + 1
                    return
        if wait:
            park(self._commit_steps(record, seconds(timeout)))
        elif not self._commit_now(record):
            park(self._push_steps())

    def seek(self, stream: str, position: Position) -> None:
        """Go on there, in that stream: an offset, `EARLIEST`, `LATEST`, `Last`, `At`. A commit may go back behind this.

        Raises ValueError: a stream that it does not read, or an offset beyond its end.
        """
        park(self._seek_steps(stream, position))

    def flush(self, timeout: float | None = 30.0) -> None:
        """Returns when everything that was committed is on stable storage. Raises as `commit`."""
        self._check()
        park(self._flush_steps(seconds(timeout)))

    def close(self, timeout: float | None = 30.0) -> None:
        """As `flush`, and the consumer is not used any more; it stays claimed, until another process claims it."""
        park(self._close_steps(seconds(timeout)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(Error):
                self.close()  # the error under way is the one to tell
