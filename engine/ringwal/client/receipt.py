"""The pending proof of an append, and the proof."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Self

from ringwal.client.results import PENDING
from ringwal.limits import SECONDS_MAX, seconds
from ringwal.model import Ack

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ringwal.client.results import Results
    from ringwal.client.stream import Stream
    from ringwal.errors import Error


_new_ack = tuple.__new__


class Receipt:
    """The pending proof of one append. It holds no lock and needs no helper thread: it looks when it is asked.

    A receipt that nobody asks costs nothing; `Stream.flush` reports what went wrong with it.
    """

    # One is made per append: three plain stores, and no result of its own. Not by `__init__`: the frame of that call took a
    # quarter of the time of the whole append.
    __slots__ = ("__weakref__", "_number", "_results", "_stream")

    _results: Results
    _stream: Stream
    _number: int
    count = 1
    """Records of this append."""

    @classmethod
    def _of(cls, results: Results, number: int, stream: Stream) -> Self:
        """The receipt of the append with that number, which is, or will be, among ``results``."""
        receipt = cls()
        receipt._results = results
        receipt._number = number
        receipt._stream = stream
        return receipt

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self._stream.name

    def done(self) -> bool:
        """True if `result` would return or raise at once."""
        return self._results.find(self._number) != PENDING

    def result(self, timeout: float | None = 30.0) -> Ack:
        """Waits until the append is confirmed.

        Args:
            timeout: seconds; ``None`` waits for ever.

        Raises:
            AckTimeout: not confirmed in time. The outcome is unknown; asking again later is allowed.
            EngineFailed: the engine ended first. The outcome is unknown.
            StreamDeleted: the stream was deleted first. Nothing was appended.
            ForkError: the receipt was made before a fork, in the parent.
            ValueError: a timeout that is none.
        """
        if type(timeout) is not float or not 0.0 <= timeout <= SECONDS_MAX:
            timeout = seconds(timeout)
        results = self._results
        offset = results.lane.wait(results, self._number, self._stream.name, timeout)
        if offset < 0:
            raise results.lane.tell(self._number, offset, self._stream.name)
        return _new_ack(Ack, (self._stream.name, offset, self.count))  # as Ack(...) does, without its frame

    def exception(self, timeout: float | None = 30.0) -> Error | None:
        """Waits like `result` and returns the error the append ended with, or ``None`` if it is confirmed.

        Raises:
            AckTimeout: not confirmed in time.
            ValueError: a timeout that is none.
        """
        timeout = seconds(timeout)
        lane = self._results.lane
        offset = lane.wait(self._results, self._number, self._stream.name, timeout)
        return lane.tell(self._number, offset, self._stream.name) if offset < 0 else None

    def future(self) -> Future[Ack]:
        """A `concurrent.futures.Future` of the same result, for code that wants one. It costs a thread while it is pending."""
        from ringwal.client.futures import future_of

        return future_of(self)

    if not TYPE_CHECKING:  # what is written where somebody took one face for the other

        def __await__(self):
            raise TypeError(
                "this receipt is not awaited but asked: receipt.result(). The append has been made; in an event loop,"
                " connect with ringwal.aio"
            )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Receipt is neither pickled nor copied: the append's fate comes to the process that made it. Wait there, and pass"
            " on what result() returns, or the error that it raises"
        )

    def __repr__(self) -> str:
        found = self._results.find(self._number)
        state = f"offset={found}" if found >= 0 else "pending" if found == PENDING else "failed"
        return f"<Receipt {self.stream!r} {state}>"


class ManyReceipt(Receipt):
    """The receipt of an `append_many`."""

    __slots__ = ("count",)
