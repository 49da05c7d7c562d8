"""Where a consumer is in one of its streams: what was given out, asked for, sent, confirmed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ringwal._native import lib
from ringwal.client.stream_core import StreamCore
from ringwal.client.submitting import submit_steps
from ringwal.errors import NoSuchStream, StreamDeleted
from ringwal.steps import Steps

if TYPE_CHECKING:
    from ringwal.client.attachment import Binding
    from ringwal.client.core import ClientCore
    from ringwal.client.results import Results
    from ringwal.model import StreamRecord

UNSAID = -1
"""Whatever commit comes next is one."""


class ConsumedStream(StreamCore):
    """A stream that a consumer reads: a commit that comes when it is deleted does not make another one."""

    _looks = True

    def _bind_to_append(self, began: float) -> Steps[Binding]:
        try:
            return (yield from super()._bind_to_append(began))
        except NoSuchStream:
            raise StreamDeleted(f"nothing was committed in {self.name!r}: the stream was deleted") from None


class Sent(NamedTuple):
    """A commit that is on its way."""

    results: Results
    number: int
    offset: int
    turn: int


class Place:
    """Where a consumer is in one of its streams."""

    __slots__ = (
        "asked", "committed", "given", "known", "looks", "number", "reached", "sent", "sought", "stream", "turn", "wanted",
        "who",
    )  # fmt: skip

    def __init__(self, stream: StreamCore, who: int, committed: int, number: int = 0) -> None:
        self.stream = stream
        self.number = number
        """Of the stream: another one of its name is another one."""
        self.who = who
        """Epoch and number of its row, as requests say them."""
        self.committed = committed
        """Confirmed."""
        self.given = committed
        """Behind the last record that was given out."""
        self.reached = committed
        """So far it has been before it was put back."""
        self.sought = committed
        """Where it was put, where `asked` is `UNSAID`."""
        self.asked = committed
        """The newest commit that somebody asked for; `UNSAID`: whatever comes is one."""
        self.wanted: int | None = None
        """Asked for, and not sent yet."""
        self.sent: Sent | None = None
        self.turn = 0
        """Of the commit that was sent last, alone or in a batch."""
        self.known = 0
        """Of the newest one that is known to be confirmed: what was sent before it does not count any more."""
        self.looks = 0

    def next_turn(self) -> int:
        """Of a commit that has just been sent."""
        self.turn += 1
        return self.turn

    def confirmed(self, offset: int, turn: int) -> None:
        """That commit is."""
        if turn > self.known:
            self.known, self.committed = turn, offset

    def found(self) -> int:
        """What became of what was sent, as `Results.find`."""
        assert self.sent is not None
        return self.sent.results.find(self.sent.number)

    def check(self, record: StreamRecord) -> None:
        """Raises ValueError: it was not given out. The engine refuses the lane of whoever commits what is not there."""
        if not 0 <= record.offset < max(self.given, self.reached):
            raise ValueError(f"this consumer has not given out record {record.offset} of {record.stream!r}")


def commit_steps(place: Place, offset: int) -> Steps[tuple[Results, int]]:
    """Sends a commit of that offset, or `RW_FORGET`: where its result comes, and its number there. Raises StreamDeleted."""
    return submit_steps(
        place.stream,
        time.monotonic(),
        lambda bound: int(lib.rw_submit_commit(bound.writer, bound.handle, place.who, offset)),
        8,
    )


def place_of(client: ClientCore[Any], row: dict[str, Any], number: int = 0) -> Place:
    """As the engine says it of a row that was claimed; ``number`` is the stream's."""
    return Place(ConsumedStream(client, row["stream"]), int(row["epoch"]) << 32 | int(row["number"]), int(row["next"]), number)
