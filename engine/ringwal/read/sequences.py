"""Where the record of a producer is, by its sequence: for a repeat of which the engine does not remember the offset.

A producer's records stand in their stream in the order of their sequences, among those of others. So the place is found by
halving; from a record of somebody else the search goes on to the next one of this producer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ringwal.errors import OffsetTrimmed

if TYPE_CHECKING:
    from ringwal.read.reader import Reader
    from ringwal.read.records import Origin


class Place(NamedTuple):
    """Where a producer's record is."""

    offset: int
    """-1: it is not there (any more)."""
    epoch: int
    """Of the claim under which it was appended."""
    trimmed: bool
    """Records that may have been it are trimmed."""


def place_of(reader: Reader, stream: int, producer: int, sequence: int) -> Place:
    """``stream`` is a handle, ``producer`` its number. Raises as `Reader.read`."""
    found = reader.bounds.look(stream)
    start, high = (0, 0) if found is None else (found.start_offset, found.confirmed_offset)
    low = max(start, sequence)
    while low < high:
        middle = (low + high) // 2
        try:
            origin = _next_of(reader, stream, producer, middle, high)
        except OffsetTrimmed as trimmed:  # meanwhile
            start = trimmed.start_offset or 0
            low = max(low, start)
            continue
        if origin is None or sequence < origin.sequence:
            high = middle
        elif sequence < origin.sequence + origin.count:
            return Place(origin.first + sequence - origin.sequence, origin.epoch, trimmed=False)
        else:
            low = origin.first + origin.count
    return Place(-1, 0, trimmed=start > 0)


def _next_of(reader: Reader, stream: int, producer: int, offset: int, end: int) -> Origin | None:
    """The first frame of the producer that ends behind that offset."""
    while offset < end:
        origin = reader.origin_of(stream, offset)
        if origin.producer == producer:
            return origin
        offset = origin.first + origin.count
    return None
