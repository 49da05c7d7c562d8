"""An idempotent producer, whichever face it has: what it has sent and not been told of, and the steps of its appends.

Each record has a sequence, and the engine knows which one is next (csrc/owners.h). So what may or may not have been appended
when an engine ended is appended again, under the same sequence: if it is there already, the answer says where. What was sent
is kept until it is known to be confirmed, and sent again in order, before anything else is.

An interrupt may strike between the append and the note of it. Such a batch is sent again, too, before the next one: else the
next one would get its sequence, and be taken for a repeat of it.
"""

from __future__ import annotations

import contextlib
import time
from array import array
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from ringwal import times
from ringwal._native import ffi, lib
from ringwal.client.lane import Completion
from ringwal.client.results import FAILED, PENDING
from ringwal.client.stream_core import StreamCore, Terms
from ringwal.client.verdicts import gap_before, is_fenced, is_refused, repeated_at
from ringwal.errors import AckTimeout, ClosedError, EngineFailed, Error, ForkError, NoSuchStream, NotRunning, ProducerFenced
from ringwal.limits import whole
from ringwal.model import Ack, RepeatedAck
from ringwal.payloads import buffer_of, lengths_of
from ringwal.read.sequences import Place, place_of
from ringwal.steps import Rest, Steps, alone, within
from ringwal.thread_lock import ThreadLock

if TYPE_CHECKING:
    from ringwal.client.attachment import Attachment, Binding
    from ringwal.client.core import ClientCore
    from ringwal.client.results import Results

_submit_many = lib.rw_submit_many
RETRY_REST = 0.01
"""Seconds between two tries to go on in an engine that is coming back."""

UNTOLD_MAX = 64
"""Refused appends that nobody has asked about, of which `flush` tells at the most."""


class Sent:
    """One batch: its bytes, and where it was sent to last. Checked and copied when it is made."""

    __slots__ = (
        "_data", "_lengths", "_times",
        "again", "count", "new", "offset", "payload", "place", "said", "sequence", "told", "torn",
    )  # fmt: skip

    def __init__(self, records: Iterable[Any], said: int | None, timestamp_ns: int | Iterable[int] | None) -> None:
        """Raises TypeError, ValueError: see `Stream.append_many`."""
        items = tuple(item if type(item) is bytes else bytes(buffer_of(item)) for item in records)
        if not items:
            raise ValueError("append_many needs at least one record")
        self.said = None if said is None else whole(said, "seq", 0)
        self._times: array[int] | None = None if timestamp_ns is None else times.timestamps_ns(timestamp_ns, len(items))
        self._lengths, self._data, self.count = lengths_of(items), b"".join(items), len(items)
        each = (0 if self.count == 1 else 4) + (0 if self._times is None else 8)
        self.payload = len(self._data) + each * self.count
        self.sequence = -1
        """That of its first record, once it has one."""
        self.new = False
        """Nothing had that sequence when it was sent first."""
        self.place: tuple[Results, int] | None = None
        self.torn = False
        """It may have been sent, and its `place` is not known: an interrupt came in between."""
        self.again = False
        """It was sent more than once."""
        self.offset: int | None = None
        """Where it was found in the log, if it had to be looked for."""
        self.told = False
        """Somebody was told what became of it."""

    @classmethod
    def one(cls, data: Any, said: int | None, timestamp_ns: int | None) -> Self:
        """A single record. Raises as `Stream.append`."""
        return cls((data,), said, None if timestamp_ns is None else times.timestamp_ns(timestamp_ns))

    def submit(self, bound: Binding, producer: int) -> int:
        """As `ringwal.client.stream_core.Submit`."""
        terms = Terms(self._times, producer=producer, sequence=self.sequence)
        table = ffi.from_buffer("uint32_t[]", self._lengths)
        self.torn = True
        number: int = _submit_many(bound.writer, bound.handle, table, self.count, self._data, len(self._data), terms.pointer)
        if number < 0:
            self.torn = False
        return number

    def found(self) -> int:
        """As `Results.find`; `FAILED` where it is to be sent again."""
        place = self.place
        return FAILED if place is None else place[0].find(place[1])

    def let_go(self) -> None:
        """It is settled: its bytes are not needed again."""
        self._data = b""


class ProducerCore:
    """Who numbers what it appends to one stream."""

    def __init__(self, client: ClientCore[Any], stream: str, name: str) -> None:
        self._client = client
        self._stream = StreamCore(client, stream)
        self.stream = stream
        """The stream's name."""
        self.name = name
        self._next = 0
        self._id = 0  # epoch and number, as requests say them
        self._lock = ThreadLock()
        self._pending: deque[Sent] = deque()
        self._untold: deque[Sent] = deque(maxlen=UNTOLD_MAX)  # settled, and not as it was to be
        self._latest: Sent | None = None
        self._has_lost = False  # of some batch nobody knows: who goes on says the sequences himself, or claims anew
        self._is_forked = False
        client._producers.add(self)

    @property
    def next(self) -> int:
        """The sequence of the next record: so many have been appended, or are on their way."""
        latest = self._latest
        expected = None if latest is None else gap_before(latest.found())
        if expected is None or self._has_lost or any(sent.found() == FAILED for sent in list(self._pending)):
            return self._next
        return expected

    def _claim_steps(self) -> Steps[None]:
        """The producer is this one from now on, and no other process's."""
        began = time.monotonic()
        while True:
            try:
                number, epoch, following = yield from self._client._in_engine_steps(
                    lambda attachment: attachment.registration.claim_steps(self.stream, self.name)
                )
            except (NotRunning, EngineFailed):  # to claim twice does no harm
                if not self._goes_on(began):
                    raise
                yield Rest(RETRY_REST)
            else:
                self._id, self._next = epoch << 32 | number, following
                return

    def _forked(self) -> None:
        """In the child of a fork: the sequences go on in the parent, which the child must not fence by chance."""
        self._is_forked = True
        self._lock = ThreadLock()
        self._stream._forked()

    def _check_forked(self, what: str) -> None:
        if self._is_forked:
            raise ForkError(
                f"this producer was claimed before a fork, and goes on in the parent; {what}: claim one in the child, with a"
                " name of its own",
                outcome="not_appended",
            )

    # --------------------------------------------------------------------------------------------------- append

    def _send_steps(self, sent: Sent) -> Steps[None]:
        """Sends it, behind all that is pending, which is sent again first if its engine has ended."""
        self._check_forked("nothing was appended")
        if self._lock.held():
            raise Error(
                "this thread is in the middle of an append of this producer, which a signal handler or destructor has"
                " interrupted; nothing was appended: use another producer there",
                outcome="not_appended",
            )
        yield from alone(self._lock, lambda: self._send(sent))

    def _send(self, sent: Sent) -> Steps[None]:
        began = time.monotonic()
        while not self._send_now(sent):
            try:
                yield from self._send_again()
                yield from self._send_next(sent)
            except NotRunning as error:
                if not error.retriable or not self._goes_on(began):
                    raise
                yield Rest(RETRY_REST)
            else:
                return

    def _send_now(self, sent: Sent) -> bool:
        """True: it is sent, as there was nothing to wait for."""
        self._forget_settled()
        bound, pending = self._stream._bound, self._pending
        # What is lost is sent again in order, and all of it before anything new: so the last one is lost if any is.
        if bound is None or bound.lane.lost is not None or (pending and pending[-1].found() == FAILED):
            return False
        lane = bound.lane
        bank = lane.bank
        with _Noted(self, sent):
            number = sent.submit(bound, self._id)
            if number >= 0:
                self._placed(sent, (lane.results_of(bank, number), number))
        return number >= 0

    def _send_next(self, sent: Sent) -> Steps[None]:
        with _Noted(self, sent):
            yield from self._place(sent)

    def _place(self, sent: Sent) -> Steps[None]:
        self._placed(sent, (yield from self._stream._submit_steps(lambda bound: sent.submit(bound, self._id), sent.payload)))

    def _placed(self, sent: Sent, place: tuple[Results, int]) -> None:
        if sent.sequence <= self._next:  # else records are missing before it, and the engine says so
            self._next = max(self._next, sent.sequence + sent.count)
        sent.place = place
        sent.torn = False
        self._latest = sent

    def _goes_on(self, began: float) -> bool:
        return not self._client._closed and time.monotonic() < began + (self._client._options["reconnect"] or 0.0)

    def _forget_settled(self) -> None:
        pending = self._pending
        while pending:
            sent = pending[0]
            found = sent.found()
            if found == PENDING or (found == FAILED and (sent.place is None or self._client._options["reconnect"])):
                return
            self._has_lost |= found == FAILED
            expected = gap_before(found)
            if expected is not None and sent is self._latest and not self._has_lost:
                self._next = expected  # nothing was sent since: that is where the engine is
            if found < 0 and repeated_at(found) is None and not sent.told:
                self._untold.append(sent)
            sent.let_go()
            pending.popleft()

    def _send_again(self) -> Steps[None]:
        """What was lost with an engine, in order, and what an interrupt left open. Raises NotRunning: it is lost as before."""
        self._check_forked("what became of its appends is known there")
        reconnects = self._client._options["reconnect"]
        lost = [sent for sent in self._pending if sent.found() == FAILED and (reconnects or sent.place is None)]
        for sent in lost:  # first: nothing goes behind a gap of which nobody was told
            if sent.place is not None:
                results, number = sent.place
                results.lane.count_told(number)
        for sent in lost:
            sent.again = True
            yield from self._place(sent)

    # --------------------------------------------------------------------------------------------------- results

    def _is_done(self, sent: Sent) -> bool:
        """Is its outcome known, whatever it is? What is to be sent again has none yet."""
        found = sent.found()
        client = self._client
        return found != PENDING and (found != FAILED or not client._options["reconnect"] or client._closed or self._is_forked)

    def _ack_steps(self, sent: Sent, timeout: float | None) -> Steps[Ack]:
        """See `ProducerReceipt.result`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        lost_since: float | None = None
        while True:
            place = sent.place
            found = FAILED
            if place is not None:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                found = yield Completion(place[0].lane, *place, self.stream, left)
            if found >= 0:
                return Ack(self.stream, found, sent.count)
            if is_refused(found):
                assert place is not None
                sent.told = True
                place[0].lane.count_told(place[1])
                return (yield from self._answered(sent, found))
            if self._is_final(sent):
                sent.told = True
                raise self._lost(sent)
            lost_since = time.monotonic() if lost_since is None else lost_since
            again = alone(self._lock, self._send_again)
            try:
                if deadline is None:
                    yield from again
                else:
                    yield from within(again, deadline, lambda: self._late(timeout))
                if sent.place is place:  # else this would go on for ever
                    raise self._lost(sent)
            except AckTimeout:
                raise
            except Error as error:
                if not error.retriable or not self._goes_on(lost_since):
                    sent.told = True
                    raise self._lost(sent, error) from error
                yield Rest(RETRY_REST)

    def _is_final(self, sent: Sent) -> bool:
        """Is it of no use to send it again?"""
        client = self._client
        return client._closed or self._is_forked or not (client._options["reconnect"] or sent.place is None)

    def _late(self, timeout: float | None) -> AckTimeout:
        return AckTimeout(
            f"append to {self.stream!r} not confirmed within {timeout:g} s (the engine has ended, and is waited for); its"
            " outcome is unknown, ask again later"
        )

    def _lost(self, sent: Sent, why: Error | None = None) -> Error:
        """What is told of a batch of which nobody knows."""
        error = why or ClosedError("the client was closed before this append was confirmed", outcome="unknown")
        if sent.place is not None:
            results, number = sent.place
            error = results.lane.tell(number, FAILED, self.stream)
        if isinstance(error, ForkError | ClosedError):
            return error
        said = str(error if why is None else why)
        number_of = getattr(error, "errno", None)
        return EngineFailed(f"{said}; append it again with seq={sent.sequence}: it is not there twice then", number_of)

    def _answered(self, sent: Sent, found: int) -> Steps[Ack]:
        """What the engine's answer means to whoever has made the append."""
        offset = repeated_at(found)
        if offset is None and not (is_fenced(found) and sent.again):
            assert sent.place is not None
            raise sent.place[0].lane.tell(sent.place[1], found, self.stream)
        if sent.offset is None:
            sent.offset = offset
        if offset is None:
            yield from self._look_for(sent, found)
        elif sent.offset is None or sent.offset < 0:
            sent.offset = (yield from self._look_up(sent)).offset
        assert sent.offset is not None
        return (Ack if sent.again and sent.new else RepeatedAck)(self.stream, sent.offset, sent.count)

    def _look_for(self, sent: Sent, found: int) -> Steps[None]:
        """It was lost with an engine, and the producer is fenced by now: it may have been appended before. Raises
        ProducerFenced."""
        assert sent.place is not None
        if sent.offset is not None:
            return
        fenced = sent.place[0].lane.tell(sent.place[1], found, self.stream)
        place = yield from self._look_up(sent)
        if place.offset >= 0 and place.epoch == self._id >> 32:
            sent.offset = place.offset
        elif place.offset >= 0 or not place.trimmed:
            raise fenced
        else:
            said = str(fenced).replace("nothing was appended", "whether it was appended before is not known any more", 1)
            raise ProducerFenced(said, outcome="unknown")

    def _look_up(self, sent: Sent) -> Steps[Place]:
        """Where it is in the log."""

        def look(attachment: Attachment) -> Steps[Place]:
            handle = yield from attachment.handle_steps(self.stream, look=True)
            return place_of(attachment.reader, handle, self._id & 0xFFFFFFFF, sent.sequence)

        try:
            return (yield from self._client._in_engine_steps(look))
        except NoSuchStream:  # it went with its stream
            return Place(-1, 0, trimmed=False)
        except Error as error:
            error.outcome = "unknown"
            raise

    def _flush_steps(self, timeout: float | None) -> Steps[None]:
        """See `Producer.flush`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        first: Error | None = None
        if self._pending and self._pending[-1].place is None:  # of an interrupted call, or of another thread's
            with contextlib.suppress(NotRunning):
                again = alone(self._lock, self._send_again)
                yield from again if deadline is None else within(again, deadline, lambda: self._late(timeout))
        for sent in (*self._untold, *self._pending):
            if (sent.told and sent.found() != PENDING) or sent.place is None:  # the latter is nobody's to be told of, yet
                continue
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                yield from self._ack_steps(sent, left)
            except AckTimeout:
                waiting = sum(not self._is_done(one) for one in list(self._pending))
                raise AckTimeout(f"{waiting} appends are not confirmed after {timeout:g} s") from None
            except Error as error:
                first = first or error
        self._untold.clear()
        if first is not None:
            raise first


class _Noted:
    """What is sent inside stands among what is pending, unless it is refused there."""

    __slots__ = ("_producer", "_sent")

    def __init__(self, producer: ProducerCore, sent: Sent) -> None:
        self._producer = producer
        self._sent = sent

    def __enter__(self) -> None:
        sent, producer = self._sent, self._producer
        sent.sequence = producer._next if sent.said is None else sent.said
        sent.new = sent.sequence >= producer._next
        producer._pending.append(sent)

    def __exit__(self, *_: object) -> None:
        sent, pending = self._sent, self._producer._pending
        if sent.place is None and not sent.torn and pending and pending[-1] is sent:
            pending.pop()
