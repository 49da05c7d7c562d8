"""The pending proof of an append, and the proof."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from concurrent.futures import Future

    from engine.errors import Error
    from engine.lane import Lane

PENDING = -1
FAILED = -2


class Ack(NamedTuple):
    """Proof that an append is on stable storage, in order.

    ``offset`` is that of the first record, ``count`` the number of records (1 for `append`), ``stream`` the stream's name.
    """

    stream: str
    offset: int
    count: int  # type: ignore[assignment]  # the field wins over tuple.count, which no Ack needs


class Receipt:
    """The pending proof of one append. It holds no lock and needs no helper thread: it looks when it is asked.

    A receipt that nobody asks costs nothing; `Stream.flush` reports what went wrong with it.
    """

    # `outcome` is PENDING, FAILED or the offset. It is settled once, by whichever thread first sees the result; two threads
    # that settle it at the same time store the same value.
    __slots__ = ("__weakref__", "count", "error", "lane", "number", "outcome", "stream")

    def __init__(self, lane: Lane, number: int, stream: str, count: int) -> None:
        self.lane = lane
        self.number = number
        self.stream = stream
        self.count = count
        self.outcome = PENDING
        self.error: Error | None = None

    def done(self) -> bool:
        """True if `result` would return or raise at once."""
        return self.outcome != PENDING or self.lane.settle(self)

    def result(self, timeout: float | None = 30.0) -> Ack:
        """Waits until the append is confirmed.

        Args:
            timeout: seconds; ``None`` waits for ever.

        Raises:
            AckTimeout: not confirmed in time. The outcome is unknown; asking again later is allowed.
            EngineFailed: the engine ended first. The outcome is unknown.
            ForkError: the receipt was made before a fork, in the parent.
        """
        if self.outcome == PENDING:
            self.lane.wait(self, timeout)
        if self.outcome == FAILED:
            assert self.error is not None
            raise self.error
        return Ack(self.stream, self.outcome, self.count)

    def exception(self, timeout: float | None = 30.0) -> Error | None:
        """Waits like `result` and returns the error the append ended with, or ``None`` if it is confirmed.

        Raises:
            AckTimeout: not confirmed in time.
        """
        if self.outcome == PENDING:
            self.lane.wait(self, timeout)
        return self.error

    def future(self) -> Future[Ack]:
        """A `concurrent.futures.Future` of the same result, for code that wants one. It costs a thread while it is pending."""
        from engine.futures import future_of

        return future_of(self)

    def __repr__(self) -> str:
        state = "pending" if self.outcome == PENDING else "failed" if self.outcome == FAILED else f"offset={self.outcome}"
        return f"<Receipt {self.stream!r} {state}>"
