"""What a stream's handle is, whichever face it has: what it is bound to, and the steps of its appends (ringwal.steps)."""

from __future__ import annotations

import contextlib
import time
import weakref
from array import array
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ringwal import positions, times
from ringwal._native import ffi, lib
from ringwal.client import configuring, removal
from ringwal.client.lane import refusal
from ringwal.client.submitting import submit_steps
from ringwal.errors import Error
from ringwal.limits import whole
from ringwal.payloads import buffer_of, lengths_of
from ringwal.protocol.messages import check_own_name
from ringwal.steps import Steps
from ringwal.times import At

if TYPE_CHECKING:
    from ringwal.client.attachment import Attachment, Binding
    from ringwal.client.core import ClientCore
    from ringwal.client.lane import Lane
    from ringwal.client.results import Results

BATCH_KEPT_MAX = 1 << 20
"""Bytes of the latest batch that a client keeps at most, so that the next one finds warm memory."""

ENDED_MAX = 8
"""Deleted streams of one name of which a handle knows that their appends may not be settled, or told."""

_submit = lib.rw_submit
_submit_many = lib.rw_submit_many
_submit_on = lib.rw_submit_on

Submit = Callable[["Binding"], int]
"""Submits something: the number, or why not."""


class Terms:
    """What a batch is appended on besides its bytes, for C; kept while C may look at it."""

    __slots__ = ("_times", "pointer")

    def __init__(
        self, own_times: array[int] | None, expected_offset: int | None = None, *, producer: int = 0, sequence: int = 0
    ) -> None:
        self._times = ffi.NULL if own_times is None else ffi.from_buffer("uint64_t[]", own_times)
        number = sequence if expected_offset is None else whole(expected_offset, "expected_offset", 0)
        flags = 0 if expected_offset is None else int(lib.RW_EXPECTS)
        said = {"times": self._times, "producer": producer, "sequence": number, "flags": flags}
        self.pointer: Any = ffi.new("rw_terms *", said)


class StreamCore:
    """A handle for one named stream."""

    _numbers = 1
    """Of the lane's, for an append."""
    _looks = False
    """It is not made by what is sent to it."""

    def __init__(self, client: ClientCore[Any], name: str) -> None:
        self._client = client
        self.name = name
        self._bound: Binding | None = None
        self._ended: list[Binding] = []  # to streams of this name that are deleted, until their appends are settled
        self._lost: Error | None = None
        # Where an append is lost of which nobody was told: one comes behind it, refused. Not a binding: this may lie here for
        # long, and an attachment has files open.
        self._gap: tuple[Lane, int] | None = None
        self._refused_in: weakref.ref[Lane] | None = None  # the lane for whose gap that has been done

    def _detach(self, attachment: Attachment) -> None:
        """Forget what belongs to ``attachment``; what was lost with it is told by the next `flush`."""
        for ended in self._ended.copy():
            if ended.attachment is attachment:
                self._forget_ended(ended)
                self._note_lost(ended)
        bound = self._bound
        if bound is not None and bound.attachment is attachment:
            self._bound = None
            self._note_lost(bound)

    def _forked(self) -> None:
        """In the child of a fork: what was bound is the parent's."""
        self._bound = self._gap = None
        self._ended = []

    def _note_lost(self, bound: Binding) -> None:
        if bound.lane.lost is not None:
            self._lost = bound.lane.untold(bound.handle) or self._lost
            refused_in = None if self._refused_in is None else self._refused_in()
            if bound.lane is not refused_in and bound.lane.unreported(bound.handle):
                self._gap = bound.lane, bound.handle

    def _check_gap(self) -> None:
        """Raises NotRunning, once: an earlier append to this stream is lost, and nobody was told. What comes now
        would come behind a gap that its caller does not know of."""
        bound = self._bound
        if bound is not None and bound.lane.lost is not None:
            self._note_lost(bound)
        gap, self._gap = self._gap, None
        if gap is None:
            return
        lane, handle = gap
        if lane.unreported(handle):
            self._client._check_open()
            self._refused_with(lane)
            error = lane.lost
            assert error is not None
            raise refusal(error) from error

    def _settle_ended(self) -> None:
        """Lets go of deleted streams whose appends have a fate that was told. There are a few at the most: the next `flush`
        tells of what was refused in older ones."""
        for bound in self._ended.copy():
            untold = bound.lane.untold(bound.handle)
            full = len(self._ended) > ENDED_MAX
            if full or (untold is None and not bound.lane.pending(bound.handle)):
                self._lost = untold or self._lost
                self._forget_ended(bound)

    def _forget_ended(self, bound: Binding) -> None:
        with contextlib.suppress(ValueError):  # another thread has
            self._ended.remove(bound)

    def _bind(self, began: float | None = None) -> Steps[Binding]:
        before, bound = self._bound, (yield from self._client._bind_steps(self.name, began, look=self._looks))
        if before is not None and before.lane is not bound.lane:
            self._note_lost(before)
        elif before is not None and before.handle != bound.handle and before not in self._ended:
            self._ended.append(before)
            self._settle_ended()
        self._bound = bound
        return bound

    def _bind_to_append(self, began: float) -> Steps[Binding]:
        try:
            return (yield from self._bind(began))
        except Error as error:
            error.outcome = "not_appended"
            raise

    # --------------------------------------------------------------------------------------------------- append

    def _one_steps(
        self, data: Any, timestamp_ns: int | None, expected_offset: int | None
    ) -> Steps[tuple[Results, int]]:
        """One record, whatever holds it, on whatever terms: what `_submit_steps` gives."""
        view = data if type(data) is bytes else ffi.from_buffer("uint8_t[]", buffer_of(data))
        size = len(view)
        if timestamp_ns is None and expected_offset is None:
            return self._submit_steps(lambda bound: _submit(bound.writer, bound.handle, view, size), size)
        own = None if timestamp_ns is None else array("Q", [times.timestamp_ns(timestamp_ns)])
        terms = Terms(own, expected_offset)
        return self._submit_steps(
            lambda bound: _submit_on(bound.writer, bound.handle, view, size, terms.pointer), size + (0 if own is None else 8)
        )

    def _many_steps(
        self, records: Iterable[Any], timestamp_ns: int | Iterable[int] | None, expected_offset: int | None
    ) -> tuple[Steps[tuple[Results, int]], int, int]:
        """Several records as one batch: what `_submit_steps` gives, their number and their bytes. Checked and copied by this
        call."""
        items: tuple[Any, ...] = tuple(records)  # another thread may be changing a list
        if not items:
            raise ValueError("append_many needs at least one record")
        # Bytes and lengths are taken in two passes, so what may change in between is copied first.
        if list(map(type, items)).count(bytes) != len(items):
            items = tuple(bytes(buffer_of(item)) for item in items)
        lengths = lengths_of(items)
        data = b"".join(items)
        own = None if timestamp_ns is None else times.timestamps_ns(timestamp_ns, len(items))
        # Let go at once, a batch of 128 KB would be the top of the heap, which the C library gives back to the kernel; the next
        # one would touch its pages for the first time again, and that took half of the time of joining it.
        if len(data) <= BATCH_KEPT_MAX:
            self._client._latest_batch = data
        table, count, size = ffi.from_buffer("uint32_t[]", lengths), len(lengths), len(data)
        terms = Terms(own, expected_offset)
        steps = self._submit_steps(
            lambda bound: _submit_many(bound.writer, bound.handle, table, count, data, size, terms.pointer),
            size + (4 if own is None else 12) * count,
        )
        return steps, count, size

    def _submit_steps(self, submit: Submit, payload_bytes: int) -> Steps[tuple[Results, int]]:
        """An append that has to attach first, or to wait for room: its number and the results it is among. Its time runs from
        this call on, whenever the first step is taken."""
        return self._submit_since(time.monotonic(), submit, payload_bytes)

    def _submit_since(self, began: float, submit: Submit, payload_bytes: int) -> Steps[tuple[Results, int]]:
        return submit_steps(self, began, submit, payload_bytes)

    def _refused_with(self, lane: Lane) -> None:
        """An append is being refused as the engine's end was met in that lane: no other one is, for what was lost there."""
        self._refused_in = weakref.ref(lane)

    def _may_follow(self, bound: Binding) -> bool:
        """May an append that met the engine's end, and was not published, go to its successor?

        Not if an earlier append to this stream is lost with the engine and nobody was told: it would come behind a gap that
        its caller does not know of.
        """
        lane = bound.lane
        return lane.lost is not None and not bound.attachment.usable() and not lane.unreported(bound.handle)

    def _trim_steps(self, before: int | At | datetime) -> Steps[int]:
        """See `Stream.trim`."""
        check_own_name(self.name)
        to = positions.moment(before, "before") if isinstance(before, At | datetime) else whole(before, "before", 0)
        limit = self._client._options["timeout"]
        return (yield from self._client._in_engine_steps(lambda engine: removal.trim(engine, self.name, to, limit)))

    def _configure_steps(self, wanted: dict[str, Any]) -> Steps[None]:
        """See `Stream.configure`; ``wanted`` is what `retention.asked` gives."""
        check_own_name(self.name)
        limit = self._client._options["timeout"]
        yield from self._client._in_engine_steps(lambda engine: configuring.configure(engine, self.name, wanted, limit))

    def _flush_steps(self, timeout: float | None) -> Steps[None]:
        """See `Stream.flush`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for bound in (*self._ended, self._bound):
            if bound is not None:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                yield from bound.lane.flush_steps(bound.handle, left)
        self._settle_ended()
        self._gap = None
        lost = self._lost
        if lost is not None:
            self._lost = None
            raise lost
