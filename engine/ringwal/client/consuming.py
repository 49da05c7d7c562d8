"""A consumer, whichever face it has: where it stands in its streams, what is given out, what is committed.

In the engine it is a row for each of its streams (csrc/owners.h), which a commit moves, as a request in the stream's queue. A
commit is one number and a later one makes it superfluous, so of those that nobody waits for one is on its way at a time, for
each stream, and the newest follows it: what a consumer leaves in the log is bounded by how often the engine confirms.

What an engine takes with it when it ends is committed again in its successor: a commit said twice changes nothing. Rows and
epochs survive the engine, so a consumer stays its process's until another one claims it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from ringwal import consumed, positions
from ringwal._native import lib
from ringwal.client.consumer_place import UNSAID, Place, Sent, commit_steps, place_of
from ringwal.client.following import checked_word
from ringwal.client.lane import Completion
from ringwal.client.merging import Merging, merge_steps
from ringwal.client.results import FAILED, PENDING
from ringwal.client.stream_core import StreamCore
from ringwal.client.verdicts import consumer_error_of, is_refused
from ringwal.errors import (
    AckTimeout,
    ClosedError,
    ConsumerFenced,
    EngineFailed,
    Error,
    ForkError,
    NoSuchStream,
    NotRunning,
    OffsetTrimmed,
    StreamDeleted,
)
from ringwal.limits import shown
from ringwal.model import StreamRecord
from ringwal.protocol.messages import CONSUMED_MAX, check_consumer_name, check_own_name, check_stream_name
from ringwal.steps import Rest, Steps

if TYPE_CHECKING:
    from ringwal.client.attachment import Attachment
    from ringwal.client.core import ClientCore
    from ringwal.client.following import OnTrimmed
    from ringwal.positions import Checked, Position

AT_ONCE = 1000
"""Records that an iteration fetches at once."""
LOOK = 64
"""Of so many commits that nobody waits for, one looks what became of the last one that was sent."""
RETRY_REST = 0.01
"""Seconds between two tries to go on in an engine that is coming back."""


class ConsumerCore:
    """Who reads streams, and says how far it is."""

    def __init__(
        self, client: ClientCore[Any], name: str, streams: Iterable[str], start: Position, on_trimmed: OnTrimmed
    ) -> None:
        """Raises ConfigError, ValueError, TypeError: see `Client.consumer`."""
        check_consumer_name(name)
        self.streams = _names_of(streams)
        """Of its streams, in the order in which they were said."""
        self.name = name
        self._client = client
        self._start = positions.checked(start)
        checked_word(on_trimmed, "on_trimmed", ("raise", "earliest"))
        self._on_trimmed = on_trimmed
        self._places: dict[str, Place] = {}
        self._numbers: dict[str, int] = {}
        self._following: Merging | None = None
        self._fetched: list[StreamRecord] = []
        self._at = 0  # what is fetched is given out up to here
        self._usable = False
        """It is claimed, and neither fenced, closed nor forked."""
        self._fenced: Error | None = None
        self._doubtful = False
        """Nobody knows yet whether a batch that was to commit it is in the log."""
        self._is_forked = False
        self._is_closed = False
        client._consumers.add(self)

    # -------------------------------------------------------------------------------------------- whose, and where

    def _claim_steps(self) -> Steps[None]:
        """It is this one from now on, and no other process's."""
        began = time.monotonic()
        while True:
            try:
                rows = yield from self._client._in_engine_steps(self._claim)
            except (NotRunning, EngineFailed):  # to claim twice does no harm
                if self._client._given_up(began):
                    raise
                yield Rest(RETRY_REST)
            else:
                break
        for row in rows:
            if row["stream"] in self.streams:
                self._places[row["stream"]] = place_of(self._client, row, self._numbers[row["stream"]])
        self._usable = True

    def _claim(self, attachment: Attachment) -> Steps[list[dict[str, Any]]]:
        wanted = []
        for stream in self.streams:
            try:
                handle = yield from attachment.handle_steps(stream, look=True)
            except NoSuchStream:  # the claim makes it, if there is room for all
                wanted.append((stream, 0))
            else:
                wanted.append((stream, positions.offset(attachment, handle, self._start)))
        rows = yield from attachment.registration.consume_steps(self.name, wanted)
        for stream in self.streams:
            handle = yield from attachment.handle_steps(stream, look=True)
            self._numbers[stream] = int(lib.rw_handle_number(handle))
        return rows

    def _forked(self) -> None:
        """In the child of a fork: it goes on in the parent."""
        self._is_forked, self._usable = True, False
        for place in self._places.values():
            place.stream._forked()

    def _detach(self, attachment: Attachment) -> None:
        for place in self._places.values():
            place.stream._detach(attachment)

    def _check_own(self) -> None:
        """Raises ForkError, ConsumerFenced, ClosedError: it is not this one's to go on."""
        if self._is_forked:
            raise ForkError(
                "this consumer was claimed before a fork, and goes on in the parent; claim one in the child, which fences that"
                " one, or one of another name",
                outcome="not_appended",
            )
        if self._fenced is not None:
            raise self._fenced
        if self._is_closed:
            raise ClosedError("this consumer is closed")

    def _check(self) -> None:
        """As `_check_own`. Raises Error: it is not known where to go on."""
        self._check_own()
        if self._doubtful:
            raise Error(
                f"a batch that was to commit consumer {self.name!r} has an outcome that is not known, and with it which records"
                " are done; nothing was done now: claim it anew, with client.consumer, which goes on behind the batch or in"
                " front of it; or ask the batch's receipt until it says",
                outcome="not_appended",
            )

    @property
    def committed(self) -> dict[str, int]:
        """By stream: the offset at which it goes on after a restart, as far as that is confirmed."""
        for place in self._places.values():
            if place.sent is not None and place.found() >= 0:  # what went wrong is raised by who commits
                self._settle(place)
        return {name: place.committed for name, place in self._places.items()}

    @property
    def positions(self) -> dict[str, int]:
        """By stream: the offset behind the last record that was given out."""
        return {name: place.given for name, place in self._places.items()}

    @property
    def lag(self) -> dict[str, int]:
        """By stream: confirmed records that are not committed. Raises NotRunning."""
        attachment = self._client._live_attachment()
        if attachment is None:
            raise NotRunning("the lag cannot be asked: the engine has ended, or was not used yet")
        behind, committed = {}, self.committed
        for info in attachment.stream_infos():
            if info.name in self._places:
                behind[info.name] = consumed.lag(committed[info.name], info.start_offset, info.confirmed_offset)
        return behind

    # ---------------------------------------------------------------------------------------------------- reading

    def _seek_steps(self, stream: str, to: Position) -> Steps[None]:
        """See `Consumer.seek`."""
        self._check_own()
        place = self._place(stream)
        offset = yield from self._client._in_engine_steps(lambda a: _offset_in(a, stream, positions.checked(to, "position")))
        place.reached, place.given = max(place.reached, place.given), offset
        place.asked, place.sought = UNSAID, offset  # what was asked for before goes on
        self._doubtful = False  # who says where to go on has decided
        self._fetched, self._at, self._following = [], 0, None

    def _place(self, stream: str) -> Place:
        found = self._places.get(stream) if isinstance(stream, str) else None
        if found is None:
            raise ValueError(f"{shown(stream)} is no stream of this consumer, which reads {', '.join(map(repr, self.streams))}")
        return found

    def _poll_steps(self, max_records: int, timeout: float | None) -> Steps[list[StreamRecord]]:
        """The next records, waited for, which are given out by this: a commit without a record means them, too."""
        self._check()
        if self._at >= len(self._fetched):
            self._fetched, self._at = (yield from self._fetch_steps(max(max_records, AT_ONCE), timeout)), 0
        whole = self._at == 0 and len(self._fetched) <= max_records
        records = self._fetched if whole else self._fetched[self._at : self._at + max_records]
        left, seen = len(self._places), set()
        for record in reversed(records):
            if record.stream not in seen:
                seen.add(record.stream)
                self._places[record.stream].given = record.offset + 1
                if len(seen) == left:
                    break
        # Last: where an interrupt strikes before this, the next call gives them again.
        if whole:
            self._fetched, self._at = [], 0
        else:
            self._at += len(records)
        return records

    def _fetched_steps(self, timeout: float | None) -> Steps[None]:
        """There is something that is fetched and not given out, or time is over."""
        if self._at < len(self._fetched):  # an iteration that was left has not given out all of it
            self._check()
            return
        self._fetched, self._at = (yield from self._fetch_steps(AT_ONCE, timeout)), 0

    def _fetch_steps(self, max_records: int, timeout: float | None) -> Steps[list[StreamRecord]]:
        """The next records, waited for."""
        self._check()
        following = self._following
        if following is None:
            starts: Mapping[str, int] = self.positions
            following = yield from merge_steps(self._client, starts, max_records=max_records, on_trimmed=self._on_trimmed)
            for name, number in following.numbers().items():
                if number != self._places[name].number:
                    raise StreamDeleted(
                        f"stream {name!r} was deleted, and another one has its name: claim consumer {self.name!r} anew"
                    )
            self._following = following
        following._max_records, following._idle_timeout = max_records, 0.0
        try:
            found = yield from following.next_steps()
            if found is None:
                until = _until(timeout)
                with contextlib.suppress(AckTimeout):  # what waits for that goes with the next call
                    yield from self._push_steps(until)  # before it sleeps
                following._idle_timeout = None if until is None else max(0.0, until - time.monotonic())
                found = yield from following.next_steps()
        except OffsetTrimmed as error:
            self._following = None
            where = f"consumer.seek({error.stream!r}, ringwal.EARLIEST)"
            said = OffsetTrimmed(f"of {error.stream!r}, {error}; {where} goes on there", error.start_offset)
            said.stream = error.stream
            raise said from None
        except BaseException:
            self._following = None  # what it had fetched was not given out: it begins anew there
            raise
        return found or []

    # -------------------------------------------------------------------------------------------------- committing

    def _known(self, record: object) -> Place:
        """The place of a record that was given out. Raises TypeError, ValueError."""
        if not isinstance(record, StreamRecord):
            raise TypeError(
                f"what is committed is a record that this consumer gave out, the last one that is done, not"
                f" {type(record).__name__}; without one it is all that it gave out; nothing was committed"
            )
        place = self._place(record.stream)
        place.check(record)
        return place

    def _ask(self, record: StreamRecord | None) -> list[Place]:
        """Places in which something new is to be committed: up to that record, or all that was given out."""
        self._check()
        if record is None:
            asked = [(place, place.given) for place in self._places.values()]
        else:
            asked = [(self._known(record), record.offset + 1)]
        moved = []
        for place, offset in asked:
            if offset > place.asked:
                place.asked = place.wanted = offset
                moved.append(place)
        return moved

    def _commit_steps(self, record: StreamRecord | None, timeout: float | None) -> Steps[None]:
        """Waits until it is confirmed, and with it what was asked for before in those streams. Raises AckTimeout."""
        until = _until(timeout)
        self._ask(record)
        yield from self._confirm_all(list(self._places.values()) if record is None else [self._place(record.stream)], until)

    def _push_steps(self, until: float | None = None) -> Steps[None]:
        """Sends what is wanted, and waits for nothing but what is in front of it. Raises ConsumerFenced: it is not its turn;
        AckTimeout."""
        for place in self._places.values():
            if place.wanted is not None:
                yield from self._send(place, until)

    def _flush_steps(self, timeout: float | None) -> Steps[None]:
        yield from self._confirm_all(list(self._places.values()), _until(timeout))

    def _confirm_all(self, places: list[Place], until: float | None) -> Steps[None]:
        """What goes wrong in one of them is raised when the others are confirmed."""
        first: Error | None = None
        for place in places:
            try:
                yield from self._confirm(place, until)
            except Error as error:
                first = first or error
        if first is not None:
            raise first

    def _confirm(self, place: Place, until: float | None) -> Steps[None]:
        while place.wanted is not None or place.sent is not None:
            if place.wanted is not None:
                yield from self._send(place, until)
            yield from self._await(place, until)

    def _send(self, place: Place, until: float | None) -> Steps[None]:
        """What is wanted of it, once what was sent before has an end."""
        if place.sent is not None:
            yield from self._await(place, until)
        offset = place.wanted
        if offset is None:
            return
        try:
            where = yield from commit_steps(place, offset)
        except StreamDeleted:
            place.wanted = None  # that is told once, not by each flush
            raise
        place.sent = Sent(*where, offset, place.next_turn())
        if place.wanted == offset:
            place.wanted = None

    def _await(self, place: Place, until: float | None) -> Steps[None]:
        """The end of what was sent. Sent again where its engine has ended, with ``reconnect``. Raises ConsumerFenced, ..."""
        sent = place.sent
        if sent is None:
            return
        left = None if until is None else max(0.0, until - time.monotonic())
        try:
            yield Completion(sent.results.lane, sent.results, sent.number, place.stream.name, left)
        except AckTimeout as error:
            said = str(error).replace(f"append to {place.stream.name!r} not", f"commit in {place.stream.name!r} not", 1)
            raise AckTimeout(said.replace("its outcome is unknown, ask again later", "it goes on")) from None
        self._settle(place)

    def _settle(self, place: Place) -> None:
        """Notes what became of what was sent, if that is known. Raises: it was refused, or lost for good."""
        if place.sent is None or (found := place.found()) == PENDING:
            return
        results, number, offset, turn = place.sent
        place.sent = None
        if found >= 0:
            place.confirmed(offset, turn)
            return
        results.lane.count_told(number)
        if is_refused(found):
            raise self._refused(found, place.stream.name)
        assert found == FAILED
        if turn < place.turn:  # a batch was sent behind it, which may be in the log: this must not go behind that
            return
        if place.wanted is None:
            place.wanted = offset
        if not self._client._options["reconnect"]:
            place.asked, place.wanted = place.committed, None
            raise results.lane.tell(number, found, place.stream.name)

    def _refused(self, found: int, stream: str) -> Error:
        """Why a commit was. One that is fenced stays so."""
        error = consumer_error_of(found, self.name, stream)
        if isinstance(error, ConsumerFenced):
            self._fenced, self._usable = error, False
        return error

    def _commit_now(self, record: StreamRecord | None) -> bool:
        """Nobody waits for it. True: that is all; else steps are to be taken (`_push_steps`)."""
        behind = False
        for place in self._ask(record):
            self._settle(place)
            if place.sent is not None:
                continue  # it follows, with the next call or when the reader waits
            bound = place.stream._bound
            offset = place.wanted
            if bound is None or bound.lane.lost is not None or offset is None:
                behind = True
                continue
            bank = bound.lane.bank
            number = int(lib.rw_submit_commit(bound.writer, bound.handle, place.who, offset))
            if number < 0:
                behind = True
                continue
            place.sent = Sent(bound.lane.results_of(bank, number), number, offset, place.next_turn())
            place.wanted = None
        return not behind

    def _close_steps(self, timeout: float | None) -> Steps[None]:
        if self._is_closed or self._is_forked or self._fenced is not None:
            return
        try:
            yield from self._flush_steps(timeout)
        finally:
            self._is_closed, self._usable = True, False
            self._fetched, self._at, self._following = [], 0, None

    # ------------------------------------------------------------------------------------------------- in a batch

    def _joined(self, record: StreamRecord | None) -> list[tuple[Place, int]]:
        """What a batch commits: places, and offsets. As `_ask`, without noting it."""
        self._check()
        if record is not None:
            place = self._known(record)
            if record.offset < place.asked:
                raise ValueError(
                    f"record {record.offset} of {record.stream!r} is committed already, and with it what follows from it: the"
                    f" next one is {place.asked}; nothing of this batch is sent for it"
                )
            return [(place, record.offset + 1)]
        return [(place, place.given) for place in self._places.values() if place.given != place.asked]

    def _join(self, place: Place, offset: int) -> int:
        """A batch is to commit it: nobody may commit less from now on. Returns what had been asked for."""
        before, place.asked = place.asked, offset
        return before

    def _undone(self, place: Place, offset: int, before: int, *, known: bool) -> None:
        """A batch that was to commit it is not in the log; or nobody knows, unless ``known``. What it was for is given out
        again: else the next commit would go over it."""
        if not known:
            self._doubtful = True
            return
        self._doubtful = False
        if place.asked == offset:
            place.asked = before
        place.reached = max(place.reached, place.given)
        place.given = place.sought if place.asked == UNSAID else place.asked
        self._fetched, self._at, self._following = [], 0, None

    def _done(self, place: Place, offset: int, turn: int) -> None:
        """A batch has committed it."""
        if turn <= place.known:  # told again
            return
        self._doubtful = False
        place.confirmed(offset, turn)
        place.asked, place.given = max(place.asked, offset), max(place.given, offset)
        if place.wanted is not None and place.wanted <= offset:
            place.wanted = None

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Consumer is neither pickled nor copied: only one at a time has its name. Pass on its name and streams, and claim"
            " it where they arrive, which fences this one"
        )

    def __repr__(self) -> str:
        return f"<Consumer {self.name!r} of {', '.join(map(repr, self.streams))}>"


def _until(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _names_of(streams: Iterable[str]) -> tuple[str, ...]:
    if isinstance(streams, str):
        raise TypeError(f"streams is a list of names, not a str: say [{streams!r}]")
    names = tuple(each.name if isinstance(each, StreamCore) else each for each in streams)
    for name in names:
        check_stream_name(name)
        check_own_name(name)
        if names.count(name) > 1:
            raise ValueError(f"stream {name!r} is named twice")
    if not names or len(names) > CONSUMED_MAX:
        raise ValueError(f"a consumer reads 1 to {CONSUMED_MAX} different streams, not {len(names)}")
    return names


def _offset_in(attachment: Attachment, stream: str, to: Checked) -> Steps[int]:
    """Raises ValueError: it is beyond the end, where nothing can be committed."""
    handle = yield from attachment.handle_steps(stream, look=True)
    offset, end = positions.offset(attachment, handle, to), attachment.bounds(handle)[1]
    if offset > end:
        raise ValueError(f"there is no offset {offset} in stream {stream!r}: the next record gets {end}")
    return offset
