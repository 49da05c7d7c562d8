"""The asyncio face of a producer."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, NoReturn

from ringwal.client.awaiting import drive
from ringwal.client.producing import ProducerCore, Sent
from ringwal.client.turns import Turns
from ringwal.errors import AckTimeout, Error
from ringwal.limits import seconds

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ringwal.client.aio import Client
    from ringwal.client.turns import Turn
    from ringwal.model import Ack


class ProducerReceipt:
    """The pending proof of one append of a producer: ``await`` it for the `Ack`, as often as you like. With the client's
    ``reconnect`` what was lost with an engine is sent again, and known as a repeat if it was not lost.

    A receipt that nobody awaits costs nothing; `Producer.flush` reports what went wrong with it.
    """

    __slots__ = ("_producer", "_sent", "_turn")

    def __init__(self, producer: Producer, sent: Sent, turn: Turn[None] | None) -> None:
        self._producer = producer
        self._sent = sent
        self._turn = turn

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
        turn = self._turn
        if turn is not None and (turn.error is not None or not turn.over.done()):
            return turn.error is not None
        return self._producer._is_done(self._sent)

    def __await__(self) -> Generator[object, None, Ack]:
        return self._result().__await__()

    async def _result(self) -> Ack:
        if self._turn is not None:
            await self._producer._turns.come(self._turn)
            self._turn = None
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
        self._turns: Turns[None] = Turns(client._own_loop, stream)

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
        return self._begin(Sent.one(data, seq, timestamp_ns))

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
        self._turns.check_room(sent.payload)
        lock = self._lock.awaited
        if not self._turns.waiting and (lock is None or not lock.locked()) and self._send_now(sent):
            return ProducerReceipt(self, sent, None)
        return ProducerReceipt(self, sent, self._turns.add(self._send_steps(sent), None, sent.payload))

    def _forked(self) -> None:
        """See `ProducerCore._forked`."""
        super()._forked()
        self._turns.forked()

    async def flush(self, timeout: float | None = 30.0) -> None:
        """As `ringwal.Producer.flush`."""
        self._check_loop()
        limit = seconds(timeout)
        try:
            async with asyncio.timeout(limit):
                await self._turns.none()
                lost = await self._flushed()
        except TimeoutError as error:
            if isinstance(error, Error):
                raise
            waiting = len(self._turns.waiting) + sum(not self._is_done(sent) for sent in self._pending)
            raise AckTimeout(f"{waiting} appends are not confirmed after {limit:g} s") from None
        refused = self._turns.refused()
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
