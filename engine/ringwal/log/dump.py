"""`ringwal dump`: the blocks and frames of a log, one after the other, for people who look for something. Changes nothing.

It shows what is there, good or bad, and holds one block in memory. What lies behind the end of the epoch in force is shown,
too, as a start might carry it over; where an engine runs, nothing behind its checkpoint.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import Any

from ringwal._native import ffi, lib
from ringwal.log import segment, settings
from ringwal.log.checkpoint import EpochRow
from ringwal.log.directory import SEGMENTS, Directory
from ringwal.log.files import ANY_LENGTH, PAGE
from ringwal.log.pages import Pages
from ringwal.log.premise import Premise, gather

BLOCKS = {
    lib.RW_BLOCK_DATA: "data",
    lib.RW_BLOCK_EPOCH: "epoch",
    lib.RW_BLOCK_END: "end",
    lib.RW_BLOCK_HOLE: "hole",
}
FRAMES = {
    lib.RW_FRAME_BATCH: "batch",
    lib.RW_FRAME_STREAM: "definition",
    lib.RW_FRAME_TRIM: "trim",
    lib.RW_FRAME_DELETE: "delete",
    lib.RW_FRAME_VERDICT: "verdict",
    lib.RW_FRAME_DROP: "drop",
    lib.RW_FRAME_SETTINGS: "settings",
    lib.RW_FRAME_CLAIM: "claim",
    lib.RW_FRAME_COMMIT: "commit",
}
_HEADER, _FRAME = ffi.sizeof("rw_block"), ffi.sizeof("rw_frame")
_ROW = struct.Struct("<IIQ")
"""Of a drop; a verdict and the head of a claim are three such numbers, too."""


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a block. `wrong` says what is wrong with it, None: nothing."""

    position: int
    kind: str
    stream: int | None
    """Its number."""
    name: str | None
    """As far as it is known here."""
    offset: int
    records: int
    payload_bytes: int
    timestamp_ns: int
    wrong: str | None
    says: dict[str, Any]
    """What the payload of a control frame says, the times of a batch's records, where they have some of their own, whose
    producer's or consumer's it is, and which part of which joint append."""


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A block whose header is good, and its frames, up to the first whose header is not."""

    position: int
    epoch: int
    number: int
    kind: str
    length: int
    span: int
    watermark: int
    timestamp_ns: int
    previous: EpochRow | None
    """EPOCH: the epoch before."""
    frames: tuple[Frame, ...]
    wrong: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """A part of an epoch without a valid block."""

    position: int
    until: int
    epoch: int
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """What the log says of itself, before its blocks."""

    uuid: str
    segment_bytes: int
    first_segment: int
    named_end: int
    claimed: int
    end: int
    checkpoint: int | None
    """Log position that it is about."""
    streams: int
    epochs: tuple[EpochRow, ...]
    faults: tuple[tuple[str, int, str], ...]


Item = Head | Block | Gap


class Dump:
    """Goes through a log once. `file_of` says where a log position is."""

    def __init__(self, directory: Directory, *, running: bool = False) -> None:
        """Raises as `premise.gather`."""
        self._premise = gather(directory)
        self._running = running
        self.segment_bytes = self._premise.manifest.segment_bytes
        self._pages = Pages(directory, self.segment_bytes)
        known = self._premise.checkpoint
        self.names = {row.number: row.name for row in known.rows()} if known is not None else {}
        """Of streams, by number, as far as they are known by now."""
        self.owners = {row.number: (row.kind, row.name) for row in known.owner_rows()} if known is not None else {}
        """Kinds and names of producers and consumers."""

    def file_of(self, position: int) -> tuple[str, int]:
        """File, relative to the directory, and byte in it."""
        number, at = divmod(position, self.segment_bytes)
        return f"{SEGMENTS}/{segment.name_of(number)}", segment.HEADER_BYTES + at

    def head(self) -> Head:
        """What comes first."""
        premise = self._premise
        state, known = premise.manifest, premise.checkpoint
        return Head(
            uuid=state.uuid.hex(),
            segment_bytes=state.segment_bytes,
            first_segment=state.first_segment,
            named_end=state.named_end,
            claimed=state.claimed,
            end=state.end,
            checkpoint=known.position if known else None,
            streams=len(self.names),
            epochs=premise.epochs,
            faults=tuple(premise.faults),
        )

    def items(self, start: int = 0) -> Iterator[Block | Gap]:
        """Every block, and every place without one, from log position `start` on. Raises OSError."""
        premise = self._premise
        try:
            for row in premise.epochs:
                begin, end = max(row.begin, premise.begin, start // PAGE * PAGE), self._end(row)
                if begin < end:
                    yield from self._epoch(premise, row, begin, end, sought=begin > max(row.begin, premise.begin))
        finally:
            self._pages.close()

    def _end(self, row: EpochRow) -> int:
        manifest = self._premise.manifest
        if row.end:
            return row.end
        return manifest.checkpoint_position if self._running or manifest.end else self._premise.end

    def _epoch(self, premise: Premise, row: EpochRow, begin: int, end: int, *, sought: bool) -> Iterator[Block | Gap]:
        """`sought`: nobody says that a block lies at `begin`, so none is missed up to the first."""
        position, gap = begin, -1
        while position < end:
            head = self._header(row.epoch, position)
            if head is None:
                gap = position if gap < 0 else gap
                position += PAGE
                continue
            if gap >= 0 and not sought:
                yield self._gap(gap, position, row.epoch)
            gap, sought = -1, False
            yield self._block(position, head)
            position += int(head.span)
        sure = row.end or premise.manifest.checkpoint_position
        if gap >= 0 and gap < sure and row.epoch not in premise.open:
            yield self._gap(gap, min(end, sure), row.epoch)

    def _gap(self, position: int, until: int, epoch: int) -> Gap:
        return Gap(position, until, epoch, self._pages.why(position, until) or "no valid block")

    def _header(self, epoch: int, position: int) -> Any:
        """A copy; None: there is no valid block."""
        page = self._pages.bytes_at(position, _HEADER)
        left = self.segment_bytes - position % self.segment_bytes
        if lib.rw_block_check(page, ANY_LENGTH, self._premise.manifest.uuid, epoch, position) != lib.RW_OK:
            return None
        head = ffi.new("rw_block *")
        ffi.memmove(head, page, _HEADER)
        return head if head.span <= left else None

    # ------------------------------------------------------------------------------------------------------- frames

    def _block(self, position: int, head: Any) -> Block:
        data = self._pages.bytes_at(position, int(head.length))
        frames, wrong = self._frames(position, head, data)
        previous = EpochRow(int(head.previous_epoch), int(head.previous_begin), int(head.previous_end))
        return Block(
            position=position,
            epoch=int(head.epoch),
            number=int(head.number),
            kind=BLOCKS.get(head.kind, f"kind {head.kind}"),
            length=int(head.length),
            span=int(head.span),
            watermark=int(head.watermark),
            timestamp_ns=int(head.timestamp_ns),
            previous=previous if head.kind == lib.RW_BLOCK_EPOCH else None,
            frames=tuple(frames),
            wrong=wrong,
        )

    def _frames(self, position: int, head: Any, data: bytes) -> tuple[list[Frame], str | None]:
        found: list[Frame] = []
        joints = _Joints(hole=head.kind == lib.RW_BLOCK_HOLE)
        at, seed = _HEADER, lib.rw_frame_seed(head.epoch, position)
        for _ in range(head.frames):
            frame = ffi.new("rw_frame *")
            if lib.rw_frame_check(data, head.used, at, seed, frame) != lib.RW_OK:
                return found, f"the header of a frame at {position + at} is damaged; what is behind it cannot be found"
            payload = data[at + _FRAME : at + _FRAME + frame.payload_bytes]
            found.append(self._frame(position + at, frame, payload))
            joints.take(frame, found[-1])
            at += _FRAME + (int(frame.payload_bytes) + 7) // 8 * 8
        return found, joints.wrong() if at == head.used else "its frames do not end where it says"

    def _frame(self, position: int, frame: Any, payload: bytes) -> Frame:
        wrong = None if lib.rw_xxh3(payload, len(payload)) == frame.digest else "its payload is damaged"
        says = _meaning(frame, payload) if wrong is None else {}
        says |= self._owner(frame, payload if wrong is None else b"")
        number = None if frame.stream == lib.RW_NO_STREAM else int(frame.stream)
        if number is not None and "name" in says:
            self.names[number] = says["name"]
        return Frame(
            position=position,
            kind=FRAMES.get(frame.kind, f"kind {frame.kind}"),
            stream=number,
            name=None if number is None else self.names.get(number),
            offset=int(frame.base_offset),
            records=int(frame.count),
            payload_bytes=int(frame.payload_bytes),
            timestamp_ns=int(frame.timestamp_ns),
            wrong=wrong,
            says=says,
        )

    def _owner(self, frame: Any, payload: bytes) -> dict[str, Any]:
        """Whose the frame is, if it is a producer's or a consumer's."""
        if not frame.producer_id:
            return {}
        number = int(frame.producer_id)
        if frame.kind == lib.RW_FRAME_CLAIM and len(payload) > _ROW.size:
            self.owners[number] = _ROW.unpack_from(payload)[0], payload[_ROW.size :].decode(errors="replace")
        usual = lib.RW_OWNER_CONSUMER if frame.kind == lib.RW_FRAME_COMMIT else lib.RW_OWNER_PRODUCER
        kind, name = self.owners.get(number, (usual, None))
        said = {"name": name, "number": number, "epoch": int(frame.producer_epoch)}
        if kind == lib.RW_OWNER_CONSUMER:
            return {"consumer": {**said, "position": int(frame.producer_sequence)}}
        return {"producer": {**said, "sequence": int(frame.producer_sequence)}}


class _Joints:
    """The joint appends of one block."""

    def __init__(self, *, hole: bool) -> None:
        self._hole = hole
        self._state = ffi.new("rw_joint *")
        self._parts: list[Frame] = []
        self._wrong: str | None = None

    def take(self, head: Any, frame: Frame) -> None:
        """The next frame, with its header. If it is a part, it says so."""
        if self._hole:  # the flag says nothing
            return
        if lib.rw_joint_take(self._state, head) != lib.RW_OK and self._wrong is None:
            self._wrong = f"the frame at {frame.position} may not stand in a joint append"
        joined = head.kind in (lib.RW_FRAME_BATCH, lib.RW_FRAME_COMMIT) and head.flags & lib.RW_JOINED
        if not joined and not self._parts:
            return
        self._parts.append(frame)
        frame.says["joint"] = {"part": len(self._parts), "parts": None}
        if not joined:
            for part in self._parts:
                part.says["joint"]["parts"] = len(self._parts)
            self._parts = []

    def wrong(self) -> str | None:
        """What is wrong with them, at the end of the block."""
        return self._wrong or ("a joint append goes on behind its last frame" if self._parts else None)


def _meaning(frame: Any, payload: bytes) -> dict[str, Any]:
    if frame.kind == lib.RW_FRAME_STREAM:
        return {"name": payload.decode(errors="replace")}
    if frame.kind == lib.RW_FRAME_BATCH:
        return _times(frame, payload)
    if frame.kind in (lib.RW_FRAME_TRIM, lib.RW_FRAME_COMMIT) and len(payload) == 8:
        key, offset = ("before" if frame.kind == lib.RW_FRAME_TRIM else "commits"), int.from_bytes(payload, "little")
        return {key: None if offset == lib.RW_FORGET else offset}
    if frame.kind == lib.RW_FRAME_SETTINGS:
        return {"settings": dataclasses.asdict(settings.decode(payload))}
    if frame.kind in (lib.RW_FRAME_VERDICT, lib.RW_FRAME_CLAIM) and len(payload) >= _ROW.size:
        first, second, third = _ROW.unpack_from(payload)
        return {"forgets": second} if frame.kind == lib.RW_FRAME_CLAIM else {"reason": first, "value": third}
    rows = payload if frame.kind == lib.RW_FRAME_DROP and len(payload) % _ROW.size == 0 else b""
    return {"rows": [{"number": number, "before": offset} for number, _, offset in _ROW.iter_unpack(rows)]} if rows else {}


def _times(frame: Any, payload: bytes) -> dict[str, Any]:
    """The times of a batch's records, if they have some of their own and room for them."""
    at = len(payload) - 8 * int(frame.count)
    if at < 0 or not frame.flags & lib.RW_OWN_TIMES:
        return {}
    return {"own_timestamps_ns": list(struct.unpack_from(f"<{frame.count}Q", payload, at))}
