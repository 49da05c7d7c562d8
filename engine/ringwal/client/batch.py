"""Several streams appended to together, in threads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from ringwal.client.joint import BatchCore, Placed
from ringwal.client.results import PENDING
from ringwal.client.stream import Stream
from ringwal.errors import AckTimeout, Error
from ringwal.limits import seconds
from ringwal.steps import park

if TYPE_CHECKING:
    from ringwal.client.api import Client
    from ringwal.model import Ack


class BatchReceipt:
    """The pending proof of a batch."""

    def __init__(self, batch: Batch, placed: Sequence[Placed]) -> None:
        self._batch = batch
        self._placed = placed

    @property
    def count(self) -> int:
        """Records of the batch."""
        return len(self._batch)

    def done(self) -> bool:
        """True if `result` would return or raise at once."""
        return all(results.find(number) != PENDING for results, number in self._placed)

    def result(self, timeout: float | None = 30.0) -> list[Ack]:
        """Waits until the batch is confirmed: an Ack for each of its appends, in their order.

        Args:
            timeout: seconds; ``None`` waits for ever.

        Raises:
            AckTimeout: not confirmed in time. The outcome is unknown; asking again later is allowed.
            EngineFailed: the engine ended first. The outcome is unknown: all of it is in the log, or nothing.
            OffsetMismatch, StreamDeleted: one of the appends was refused. Nothing of the batch was appended.
            ForkError: the receipt was made before a fork, in the parent.
            ValueError: a timeout that is none.
        """
        return self._batch._acks(self._wait(timeout))

    def _wait(self, timeout: float | None) -> list[int]:
        """Where each part is. Raises as `result`."""
        limit = seconds(timeout)
        end = None if limit is None else time.monotonic() + limit
        found = []
        for (results, number), name in zip(self._placed, self._batch._parts, strict=True):
            left = None if end is None else max(0.0, end - time.monotonic())
            try:
                found.append(results.lane.wait(results, number, name, left))
            except AckTimeout:
                self._batch._give_up(known=False)
                raise self._batch._late(limit) from None
        self._batch._settle(self._placed, found)
        return found

    def exception(self, timeout: float | None = 30.0) -> Error | None:
        """Waits like `result` and returns the error the batch ended with, or ``None`` if it is confirmed.

        Raises:
            AckTimeout: not confirmed in time.
            ValueError: a timeout that is none.
        """
        try:
            self._wait(timeout)
        except AckTimeout:
            raise
        except Error as error:
            return error
        return None

    def __reduce__(self) -> NoReturn:
        raise TypeError("a BatchReceipt is neither pickled nor copied: wait for it where it was made, and pass on the Acks")

    def __repr__(self) -> str:
        return f"<BatchReceipt of {self.count} records {'done' if self.done() else 'pending'}>"


class Batch(BatchCore[Stream]):
    """Appends to several streams that are made together: all of them, or none. `Client.batch` makes it.

    The block that it is used in gathers; leaving it sends, and waits. A block that is left by an exception sends nothing.
    For one thread at a time.
    """

    def __init__(self, client: Client, timeout: float | None) -> None:
        super().__init__(client)
        self._timeout = seconds(timeout)
        self._receipt: BatchReceipt | None = None

    @property
    def receipt(self) -> BatchReceipt:
        """Of the batch, once its block is left. Raises RuntimeError: it is not, or nothing was sent."""
        if self._receipt is None:
            raise RuntimeError(self._no_receipt())
        return self._receipt

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over = True
        if kind is not None:
            self._give_up(known=True)
            return
        self._check_process()
        joint = self._joint() if self._parts else None
        try:
            placed = () if joint is None else park(joint.steps())
        except Error as refused:
            self._give_up(known=refused.outcome == "not_appended")
            raise
        except BaseException:  # an interrupt: it may have been sent
            self._struck = True
            self._give_up(known=False)
            if joint is not None and joint.placed:
                self._receipt = BatchReceipt(self, joint.placed)
            raise
        self._receipt = BatchReceipt(self, placed)
        try:
            self._receipt._wait(self._timeout)
        except Error:
            raise
        except BaseException:
            self._give_up(known=False)
            raise

    if not TYPE_CHECKING:  # what is written where somebody took one face for the other

        async def __aenter__(self):
            raise TypeError("use `with` for this batch; in an event loop, `async with` and a client of ringwal.aio")

        async def __aexit__(self, *_):
            pass

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} records for {len(self._parts)} streams{' over' if self._over else ''}>"
