"""Records as text in one buffer, made by one pass of C (csrc/lines.h)."""

from __future__ import annotations

from typing import Any, Literal

from ringwal._native import ffi, lib
from ringwal.read.window import Window

BUFFER_BYTES = 1 << 20
Form = Literal["raw", "lines", "json"]
"""Payloads back to back; a newline behind each; an object with offset, timestamp_ns, encoding and data a line."""
_FORMS = {"raw": lib.RW_FORM_RAW, "lines": lib.RW_FORM_LINES, "json": lib.RW_FORM_JSON}


class Lines:
    """Takes records from a walk as text, until its buffer is full; see `Records` for the steps."""

    def __init__(self, form: Form) -> None:
        self._lines = ffi.new("rw_lines *", {"form": _FORMS[form]})
        self._data: Any = None
        self._mark = (0, 0)
        self._kept = (0, 0)  # bytes and records
        self._wanted = 0
        self._make(BUFFER_BYTES)

    def begin(self, max_records: int) -> None:
        """A new request: the buffer is empty again."""
        self._lines.used, self._kept = 0, (0, 0)
        self._lines.records_left = self._wanted = max_records

    def text(self) -> memoryview:
        """What has been kept, up to the next `begin`."""
        return memoryview(self._data)[: self._kept[0]]

    def take(self, window: Window, walk: Any) -> int:
        """What the walk comes upon in the window. Returns its ``rw_walk_stop``."""
        lines = self._lines
        self._mark = lines.used, lines.records_left
        return int(lib.rw_walk_lines(window.area, walk, lines))

    def keep(self) -> None:
        """What was taken last is good."""
        self._kept = int(self._lines.used), self._wanted - int(self._lines.records_left)

    def undo(self) -> None:
        """What was taken last is void."""
        self._lines.used, self._lines.records_left = self._mark

    def full(self) -> bool:
        """When the walk stopped for want of room: is that all that was wanted? A record that is larger than the buffer gets a
        larger one."""
        if self._lines.used == 0 and self._lines.records_left:
            self._make(2 * len(self._data))
            return False
        return True

    def any(self) -> bool:
        """Has something been kept?"""
        return self._kept[1] > 0

    def _make(self, size: int) -> None:
        self._data = bytearray(size)
        self._lines.out, self._lines.capacity = ffi.from_buffer("uint8_t[]", self._data), size
