"""What lies behind the last watermark of a log that is salvaged: blocks that may have been in flight when the engine died.

Nobody says that a block which is missing there had ever been written. So what counts is what a start would carry over
(recover.h): the frames that go on in their streams without a gap. Everything up to the first missing block counts as it is.

A joint append counts if each of its parts does. Its block is whole, so all of them are there.

Where something is lost before, it is not known of every stream where it stood. Of such a stream the first frame that is met
is taken: the gap before it may be what is lost.
"""

from __future__ import annotations

from collections.abc import Iterator

from ringwal._native import ffi, lib
from ringwal.log.audit import Audit
from ringwal.log.files import PAGE
from ringwal.log.salvage_blocks import Blocks, Copy, Frame

_QUEUED = (lib.RW_FRAME_BATCH, lib.RW_FRAME_TRIM, lib.RW_FRAME_DELETE, lib.RW_FRAME_SETTINGS)


class Tail:
    """One pass over it."""

    def __init__(self, blocks: Blocks, copy: Copy, audit: Audit, epoch: int, lost_at: int) -> None:
        """`audit` has come to where it begins; something is lost before log position `lost_at`, 0: nothing is."""
        self._blocks, self._copy, self._epoch = blocks, copy, epoch
        lives = lib.RW_RECOVERY_STREAM_DEFINED
        # By number, the next offset; None: the stream has ended, or is broken.
        self._next = {int(one.number): int(one.next_offset) if one.state == lives else None for one in audit.streams()}
        self._certain = {int(one.number) for one in audit.streams() if one.seen_at >= lost_at}
        self._lost = lost_at > 0

    def copy(self, begin: int, end: int) -> int:
        """Copies what counts between two log positions. Returns where the new log ends. Raises OSError."""
        made, position, hole = begin, begin, False
        while position < end:
            head = self._blocks.header(self._epoch, position, end)
            span, length = (PAGE, 0) if head is None else (int(head.span), int(head.length))
            if head is None or not self._blocks.is_whole(position, length):
                hole, position = True, position + span
                continue
            found = list(self._blocks.frames(self._epoch, position, position + int(head.used)))
            joins = head.kind != lib.RW_BLOCK_HOLE  # in a hole the flag says nothing
            frames = [frame for parts in _appended(found, joins=joins) for frame in self._taken(parts, hole=hole)]
            if not hole:
                body = b"".join(frame.raw for frame in found)  # with zeros where they have to be
                self._copy.put(position, bytearray((bytes(ffi.buffer(head)) + body).ljust(length, b"\0")))
            elif frames:
                self._cover(made, position)
                self._copy.hole(self._epoch, position, span, frames)
            made = position + span if frames or not hole else made
            position += span
        return made

    def _taken(self, parts: list[Frame], *, hole: bool) -> list[Frame]:
        """Those that count: of a joint append behind a hole all or none."""
        if hole and len(parts) > 1 and not all(map(self._goes_on, parts)):
            self._next.update((part.stream, None) for part in parts)
            return []
        return [frame for frame in parts if self._takes(frame, hole=hole)]

    def _goes_on(self, frame: Frame) -> bool:
        return self._next.get(frame.stream) == frame.base or self._may_follow(frame)

    def _takes(self, frame: Frame, *, hole: bool) -> bool:
        """Does it count? Then its stream goes on with it."""
        number = frame.stream
        if frame.kind == lib.RW_FRAME_STREAM:
            new = number not in self._next and frame.base == 0
            if new:
                self._next[number] = 0
                self._certain.add(number)
            return new or not hole
        if frame.kind not in _QUEUED:
            return not hole
        if not self._goes_on(frame):
            self._next[number] = None
            return not hole
        self._certain.add(number)
        self._next[number] = None if frame.kind == lib.RW_FRAME_DELETE else frame.base + frame.records
        return True

    def _may_follow(self, frame: Frame) -> bool:
        """Is the gap before it what is lost?"""
        if not self._lost or frame.stream in self._certain:
            return False
        following = self._next.get(frame.stream, 0)
        return following is not None and frame.base > following

    def _cover(self, begin: int, end: int) -> None:
        """Holes for all between, one in each segment."""
        size = self._blocks.segment_bytes
        while begin < end:
            until = min(end, (begin // size + 1) * size)
            self._copy.hole(self._epoch, begin, until - begin, ())
            begin = until


def _appended(frames: list[Frame], *, joins: bool) -> Iterator[list[Frame]]:
    """The parts of each joint append, and every other frame alone."""
    parts: list[Frame] = []
    for frame in frames:
        parts.append(frame)
        if not (joins and frame.joined):
            yield parts
            parts = []
