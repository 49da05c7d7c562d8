"""Several streams appended to together, in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from ringwal.client.aio_stream import Stream
from ringwal.client.awaiting import Over
from ringwal.client.joint import BatchCore, Placed
from ringwal.client.results import PENDING
from ringwal.errors import Error
from ringwal.limits import seconds

if TYPE_CHECKING:
    from ringwal.client.aio import Client
    from ringwal.client.turns import Turn, Turns
    from ringwal.model import Ack
    from ringwal.steps import Steps


class BatchReceipt:
    """The pending proof of a batch: ``await`` it for the Acks, one for each append, in their order."""

    def __init__(self, batch: Batch, placed: list[Placed] | None, turn: Turn[list[Placed]] | None) -> None:
        self._batch = batch
        self._placed = placed
        self._turn = turn
        self._places: list[tuple[Turns[Any], Turn[Any]]] = []  # where the turn stands among the appends to its streams

    @property
    def count(self) -> int:
        """Records of the batch."""
        return len(self._batch)

    def done(self) -> bool:
        """Would an await end at once?"""
        turn = self._turn
        if turn is not None and turn.error is not None:
            return True
        placed = self._placed if turn is None else turn.found
        return placed is not None and all(results.find(number) != PENDING for results, number in placed)

    def __await__(self) -> Generator[Any, None, list[Ack]]:
        return self._result().__await__()

    async def _result(self) -> list[Ack]:
        return self._batch._acks(await self._found())

    async def _found(self) -> list[int]:
        """Where each part is."""
        client, turn = self._batch._client, self._turn
        if turn is not None:
            try:
                await client._batches.come(turn)
            finally:
                if turn.error is not None and turn.refusal is None:
                    for turns, place in self._places:
                        turns.told(place)
            self._placed, self._turn = turn.found, None
        assert self._placed is not None
        found = []
        for results, number in self._placed:
            offset = results.find(number)
            if offset == PENDING:
                assert results.lane.bell is not None
                client._check_loop()
                offset = await results.lane.bell.future(number)
            found.append(offset)
        self._batch._settle(self._placed, found)
        return found

    def __reduce__(self) -> NoReturn:
        raise TypeError("a BatchReceipt is neither pickled nor copied: await it where it was made, and pass on the Acks")

    def __repr__(self) -> str:
        return f"<BatchReceipt of {self.count} records {'done' if self.done() else 'pending'}>"


def _behind(before: list[Turn[Any]], steps: Steps[list[Placed]]) -> Steps[list[Placed]]:
    for turn in before:
        yield Over(turn.over)
    return (yield from steps)


def _place_of(turn: Turn[list[Placed]]) -> Steps[Any]:
    """Among the appends to one of its streams: those that come later go behind this. `flush` tells what this raises: how the
    batch was refused, of which nobody was told."""
    yield Over(turn.over)
    if turn.error is not None and turn.refusal is not None:
        raise turn.error


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
            raise RuntimeError(self._no_receipt())
        return self._receipt

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if kind is not None:
            self._give_up(known=True)
            return
        self._check_process()
        self._client._check_loop()
        try:
            self._receipt = self._submitted() if self._parts else BatchReceipt(self, [], None)
        except Error as refused:
            self._give_up(known=refused.outcome == "not_appended")
            raise
        try:
            async with asyncio.timeout(self._timeout) as limit:
                await self._receipt._found()
        except TimeoutError:
            self._give_up(known=False)
            if not limit.expired():
                raise
            raise self._late(self._timeout) from None
        except Error as refused:
            if refused.outcome == "not_appended":  # in its turn, before it was sent
                self._give_up(known=True)
            raise
        except BaseException:  # a task that is cancelled: it goes on
            self._give_up(known=False)
            raise

    def _submitted(self) -> BatchReceipt:
        """At once; or in its turn: behind the batches that wait, and the appends to its streams that do, and before those that
        are called from now on."""
        turns = self._client._batches
        streams: list[Stream] = [part.stream for part in self._parts.values() if part.commit is None]
        size = sum(part.payload_bytes() for part in self._parts.values())
        turns.check_room(size)
        before = [stream._waiting[-1] for stream in streams if stream._waiting]
        steps, wait = self._joint().steps(), None
        if turns.waiting or before:
            steps = _behind(before, steps)
        else:
            try:
                wait = next(steps)
            except StopIteration as done:
                return BatchReceipt(self, done.value, None)
        turn = turns.add(steps, wait, size)
        receipt = BatchReceipt(self, None, turn)
        for stream in streams:
            receipt._places.append((stream._turns, stream._turns.add(_place_of(turn), None, 0)))
        return receipt

    if not TYPE_CHECKING:  # what is written where somebody took one face for the other

        def __enter__(self):
            raise TypeError("use `async with` for a batch of ringwal.aio")

        def __exit__(self, *_):
            pass

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} records for {len(self._parts)} streams{' over' if self._over else ''}>"
