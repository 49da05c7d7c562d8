"""What an engine's memory says of its consumers (csrc/owners.h): for clients, for its own report, and for whoever looks at an
engine that does not answer."""

from __future__ import annotations

from typing import Any, NamedTuple

from ringwal import views
from ringwal._native import ffi, lib


class Row(NamedTuple):
    """Of a consumer in one of its streams."""

    name: str
    stream: int
    """Number of the stream."""
    committed: int
    epoch: int
    timestamp_ns: int


def rows(control: Any) -> list[Row]:
    """Of all consumers, in no order. One that is just being stored may be missing."""
    room = ffi.new("rw_checkpoint_owner[]", max(int(views.engine(control).max_owners), 1))
    return [
        Row(
            bytes(ffi.buffer(row.name, row.name_bytes)).decode(errors="replace"),
            int(row.stream),
            int(row.next_sequence),
            int(row.epoch),
            int(row.timestamp_ns),
        )
        for row in (room[i] for i in range(lib.rw_owners_list(control, room)))
        if row.kind == lib.RW_OWNER_CONSUMER
    ]


def lag(committed: int, start: int, confirmed: int) -> int:
    """Confirmed records of a stream with these bounds that are kept, and not committed."""
    return max(0, confirmed - max(committed, start))


def summary(control: Any) -> dict[str, int]:
    """How many there are, and the lag of the one that is furthest behind in a stream. Only streams that are read are looked at:
    there may be very many others."""
    found = rows(control)
    bounds = _bounds(control, {row.stream for row in found})
    lags = [lag(row.committed, *bounds[row.stream]) for row in found if row.stream in bounds]
    return {"count": len({row.name for row in found}), "largest_lag": max(lags, default=0)}


def _bounds(control: Any, numbers: set[int]) -> dict[int, tuple[int, int]]:
    """Start and confirmed offset of the streams of these numbers, as far as they live."""
    found: dict[int, tuple[int, int]] = {}
    if not numbers:
        return found
    seen = ffi.new("rw_stream_bounds *")
    for place in range(views.engine(control).stream_count):
        number = lib.rw_stream_number(lib.rw_stream_of(control, place))
        if number in numbers and lib.rw_stream_look(control, lib.rw_handle(place, number), seen) == lib.RW_OK:
            found[number] = int(seen.start_offset), int(seen.confirmed_offset)
    return found
