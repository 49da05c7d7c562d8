"""Several streams appended to together, in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from ringwal.client.aio_stream import Stream
from ringwal.client.joint import BatchCore, Placed
from ringwal.client.results import PENDING
from ringwal.errors import AckTimeout
from ringwal.limits import seconds
from ringwal.steps import Rest, Steps

if TYPE_CHECKING:
    from ringwal.client.aio import Client
    from ringwal.client.turns import Turn
    from ringwal.model import Ack

LOOK = 0.001
"""Seconds between two looks whether those that the batch comes behind are submitted."""


class BatchReceipt:
    """The pending proof of a batch: ``await`` it for the Acks, one for each append, in their order."""

    def __init__(self, batch: Batch, turn: Turn[list[Placed]] | None) -> None:
        self._batch = batch
        self._turn = turn

    @property
    def count(self) -> int:
        """Records of the batch."""
        return len(self._batch)

    def done(self) -> bool:
        """Would an await end at once?"""
        turn = self._turn
        if turn is None or turn.error is not None:
            return True
        return turn.found is not None and all(results.find(number) != PENDING for results, number in turn.found)

    def __await__(self) -> Generator[Any, None, list[Ack]]:
        return self._result().__await__()

    async def _result(self) -> list[Ack]:
        return self._batch._acks(await self._found())

    async def _found(self) -> list[int]:
        """Where each part is."""
        client, turn = self._batch._client, self._turn
        if turn is None:
            return []
        await client._batches.come(turn)
        assert turn.found is not None
        found = []
        for results, number in turn.found:
            offset = results.find(number)
            if offset == PENDING:
                assert results.lane.bell is not None
                client._check_loop()
                offset = await results.lane.bell.future(number)
            found.append(offset)
        self._batch._settle(turn.found, found)
        return found

    def __reduce__(self) -> NoReturn:
        raise TypeError("a BatchReceipt is neither pickled nor copied: await it where it was made, and pass on the Acks")

    def __repr__(self) -> str:
        return f"<BatchReceipt of {self.count} records {'done' if self.done() else 'pending'}>"


class Batch(BatchCore[Stream]):
    """As `ringwal.Batch`, with ``async with``. A task that is cancelled while it leaves the block leaves the batch as it is: it
    goes on."""

    _client: Client

    def __init__(self, client: Client, timeout: float | None) -> None:
        super().__init__(client)
        self._timeout = seconds(timeout)
        self._receipt: BatchReceipt | None = None

    @property
    def receipt(self) -> BatchReceipt:
        """As `ringwal.Batch.receipt`."""
        if self._receipt is None:
            raise RuntimeError("nothing of this batch is sent: its receipt is there when its block is left")
        return self._receipt

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if kind is not None:
            return
        self._client._check_loop()
        self._receipt = BatchReceipt(self, self._submitted() if self._parts else None)
        try:
            async with asyncio.timeout(self._timeout) as limit:
                await self._receipt._found()
        except TimeoutError:
            if not limit.expired():
                raise
            raise AckTimeout(
                f"a batch for {len(self._parts)} streams is not confirmed within {self._timeout:g} s; its outcome is unknown,"
                " ask its receipt again later"
            ) from None

    def _submitted(self) -> Turn[list[Placed]]:
        """Batches are submitted in the order of their calls."""
        turns, size = self._client._batches, sum(len(record) for part in self._parts.values() for record in part.records)
        turns.check_room(size)
        streams = [part.stream for part in self._parts.values() if part.commit is None]
        before = [stream._waiting[-1] for stream in streams if stream._waiting]
        return turns.add(self._behind(before), None, size)

    def _behind(self, before: list[Turn[Any]]) -> Steps[list[Placed]]:
        """Behind the appends to its streams that wait for their turn already."""
        for turn in before:
            while not turn.over.done():
                yield Rest(LOOK)
        return (yield from self._joint().steps())

    if not TYPE_CHECKING:  # what is written where somebody took one face for the other

        def __enter__(self):
            raise TypeError("use `async with` for a batch of ringwal.aio")

        def __exit__(self, *_):
            pass

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} records for {len(self._parts)} streams{' over' if self._over else ''}>"
