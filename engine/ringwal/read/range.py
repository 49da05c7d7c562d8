"""The records of a stream from one offset up to another, once, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from ringwal.errors import CorruptionError, OffsetTrimmed
from ringwal.model import Record
from ringwal.read.lines import Form, Lines
from ringwal.read.reader import Reader

RECORDS_MAX = 10_000
BYTES_MAX = 4 << 20
"""So many records, or bytes of them, are held at once."""


class Range:
    """Offsets start <= offset < end of the stream of that handle, which are confirmed."""

    def __init__(
        self, reader: Reader, handle: int, start: int, end: int, errors: AbstractContextManager[None], *,
        from_earliest: bool = False,
    ) -> None:  # fmt: skip
        """``errors`` is entered around each read: it says what an OSError means. ``from_earliest``: where records are trimmed,
        `records` goes on with the oldest one that is kept."""
        self._cursor, self._handle = reader.cursor(handle, start), handle
        self._end = end
        self._errors = errors
        self._from_earliest = from_earliest

    def records(self) -> Iterator[Record]:
        """Each record. Raises as `Reader.read`."""
        cursor, end = self._cursor, self._end
        while cursor.offset < end:
            try:
                with self._errors:
                    records = cursor.next(min(RECORDS_MAX, end - cursor.offset), BYTES_MAX)
            except OffsetTrimmed as trimmed:
                if not self._from_earliest or trimmed.start_offset is None:
                    raise
                cursor.seek(self._handle, trimmed.start_offset)
                continue
            yield from records

    def text(self, form: Form, gap: Callable[[CorruptionError], None] | None = None) -> Iterator[memoryview]:
        """The records as text, in pieces, each of which is good until the next one. Raises as `Reader.read`; but where damage
        takes some and not all behind, ``gap`` is told, if there is one, and it goes on behind them."""
        cursor, end, lines = self._cursor, self._end, Lines(form)
        while cursor.offset < end:
            lines.begin(end - cursor.offset)
            try:
                with self._errors:
                    cursor.fill(lines, end - cursor.offset)
            except CorruptionError as damage:
                if gap is None or damage.next_offset is None:
                    raise
                gap(damage)
                cursor.seek(self._handle, damage.next_offset)
                continue
            yield lines.text()
