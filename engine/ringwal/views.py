"""Reading shared words: all of a struct at once, through C, which names the order of the loads (csrc/views.h).

Each function returns a pointer to a private struct that holds what was there when it was called: fields as in
csrc/layout.h, without those that are no plain words. It changes no more. What a loop reads again and again is asked of C by
itself (`lib.rw_engine_state` and its like), and nothing reads a field of a shared struct.
"""

from __future__ import annotations

from typing import Any

from ringwal._native import ffi, lib


def engine(control: Any) -> Any:
    """`rw_engine_view *` of a mapped `rw_control *`."""
    seen = ffi.new("rw_engine_view *")
    lib.rw_view_engine(control, seen)
    return seen


def progress(header: Any) -> Any:
    """`rw_progress_view *` of a mapped `rw_progress *`."""
    seen = ffi.new("rw_progress_view *")
    lib.rw_view_progress(header, seen)
    return seen


def slot(control: Any, k: int) -> Any:
    """`rw_slot_view *` of the slot of that number, which must be below max_clients."""
    seen = ffi.new("rw_slot_view *")
    lib.rw_view_slot(lib.rw_slot_of(control, k), seen)
    return seen


def stream(control: Any, number: int) -> Any:
    """`rw_stream_view *` of the stream of that number, which must be below max_streams."""
    seen = ffi.new("rw_stream_view *")
    lib.rw_view_stream(lib.rw_stream_of(control, number), seen)
    return seen


def lane(header: Any) -> Any:
    """`rw_lane_view *` of a mapped `rw_lane *`."""
    seen = ffi.new("rw_lane_view *")
    lib.rw_view_lane(header, seen)
    return seen
