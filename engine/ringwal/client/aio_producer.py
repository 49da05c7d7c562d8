"""The asyncio face of a producer."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, NoReturn

from ringwal.client.aio_stream import QUEUED_BYTES_MAX, QUEUED_MAX
from ringwal.client.awaiting import drive
from ringwal.client.producing import ProducerCore, Sent
from ringwal.client.refusals import Refusals
from ringwal.errors import AckTimeout, BackpressureTimeout, ClosedError, Error
from ringwal.limits import seconds

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ringwal.client.aio import Client
    from ringwal.model import Ack


class Queued:
    """An append that waits for its turn: for room in the lane, for an engine, or behind one that does."""

    __slots__ = ("error", "over", "refusal", "sent")

    def __init__(self, sent: Sent, over: asyncio.Future[None]) -> None:
        self.sent = sent
        self.over = over
        """It is sent, or refused."""
        self.error: Exception | None = None
        self.refusal: int | None = None
        """The number of its refusal, until its caller is told."""


class ProducerReceipt:
    """The pending proof of one append of a producer: ``await`` it for the `Ack`, as often as you like. With the client's
    ``reconnect`` what was lost with an engine is sent again, and known as a repeat if it was not lost.

    A receipt that nobody awaits costs nothing; `Producer.flush` reports what went wrong with it.
    """

    __slots__ = ("_producer", "_queued", "_sent")

    def __init__(self, producer: Producer, sent: Sent, queued: Queued | None) -> None:
        self._producer = producer
        self._sent = sent
        self._queued = queued

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self._producer.stream

    @property
    def seq(self) -> int | None:
        """The sequence of its first record; ``None`` while it waits for its turn, and nobody has said one."""
        return self._sent.said if self._sent.sequence < 0 else self._sent.sequence

    @property
    def count(self) -> int:
        """Records of this append."""
        return self._sent.count

    def done(self) -> bool:
        """Would an await end at once? What is to be sent again is sent by an await, not by this."""
        queued = self._queued
        if queued is not None and (queued.error is not None or not queued.over.done()):
            return queued.error is not None
        return self._producer._is_done(self._sent)

    def __await__(self) -> Generator[object, None, Ack]:
        return self._result().__await__()

    async def _result(self) -> Ack:
        queued = self._queued
        if queued is not None:
            if not queued.over.done():
                await asyncio.shield(queued.over)
            if queued.error is not None:
                self._producer._told(queued)
                raise queued.error
            self._queued = None
        self._producer._check_loop()
        return await drive(self._producer._ack_steps(self._sent, None))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ProducerReceipt is neither pickled nor copied: await it where it was made, and pass on the Ack")

    def __repr__(self) -> str:
        return f"<ProducerReceipt {self.stream!r} seq={self.seq} {'done' if self.done() else 'pending'}>"


class Producer(ProducerCore):
    """Appends to one stream so that a repeat is known as one, for the event loop of its client. Names and errors are those of
    `ringwal.Producer`."""

    def __init__(self, client: Client, stream: str, name: str) -> None:
        super().__init__(client, stream, name)
        self._check_loop = client._check_loop
        self._loop = client._own_loop
        self._queue: collections.deque[Queued] = collections.deque()
        self._queued_bytes = 0
        self._sending: asyncio.Task[None] | None = None
        self._refusals = Refusals()

    async def append(self, data: Buffer, seq: int | None = None, timestamp_ns: int | None = None) -> Ack:
        """Appends one record, and returns when it is on stable storage. Appends keep the order of their calls.

        A task that is cancelled, or times out, meanwhile leaves the append as it is: it goes on.

        Args:
            As `ringwal.Producer.append`.

        Raises:
            As `ringwal.Producer.append` and `ringwal.ProducerReceipt.result`, but never AckTimeout: see ``asyncio.timeout``.
        """
        return await self.append_nowait(data, seq, timestamp_ns)

    def append_nowait(self, data: Buffer, seq: int | None = None, timestamp_ns: int | None = None) -> ProducerReceipt:
        """Appends one record and returns at once with its `ProducerReceipt`: await that.

        Where the lane has no room, or there is no lane yet, the append waits in this process for its turn, up to the client's
        ``append_timeout``, and the receipt says what became of it. It gets its sequence when it is its turn.

        Raises:
            TypeError, ValueError: as `ringwal.Producer.append`.
            BackpressureTimeout: 65,536 appends wait already. Nothing was written.
        """
        self._check_loop()
        return self._begin(Sent((data,), seq, timestamp_ns))

    async def append_many(
        self, records: Iterable[Buffer], seq: int | None = None, timestamp_ns: int | Iterable[int] | None = None
    ) -> Ack:
        """As `ringwal.Producer.append_many`, and returns when the batch is on stable storage. Otherwise as `append`."""
        return await self.append_many_nowait(records, seq, timestamp_ns)

    def append_many_nowait(
        self, records: Iterable[Buffer], seq: int | None = None, timestamp_ns: int | Iterable[int] | None = None
    ) -> ProducerReceipt:
        """As `append_nowait`, for a batch."""
        self._check_loop()
        return self._begin(Sent(records, seq, timestamp_ns))

    def _begin(self, sent: Sent) -> ProducerReceipt:
        """It goes behind those that wait. If none does, and it has to wait for nothing, it is sent now."""
        self._check_forked("nothing was appended")
        queue, lock = self._queue, self._lock.awaited
        if len(queue) >= QUEUED_MAX or (queue and self._queued_bytes + sent.payload > QUEUED_BYTES_MAX):
            raise BackpressureTimeout(
                f"{len(queue)} appends to {self.stream!r} ({self._queued_bytes >> 20} MiB) wait for room already;"
                " nothing was appended: await some of them"
            )
        if not queue and (lock is None or not lock.locked()) and self._send_now(sent):
            return ProducerReceipt(self, sent, None)
        queued = Queued(sent, self._loop.create_future())
        queue.append(queued)
        self._queued_bytes += sent.payload
        if self._sending is None:
            self._sending = self._loop.create_task(self._send_queued())
        return ProducerReceipt(self, sent, queued)

    async def _send_queued(self) -> None:
        """One after the other, in the order of their calls."""
        queue = self._queue
        try:
            while queue:
                head = queue[0]
                try:
                    await drive(self._send_steps(head.sent))
                except Exception as error:  # noqa: BLE001  it is the caller's; the others have nothing to do with it
                    self._refuse(head, error)
                self._leave_queue()
        finally:  # else the loop ends, and this with it
            self._sending = None
            while queue:
                self._refuse(queue[0], ClosedError("the event loop ended; nothing was appended", outcome="not_appended"))
                self._leave_queue()

    def _refuse(self, queued: Queued, error: Exception) -> None:
        queued.error = error
        queued.refusal = self._refusals.add(error)

    def _leave_queue(self) -> None:
        head = self._queue.popleft()
        self._queued_bytes -= head.sent.payload
        if not self._loop.is_closed():
            head.over.set_result(None)

    def _told(self, queued: Queued) -> None:
        """Its caller knows: `flush` need not say it."""
        number, queued.refusal = queued.refusal, None
        if number is not None:
            self._refusals.told(number)

    def _forked(self) -> None:
        """See `ProducerCore._forked`. The loop, and what waits in it, are the parent's."""
        super()._forked()
        self._queue.clear()
        self._queued_bytes, self._sending = 0, None

    async def _submitted(self) -> None:
        """Returns when no append waits for its turn."""
        while self._queue:
            await asyncio.shield(self._queue[-1].over)

    async def flush(self, timeout: float | None = 30.0) -> None:
        """As `ringwal.Producer.flush`."""
        self._check_loop()
        limit = seconds(timeout)
        try:
            async with asyncio.timeout(limit):
                await self._submitted()
                lost = await self._flushed()
        except TimeoutError as error:
            if isinstance(error, Error):
                raise
            waiting = len(self._queue) + sum(not self._is_done(sent) for sent in self._pending)
            raise AckTimeout(f"{waiting} appends are not confirmed after {limit:g} s") from None
        refused = self._refusals.take()
        if lost is not None or refused is not None:
            raise lost or refused  # type: ignore[misc]

    async def _flushed(self) -> Error | None:
        try:
            await drive(self._flush_steps(None))
        except Error as error:
            return error
        return None

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Producer of ringwal.aio is neither pickled nor copied: it belongs to an event loop. Pass on its name and its"
            " client's path, and claim it where they arrive, which fences this one"
        )

    def __repr__(self) -> str:
        return f"<Producer {self.name!r} of {self.stream!r}, next={self.next}>"
