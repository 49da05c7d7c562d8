"""One named stream, for an event loop: appends, reads, tails."""

from __future__ import annotations

import asyncio
from asyncio import get_running_loop
from collections.abc import AsyncIterator, Generator, Iterable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from ringwal import positions, retention
from ringwal._native import lib
from ringwal.client import following
from ringwal.client.awaiting import drive
from ringwal.client.results import PENDING
from ringwal.client.stream_core import StreamCore
from ringwal.client.turns import Turns
from ringwal.errors import AckTimeout
from ringwal.limits import seconds
from ringwal.model import EARLIEST, LATEST, Ack, StreamInfo
from ringwal.payloads import buffer_of
from ringwal.retention import UNCHANGED, Age, Count, Size, Unchanged
from ringwal.times import At

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ringwal.client.aio import Client
    from ringwal.client.attachment import Attachment
    from ringwal.client.results import Results
    from ringwal.client.turns import Turn
    from ringwal.model import Record
    from ringwal.positions import Position
    from ringwal.steps import Steps

Item = TypeVar("Item")
AT_ONCE = 256
"""So many records are given out before the loop's other tasks have a turn."""

_submit = lib.rw_submit
_new_ack = tuple.__new__


class Receipt:
    """The pending proof of one append: ``await`` it for the `Ack`, as often as you like.

    A receipt that nobody awaits costs nothing; `Stream.flush` reports what went wrong with it.
    """

    __slots__ = ("_place", "_stream", "_turn", "count")

    def __init__(
        self, stream: Stream, place: tuple[Results, int] | None, turn: Turn[tuple[Results, int]] | None, count: int
    ) -> None:
        self._stream = stream
        self._place = place
        self._turn = turn
        self.count = count
        """Records of this append."""

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self._stream.name

    def done(self) -> bool:
        """Would an await end at once?"""
        turn = self._turn
        if turn is not None and turn.error is not None:
            return True
        place = self._place if turn is None else turn.found
        return place is not None and place[0].find(place[1]) != PENDING

    def __await__(self) -> Generator[Any, None, Ack]:
        return self._result().__await__()

    async def _result(self) -> Ack:
        turn = self._turn
        if turn is not None:
            await self._stream._turns.come(turn)
            self._place, self._turn = turn.found, None
        assert self._place is not None
        results, number = self._place
        return await self._stream._ack(results, number, self.count)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Receipt is neither pickled nor copied: await it where it was made, and pass on the Ack")

    def __repr__(self) -> str:
        return f"<Receipt {self.stream!r} {'done' if self.done() else 'pending'}>"


class Stream(StreamCore):
    """A handle for one named stream, for the event loop of its client. Names and errors are those of `ringwal.Stream`."""

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(client, name)
        self.client = client
        self._loop = client._own_loop
        self._turns: Turns[tuple[Results, int]] = Turns(self._loop, name)
        self._waiting = self._turns.waiting

    # --------------------------------------------------------------------------------------------------- append

    async def append(self, data: Buffer, timestamp_ns: int | None = None, expected_offset: int | None = None) -> Ack:
        """Appends one record, and returns when it is on stable storage. Appends keep the order of their calls.

        A task that is cancelled, or times out, meanwhile leaves the append as it is: it goes on.

        Args:
            As `ringwal.Stream.append`.

        Raises:
            As `ringwal.Stream.append` and `ringwal.Receipt.result`, but never AckTimeout: see ``asyncio.timeout``.
        """
        if get_running_loop() is not self._loop:
            self.client._check_loop()
        bound = self._bound
        if bound is not None and timestamp_ns is expected_offset is None and type(data) is bytes and not self._waiting:
            lane = bound.lane
            bank = lane.bank  # before the number is given out; see ringwal.client.results.Bank
            number = _submit(bound.writer, bound.handle, data, len(data))
            bell = lane.bell
            if 0 <= number <= bank.last and bell is not None:
                offset = await bell.future(number)
                if offset < 0:
                    raise lane.tell(number, offset, self.name)
                return _new_ack(Ack, (self.name, offset, 1))  # as Ack(...) does, without its frame
            if number >= 0:
                return await self._ack(lane.results_of(bank, number), number, 1)
        return await self.append_nowait(data, timestamp_ns, expected_offset)

    def append_nowait(self, data: Buffer, timestamp_ns: int | None = None, expected_offset: int | None = None) -> Receipt:
        """Appends one record and returns at once with its `Receipt`: await that.

        Where the lane has no room, or there is no lane yet, the append waits in this process for its turn, up to the client's
        ``append_timeout``, and the receipt says what became of it.

        Raises:
            TypeError, ValueError, RecordTooLarge: as `ringwal.Stream.append`.
            BackpressureTimeout: 65,536 appends wait already. Nothing was written.
        """
        self.client._check_loop()
        bound = self._bound
        if bound is not None and timestamp_ns is expected_offset is None and type(data) is bytes and not self._waiting:
            lane = bound.lane
            bank = lane.bank
            number = _submit(bound.writer, bound.handle, data, len(data))
            if number >= 0:
                return Receipt(self, (lane.results_of(bank, number), number), None, 1)
        view = data if type(data) is bytes else bytes(buffer_of(data))
        return self._enqueue(self._one_steps(view, timestamp_ns, expected_offset), 1, len(view))

    async def append_many(
        self, records: Iterable[Buffer], timestamp_ns: int | Iterable[int] | None = None, expected_offset: int | None = None
    ) -> Ack:
        """As `ringwal.Stream.append_many`, and returns when the batch is on stable storage. Otherwise as `append`."""
        return await self.append_many_nowait(records, timestamp_ns, expected_offset)

    def append_many_nowait(
        self, records: Iterable[Buffer], timestamp_ns: int | Iterable[int] | None = None, expected_offset: int | None = None
    ) -> Receipt:
        """As `append_nowait`, for a batch."""
        self.client._check_loop()
        steps, count, size = self._many_steps(records, timestamp_ns, expected_offset)
        return self._enqueue(steps, count, size)

    async def _ack(self, results: Results, number: int, count: int) -> Ack:
        """Of the append with that number, once it is confirmed."""
        offset = results.find(number)
        lane = results.lane
        if offset == PENDING:
            assert lane.bell is not None
            self.client._check_loop()
            offset = await lane.bell.future(number)
        if offset < 0:
            raise lane.tell(number, offset, self.name)
        return _new_ack(Ack, (self.name, offset, count))

    def _enqueue(self, steps: Steps[tuple[Results, int]], count: int, size: int) -> Receipt:
        """It goes behind those that wait. If none does, and it has to wait for nothing, it is submitted now."""
        self._turns.check_room(size)
        wait = None
        if not self._waiting:
            try:
                wait = next(steps)
            except StopIteration as done:
                return Receipt(self, done.value, None, count)
        return Receipt(self, None, self._turns.add(steps, wait, size), count)

    def _forked(self) -> None:
        """See `StreamCore._forked`."""
        super()._forked()
        self._turns.forked()

    async def flush(self, timeout: float | None = 30.0) -> None:
        """As `ringwal.Stream.flush`: returns when every earlier append of this client to this stream is confirmed."""
        self.client._check_loop()
        limit = seconds(timeout)
        began = self._loop.time()
        try:
            async with asyncio.timeout(limit):
                await self._turns.none()
        except TimeoutError:
            raise AckTimeout(f"{len(self._waiting)} appends wait for room after {self._loop.time() - began:.3g} s") from None
        await drive(self._flush_steps(None if limit is None else max(0.0, limit - (self._loop.time() - began))))
        refused = self._turns.refused()
        if refused is not None:
            raise refused

    # ----------------------------------------------------------------------------------------------------- read

    async def _here(self) -> Attachment:
        """The attachment; it knows this stream. Raises NoSuchStream."""
        attachment, _ = await drive(self.client._in_engine_steps(partial(following.found_steps, self.name)))
        return attachment

    async def read(
        self,
        start: Position = 0,
        max_records: int = 1000,
        max_bytes: int | None = None,
        *,
        until: Position = LATEST,
        wait: float | None = None,
    ) -> list[Record]:
        """As `ringwal.Stream.read`. What is not in memory is read from disk meanwhile, which holds the loop."""
        return await drive(following.read_steps(self.client, self.name, start, max_records, max_bytes, until, wait))

    async def records(
        self,
        start: Position = EARLIEST,
        until: Position = LATEST,
        *,
        on_trimmed: Literal["raise", "earliest"] = "raise",
    ) -> AsyncIterator[Record]:
        """As `ringwal.Stream.records`, except that both ends are fixed by the first step."""
        found = await drive(following.range_steps(self.client, self.name, start, until, on_trimmed))
        for count, record in enumerate(found.records(), 1):
            yield record
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)

    def tail(
        self,
        start: Position = LATEST,
        *,
        max_records: int = 1000,
        idle_timeout: float | None = None,
        missing: Literal["raise", "wait"] = "raise",
        on_trimmed: Literal["raise", "earliest"] = "raise",
    ) -> AsyncIterator[Record]:
        """As `ringwal.Stream.tail`, except that ``start`` is fixed, and what is said checked, by the first step."""
        return each(
            following.follow_steps(
                self.client,
                self.name,
                start,
                max_records=max_records,
                idle_timeout=idle_timeout,
                missing=missing,
                on_trimmed=on_trimmed,
            )
        )

    async def stat(self) -> StreamInfo:
        """As `ringwal.Stream.stat`."""
        while True:
            attachment = await self._here()
            handle = attachment.handle_of(self.name, look=True)
            found = attachment.stream_info(lib.rw_handle_place(handle), lib.rw_handle_number(handle))
            if found is not None:
                return found

    async def offset_at(self, when: datetime | At) -> int:
        """As `ringwal.Stream.offset_at`."""
        moment = positions.moment(when)
        attachment = await self._here()
        return positions.offset(attachment, attachment.handle_of(self.name, look=True), moment)

    async def trim(self, before: int | At | datetime) -> int:
        """As `ringwal.Stream.trim`."""
        return await drive(self._trim_steps(before))

    async def configure(
        self,
        *,
        retention_age: Age | Unchanged | None = UNCHANGED,
        retention_bytes: Size | Unchanged | None = UNCHANGED,
        retention_records: Count | Unchanged | None = UNCHANGED,
        retain_until: Iterable[str] | Unchanged = UNCHANGED,
    ) -> None:
        """As `ringwal.Stream.configure`."""
        wanted = retention.asked(retention_age, retention_bytes, retention_records, retain_until)
        await drive(self._configure_steps(wanted))

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Stream of ringwal.aio is neither pickled nor copied: it belongs to an event loop. Pass on its name and its"
            " client's path, and connect where they arrive"
        )

    def __repr__(self) -> str:
        return f"<Stream {self.name!r} of {str(self.client.path)!r}>"


async def each(steps: Steps[following.Follow[Item]]) -> AsyncIterator[Item]:
    """What is followed, once that is made, awaited."""
    found = await drive(steps)
    while (records := await drive(found.next_steps())) is not None:
        for count, record in enumerate(records, 1):
            yield record
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)
