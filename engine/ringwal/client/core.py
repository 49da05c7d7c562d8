"""What a client is, whichever face it has: its attachments, its streams, and the steps of what it does (ringwal.steps)."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ringwal import limits
from ringwal.client import configuring, removal
from ringwal.client.attachment import Attachment, Binding
from ringwal.client.lane import Lane
from ringwal.client.stream_core import StreamCore
from ringwal.config import lane_size
from ringwal.errors import ClosedError, ConfigError, EngineFailed, Error, NotRunning
from ringwal.file_errors import FileErrors
from ringwal.limits import seconds
from ringwal.protocol.messages import check_own_name, check_stream_name
from ringwal.steps import Found, Rest, Steps, alone
from ringwal.thread_lock import ThreadLock

if TYPE_CHECKING:
    import asyncio

    from ringwal.client.consuming import ConsumerCore
    from ringwal.client.producing import ProducerCore

FIRST_REST, LONGEST_REST = 0.01, 0.2
"""Seconds between two attempts to attach again, at first and at most."""

Handle = TypeVar("Handle", bound=StreamCore)


class ClientCore(Generic[Handle]):
    """A process's connection to an engine. What is public in it has the same meaning in both faces; names that begin with an
    underscore are for this package, as users are shown the others."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        autostart: bool,
        timeout: float | None,
        lane_bytes: int | None,
        append_timeout: float | None,
        reconnect: float | None,
    ) -> None:
        """Checks what is said, and attaches to nothing. Raises ValueError, ConfigError, FileError."""
        given = limits.path(path, error=ConfigError)
        with FileErrors(given, "find"):  # the current directory may be gone
            self.path = given.absolute()  # the same directory, wherever this process changes to
        self._options: dict[str, Any] = {
            "autostart": autostart,
            "timeout": seconds(timeout),
            "lane_bytes": lane_size(lane_bytes, error=ConfigError),
            "append_timeout": seconds(append_timeout, "append_timeout"),
            "reconnect": seconds(reconnect, "reconnect"),
        }
        limit = self._options["append_timeout"]
        self._append_timeout = float("inf") if limit is None else limit
        # The first one that is usable is used, the others are those of interrupted calls.
        self._attachments: list[Attachment] = []
        self._log: bytes | None = None  # the uuid of the log that this client has used
        self._lock = ThreadLock()  # attaching and closing only
        self._closed = False
        self._ended_at = 0.0  # `time.monotonic`: the latest engine was found to have ended then
        self._loop: asyncio.AbstractEventLoop | None = None  # the one in which this client is awaited
        self._streams: dict[str, Handle] = {}
        self._producers: weakref.WeakSet[ProducerCore] = weakref.WeakSet()
        self._consumers: weakref.WeakSet[ConsumerCore] = weakref.WeakSet()
        self._latest_batch = b""  # joined, and let go when the next one has been: see `Stream.append_many`
        _clients.add(self)

    # ------------------------------------------------------------------------------------------------- attaching

    def _attachment_steps(self) -> Steps[Attachment]:
        """The live attachment, made if need be.

        Raises:
            ClosedError, NotRunning, VersionMismatch, ShmUnavailable: see `connect`.
        """
        return self._live_attachment() or (yield from self._again(self._attach))

    def _live_attachment(self) -> Attachment | None:
        """The one that can be used now, if there is one. Raises ClosedError."""
        self._check_open()
        current = next(iter(self._attachments), None)
        return current if current is not None and current.usable() else None

    def _again(self, attach: Callable[[], Steps[Found]], began: float | None = None) -> Steps[Found]:
        """These steps, alone; where the client was told to wait for the engine's return, until it is back. What waits holds no
        lock, so that the client can be closed meanwhile.

        ``began``: when the call that wants it did. Calls that have waited for each other wait no longer than one would."""
        began, rest = time.monotonic() if began is None else began, FIRST_REST
        while True:
            try:
                return (yield from alone(self._lock, attach))
            except NotRunning as error:
                if self._log is None or not error.retriable or self._given_up(began):
                    raise
            yield Rest(rest)
            rest = min(2 * rest, LONGEST_REST)

    def _in_engine_steps(self, work: Callable[[Attachment], Steps[Found]]) -> Steps[Found]:
        """These steps with the live attachment. Where the engine ends in them and `NotRunning` says that they did nothing, they
        begin anew in its successor, with ``reconnect``. Raises as `_attachment_steps`, and as they do."""
        began = time.monotonic()
        while True:
            attachment = yield from self._attachment_steps()
            try:
                return (yield from work(attachment))
            except NotRunning as error:
                ended = error.why == "ending" or not attachment.usable()
                if not error.retriable or not ended or self._given_up(began):
                    raise
            yield Rest(FIRST_REST)

    def _given_up(self, began: float) -> bool:
        """Has a call that began then waited for the engine's return as long as it may?"""
        return max(began, self._ended_at) + (self._options["reconnect"] or 0.0) <= time.monotonic()

    def _reconnect_deadline(self) -> float:
        """Until when what begins now may wait for an engine that has ended (`time.monotonic`)."""
        return time.monotonic() + self._options["reconnect"] if self._options["reconnect"] else 0.0

    def _attach(self) -> Steps[Attachment]:
        while True:
            self._check_open()
            for attachment in self._attachments.copy():
                if attachment.usable():
                    return attachment
                self._ended_at = time.monotonic()
                self._drop(attachment, EngineFailed("the engine ended before this append was confirmed"))
            autostart, timeout = self._options["autostart"], self._options["timeout"]
            made = yield from Attachment.steps(
                self.path, autostart=autostart, timeout=timeout, log=self._log, loop=self._loop
            )
            self._log = made.log
            self._attachments.append(made)

    def _check_open(self) -> None:
        if self._closed:
            for attachment in self._attachments.copy():  # of a call that was under way in the thread that closed
                self._drop(attachment, _closed())
            raise ClosedError("this client is closed")

    def _bind_steps(self, name: str, began: float | None = None, *, look: bool = False) -> Steps[Binding]:
        """Everything that an append to the stream of that name needs, of the live attachment; ``began``: see `_again`;
        ``look``: the stream is not made.

        Raises:
            As `_attachment_steps`; ConfigError: the name is not legal, or the engine's own. NoSuchStream for a look.
        """
        check_own_name(name)
        began = time.monotonic() if began is None else began
        while True:
            attachment, lane = yield from self._again(self._lane, began)
            try:
                return Binding(attachment, lane, (yield from attachment.handle_steps(name, look=look)))
            except NotRunning as error:  # it has ended since
                if not error.retriable or self._given_up(began):
                    raise
            yield Rest(FIRST_REST)

    def _lane(self) -> Steps[tuple[Attachment, Lane]]:
        """No other thread lets go of the attachment while its lane is being made."""
        attachment = yield from self._attach()
        return attachment, (yield from attachment.lane_steps(self._options["lane_bytes"]))

    def _drop(self, attachment: Attachment, error: Error) -> None:
        attachment.end(error)
        for stream in self._handles():
            stream._detach(attachment)
        for producer in self._numbering():
            producer._stream._detach(attachment)
        for consumer in self._consuming():
            consumer._detach(attachment)
        attachment.close()
        with contextlib.suppress(ValueError):  # a signal handler has done all this
            self._attachments.remove(attachment)

    def _handles(self) -> list[Handle]:
        while True:
            with contextlib.suppress(RuntimeError):  # another thread, or a destructor, opened one meanwhile
                return list(self._streams.values())

    def _numbering(self) -> list[ProducerCore]:
        """The producers that are in use."""
        while True:
            with contextlib.suppress(RuntimeError):  # another thread, or a destructor, claimed one meanwhile
                return list(self._producers)

    def _consuming(self) -> list[ConsumerCore]:
        """The consumers that are in use."""
        while True:
            with contextlib.suppress(RuntimeError):  # as above
                return list(self._consumers)

    def _forked(self) -> None:
        """In the child of a fork: forget the parent's attachment; the next use attaches afresh."""
        self._lock = ThreadLock()
        attachments, self._attachments = self._attachments, []
        for stream in self._handles():
            stream._forked()
        for producer in self._numbering():
            producer._forked()
        for consumer in self._consuming():
            consumer._forked()
        for attachment in attachments:
            attachment.forked()

    # ------------------------------------------------------------------------------------------------------- use

    def stream(self, name: str) -> Handle:
        """The stream of that name, which need not exist: its first append creates it. Handles are cached and cheap.

        Raises:
            ConfigError: not a legal name (1 to 120 bytes of UTF-8, no control characters).
        """
        self._check_open()
        found = self._streams.get(name)
        if found is None:
            check_stream_name(name)
            found = self._new_stream(name)
            found = self._streams.setdefault(name, found)
        return found

    def _new_stream(self, name: str) -> Handle:
        raise NotImplementedError

    def _create_steps(self, name: str, wanted: dict[str, Any], *, exist_ok: bool) -> Steps[Handle]:
        """See `Client.create_stream`; ``wanted`` is what `retention.asked` gives."""
        if exist_ok:
            wanted = {**wanted, "exist_ok": True}
        stream = self.stream(name)

        def create(attachment: Attachment) -> Steps[None]:
            attachment.keep_handle(name, (yield from configuring.create(attachment, name, wanted, self._options["timeout"])))

        yield from self._in_engine_steps(create)
        return stream

    def _delete_steps(self, name: str) -> Steps[None]:
        """See `Client.delete_stream`."""
        check_stream_name(name)
        check_own_name(name)
        yield from self._in_engine_steps(lambda attachment: removal.delete(attachment, name, self._options["timeout"]))

    def _status_steps(self) -> Steps[dict[str, Any]]:
        """See `Client.status`."""
        return (yield from self._in_engine_steps(lambda attachment: attachment.registration.status_steps()))

    def _close_steps(self, timeout: float | None) -> Steps[None]:
        """See `Client.close`. Before it is closed, what a producer has lost with an engine is sent again, and what
        consumers have committed goes on its way."""
        deadline = None if timeout is None else time.monotonic() + timeout
        first: Error | None = None

        def left() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        for producer in self._numbering() if self._options["reconnect"] and not self._closed else ():
            try:
                yield from producer._flush_steps(left())
            except Error as error:
                first = first or error
        for consumer in self._consuming() if not self._closed else ():
            try:
                yield from consumer._close_steps(left())
            except Error as error:
                first = first or error
        yield from alone(self._lock, lambda: self._close(left()))
        if first is not None:
            raise first

    def _close(self, timeout: float | None) -> Steps[None]:
        try:
            for attachment in self._attachments.copy():
                yield from attachment.flush_steps(timeout)
        finally:
            self._end()

    def _end(self) -> None:
        """Closed, at once. What is being attached meanwhile is let go of by whoever attaches."""
        self._closed = True
        for attachment in self._attachments.copy():
            self._drop(attachment, _closed())
        self._latest_batch = b""

    def __repr__(self) -> str:
        return f"<Client {str(self.path)!r}{' closed' if self._closed else ''}>"


def _closed() -> ClosedError:
    return ClosedError("the client was closed before this append was confirmed", outcome="unknown")


_clients: weakref.WeakSet[ClientCore[Any]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
