"""The synchronous face of a producer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

from ringwal.client.producing import ProducerCore, Sent
from ringwal.errors import AckTimeout, Error
from ringwal.limits import seconds
from ringwal.steps import park

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ringwal.model import Ack


class ProducerReceipt:
    """The pending proof of one append of a producer. With the client's ``reconnect`` what was lost with an engine is sent
    again, and known as a repeat if it was not lost: so its outcome is known in the end.

    A receipt that nobody asks costs nothing; `Producer.flush` reports what went wrong with it.
    """

    __slots__ = ("_producer", "_sent")

    def __init__(self, producer: Producer, sent: Sent) -> None:
        self._producer = producer
        self._sent = sent

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self._producer.stream

    @property
    def seq(self) -> int:
        """The sequence of its first record."""
        return self._sent.sequence

    @property
    def count(self) -> int:
        """Records of this append."""
        return self._sent.count

    def done(self) -> bool:
        """True if `result` would return or raise at once. What is to be sent again is sent by `result`, not by this."""
        return self._producer._is_done(self._sent)

    def result(self, timeout: float | None = 30.0) -> Ack:
        """Waits until the append is confirmed. `Ack.duplicate` says that it was in the stream before it was appended.

        Args:
            timeout: seconds; ``None`` waits for ever.

        Raises:
            AckTimeout: not confirmed in time; asking again later is allowed.
            SequenceGap: records are missing before it. Nothing was appended.
            ProducerFenced: another process has claimed the producer, or the engine has forgotten it. Nothing was appended.
            StreamDeleted: the stream was deleted first. Nothing was appended.
            EngineFailed: the engine ended first, and the client has no ``reconnect``, or it did not come back in time. The
                outcome is unknown: append it again with the same ``seq``.
            ClosedError: the client was closed first. The outcome is unknown.
            ForkError: the receipt was made before a fork, in the parent.
            ValueError: a timeout that is none.
        """
        return park(self._producer._ack_steps(self._sent, seconds(timeout)))

    def exception(self, timeout: float | None = 30.0) -> Error | None:
        """Waits like `result` and returns the error the append ended with, or ``None`` if it is confirmed.

        Raises:
            AckTimeout: not confirmed in time.
            ValueError: a timeout that is none.
        """
        try:
            self.result(timeout)
        except AckTimeout:
            raise
        except Error as error:
            return error
        return None

    if not TYPE_CHECKING:  # what is written where somebody took one face for the other

        def __await__(self):
            raise TypeError(
                "this receipt is not awaited but asked: receipt.result(). The append has been made; in an event loop,"
                " connect with ringwal.aio"
            )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a ProducerReceipt is neither pickled nor copied: wait for it where it was made, and pass on what result() returns,"
            " or the error that it raises"
        )

    def __repr__(self) -> str:
        return f"<ProducerReceipt {self.stream!r} seq={self.seq} {'done' if self.done() else 'pending'}>"


class Producer(ProducerCore):
    """Appends to one stream so that a repeat is known as one. Threads may share it.

    Sequences count its records, from 0. What it sends is in the stream once, and in order, whatever is repeated, killed or
    replaced in between; `next` says how far it is, also after a restart of its process, which claims it anew. After a fork it
    stays the parent's: the child claims one of its own.
    """

    def append(self, data: Buffer, seq: int | None = None, timestamp_ns: int | None = None) -> ProducerReceipt:
        """Appends one record and returns at once with its receipt.

        Args:
            data: as for `Stream.append`.
            seq: its sequence; ``None``: the next one. One that is in the stream already is not appended again, whatever its
                data.
            timestamp_ns: as for `Stream.append`.

        Raises:
            ForkError: the producer is the parent's. Nothing was appended.
            As `Stream.append`. What is refused so has used up no sequence.
        """
        sent = Sent.one(data, seq, timestamp_ns)
        park(self._send_steps(sent))
        return ProducerReceipt(self, sent)

    def append_many(
        self, records: Iterable[Buffer], seq: int | None = None, timestamp_ns: int | Iterable[int] | None = None
    ) -> ProducerReceipt:
        """As `Stream.append_many`; ``seq`` is that of the first record. A repeat is to be the same batch, or lie within one: of
        what was appended in part, nothing is (`SequenceGap`)."""
        sent = Sent(records, seq, timestamp_ns)
        park(self._send_steps(sent))
        return ProducerReceipt(self, sent)

    def flush(self, timeout: float | None = 30.0) -> None:
        """Returns when all that was appended is confirmed. Raises the first error of those that nobody has asked about.

        Raises:
            AckTimeout: not all were confirmed in time.
            As `ProducerReceipt.result`.
        """
        park(self._flush_steps(seconds(timeout)))

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Producer is neither pickled nor copied: only one at a time has its name. Pass on stream and name, and claim it"
            " where they arrive, which fences this one"
        )

    def __repr__(self) -> str:
        return f"<Producer {self.name!r} of {self.stream!r}, next={self.next}>"
