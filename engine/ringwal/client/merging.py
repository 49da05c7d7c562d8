"""Several streams followed together, in log order, as steps: what `Client.tail` is in both faces.

Log order is the order of blocks and of frames in them. A reader is shown the log up to the place below which everything is
confirmed; so whatever was written together is seen together, or not yet. One lane place wakes it, whatever the streams.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ringwal import positions
from ringwal._native import lib
from ringwal.client.following import Follow, Missing, OnTrimmed, checked_word, ended
from ringwal.errors import NoSuchStream, OffsetTrimmed, StreamDeleted
from ringwal.limits import seconds, whole
from ringwal.model import EARLIEST, LATEST, Last, StreamRecord
from ringwal.protocol.messages import check_stream_name
from ringwal.read.merged import Wanted
from ringwal.read.range import BYTES_MAX
from ringwal.steps import Steps
from ringwal.times import At

if TYPE_CHECKING:
    from ringwal.client.attachment import Attachment
    from ringwal.client.core import ClientCore
    from ringwal.positions import Checked, Position
    from ringwal.read.merged import MergedCursor


class Merging(Follow[StreamRecord]):
    """Made by `merge_steps`."""

    def __init__(
        self,
        client: ClientCore[Any],
        attachment: Attachment,
        starts: Mapping[str, Checked],
        *,
        max_records: int,
        idle_timeout: float | None,
        on_trimmed: str,
    ) -> None:
        super().__init__(client, attachment, idle_timeout)
        self._max_records = max_records
        self._on_trimmed = on_trimmed
        self._not_before = {name: start.timestamp_ns for name, start in starts.items() if isinstance(start, At)}
        self._awaited: dict[str, Checked] = dict(starts)  # streams that are not there yet
        self._handles: dict[str, int] = {}
        self._cursor: MergedCursor | None = None
        self._made = -1
        self._seen = 0  # log position up to which the latest look went

    # --------------------------------------------------------------------------------------------------- standing

    def stand_steps(self, *, missing: str) -> Steps[None]:
        """At the beginning, which is fixed by this. Raises NoSuchStream."""
        wanted: dict[str, Wanted] = {}
        for name, start in list(self._awaited.items()):
            try:
                handle = yield from self._attachment.handle_steps(name, look=True)
            except NoSuchStream:
                if missing != "wait":
                    raise
                continue
            wanted[name] = Wanted(handle, positions.offset(self._attachment, handle, start))
        self._stand(self._attachment, wanted)

    def _stand(self, attachment: Attachment, wanted: Mapping[str, Wanted]) -> None:
        self._cursor = attachment.reader.merged(wanted)
        self._handles = {name: each.handle for name, each in wanted.items()}
        for name in wanted:
            self._awaited.pop(name, None)

    def numbers(self) -> dict[str, int]:
        """Of the streams that are there."""
        return {name: int(lib.rw_handle_number(handle)) for name, handle in self._handles.items()}

    def _look_steps(self) -> Steps[None]:
        """Are awaited streams there by now? One that was not there when the end of the log was looked up has nothing before."""
        before, self._made = self._made, int(lib.rw_engine_next_number(self._attachment.control))
        assert self._cursor is not None
        for name, start in list(self._awaited.items()) if self._made != before else ():
            with contextlib.suppress(NoSuchStream):
                handle = yield from self._attachment.handle_steps(name, look=True)
                first = EARLIEST if start is LATEST or isinstance(start, Last) else start
                self._cursor.add(name, Wanted(handle, positions.offset(self._attachment, handle, first)))
                self._handles[name] = handle
                del self._awaited[name]

    def _stand_again_steps(self, attachment: Attachment) -> Steps[None]:
        assert self._cursor is not None
        wanted: dict[str, Wanted] = {}
        lost: dict[str, Checked] = {}
        for name, offset in self._cursor.offsets().items():
            number = lib.rw_handle_number(self._handles[name])
            _, confirmed = self._attachment.bounds(self._handles[name])
            try:
                handle = yield from attachment.handle_steps(name, look=True)
            except NoSuchStream:
                if confirmed:
                    raise StreamDeleted(f"stream {name!r} was deleted") from None
                lost[name] = offset  # nothing of it was on the disk: not there before somebody appends to it again
                continue
            if confirmed and lib.rw_handle_number(handle) != number:
                raise StreamDeleted(f"stream {name!r} was deleted, and another one has its name")
            wanted[name] = Wanted(handle, offset)
        self._stand(attachment, wanted)
        self._awaited.update(lost)
        self._made = -1

    # ---------------------------------------------------------------------------------------------------- reading

    def _read_steps(self) -> Steps[list[StreamRecord]]:
        cursor = self._cursor
        assert cursor is not None
        while True:
            # Before the look for awaited streams: what one of them has lies at or behind this.
            self._seen = int(lib.rw_log_disk_end(self._attachment.control))
            if self._awaited:
                yield from self._look_steps()
            try:
                with self._attachment.reading:
                    records = cursor.next(self._max_records, BYTES_MAX, self._seen)
            except OffsetTrimmed as trimmed:
                if self._on_trimmed == "raise" or trimmed.stream is None or trimmed.start_offset is None:
                    raise
                cursor.pass_over(trimmed.stream, trimmed.start_offset)
                continue
            if self._not_before and records:
                records = self._of_their_time(records)
                if not records:
                    continue
            return records

    def _of_their_time(self, records: list[StreamRecord]) -> list[StreamRecord]:
        """A time that lay ahead of a stream's end was not an offset."""
        kept = []
        for record in records:
            if record.timestamp_ns >= self._not_before.get(record.stream, 0):
                self._not_before.pop(record.stream, None)
                kept.append(record)
        return kept

    def _wait_steps(self, seconds: float) -> Steps[None]:
        attachment, seen = self._attachment, self._seen

        def look(writer: Any, timeout_ns: int) -> int:
            return lib.rw_log_wait(writer, seen, timeout_ns)

        code = yield from self._tell_steps(look, seconds, lib.RW_ANY_STREAM)
        gone = code == lib.RW_GONE or (code != 0 and not attachment.usable())
        if gone and seen >= lib.rw_log_disk_end(attachment.control):  # else something was confirmed just before the end
            raise ended()


def merge_steps(
    client: ClientCore[Any],
    starts: Mapping[str, Position],
    *,
    max_records: int = 1000,
    idle_timeout: float | None = None,
    missing: Missing = "raise",
    on_trimmed: OnTrimmed = "raise",
) -> Steps[Merging]:
    """These streams, followed together. See `Client.tail`."""
    if not isinstance(starts, Mapping) or not starts:
        raise ValueError("streams must be a mapping of at least one stream's name to where it begins")
    for name in starts:
        check_stream_name(name)
    places = {name: positions.checked(start, f"start of {name!r}") for name, start in starts.items()}
    max_records, idle_timeout = whole(max_records, "max_records", 1), seconds(idle_timeout, "idle_timeout")
    checked_word(missing, "missing", ("raise", "wait"))
    checked_word(on_trimmed, "on_trimmed", ("raise", "earliest"))

    def stand(attachment: Attachment) -> Steps[Merging]:
        merging = Merging(
            client, attachment, places, max_records=max_records, idle_timeout=idle_timeout, on_trimmed=on_trimmed
        )
        yield from merging.stand_steps(missing=missing)
        yield from merging.attend_steps()
        return merging

    return (yield from client._in_engine_steps(stand))
