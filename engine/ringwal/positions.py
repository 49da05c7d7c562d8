"""Where a read begins and ends: what callers say, as offsets. The one place that knows every way of saying it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringwal.limits import WHOLE_MAX, shown, whole
from ringwal.read.range import Range

if TYPE_CHECKING:
    from ringwal.attachment import Attachment

EARLIEST = -2
"""``start`` of a read or tail: the oldest record the stream still has."""
LATEST = -1
"""``start`` of a tail: only what is confirmed from now on."""


def checked(position: int, name: str = "start") -> int:
    """Raises ValueError: neither an offset nor one of the two words for one."""
    try:
        return whole(position, name, EARLIEST)
    except ValueError:
        wanted = f"an offset from 0 to {WHOLE_MAX}, EARLIEST or LATEST"
        raise ValueError(f"{name} is {shown(position)}; it must be {wanted}") from None


def offset(attachment: Attachment, handle: int, position: int) -> int:
    """The offset that a `checked` position means in that stream, now. Raises StreamDeleted."""
    return position if position >= 0 else attachment.bounds(handle)[1 if position == LATEST else 0]


def range_of(attachment: Attachment, name: str, start: int, until: int) -> Range:
    """The records between two `checked` positions of the stream of that name, as far as they are confirmed now.

    Raises NoSuchStream.
    """
    handle = attachment.handle_of(name, look=True)
    end = min(offset(attachment, handle, until), offset(attachment, handle, LATEST))
    return Range(attachment.reader, handle, offset(attachment, handle, start), end, attachment.reading)
