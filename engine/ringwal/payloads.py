"""What callers give as records: any buffers, and how long they are."""

from __future__ import annotations

import array
from typing import Any

from ringwal._native import ffi, lib
from ringwal.config import LANE_BYTES_MAX
from ringwal.errors import RecordTooLarge


def lengths_of(items: tuple[bytes, ...]) -> array.array[int]:
    """The lengths of the items."""
    sizes = list(map(len, items))
    try:
        small = bytes(sizes)  # and widened in C: half the time of `array` with a list
    except ValueError:
        try:
            return array.array("I", sizes)
        except OverflowError:
            limit = LANE_BYTES_MAX // 2
            raise RecordTooLarge(f"a record of {max(sizes)} bytes; no lane takes more than {limit}", limit) from None
    lengths = array.array("I", bytes(4 * len(sizes)))
    lib.rw_lengths_widen(small, len(small), ffi.from_buffer("uint32_t[]", lengths))
    return lengths


def buffer_of(data: Any) -> memoryview:
    """A flat view of any C-contiguous buffer.

    Raises:
        TypeError: text, or not a buffer.
    """
    if isinstance(data, str):
        raise TypeError("a record is bytes, not str: encode it first, for example data.encode()")
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"a record is a bytes-like object, not {type(data).__name__}") from None
    if not view.c_contiguous:
        raise TypeError("a record must be C-contiguous; copy it first, for example bytes(data)")
    return view.cast("B") if view.nbytes else memoryview(b"")
