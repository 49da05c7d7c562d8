"""One named stream: appends, reads, tails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ringwal import positions, retention
from ringwal._native import lib
from ringwal.client import following
from ringwal.client.receipt import ManyReceipt, Receipt
from ringwal.client.stream_core import StreamCore
from ringwal.limits import seconds
from ringwal.model import EARLIEST, LATEST, StreamInfo
from ringwal.retention import UNCHANGED, Age, Count, Size, Unchanged
from ringwal.steps import park
from ringwal.times import At

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it since Python 3.12; type checkers know this one everywhere

    from ringwal.client.api import Client
    from ringwal.model import Record
    from ringwal.positions import Position

_submit = lib.rw_submit
Item = TypeVar("Item")


class Stream(StreamCore):
    """A handle for one named stream. Threads may share it."""

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(client, name)
        self.client = client

    # --------------------------------------------------------------------------------------------------- append

    def append(self, data: Buffer, timestamp_ns: int | None = None, expected_offset: int | None = None) -> Receipt:
        """Appends one record and returns at once with its `Receipt`. Appends of one thread keep their order.

        Args:
            data: any C-contiguous bytes-like object; it is copied before this returns. Empty is legal. Never ``str``.
            timestamp_ns: a time of the record's own, nanoseconds since 1970, kept beside the engine's: `Record` has both. It
                says nothing about order, and no read starts at it.
            expected_offset: append at this offset, or not at all: it is the stream's next one when the engine takes the append.
                So of several who decide by what they have read, one appends.
                Else its receipt raises `OffsetMismatch`, which says where the stream goes on.

        Raises:
            TypeError: not bytes-like; encode text first.
            ValueError: a time below 0, or behind the year 2262; an offset below 0. Nothing was written.
            RecordTooLarge: more than `limit` bytes. Nothing was written.
            BackpressureTimeout: no room within the client's ``append_timeout``. Nothing was written.
            StorageFull: the engine waits for disk space. Nothing was written.
            NotRunning: the engine has ended. Nothing was written.
        """
        # A keyword-only argument would take the interpreter's quick way of calling away from every append.
        bound = self._bound
        if bound is None or timestamp_ns is not None or expected_offset is not None or type(data) is not bytes:
            return self._append_slowly(data, timestamp_ns, expected_offset)
        lane = bound.lane
        bank = lane.bank  # before the number is given out; see ringwal.client.results.Bank
        number = _submit(bound.writer, bound.handle, data, len(data))
        if number > bank.last:
            return Receipt._of(lane.results_of(bank, number), number, self)
        if number < 0:
            return self._append_slowly(data)
        receipt = Receipt()  # Receipt._of, without the call
        receipt._results = bank.results
        receipt._number = number
        receipt._stream = self
        return receipt

    def _append_slowly(self, data: Any, timestamp_ns: int | None = None, expected_offset: int | None = None) -> Receipt:
        """The rest of `append`: other buffers than bytes, times, an offset, no lane yet, a full lane, errors."""
        return Receipt._of(*park(self._one_steps(data, timestamp_ns, expected_offset)), self)

    def append_many(
        self, records: Iterable[Buffer], timestamp_ns: int | Iterable[int] | None = None, expected_offset: int | None = None
    ) -> Receipt:
        """Appends several records as one batch: all or nothing, with consecutive offsets, one Receipt.

        Args:
            records: at least one bytes-like object. One alone is not a batch: ``[data]`` is.
            timestamp_ns: as for `append`: one time for all of them, or as many as there are records.
            expected_offset: as for `append`, of the first record.

        Raises:
            TypeError: a record is not bytes-like.
            ValueError: no records, not as many times as records, or a time out of range. Nothing was written.
            As `append`; the limit is for the batch as a whole.
        """
        steps, count, _ = self._many_steps(records, timestamp_ns, expected_offset)
        receipt = ManyReceipt._of(*park(steps), self)
        receipt.count = count
        return receipt

    def flush(self, timeout: float | None = 30.0) -> None:
        """Returns when every earlier append of this process to this stream is confirmed.

        Raises:
            AckTimeout: not all were confirmed in time.
            Error: the first append that failed and whose receipt nobody had asked.
            ValueError: a timeout that is none.
        """
        park(self._flush_steps(seconds(timeout)))

    # ----------------------------------------------------------------------------------------------------- read

    def read(
        self,
        start: Position = 0,
        max_records: int = 1000,
        max_bytes: int | None = None,
        *,
        until: Position = LATEST,
        wait: float | None = None,
    ) -> list[Record]:
        """Confirmed records from ``start`` on, in order; ``[]`` when there are none (yet), also beyond the end of the stream.

        Args:
            start: an offset, `EARLIEST`, `LATEST` or `Last`; or a time, `At` or a datetime with a zone, for the first record
                that is there and that the engine took at or after it (see `offset_at`).
            max_records: at most so many.
            max_bytes: stop before the data exceeds this; one record is returned even if it is larger.
            until: as ``start``; the record that it means is not included.
            wait: seconds to wait for the first record, where there is none yet; ``None``: not at all.

        Raises:
            NoSuchStream: nobody has appended to the stream yet.
            OffsetTrimmed: ``start`` lies before the oldest record that is kept.
            CorruptionError: stored bytes are damaged; names the place.
            FileError: the system does not let this process read them.
            NotRunning: the engine ended.
            ValueError: a number outside of its limits, a datetime without a zone.
        """
        if wait is None:
            return positions.read(self.client._attachment, self.name, start, max_records, max_bytes, until)
        return park(following.read_steps(self.client, self.name, start, max_records, max_bytes, until, wait))

    def records(
        self,
        start: Position = EARLIEST,
        until: Position = LATEST,
        *,
        on_trimmed: Literal["raise", "earliest"] = "raise",
    ) -> Iterator[Record]:
        """Each confirmed record from ``start`` up to ``until``, which is not included, in order; then it ends.

        Both are fixed by the call, and nothing that is confirmed later belongs to it: `LATEST` is the end of the stream now.
        However many there are, a few megabytes of them are held at once.

        Args:
            start: an offset, `EARLIEST`, `LATEST`, `Last` or a time, as for `read`.
            until: the same; one behind the end of the stream stands for the end.
            on_trimmed: what to do where the next record is trimmed, before the call or meanwhile: raise `OffsetTrimmed`, or go
                on with the oldest one that is kept.

        Raises:
            As `read`: by the call where there is no such stream, else when the iterator comes to it.
        """
        return park(following.range_steps(self.client, self.name, start, until, on_trimmed)).records()

    def tail(
        self,
        start: Position = LATEST,
        *,
        max_records: int = 1000,
        idle_timeout: float | None = None,
        missing: Literal["raise", "wait"] = "raise",
        on_trimmed: Literal["raise", "earliest"] = "raise",
    ) -> Iterator[Record]:
        """Follows the stream: yields each confirmed record from ``start`` on, in order, and sleeps while there is none.

        A slow reader keeps nobody waiting, and nothing in memory: where it has fallen behind, records come from the files.
        With the client's ``reconnect`` it goes on over the end of the engine: each record once, in order.

        Args:
            start: an offset, `EARLIEST`, `LATEST`, `Last` or a time, as for `read`; one that is yet to come is waited for, and
                what comes before it is passed over.
            max_records: how many are fetched at once, as far as they take no more than a few megabytes.
            idle_timeout: end after so many seconds without a record; ``None`` never ends.
            missing: what to do about a stream that does not exist: raise `NoSuchStream`, or wait for it. A tail that has
                waited begins with its first record, unless ``start`` is an offset.
            on_trimmed: what to do where the next record is trimmed, before the call or while the reader was slow: raise
                `OffsetTrimmed`, or go on with the oldest one that is kept. Then the offsets say what was passed over.

        Raises:
            NotRunning: the engine ended; with ``reconnect``, it did not come back in time.
            StreamDeleted: the stream was deleted, also if there is another one of its name by now.
            As `read`.
        """
        steps = following.follow_steps(
            self.client,
            self.name,
            start,
            max_records=max_records,
            idle_timeout=idle_timeout,
            missing=missing,
            on_trimmed=on_trimmed,
        )
        return each(park(steps))

    def stat(self) -> StreamInfo:
        """What is known of the stream now. ``confirmed_offset`` is the offset of the next record to be confirmed.

        Raises:
            NoSuchStream: nobody has appended to the stream yet.
        """
        attachment = self.client._attachment()
        while True:  # again only if it was deleted since the look, and then there may be another one of that name
            handle = attachment.handle_of(self.name, look=True)
            found = attachment.stream_info(lib.rw_handle_place(handle), lib.rw_handle_number(handle))
            if found is not None:
                return found

    def offset_at(self, when: datetime | At) -> int:
        """Offset of the first record, of those that the stream still has, that the engine took at or after that time; the
        offset of the next one to be confirmed if it took all of them before.

        The engine's times never go back in a stream. Where the machine's clock was set back, they stand still until it has
        caught up: what was appended then is found at the time at which the clock stood before. Times of the records' own are
        not looked at.

        Raises:
            ValueError: a datetime without a zone, or one before 1970 or behind the year 2262.
            As `read`.
        """
        attachment = self.client._attachment()
        return positions.offset(attachment, attachment.handle_of(self.name, look=True), positions.moment(when))

    def trim(self, before: int | At | datetime) -> int:
        """Drops the records below ``before``, for good and for everybody; returns the start offset that is in force.

        When this returns, that is on stable storage. What was trimmed is not read again (`OffsetTrimmed`), offsets go on as
        they were, and records that a reader holds stay its own. An offset below the start offset changes nothing. Disk space
        comes back by whole segment files: when all that is in the oldest one, of whichever streams, is trimmed or deleted.

        Args:
            before: an offset up to `StreamInfo.confirmed_offset`, with which no record is left; or a time, `At` or a datetime
                with a zone: records that the engine took before it are dropped.

        Raises:
            NoSuchStream: nobody has appended to the stream yet, or it is deleted.
            ValueError: there is no such offset yet; a datetime without a zone.
            ConfigError: the stream is the engine's own.
            NotRunning: no engine serves the directory. Nothing was trimmed.
            AckTimeout, EngineFailed: not confirmed within the client's ``timeout``, or when the engine ended: the trim may be
                in force. Trimming again does no harm.
        """
        return park(self._trim_steps(before))

    def configure(
        self,
        *,
        retention_age: Age | Unchanged | None = UNCHANGED,
        retention_bytes: Size | Unchanged | None = UNCHANGED,
        retention_records: Count | Unchanged | None = UNCHANGED,
        retain_until: Iterable[str] | Unchanged = UNCHANGED,
    ) -> None:
        """Changes the settings that are given (`Client.create_stream`), for everybody and on stable storage; the others stay.

        ``None`` goes back to the engine's default, ``"none"`` says that there is no limit, ``retain_until=[]`` that nobody
        holds the stream.

        Raises:
            NoSuchStream, NotRunning, AckTimeout, EngineFailed: as `trim`; repeating it does no harm.
            ConfigError: a setting outside of its limits; the stream is the engine's own.
        """
        park(self._configure_steps(retention.asked(retention_age, retention_bytes, retention_records, retain_until)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restream, (self.client, self.name)

    def __repr__(self) -> str:
        return f"<Stream {self.name!r} of {str(self.client.path)!r}>"


def each(tail: following.Follow[Item]) -> Iterator[Item]:
    """What is followed, waited for in this thread."""
    while (records := park(tail.next_steps())) is not None:
        yield from records


def _restream(client: Client, name: str) -> Stream:
    return client.stream(name)
