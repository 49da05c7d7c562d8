"""A batch of several streams, whichever face it has: what is gathered in it, how it is submitted, what became of it.

In C it is a joint append (csrc/layout_log.h): a batch of each stream, all in the log or none. What is here has no name that a
user needs: `Batch` of either face is what they see.
"""

from __future__ import annotations

import itertools
import os
import time
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, TypeVar

from ringwal import times
from ringwal._native import ffi, lib
from ringwal.client.consumer_place import Place
from ringwal.client.consuming import ConsumerCore
from ringwal.client.stream_core import StreamCore
from ringwal.client.submitting import submit_steps
from ringwal.client.verdicts import is_joined, is_refused
from ringwal.errors import AckTimeout, ConfigError, Error, ForkError, of_code
from ringwal.limits import whole
from ringwal.model import Ack
from ringwal.payloads import buffer_of, lengths_of
from ringwal.protocol.messages import check_own_name
from ringwal.steps import Steps

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ringwal.client.attachment import Attachment, Binding
    from ringwal.client.core import ClientCore
    from ringwal.client.lane import Lane
    from ringwal.client.results import Results
    from ringwal.model import StreamRecord

Handle = TypeVar("Handle", bound=StreamCore)

STREAMS_MAX = int(lib.RW_PARTS_MAX)
"""Streams in one batch."""
_REQUEST_BYTES = int(ffi.sizeof("rw_request"))
_PART_BYTES = int(ffi.sizeof("rw_frame") * 2 + -(-lib.RW_STREAM_NAME_MAX // 8) * 8)
"""What a part takes besides its payload (csrc/frame.h: rw_part_bytes)."""


class Commit(NamedTuple):
    """A consumer goes on there."""

    consumer: ConsumerCore
    place: Place
    offset: int
    before: int
    """What had been asked for there."""

    def now(self) -> int:
        """What is committed when the batch is sent: whoever asked for more meanwhile is not put back."""
        return max(self.offset, self.place.asked)


class Part(Generic[Handle]):
    """What a batch has for one stream."""

    def __init__(self, stream: Handle | StreamCore) -> None:
        self.stream: Any = stream
        self.records: list[bytes] = []
        self.times: array[int] | None = None
        self.expected_offset: int | None = None
        self.commit: Commit | None = None
        """It is no batch, but this."""
        self.turn = 0
        """Of that, when it is sent."""

    def payload_bytes(self) -> int:
        """With what stands for its records' lengths and times."""
        count = len(self.records)
        each = (4 if count > 1 else 0) + (0 if self.times is None else 8)
        return sum(map(len, self.records)) + each * count

    def terms(self, own: Any) -> dict[str, int | Any]:
        """For C; ``own`` is where the records' own times lie."""
        if self.commit is not None:
            return {"producer": self.commit.place.who, "sequence": self.commit.now()}
        if self.expected_offset is None:
            return {"times": own}
        return {"times": own, "sequence": self.expected_offset, "flags": int(lib.RW_EXPECTS)}


class Placed(NamedTuple):
    """A part that is submitted."""

    results: Results
    number: int


class JointBinding:
    """The handles of several streams, with the one lane that they belong to."""

    __slots__ = ("attachment", "handles", "lane", "writer")

    def __init__(self, bindings: Sequence[Binding]) -> None:
        self.attachment: Attachment = bindings[0].attachment
        self.lane = bindings[0].lane
        self.writer = bindings[0].writer
        self.handles = [bound.handle for bound in bindings]


class Joint(Generic[Handle]):
    """Several streams that are appended to together: a `ringwal.client.submitting.Target`."""

    def __init__(self, client: ClientCore[Any], parts: Sequence[Part[Handle]]) -> None:
        self._client = client
        self._parts = parts
        self._streams = [part.stream for part in parts]
        self._numbers = len(parts)
        self.name = ", ".join(stream.name for stream in self._streams)
        self.placed: list[Placed] = []
        # Kept while C looks at it.
        self._data = [ffi.from_buffer("uint8_t[]", b"".join(part.records)) for part in parts]
        self._lengths = [ffi.from_buffer("uint32_t[]", lengths_of(tuple(part.records))) for part in parts]
        self._times = [ffi.NULL if p.times is None else ffi.from_buffer("uint64_t[]", p.times) for p in parts]

    def steps(self) -> Steps[list[Placed]]:
        """Where each part is, once all are submitted. Its time runs from this call on. Raises as `Stream.append`."""
        return self._steps(time.monotonic())

    def _steps(self, began: float) -> Steps[list[Placed]]:
        # As if it were the payload of one append, of which there is one header.
        room = sum(_REQUEST_BYTES + -(-part.payload_bytes() // 64) * 64 for part in self._parts) - _REQUEST_BYTES
        yield from submit_steps(self, began, self._submit, room)
        return self.placed

    def _submit(self, bound: JointBinding) -> int:
        order = sorted(range(len(self._parts)), key=lambda i: int(lib.rw_handle_place(bound.handles[i])))
        table = ffi.new("rw_part[]", len(order))
        for at, i in enumerate(order):
            table[at] = {
                "stream": bound.handles[i],
                "lengths": self._lengths[i],
                "count": len(self._parts[i].records),
                "data": self._data[i],
                "bytes": len(self._data[i]),
                "terms": self._parts[i].terms(self._times[i]),
            }
        lane = bound.lane
        if len(order) > lane.row_max:
            raise self._too_many(lane)
        bank = lane.bank
        number = int(lib.rw_submit_joint(bound.writer, table, len(order)))
        if number >= 0:
            at_place = {i: number + at for at, i in enumerate(order)}
            for part in self._parts:
                if part.commit is not None:
                    part.turn = part.commit.place.next_turn()
                    part.commit = part.commit._replace(offset=part.commit.now())
                    part.commit.place.wanted = None  # less, or the same
            self.placed = [Placed(lane.results_of(bank, at_place[i]), at_place[i]) for i in range(len(order))]
        elif number == lib.RW_TOO_LARGE:
            size = sum(-(-part.payload_bytes() // 8) * 8 + _PART_BYTES for part in self._parts) - _PART_BYTES
            raise of_code(number, size=size, limit=lane.record_limit)
        return number

    def _too_many(self, lane: Lane) -> ConfigError:
        error = ConfigError(
            f"a batch of {len(self._parts)} streams; with this engine's max_outstanding of {lane.places} there may be"
            f" {lane.row_max} in one: start it with a larger --max-outstanding, or append to fewer; nothing was appended"
        )
        error.outcome = "not_appended"
        return error

    # ------------------------------------------------------------------------------- as submit_steps asks for it

    @property
    def _bound(self) -> JointBinding | None:
        found = [stream._bound for stream in self._streams]
        bindings = [bound for bound in found if bound is not None]
        return JointBinding(bindings) if len(bindings) == len(found) and _of_one_lane(bindings) else None

    def _check_gap(self) -> None:
        for stream in self._streams:
            stream._check_gap()

    def _bind_to_append(self, began: float) -> Steps[JointBinding]:
        while True:
            bindings: list[Binding] = []
            for stream in self._streams:
                bound = yield from stream._bind_to_append(began)
                bindings.append(bound)
            if _of_one_lane(bindings):  # else the engine, or the lane, ended in between
                return JointBinding(bindings)

    def _may_follow(self, bound: JointBinding) -> bool:
        lane = bound.lane
        lost = lane.lost is not None and not bound.attachment.usable()
        return lost and not any(map(lane.unreported, bound.handles))

    def _refused_with(self, lane: Lane) -> None:
        for stream in self._streams:
            stream._refused_with(lane)


def _of_one_lane(bindings: Sequence[Binding]) -> bool:
    return all(bound.lane is bindings[0].lane for bound in bindings)


class BatchCore(Generic[Handle]):
    """What is gathered, in the order of the calls."""

    def __init__(self, client: ClientCore[Handle]) -> None:
        self._client = client
        self._parts: dict[str, Part[Handle]] = {}
        self._met: dict[object, Part[Handle]] = {}  # by what was said: a name, or a handle
        self._calls: list[Part[Handle]] = []
        self._entered = self._over = self._struck = False

    def append(
        self, stream: str | Handle, data: Buffer, timestamp_ns: int | None = None, expected_offset: int | None = None
    ) -> None:
        """One more record, for the stream of that name, or handle. Records of one stream keep their order, and come one
        directly behind the other. Nothing is sent before the block is left.

        Args:
            stream: a name or a handle of this client's; at most 64 different ones.
            data: any C-contiguous bytes-like object; it is copied.
            timestamp_ns: as for `Stream.append`. Of one stream all records of the batch have a time of their own, or none.
            expected_offset: as for `Stream.append`; of the first record of its stream in this batch only.

        Raises:
            TypeError: not bytes-like.
            ValueError: a stream of another client, more than 64 streams, or what is said of `timestamp_ns` and
                `expected_offset`.
            ConfigError: not a legal name, or one of the engine's own.
            RuntimeError: the block is left.
        """
        part = self._met.get(stream)
        if part is not None and timestamp_ns is None and expected_offset is None and part.times is None and not self._over:
            part.records.append(data if type(data) is bytes else bytes(buffer_of(data)))
            self._calls.append(part)
            return
        self._check_open()
        part = self._part(stream)
        fresh = not part.records
        copied = data if type(data) is bytes else bytes(buffer_of(data))
        if expected_offset is not None:
            if not fresh:
                raise ValueError("only the first record of a stream in a batch can expect an offset: the others follow it")
            expected_offset = whole(expected_offset, "expected_offset", 0)
        own = None if timestamp_ns is None else times.timestamp_ns(timestamp_ns)
        if not fresh and (own is None) != (part.times is None):
            raise ValueError("in a batch, all records of a stream have a time of their own, or none has")
        if fresh:
            self._check_count()
            self._parts[part.stream.name] = self._met[stream] = part
            part.expected_offset = expected_offset
            part.times = None if own is None else array("Q")
        if own is not None and part.times is not None:
            part.times.append(own)
        self._calls.append(part)
        part.records.append(copied)

    def commit(self, consumer: ConsumerCore, record: StreamRecord | None = None) -> None:
        """What this consumer has done up to that record, of its stream, is committed with the batch, or not at all; ``None``:
        everything that it has given out. So what is appended because of records is in the log if and only if they are done.

        Raises:
            ValueError: a consumer of another client; a stream that it does not read; one that the batch appends to, too; a
                record that it has not given out.
            ConsumerFenced: it was fenced before.
            RuntimeError: the block is left.
        """
        self._check_open()
        if not isinstance(consumer, ConsumerCore):
            raise TypeError(f"a batch commits a consumer, not {type(consumer).__name__}")
        if consumer._client is not self._client:
            raise ValueError(f"{consumer!r} is of another client than this batch")
        for place, offset in consumer._joined(record):
            name = place.stream.name
            part = self._parts.get(name)
            if part is not None and part.commit is None:
                raise ValueError(f"this batch appends to {name!r} already: it cannot commit in it, too")
            if part is None:
                self._check_count()
                part = self._parts[name] = Part(place.stream)
            elif part.commit is not None and part.commit.consumer is not consumer:
                raise ValueError(f"this batch commits another consumer in {name!r} already")
            before = consumer._join(place, offset)
            part.commit = Commit(consumer, place, offset, before if part.commit is None else part.commit.before)

    def _check_count(self) -> None:
        if len(self._parts) == STREAMS_MAX:
            raise ValueError(f"a batch is for at most {STREAMS_MAX} streams")

    def _part(self, stream: str | Handle) -> Part[Handle]:
        if isinstance(stream, str):
            handle = self._client.stream(stream)
        elif isinstance(stream, StreamCore):
            handle = stream
            if handle._client is not self._client:
                raise ValueError(f"{handle!r} is of another client than this batch: say its name")
        else:
            raise TypeError(f"a batch appends to a stream's name or handle, not to {type(stream).__name__}")
        check_own_name(handle.name)
        found = self._parts.get(handle.name)
        if found is not None and found.commit is not None:
            raise ValueError(f"this batch commits in {handle.name!r} already: it cannot append to it, too")
        return found or Part(handle)

    def __len__(self) -> int:
        """Records so far."""
        return len(self._calls)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Batch is neither pickled nor copied: pass on what it is to append, and begin one where it arrives")

    def _check_open(self) -> None:
        if self._over:
            raise RuntimeError("this batch is over, and takes nothing any more: begin another one")
        if not self._entered:
            raise RuntimeError("nothing was taken: a batch is begun with `with client.batch() as batch:`")

    def _joint(self) -> Joint[Handle]:
        return Joint(self._client, list(self._parts.values()))

    def _no_receipt(self) -> str:
        if self._struck:
            return "leaving this batch was interrupted before its receipt was there: whether it was sent is not known"
        if self._over:
            return "nothing of this batch was sent, as its block was left by an exception: there is no receipt"
        return "nothing of this batch is sent: its receipt is there when its block is left"

    def _late(self, seconds: float | None) -> AckTimeout:
        return AckTimeout(
            f"this batch for {', '.join(map(repr, self._parts))} is not confirmed within {seconds:g} s, and goes on: its"
            " outcome is unknown until its receipt says; do not send it again"
        )

    def _begin(self) -> None:
        """Its block is entered."""
        if self._over or self._entered:
            raise RuntimeError("this batch was begun before: begin another one")
        self._entered = True
        self._pid = os.getpid()

    def _check_process(self) -> None:
        """Raises ForkError."""
        if self._pid != os.getpid():
            raise ForkError("this batch was begun before a fork, and is the parent's; nothing was sent", outcome="not_appended")

    def _give_up(self, *, known: bool) -> None:
        """It is not confirmed, and nothing of it is in the log; or nobody knows, unless ``known``."""
        for part in self._parts.values():
            if part.commit is not None:
                commit = part.commit
                commit.consumer._undone(commit.place, commit.offset, commit.before, known=known)

    def _settle(self, placed: Sequence[Placed], found: Sequence[int]) -> None:
        """That was found of its parts. Raises why it is not in the log: then all of them are told."""
        if any(each < 0 for each in found):
            error = self._failure(placed, found)
            self._give_up(known=error.outcome == "not_appended")
            raise error
        for part in self._parts.values():
            if part.commit is not None:
                part.commit.consumer._done(part.commit.place, part.commit.offset, part.turn)

    def _acks(self, found: Sequence[int]) -> list[Ack]:
        """An Ack for each call."""
        parts = self._parts.values()
        offsets = {part: itertools.count(offset) for part, offset in zip(parts, found, strict=True)}
        return [Ack(part.stream.name, next(offsets[part]), 1) for part in self._calls]

    def _failure(self, placed: Sequence[Placed], found: Sequence[int]) -> Error:
        names = [part.stream.name for part in self._parts.values()]
        failed = [i for i, each in enumerate(found) if each < 0]
        # Whoever was refused for a reason of his own speaks for all.
        speaks = next((i for i in failed if is_refused(found[i]) and not is_joined(found[i])), failed[0])
        for i in failed:
            placed[i].results.lane.count_told(placed[i].number)
        commit = list(self._parts.values())[speaks].commit
        if commit is not None and is_refused(found[speaks]):
            return commit.consumer._refused(found[speaks], names[speaks])
        return placed[speaks].results.lane.tell(placed[speaks].number, found[speaks], names[speaks])
