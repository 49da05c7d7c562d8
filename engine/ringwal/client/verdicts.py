"""What is found instead of an offset where an append was refused alone (csrc/layout.h: rw_verdict)."""

from __future__ import annotations

from ringwal._native import lib
from ringwal.errors import Error, OffsetMismatch, of_code

DELETED = int(lib.RW_DELETED)
ANSWERED = -(1 << 62)
"""What lies below has a reason, and a number that belongs to it (csrc/layout.h, RW_ANSWERED)."""
_VALUES = int(lib.RW_ANSWER_VALUES) - 1


def is_refused(found: int) -> bool:
    """Was the append with that result refused alone, and certainly not made?"""
    return found == DELETED or found < ANSWERED


def error_of(found: int, stream: str | None) -> Error:
    """What its caller is told."""
    if found == DELETED:
        return of_code(DELETED, "" if stream is None else repr(stream))
    name, actual = "the stream" if stream is None else repr(stream), found & _VALUES
    return OffsetMismatch(
        f"{name} goes on at offset {actual}, and this append was to be made at another one; nothing was appended: read what is"
        f" there by now, then append with expected_offset={actual}",
        actual,
    )
