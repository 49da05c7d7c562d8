"""A stream followed, as steps (ringwal.steps): what a tail, and a read that waits, are in both faces of the client.

Where it stands is an offset, and it goes on there whatever becomes of the engine: with the client's ``reconnect`` an engine's
end is a wait. What is held at once is one batch, whose size is bounded; the engine keeps nothing for a reader.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from ringwal import positions
from ringwal._native import lib
from ringwal.client.lane import SLICE, Told
from ringwal.errors import CorruptionError, FileError, NoSuchStream, NotRunning, OffsetTrimmed, StreamDeleted
from ringwal.greenlets import Rests
from ringwal.limits import seconds, shown, whole
from ringwal.model import EARLIEST, LATEST, Last, Record
from ringwal.read.range import BYTES_MAX
from ringwal.steps import Rest, Steps
from ringwal.times import At

if TYPE_CHECKING:
    from ringwal.client.attachment import Attachment
    from ringwal.client.core import ClientCore
    from ringwal.client.lane import Lane
    from ringwal.positions import Checked, Position
    from ringwal.read.cursor import Cursor
    from ringwal.read.range import Range

MISSING_LOOK = 0.05
"""Seconds between two looks for a stream that does not exist yet."""
STOPPING_REST = 0.01
"""Seconds between two attempts at an engine that is stopping."""

Missing: TypeAlias = Literal["raise", "wait"]
OnTrimmed: TypeAlias = Literal["raise", "earliest"]
Item = TypeVar("Item")


def checked_word(value: str, name: str, words: tuple[str, str]) -> None:
    """Raises ValueError: it is neither of the two."""
    if value not in words:
        raise ValueError(f"{name} is {shown(value)}; it must be {words[0]!r} or {words[1]!r}")


class Follow(Generic[Item]):
    """What following one stream, or several, has in common. For one thread, or task, at a time."""

    def __init__(self, client: ClientCore[Any], attachment: Attachment, idle_timeout: float | None) -> None:
        self._client = client
        self._attachment = attachment
        self._idle_timeout = idle_timeout
        self._waiter: Lane | None = None
        self._rests = Rests()

    def next_steps(self) -> Steps[list[Item] | None]:
        """The next records, waited for; None: none came for ``idle_timeout``.

        Raises:
            NotRunning: the engine ended, and, with ``reconnect``, did not come back in time.
            StreamDeleted, OffsetTrimmed, CorruptionError, FileError: as `Stream.read`.
        """
        began = time.monotonic()
        stopping = 0.0
        while True:
            try:
                if records := (yield from self._read_steps()):
                    self._rests = Rests()
                    return records
                left = SLICE if self._idle_timeout is None else began + self._idle_timeout - time.monotonic()
                if left <= 0:
                    return None
                yield from self._wait_steps(min(left, SLICE))
            except (NotRunning, CorruptionError, FileError) as error:
                if not self._client._options["reconnect"]:
                    raise
                ended = not self._attachment.usable()
                if not ended and not (isinstance(error, NotRunning) and error.retriable):
                    raise
                stopping = stopping or self._client._reconnect_deadline()
                if not ended and time.monotonic() >= stopping:
                    raise
                # What an engine that has ended did not know of the files, its successor knows.
                yield from self._move_steps() if ended else _rest(STOPPING_REST)

    def _move_steps(self) -> Steps[None]:
        """Goes on in the engine's successor. Raises as `ClientCore._attachment_steps`."""
        deadline = self._client._reconnect_deadline()
        while True:
            attachment = yield from self._client._attachment_steps()
            try:
                yield from self._stand_again_steps(attachment)
            except NotRunning as error:  # this one has ended, too
                if not error.retriable or time.monotonic() >= deadline:
                    raise
                yield Rest(STOPPING_REST)
            else:
                self._attachment, self._waiter = attachment, None
                return

    def attend_steps(self) -> Steps[None]:
        """Takes the lane to wait in, at the start: it is asked of the supervisor, whom nobody needs who reads on."""
        self._waiter = yield from self._attachment.waiter_steps()

    def _tell_steps(self, look: Any, seconds: float, stream: int) -> Steps[int]:
        """Waits until C finds what ``look`` looks for, given a writer, or so long. Another lane is taken if need be."""
        if self._waiter is None:
            self._waiter = yield from self._attachment.waiter_steps()
        waiter = self._waiter
        code: int = yield Told(waiter, partial(look, waiter.writer), seconds, stream, self._rests)
        if code == lib.RW_FAULT and self._attachment.usable():  # nobody would wake it: waiting there would be no waiting
            self._waiter = yield from self._attachment.other_waiter_steps()
        return code

    def _read_steps(self) -> Steps[list[Item]]:
        """What is there."""
        raise NotImplementedError

    def _wait_steps(self, seconds: float) -> Steps[None]:
        """Waits for more, so long at most. Raises NotRunning: the engine has ended, and there is nothing more of it."""
        raise NotImplementedError

    def _stand_again_steps(self, attachment: Attachment) -> Steps[None]:
        """At the same place in that one. All or nothing. Raises NotRunning, StreamDeleted."""
        raise NotImplementedError


def _rest(seconds: float) -> Steps[None]:
    yield Rest(seconds)


def ended() -> NotRunning:
    return NotRunning("the engine ended, or this client was closed")


class Following(Follow[Record]):
    """One stream. Made by `follow_steps`."""

    def __init__(
        self,
        client: ClientCore[Any],
        attachment: Attachment,
        name: str,
        start: Checked,
        *,
        max_records: int,
        max_bytes: int = BYTES_MAX,
        idle_timeout: float | None,
        on_trimmed: str,
    ) -> None:
        super().__init__(client, attachment, idle_timeout)
        self.name = name
        self._start = start
        self._max_records, self._max_bytes = max_records, max_bytes
        self._on_trimmed = on_trimmed
        self._not_before = start.timestamp_ns if isinstance(start, At) else 0  # a time to come is not an offset yet
        self._handle = 0
        self._cursor: Cursor | None = None  # None: there is no such stream yet
        self._made = -1

    def stand(self, attachment: Attachment, handle: int, offset: int) -> None:
        """Before that record."""
        self._cursor, self._handle = attachment.reader.cursor(handle, offset), handle

    def _read_steps(self) -> Steps[list[Record]]:
        if self._cursor is None:
            yield from self._look_steps()
        cursor = self._cursor
        while cursor is not None:
            try:
                with self._attachment.reading:
                    records = cursor.next(self._max_records, self._max_bytes)
            except OffsetTrimmed as trimmed:
                if self._on_trimmed == "raise" or trimmed.start_offset is None:
                    raise
                cursor.seek(self._handle, trimmed.start_offset)
                continue
            if self._not_before and records:
                records = [record for record in records if record.timestamp_ns >= self._not_before]
                if not records:
                    continue
                self._not_before = 0
            return records
        return []

    def _look_steps(self) -> Steps[None]:
        """Is the stream there by now? Nobody is woken for that, so the next stream's number is looked at."""
        before, self._made = self._made, int(lib.rw_engine_next_number(self._attachment.control))
        if self._made == before:
            return
        with contextlib.suppress(NoSuchStream):
            handle = yield from self._attachment.handle_steps(self.name, look=True)
            start = EARLIEST if self._start is LATEST or isinstance(self._start, Last) else self._start
            self.stand(self._attachment, handle, positions.offset(self._attachment, handle, start))

    def _wait_steps(self, seconds: float) -> Steps[None]:
        attachment, cursor, handle = self._attachment, self._cursor, self._handle
        if cursor is None:
            if not attachment.usable():
                raise ended()
            yield Rest(min(seconds, MISSING_LOOK))
            return
        offset = cursor.offset

        def look(writer: Any, timeout_ns: int) -> int:
            return lib.rw_tail_wait(writer, handle, offset, 0, timeout_ns)

        code = yield from self._tell_steps(look, seconds, handle)
        if (code == lib.RW_GONE or (code != 0 and not attachment.usable())) and offset >= lib.rw_stream_confirmed(
            attachment.control, handle
        ):  # else something was confirmed just before the end
            raise ended()

    def _stand_again_steps(self, attachment: Attachment) -> Steps[None]:
        self._made = -1
        if self._cursor is None:
            return
        number, offset = lib.rw_handle_number(self._handle), self._cursor.offset
        _, confirmed = self._attachment.bounds(self._handle)
        try:
            handle = yield from attachment.handle_steps(self.name, look=True)
        except NoSuchStream:
            if confirmed:
                raise StreamDeleted("the stream was deleted") from None
            # Nothing of it was on the disk, and so it is not there: not before somebody appends to it again.
            self._cursor, self._start = None, offset
            return
        if confirmed and lib.rw_handle_number(handle) != number:
            raise StreamDeleted("the stream was deleted, and another one has its name")
        self.stand(attachment, handle, offset)


def follow_steps(
    client: ClientCore[Any],
    name: str,
    start: Position = LATEST,
    *,
    max_records: int = 1000,
    idle_timeout: float | None = None,
    missing: Missing = "raise",
    on_trimmed: OnTrimmed = "raise",
) -> Steps[Following]:
    """The stream of that name, followed from ``start`` on, which is fixed by this. See `Stream.tail`."""
    place, max_records = positions.checked(start), whole(max_records, "max_records", 1)
    idle_timeout = seconds(idle_timeout, "idle_timeout")
    checked_word(missing, "missing", ("raise", "wait"))
    checked_word(on_trimmed, "on_trimmed", ("raise", "earliest"))

    def stand(attachment: Attachment) -> Steps[Following]:
        following = Following(
            client, attachment, name, place, max_records=max_records, idle_timeout=idle_timeout, on_trimmed=on_trimmed
        )
        try:
            handle = yield from attachment.handle_steps(name, look=True)
        except NoSuchStream:
            if missing != "wait":
                raise
        else:
            following.stand(attachment, handle, positions.offset(attachment, handle, place))
        yield from following.attend_steps()
        return following

    return (yield from client._in_engine_steps(stand))


def found_steps(name: str, attachment: Attachment) -> Steps[tuple[Attachment, int]]:
    return attachment, (yield from attachment.handle_steps(name, look=True))


def read_steps(
    client: ClientCore[Any],
    name: str,
    start: Position,
    max_records: int,
    max_bytes: int | None,
    until: Position,
    wait: float | None,
) -> Steps[list[Record]]:
    """See `Stream.read`."""
    limit = 0.0 if wait is None else seconds(wait, "wait")
    asked = positions.asked(start, max_records, max_bytes, until)
    attachment, handle = yield from client._in_engine_steps(partial(found_steps, name))
    begin, most, records = positions.read_at(attachment, handle, asked)
    if records or limit == 0 or not most:
        return records
    following = Following(
        client,
        attachment,
        name,
        asked.start,
        max_records=most,
        max_bytes=BYTES_MAX if max_bytes is None else max_bytes,
        idle_timeout=limit,
        on_trimmed="raise",
    )
    following.stand(attachment, handle, begin)
    return (yield from following.next_steps()) or []


def range_steps(client: ClientCore[Any], name: str, start: Position, until: Position, on_trimmed: OnTrimmed) -> Steps[Range]:
    """What `Stream.records` gives."""
    begin, end = positions.checked(start), positions.checked(until, "until")
    checked_word(on_trimmed, "on_trimmed", ("raise", "earliest"))
    attachment, handle = yield from client._in_engine_steps(partial(found_steps, name))
    return positions.range_at(attachment, handle, begin, end, from_earliest=on_trimmed == "earliest")
