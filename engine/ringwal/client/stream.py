"""One named stream: appends, reads, tails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from ringwal import positions, retention
from ringwal._native import lib
from ringwal.client import configuring, removal
from ringwal.client.lane import SLICE_NS
from ringwal.client.receipt import BatchReceipt, Receipt
from ringwal.client.stream_core import StreamCore
from ringwal.errors import NoSuchStream, NotRunning
from ringwal.greenlets import Rests, patched
from ringwal.limits import seconds, shown, whole
from ringwal.model import EARLIEST, LATEST, StreamInfo
from ringwal.protocol.messages import check_own_name
from ringwal.retention import UNCHANGED, Age, Count, Size, Unchanged
from ringwal.steps import park
from ringwal.times import At

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it since Python 3.12; type checkers know this one everywhere

    from ringwal.client.api import Client
    from ringwal.client.attachment import Attachment
    from ringwal.model import Record
    from ringwal.read.cursor import Cursor

MISSING_LOOK = 0.05
"""Seconds between two looks for a stream that does not exist yet."""

_submit = lib.rw_submit


class Stream(StreamCore):
    """A handle for one named stream. Threads may share it."""

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(client, name)
        self.client = client

    # --------------------------------------------------------------------------------------------------- append

    def append(self, data: Buffer, timestamp_ns: int | None = None) -> Receipt:
        """Appends one record and returns at once with its `Receipt`. Appends of one thread keep their order.

        Args:
            data: any C-contiguous bytes-like object; it is copied before this returns. Empty is legal. Never ``str``.
            timestamp_ns: a time of the record's own, nanoseconds since 1970, kept beside the engine's: `Record` has both. It
                says nothing about order, and no read starts at it.

        Raises:
            TypeError: not bytes-like; encode text first.
            ValueError: a time below 0, or behind the year 2262. Nothing was written.
            RecordTooLarge: more than `limit` bytes. Nothing was written.
            BackpressureTimeout: no room within the client's ``append_timeout``. Nothing was written.
            StorageFull: the engine waits for disk space. Nothing was written.
            NotRunning: the engine has ended. Nothing was written.
        """
        # A keyword-only argument would take the interpreter's quick way of calling away from every append.
        bound = self._bound
        if bound is None or timestamp_ns is not None or type(data) is not bytes:
            return self._append_slowly(data, timestamp_ns)
        lane = bound.lane
        bank = lane.bank  # before the number is given out; see ringwal.client.results.Bank
        number = _submit(bound.writer, bound.handle, data, len(data))
        if number > bank.last:
            return Receipt.of(lane.results_of(bank, number), number, self)
        if number < 0:
            return self._append_slowly(data)
        receipt = Receipt()  # Receipt.of, without the call
        receipt._results = bank.results
        receipt.number = number
        receipt._stream = self
        return receipt

    def _append_slowly(self, data: Any, timestamp_ns: int | None = None) -> Receipt:
        """The rest of `append`: other buffers than bytes, times, no lane yet, a full lane, errors."""
        return Receipt.of(*park(self.one_steps(data, timestamp_ns)), self)

    def append_many(self, records: Iterable[Buffer], timestamp_ns: int | Iterable[int] | None = None) -> Receipt:
        """Appends several records as one batch: all or nothing, with consecutive offsets, one Receipt.

        Args:
            records: at least one bytes-like object. One alone is not a batch: ``[data]`` is.
            timestamp_ns: as for `append`: one time for all of them, or as many as there are records.

        Raises:
            TypeError: a record is not bytes-like.
            ValueError: no records, not as many times as records, or a time out of range. Nothing was written.
            As `append`; the limit is for the batch as a whole.
        """
        steps, count = self.many_steps(records, timestamp_ns)
        receipt = BatchReceipt.of(*park(steps), self)
        receipt.count = count
        return receipt

    def flush(self, timeout: float | None = 30.0) -> None:
        """Returns when every earlier append of this process to this stream is confirmed.

        Raises:
            AckTimeout: not all were confirmed in time.
            Error: the first append that failed and whose receipt nobody had asked.
            ValueError: a timeout that is none.
        """
        park(self.flush_steps(seconds(timeout)))

    # ----------------------------------------------------------------------------------------------------- read

    def read(
        self,
        start: int | At | datetime = 0,
        max_records: int = 1000,
        max_bytes: int | None = None,
        *,
        until: int | At | datetime = LATEST,
    ) -> list[Record]:
        """Confirmed records from ``start`` on, in order; ``[]`` when there are none (yet).

        Args:
            start: an offset, `EARLIEST` or `LATEST`; or a time, `At` or a datetime with a zone, for the first record that is
                there and that the engine took at or after it (see `offset_at`).
            max_records: at most so many.
            max_bytes: stop before the data exceeds this; one record is returned even if it is larger.
            until: as ``start``; the record that it means is not included.

        Raises:
            NoSuchStream: nobody has appended to the stream yet.
            OffsetTrimmed: ``start`` lies before the oldest record that is kept.
            CorruptionError: stored bytes are damaged; names the place.
            FileError: the system does not let this process read them.
            ValueError: a number outside of its limits, a datetime without a zone.
        """
        return positions.read(self.client.attachment, self.name, start, max_records, max_bytes, until)

    def records(
        self, start: int | At | datetime = EARLIEST, until: int | At | datetime = LATEST
    ) -> Iterator[Record]:
        """Each confirmed record from ``start`` up to ``until``, which is not included, in order; then it ends.

        Both are fixed by the call, and nothing that is confirmed later belongs to it: `LATEST` is the end of the stream now.
        However many there are, a few megabytes of them are held at once.

        Args:
            start: an offset, `EARLIEST`, `LATEST` or a time, as for `read`.
            until: the same; one behind the end of the stream stands for the end.

        Raises:
            As `read`: by the call where there is no such stream, else when the iterator comes to it.
        """
        start, until = positions.checked(start), positions.checked(until, "until")
        return positions.range_of(self.client.attachment(), self.name, start, until).records()

    def tail(
        self,
        start: int | At | datetime = LATEST,
        *,
        max_records: int = 1000,
        idle_timeout: float | None = None,
        missing: Literal["raise", "wait"] = "raise",
    ) -> Iterator[Record]:
        """Follows the stream: yields each confirmed record from ``start`` on, in order, and sleeps while there is none.

        Args:
            start: an offset, `EARLIEST`, `LATEST` or a time, as for `read`; a time that is yet to come is waited for.
            max_records: how many are fetched at once.
            idle_timeout: end after so many seconds without a record; ``None`` never ends.
            missing: what to do about a stream that does not exist: raise `NoSuchStream`, or wait for it. A tail that has
                waited begins with its first record, unless ``start`` is an offset.

        Raises:
            NotRunning: the engine ended.
            As `read`.
        """
        start, max_records = positions.checked(start), whole(max_records, "max_records", 1)
        idle_timeout = seconds(idle_timeout, "idle_timeout")
        if missing not in ("raise", "wait"):
            raise ValueError(f"missing is {shown(missing)}; it must be 'raise' or 'wait'")
        attachment = self.client.attachment()
        try:
            handle = attachment.handle_of(self.name, look=True)
        except NoSuchStream:
            if missing != "wait":
                raise
            return positions.not_before(start, self._follow_later(attachment, start, max_records, idle_timeout))
        # The offset is fixed by the call, not by the first `next`: what is appended in between belongs to the tail.
        cursor = attachment.reader.cursor(handle, positions.offset(attachment, handle, start))
        return positions.not_before(start, self._follow(attachment, handle, cursor, max_records, idle_timeout))

    def _follow_later(
        self, attachment: Attachment, start: int | At, max_records: int, idle_timeout: float | None
    ) -> Iterator[Record]:
        """Waits until somebody makes the stream. Nobody is woken for that, so the next stream's number is looked at."""
        begin = time.monotonic()
        made = -1
        while True:
            if not attachment.usable():
                raise NotRunning("the engine ended, or this client was closed")
            before, made = made, int(lib.rw_engine_next_number(attachment.control))
            if made != before:
                with contextlib.suppress(NoSuchStream):
                    handle = attachment.handle_of(self.name, look=True)
                    break
            if idle_timeout is not None and time.monotonic() - begin >= idle_timeout:
                return
            time.sleep(MISSING_LOOK)
        cursor = attachment.reader.cursor(handle, positions.offset(attachment, handle, EARLIEST if start == LATEST else start))
        yield from self._follow(attachment, handle, cursor, max_records, idle_timeout)

    def _follow(
        self, attachment: Attachment, handle: int, cursor: Cursor, max_records: int, idle_timeout: float | None
    ) -> Iterator[Record]:
        waiter = attachment.waiter()
        idle_since = time.monotonic()
        rests = Rests()
        while True:
            with attachment.reading:
                records = cursor.next(max_records, None)
            if records:
                yield from records
                idle_since = time.monotonic()
                rests = Rests()
                continue
            left = SLICE_NS if idle_timeout is None else int((idle_since + idle_timeout - time.monotonic()) * 1e9)
            if left <= 0:
                return
            if patched():
                rests.take(left * 1e-9)
                left = 0
            code = lib.rw_tail_wait(waiter.writer, handle, cursor.offset, 0, min(left, SLICE_NS))
            if code == lib.RW_GONE or (code != 0 and not attachment.usable()):
                if cursor.offset < lib.rw_stream_confirmed(attachment.control, handle):
                    continue  # confirmed just before the end
                raise NotRunning("the engine ended, or this client was closed")
            if code == lib.RW_FAULT:  # nobody would wake it: waiting there would be no waiting
                waiter = park(attachment.other_waiter_steps())

    def stat(self) -> StreamInfo:
        """What is known of the stream now. ``confirmed_offset`` is the offset of the next record to be confirmed.

        Raises:
            NoSuchStream: nobody has appended to the stream yet.
        """
        attachment = self.client.attachment()
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
        attachment = self.client.attachment()
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
        check_own_name(self.name)
        to = positions.moment(before, "before") if isinstance(before, At | datetime) else whole(before, "before", 0)
        return park(removal.trim(self.client.attachment(), self.name, to, self.client.options["timeout"]))

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
        check_own_name(self.name)
        wanted = retention.asked(retention_age, retention_bytes, retention_records, retain_until)
        park(configuring.configure(self.client.attachment(), self.name, wanted, self.client.options["timeout"]))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restream, (self.client, self.name)

    def __repr__(self) -> str:
        return f"<Stream {self.name!r} of {str(self.client.path)!r}>"


def _restream(client: Client, name: str) -> Stream:
    return client.stream(name)
