"""Where in a stream a moment is. Timestamps of a stream never go back from one offset to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringwal.errors import OffsetTrimmed, StreamDeleted

if TYPE_CHECKING:
    from ringwal.read.reader import Reader


def offset_at(reader: Reader, stream: int, timestamp_ns: int) -> int:
    """See `Reader.offset_at`."""
    found = reader.bounds.look(stream)
    if found is None:
        raise StreamDeleted("the stream was deleted")
    low, high = found
    while low < high:
        middle = (low + high) // 2
        try:
            (record,) = reader.read(stream, middle, 1)
        except OffsetTrimmed as error:  # meanwhile
            low = min(high, max(low, error.start_offset or 0))
            continue
        if record.timestamp_ns < timestamp_ns:
            low = middle + 1
        else:
            high = middle
    return low
