"""Records on their way to a stream whose application must not wait, nor end, where there is no engine.

While an engine answers, a record is appended by whoever has it. What could not be appended waits here, and a thread that
lives as long as something waits brings it to an engine, in order. Nothing is appended twice; what is lost is counted, and
said in the stream itself by a notice in its place.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import ringwal

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds before the second attempt to reach an engine, and the most that there are between two."""
RAISING_PAUSE = 0.5
"""The most where a caller is refused meanwhile."""
FIRST_REST, LONGEST_REST = 0.001, 0.05
"""Seconds before a lane that was full is tried again."""
ROOM = 0.001
"""Seconds that an append waits for room in the lane: long enough that the end of its engine is seen."""
PATIENCE = 30.0
"""Seconds that the thread waits for an engine that starts or recovers."""
SETTLING = 5.0
"""Seconds that an engine which takes nothing any more has for confirming what it has taken."""
LEAVING = 1.0
"""Seconds that `Delivery.close` waits for the thread."""

_FULL = (ringwal.BackpressureTimeout, ringwal.StorageFull)
_Found = TypeVar("_Found")


class Told(NamedTuple):
    """Records that were lost, and such of which nobody knows."""

    lost: int
    unknown: int

    def plus(self, lost: int, unknown: int) -> Told:
        return Told(self.lost + lost, self.unknown + unknown)


NOTHING = Told(0, 0)


class Entry(NamedTuple):
    data: bytes
    timestamp_ns: int | None
    told: Told | None = None
    """What a notice says; None: a record of the application's."""


class Settings(NamedTuple):
    """See `ringwal.logging.StreamHandler`."""

    path: Path
    stream: str
    on_down: str
    autostart: bool
    buffer_records: int
    buffer_bytes: int
    max_wait: float
    lane_bytes: int | None


Sent: TypeAlias = deque[tuple[ringwal.Receipt, Told | None]]
"""Appends whose fate is not known yet."""


class Delivery:
    """The records of one process. In the child of a fork there is another one: what waits here is the parent's to append."""

    def __init__(self, settings: Settings, lock: Any, notice: Callable[[Told, Told, object], Entry]) -> None:
        """``lock`` is reentrant, and held by whoever calls `put` or `must`: there must be one only, as a destructor may log
        in any thread. ``notice`` makes the record that says what was lost here, and in all, and why."""
        self._settings = settings
        self._make_notice = notice
        self._changed = threading.Condition(lock)
        self._inside = False  # this thread changes what is below; who interrupts it must not
        self._incoming: deque[Entry] = deque()
        self._fresh = True
        self.closed = False
        self._client: ringwal.Client | None = None
        self._stream: ringwal.Stream | None = None
        self._sent: Sent = deque()
        self._ended: list[tuple[ringwal.Client, Sent]] = []  # of engines that take nothing any more
        self._waiting: deque[Entry] = deque()  # only who is `_worker` takes from the left
        self._waiting_bytes = self._waiting_notices = 0
        self._refusing = False
        self._worker: threading.Thread | None = None
        self._hurry = self._finalizer = False
        self._pause, self._not_before = FIRST_PAUSE, 0.0
        self._taken, self._gave_up = 0, -1
        self._in_all = NOTHING
        self.untold = NOTHING
        self.why: Exception | None = None
        """Of the first one that is untold."""
        self._error: Exception | None = None  # the latest one
        self._late: ringwal.AckTimeout | None = None  # why the latest `flush` was left: what closing says of what is pending

    # -------------------------------------------------------------------------------------------------- counted

    def in_all(self) -> Told:
        """What was lost of all records until now, as far as this process has noticed."""

        def look() -> Told:
            self._prune(len(self._sent))
            return self._in_all

        return self._run(look)

    def waiting(self) -> int:
        """Records that wait here."""
        return len(self._waiting) - self._waiting_notices

    def _lost(self, error: Exception | None) -> None:
        self._count(1, 0, error)

    def _count(self, lost: int, unknown: int, error: Exception | None) -> None:
        self._in_all = self._in_all.plus(lost, unknown)
        self.untold = self.untold.plus(lost, unknown)
        self.why = self.why or error

    def _notice(self) -> Entry:
        return self._make_notice(self.untold, self._in_all, self.why)

    def _said(self) -> None:
        self.untold, self.why = NOTHING, None

    # ------------------------------------------------------------------------------------------------ one record

    def put(self, entry: Entry) -> None:
        """Appends the record, or keeps it, or drops it."""
        self._incoming.append(entry)
        with self._changed:
            self._take_in()

    def _take_in(self) -> None:
        """A signal handler or a destructor that logs in the middle of this leaves its record to whom it interrupts."""
        while self._incoming and not self._inside:
            self._inside = True
            try:
                while self._incoming:
                    self._take(self._incoming.popleft())
            finally:
                self._inside = False

    def _run(self, step: Callable[[], _Found]) -> _Found:
        """Of what all threads share, this one looks or changes alone. A step waits for nothing."""
        with self._changed:
            inside, self._inside = self._inside, True
            try:
                return step()
            finally:
                self._inside = inside
                self._take_in()

    def _take(self, entry: Entry) -> None:
        self._taken += 1
        if self.closed:
            self._lost(ringwal.ClosedError("the log handler is closed"))
            return
        if self._fresh:
            # Here and not in the thread: a process that logs once and is gone has logged. An engine that takes longer to
            # answer, or has to be started, is the thread's.
            self._fresh = False
            try:
                self._attach(self._settings.max_wait / 4, ROOM)
            except Exception as error:  # noqa: BLE001  whatever it is, the application goes on
                self._leave(error)
        if self._stream is None or self._worker is not None or self._waiting or not self._append_now(entry):
            self._keep(entry)
            self._call_worker()

    def _append_now(self, entry: Entry) -> bool:
        """False: the engine takes nothing now."""
        try:
            self._prune(2)
            self._append(entry)
        except _FULL as error:
            self._error = error
            return False
        except ringwal.RecordTooLarge as error:
            self._lost(error)
        except Exception as error:  # noqa: BLE001  whatever it is, the application goes on
            self._leave(error)
            return False
        return True

    def _append(self, entry: Entry) -> None:
        """With what is to be said before it."""
        if self.untold != NOTHING:
            self._send(self._notice())
            self._said()
        self._send(entry)

    def must(self, entry: Entry) -> None:
        """Appends the record. Raises ringwal.Error: it was not appended, and is counted. No notice is made of it."""
        with self._changed:
            try:
                self._must(entry)
            except ringwal.Error:
                self._in_all = self._in_all.plus(1, 0)
                raise

    def _must(self, entry: Entry) -> None:
        if self.closed:
            raise ringwal.ClosedError("the log handler is closed; this record was not appended")
        if not self._inside:
            self._run(partial(self._prune, 2))
        for last in (False, True):
            self._attach_or_raise()
            try:
                self._append(entry)
            except (*_FULL, ringwal.RecordTooLarge):
                raise
            except ringwal.Error as error:
                # It may only say that earlier records were lost with their engine: these are counted, and it is back.
                self._leave(error)
                self._settle(self._settings.max_wait / 10)
                if last or error.outcome != "not_appended":
                    raise
            else:
                return

    def _attach_or_raise(self) -> None:
        if self._stream is not None:
            return
        if time.monotonic() < self._not_before:
            raise ringwal.NotRunning(f"this record was not appended: {self._error}") from self._error
        wait, autostart = self._settings.max_wait, self._settings.autostart
        try:
            self._attach(wait / 10, wait / 10, wait / 2 if autostart else None)
        except ringwal.Error as error:
            self._error = error
            self._not_before = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, RAISING_PAUSE)
            error.outcome = "not_appended"
            raise
        self._pause = FIRST_PAUSE

    # -------------------------------------------------------------------------------------------------- an engine

    def _attach(self, wait: float, room: float, patience: float | None = None) -> None:
        """``wait``: seconds for each of the four answers that it takes until a record is appended. ``patience``: seconds for an
        engine that may have to be started, or recovers; None: for none."""
        path, autostart = self._settings.path, self._settings.autostart
        with contextlib.ExitStack() as stack:
            if patience is not None:
                # In its place there is one that waits for little: appends attach again by themselves where that loses nothing.
                stack.callback(ringwal.connect(path, autostart=autostart, timeout=patience).close, 0.0)
            client = ringwal.connect(path, timeout=wait, append_timeout=room, lane_bytes=self._settings.lane_bytes)
        self._run(partial(self._use, client))

    def _use(self, client: ringwal.Client) -> None:
        if self.closed or self._client is not None:  # a signal handler has made one meanwhile
            client.close(0.0)
            return
        self._client, self._stream = client, client.stream(self._settings.stream)

    def _send(self, entry: Entry) -> None:
        stream = self._stream
        if stream is None:
            raise ringwal.NotRunning("the engine has ended")
        self._sent.append((stream.append(entry.data, entry.timestamp_ns), entry.told))

    def _leave(self, error: Exception) -> None:
        """This engine takes nothing any more. What became of what it has taken is for `_settle`."""
        self._error = error
        if self._client is not None:
            self._ended.append((self._client, self._sent))
        self._client = self._stream = None
        self._sent = deque()

    def _prune(self, most: int) -> None:
        """Lets go of records that have their fate, from the oldest on; of all of them if one has failed, as then all have."""
        while most > 0 and self._sent and self._sent[0][0].done():
            failed = self._account(*self._sent.popleft())
            most = len(self._sent) if failed else most - 1

    def _account(self, receipt: ringwal.Receipt, told: Told | None) -> bool:
        """Counts that record if it is not confirmed. True: it is not."""
        error: ringwal.Error | None
        try:
            error = receipt.exception(0.0)
        except ringwal.AckTimeout as late:
            error = late
        if error is None:
            return False
        if self._late is not None and isinstance(error, ringwal.ClosedError):
            error = self._late  # as unknown, and it knows what the engine waits for
        if told is not None:  # nobody knows whether the notice is there, so it is said again
            self.untold, self.why = self.untold.plus(*told), self.why or error
        else:
            unknown = error.outcome == "unknown"
            self._count(not unknown, unknown, error)
        return True

    def _settle(self, wait: float) -> None:
        """Counts what became of the records that engines had taken which take nothing any more."""
        for client, sent in self._ended.copy():
            with contextlib.suppress(ringwal.Error, OSError):
                client.close(wait)
            self._run(partial(self._settled, sent))

    def _settled(self, sent: Sent) -> None:
        self._ended = [one for one in self._ended if one[1] is not sent]
        untold, why = self.untold, self.why
        self._said()
        while sent:
            self._account(*sent.popleft())
        if self.untold != NOTHING and not self.closed and self._settings.on_down != "raise":
            self._put_notice(self._waiting.appendleft)  # they came before all that waits
        self.untold, self.why = self.untold.plus(*untold), self.why or why

    # ---------------------------------------------------------------------------------------------------- waiting

    def _keep(self, entry: Entry) -> None:
        records, size = self.waiting() + 1, self._waiting_bytes + len(entry.data)
        full = records > self._settings.buffer_records or size > self._settings.buffer_bytes
        if self._settings.on_down == "drop" or full or self._refusing:
            # Until half of them are gone, so that one gap is said, and not each of many.
            self._refusing = bool(self._waiting)
            self._lost(self._error)
            return
        if self.untold != NOTHING:
            self._put_notice(self._waiting.append)
        self._waiting.append(entry)
        self._waiting_bytes = size

    def _put_notice(self, put: Callable[[Entry], None]) -> None:
        put(self._notice())
        self._waiting_notices += 1
        self._said()

    def _call_worker(self) -> None:
        if self._worker is not None or self.closed:
            return
        self._worker = threading.Thread(target=self._work, name="ringwal-delivery", daemon=True)
        try:
            self._worker.start()
        except RuntimeError:  # the interpreter is ending, or there are too many threads: `flush` does its work
            self._worker = None
        if not self._finalizer:
            self._finalizer = True
            _at_end_of_multiprocessing(self)

    # ------------------------------------------------------------------------------------------------- the thread

    def _work(self, deadline: float | None = None) -> None:
        """Brings what waits to an engine. With a deadline, in the thread of a `flush` that has found nobody at it."""
        pause, rest = FIRST_PAUSE, FIRST_REST
        while True:
            try:
                left = PATIENCE if deadline is None else max(0.0, deadline - time.monotonic())
                self._settle(min(SETTLING, left))
                if self._stream is None:
                    self._attach(self._settings.max_wait / 4, ROOM, left)
                self._deliver()
            except _FULL as error:
                self._error = error
                nap, rest = rest, min(2 * rest, LONGEST_REST)
            except Exception as error:  # noqa: BLE001  whatever it is, it is tried again
                self._run(partial(self._leave, error))
                nap, pause = pause, min(2 * pause, LONGEST_PAUSE)
            else:
                return
            with self._changed:
                if deadline is not None:
                    nap = min(nap, max(0.0, deadline - time.monotonic()))
                self._changed.wait_for(lambda: self.closed or self._hurry, nap)
                if self._hurry:
                    self._hurry, pause = False, FIRST_PAUSE
                if self.closed or (deadline is not None and time.monotonic() >= deadline):
                    self._done()
                    return

    def _deliver(self) -> None:
        """Returns when nothing waits; from there on everybody appends what he has."""
        while (entry := self._run(self._next)) is not None:
            try:
                self._send(entry)
            except ringwal.RecordTooLarge as error:
                self._run(partial(self._lost, error))
            self._run(self._first_is_sent)

    def _next(self) -> Entry | None:
        if self.closed or not (self._waiting or self.untold != NOTHING):
            self._done()
            return None
        if not self._waiting:
            self._put_notice(self._waiting.append)
        return self._waiting[0]

    def _first_is_sent(self) -> None:
        if self.closed:  # nobody waited for this any longer
            return
        entry = self._waiting.popleft()
        if entry.told is None:
            self._waiting_bytes -= len(entry.data)
        else:
            self._waiting_notices -= 1
        records, size = self._settings.buffer_records, self._settings.buffer_bytes
        self._refusing = self._refusing and (self.waiting() * 2 > records or self._waiting_bytes * 2 > size)
        self._prune(2)

    def _done(self) -> None:
        self._worker = None
        self._changed.notify_all()

    # ---------------------------------------------------------------------------------------------------- the end

    def flush(self, timeout: float) -> None:
        """Returns when all records until now are on stable storage, or lost, or after so many seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            if self._inside:  # called by a signal handler that has interrupted a logging call
                return
            while self.waiting() and not self.closed and (left := deadline - time.monotonic()) > 0:
                if self._worker is None:
                    self._worker = threading.current_thread()
                    try:
                        self._work(deadline)
                    except BaseException:  # an interrupt
                        self._worker = None
                        raise
                else:
                    self._hurry = True
                    self._changed.notify_all()
                    self._changed.wait(min(left, LONGEST_PAUSE))
            self._gave_up = self._taken if self.waiting() else -1
            self._late, sent = None, list(self._sent)
        for receipt, _ in sent:
            try:
                receipt.exception(max(0.0, deadline - time.monotonic()))
            except ringwal.AckTimeout as late:
                self._gave_up, self._late = self._taken, late
                break
        self._run(partial(self._prune, len(sent)))

    def close(self, timeout: float) -> None:
        """Flushes, and lets go of the engine. `untold` and `why` are then what is lost and could not be said in the stream."""
        if self.closed:
            return
        if self._gave_up != self._taken:  # else a flush has just waited, and nothing has come since
            self.flush(timeout)
        with self._changed:
            self.closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._worker is None, LEAVING)
            self._run(self._let_go)
        self._settle(0.0)

    def _let_go(self) -> None:
        for entry in self._waiting:
            if entry.told is None:
                self._lost(self._error)
            else:
                self.untold = self.untold.plus(*entry.told)
        self._waiting.clear()
        self._waiting_bytes = self._waiting_notices = 0
        self._leave(ringwal.ClosedError("the log handler was closed"))


def _at_end_of_multiprocessing(delivery: Delivery) -> None:
    """A process that multiprocessing has forked ends without what `atexit` knows, and so without `logging.shutdown`."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, _flush, args=(weakref.ref(delivery),), exitpriority=0)


def _flush(delivery: weakref.ref[Delivery]) -> None:
    found = delivery()
    if found is not None:
        found.flush(SETTLING)
