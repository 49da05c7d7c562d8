"""What the engine and its users say to each other: records, acknowledgements, streams, positions."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple

from ringwal.limits import whole


class Edge(enum.Enum):
    """The type of `EARLIEST` and `LATEST`: no number, so that an offset that was reckoned wrong is none of the two."""

    EARLIEST = "earliest"
    LATEST = "latest"

    def __repr__(self) -> str:
        return self.name


EARLIEST: Final = Edge.EARLIEST
"""``start`` of a read or tail: the oldest record the stream still has."""
LATEST: Final = Edge.LATEST
"""``start`` of a tail: only what is confirmed from now on."""


@dataclass(frozen=True, slots=True)
class Last:
    """A place in a stream: before the last ``count`` records that are confirmed at the call, or before the oldest one that it
    has, if they are fewer. ``Last(0)`` is `LATEST`.

    Raises ValueError: no whole number from 0 on.
    """

    count: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", whole(self.count, "count", 0))


class Record(NamedTuple):
    """One record: its offset in the stream, its bytes, and when it was appended (wall clock, nanoseconds).

    Records of one batch share their timestamp.
    """

    offset: int
    data: bytes
    timestamp_ns: int
    """When the engine took it, nanoseconds since 1970: never less than that of the record before it."""
    own_timestamp_ns: int | None = None
    """The time that was given to its append, if any: a note beside it, in whatever order."""


class StreamRecord(NamedTuple):
    """A record of one of several streams that are followed together: as `Record`, with the stream's name behind.

    A tuple of its own, not a field of every record: those of one stream are made by the million, and each would carry what
    its reader has said itself.
    """

    offset: int
    data: bytes
    timestamp_ns: int
    own_timestamp_ns: int | None
    stream: str


class ConsumerInfo(NamedTuple):
    """How far a consumer is in one of its streams."""

    name: str
    stream: str
    committed: int
    """The offset at which it goes on."""
    lag: int
    """Confirmed records of the stream, from there on, that are not trimmed."""
    claimed: int
    """How often it was claimed."""
    timestamp_ns: int
    """Of its newest commit or claim, nanoseconds since 1970."""


class Ack(NamedTuple):
    """Proof that an append is on stable storage, in order.

    ``offset`` is that of the first record, ``count`` the number of records (1 for `append`), ``stream`` the stream's name.
    """

    stream: str
    offset: int
    count: int  # type: ignore[assignment]  # the field wins over tuple.count, which no Ack needs

    @property
    def duplicate(self) -> bool:
        """True where a producer has appended it before: ``offset`` is where it is since then."""
        return False


class RepeatedAck(Ack):
    """An `Ack` of what was there before. ``offset`` is -1 if its record is trimmed by now."""

    __slots__ = ()

    @property
    def duplicate(self) -> bool:
        """See `Ack.duplicate`."""
        return True


class StreamInfo(NamedTuple):
    """What is known of a stream. Offsets are dense from 0."""

    name: str
    start_offset: int
    """Offset of the oldest record that is kept."""
    confirmed_offset: int
    """Offset of the next record to be confirmed: all below are on stable storage."""
    records: int
    confirmed_bytes: int
    """Payload bytes of all that was ever confirmed; a batch of several records has four more for each, and a time of a
    record's own takes eight."""
    last_timestamp_ns: int
    """Wall-clock time at which the engine took the newest confirmed record; 0 if there is none."""
    number: int
    """Of the stream: a later one of the same name has another, as no number is used again."""
    retention_age: float | None = None
    """Seconds after which a record may go; None: no limit. The stream's own setting or the engine's, as the next two."""
    retention_bytes: int | None = None
    """Payload bytes beyond which the oldest records may be dropped."""
    retention_records: int | None = None
    """Records beyond which the oldest may be dropped."""
    retain_until: tuple[str, ...] = ()
    """Consumers: what one of them has not committed is kept."""
    own_settings: tuple[str, ...] = ()
    """Which of the three limits above the stream has said itself."""
