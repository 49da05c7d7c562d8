"""Showing a whole log to the core, which holds it against its format (csrc/audit.h), stretch by stretch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ringwal._native import ffi, lib
from ringwal.log.checkpoint import STREAM_BYTES
from ringwal.log.pages import Pages

WHAT = {
    lib.RW_AUDIT_REGION: "no valid block",
    lib.RW_AUDIT_HOLE: "a hole that a salvage has left",
    lib.RW_AUDIT_FRAME: "a frame's header is damaged, and what is behind it in its block cannot be found",
    lib.RW_AUDIT_PAYLOAD: "a frame's payload is damaged",
    lib.RW_AUDIT_PADDING: "bytes that have to be zero are not; nothing is lost",
    lib.RW_AUDIT_LOST: "records are missing before this frame",
    lib.RW_AUDIT_MISPLACED: "a block whose kind or span does not belong there",
    lib.RW_AUDIT_NUMBER: "a block whose number does not follow the one before",
    lib.RW_AUDIT_TIME: "a block whose time is before that of a block in front of it: reads from a time may miss it",
    lib.RW_AUDIT_USED: "a block whose frames do not end where it says",
    lib.RW_AUDIT_JOINED: "a block with a joint append of which parts are missing, or are none",
    lib.RW_AUDIT_EARLY: "a frame of a stream whose number was not given out yet",
    lib.RW_AUDIT_REPEAT: "a frame at an offset that was given out before",
    lib.RW_AUDIT_RENAMED: "a stream is defined again, under another name",
    lib.RW_AUDIT_DELETED: "a frame of a stream that was deleted before",
    lib.RW_AUDIT_TRIM: "records are dropped that the stream does not have",
}


class Finding(NamedTuple):
    """One thing that is not as the format says. Log positions; `stream` is a number, where there is one to name."""

    kind: int
    place: int
    """Of the first bad byte."""
    until: int
    """Behind what is lost with it, where that is a part of the log."""
    stream: int | None
    first: int
    """Offsets of the stream that are lost: first <= offset < next."""
    next: int
    since: int
    """LOST: the last block in which the stream was met."""
    block: int = 0
    """Where the block begins that it is in, if it is in one."""


class Audit:
    """A walk through the blocks of a log, oldest epoch first. A context manager."""

    def __init__(self, pages: Pages, uuid: bytes, segment_bytes: int, *, deep: bool) -> None:
        self._pages = pages
        self.state: Any = lib.rw_audit_open(uuid, segment_bytes)
        if self.state == ffi.NULL:
            raise MemoryError("no memory for an audit")
        self.state.deep = deep

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *_: object) -> None:
        lib.rw_audit_close(self.state)
        self.state = ffi.NULL

    def begin(self, epoch: int, begin: int, position: int) -> None:
        """The next walk is through that epoch, whose first block lies at `begin`, from `position` on."""
        state = self.state
        state.epoch, state.begin, state.position, state.end = epoch, begin, position, position
        lib.rw_audit_begin(state)

    def walk(self, end: int) -> Iterator[Finding]:
        """Go on to `end`, which is a block's begin, or what is behind the last one. Raises OSError."""
        state = self.state
        state.end = end
        window, base, held = self._pages.show(state.position, 0) if state.position < end else (ffi.NULL, 0, 0)
        while True:
            status = lib.rw_audit_step(state, window, base, held)
            if status == lib.RW_OK:
                return
            if status == lib.RW_FULL:
                raise MemoryError("no memory for the table of streams")
            if status == lib.RW_PENDING:
                window, base, held = self._pages.show(state.show, state.wanted)
                continue
            stream = None if state.stream == lib.RW_NO_STREAM else int(state.stream)
            first, following, since = int(state.first), int(state.next), int(state.since)
            at = int(state.block.position)
            yield Finding(int(state.finding), int(state.place), int(state.until), stream, first, following, since, at)

    def meet(self, row: bytes) -> None:
        """From here on that row of a checkpoint is what is known of its stream."""
        with ffi.from_buffer("rw_checkpoint_stream[]", row) as data:
            if lib.rw_audit_meet(self.state, data) != lib.RW_OK:
                raise MemoryError("no memory for the table of streams")

    def streams(self) -> Iterator[Any]:
        """Every stream that was met: `rw_recovery_stream *`, good until the walk goes on."""
        for place in range(lib.rw_audit_streams(self.state)):
            yield lib.rw_audit_stream_of(self.state, place)

    def stream(self, number: int) -> Any:
        """That of a number; None: it was not met."""
        found = lib.rw_audit_find(self.state, number)
        return None if found == ffi.NULL else found


TAKES = (
    lib.RW_AUDIT_REGION, lib.RW_AUDIT_HOLE, lib.RW_AUDIT_FRAME, lib.RW_AUDIT_PAYLOAD, lib.RW_AUDIT_USED, lib.RW_AUDIT_JOINED,
)  # fmt: skip
"""Findings of which each is a part of the log that is gone: offsets may be missing behind it."""


def ends_epoch(finding: Finding, watermark: int) -> bool:
    """Does an epoch of which nobody states the cut end there?"""
    return finding.kind in TAKES and finding.kind != lib.RW_AUDIT_HOLE and begin_of(finding) >= watermark


def begin_of(finding: Finding) -> int:
    """Where the place without a valid block begins that it is about."""
    return finding.place if finding.kind == lib.RW_AUDIT_REGION else finding.block


def name_in(entry: Any) -> str | None:
    """The name of a stream that was met; None: its definition was not."""
    return bytes(ffi.buffer(entry.name)[: entry.name_bytes]).decode(errors="replace") if entry.name_bytes else None


def settings_in(entry: Any) -> bytes:
    """The settings of a stream that was met, as a checkpoint's row has them; nothing where none were."""
    held = bytes(ffi.buffer(entry.settings))
    return held if any(held) else b""


def packed_rows(streams: bytes) -> Iterator[bytes]:
    """The rows of a checkpoint, each as its bytes."""
    return (streams[at : at + STREAM_BYTES] for at in range(0, len(streams), STREAM_BYTES))
