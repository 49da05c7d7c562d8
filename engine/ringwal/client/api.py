"""The synchronous face of the engine: connect and the client. Its streams are in stream.py."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import Any, Self

from ringwal import limits, retention
from ringwal.client import configuring, removal
from ringwal.client.attachment import Attachment, Binding
from ringwal.client.lane import Lane
from ringwal.client.stream import Stream
from ringwal.config import LANE_BYTES_MAX
from ringwal.errors import ClosedError, ConfigError, EngineFailed, Error, NotRunning
from ringwal.file_errors import FileErrors
from ringwal.limits import seconds, whole
from ringwal.model import StreamInfo
from ringwal.protocol.messages import check_own_name, check_stream_name
from ringwal.retention import Age, Count, Size
from ringwal.thread_lock import ThreadLock


def connect(
    path: str | os.PathLike[str],
    *,
    autostart: bool = False,
    timeout: float | None = 5.0,
    lane_bytes: int | None = None,
    append_timeout: float | None = 5.0,
) -> Client:
    """Attaches to the engine that serves the directory ``path``.

    Args:
        path: the engine's directory.
        autostart: start an engine for the directory if none runs. It lives until its last client has gone. The directory is
            made if it is missing, what lies above it is not.
        timeout: seconds to wait for the engine to answer, recovery included; ``None`` for ever. A Python that has not loaded
            the engine by then is ended; an engine that has begun to start goes on, and the next ``connect`` finds it.
        lane_bytes: size of this process's lane, up to 1 GiB; a record may take half of it. Rounded up to a power of two.
        append_timeout: seconds that an append waits for room before it raises `BackpressureTimeout`; ``None`` for ever.

    Raises:
        NotRunning: no engine serves the directory, and ``autostart`` is off; or it did not answer in time.
        FileError: the system does not let this process use, or make, the directory, or run the interpreter.
        VersionMismatch: the engine was built from another version.
        ShmUnavailable: there is no shared memory, or no place, for another client.
        ValueError: a number outside of its limits.
        ConfigError: a path that no file can have.
    """
    try:
        return Client(path, autostart=autostart, timeout=timeout, lane_bytes=lane_bytes, append_timeout=append_timeout)
    except NotRunning as error:
        if error.why == "absent" and not autostart:
            error.args = (f"{error}, or connect with autostart=True",)
        raise


class Client:
    """A process's connection to an engine. Threads may share it. Pickles as its path and options: what a process unpickles of
    one client, and of its streams, is one client there, until that is closed.

    After a fork the child's first use attaches afresh. If the engine ends, pending receipts fail with `EngineFailed`. The next
    append attaches to its successor; only if an earlier one to the stream has failed so and nobody was told, it is refused
    first (`NotRunning`, not appended). A client stays with its log: where another one has taken the place of the directory it
    is refused.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        autostart: bool = False,
        timeout: float | None = 5.0,
        lane_bytes: int | None = None,
        append_timeout: float | None = 5.0,
    ) -> None:
        given = limits.path(path, error=ConfigError)
        with FileErrors(given, "find"):  # the current directory may be gone
            self.path = given.absolute()  # the same directory, wherever this process changes to
        self.options: dict[str, Any] = {
            "autostart": autostart,
            "timeout": seconds(timeout),
            "lane_bytes": None if lane_bytes is None else whole(lane_bytes, "lane_bytes", 1, LANE_BYTES_MAX, error=ConfigError),
            "append_timeout": seconds(append_timeout, "append_timeout"),
        }
        limit = self.options["append_timeout"]
        self.append_timeout = float("inf") if limit is None else limit
        # The first one that is usable is used, the others are those of interrupted calls.
        self._attachments: list[Attachment] = []
        self._log: bytes | None = None  # the uuid of the log that this client has used
        self._lock = ThreadLock()  # attaching and closing only
        self._closed = False
        self._streams: dict[str, Stream] = {}
        self.latest_batch = b""  # joined, and let go when the next one has been: see `Stream.append_many`
        _clients.add(self)
        self.attachment()

    # ------------------------------------------------------------------------------------------------- attaching

    def attachment(self) -> Attachment:
        """The live attachment, made if need be.

        Raises:
            ClosedError, NotRunning, VersionMismatch, ShmUnavailable: see `connect`.
        """
        self._check_open()
        current = next(iter(self._attachments), None)
        if current is not None and current.usable():
            return current
        return self._lock.run(self._attach)

    def _attach(self) -> Attachment:
        while True:
            self._check_open()
            for attachment in self._attachments.copy():
                if attachment.usable():
                    return attachment
                self._drop(attachment, EngineFailed("the engine ended before this append was confirmed"))
            autostart, timeout = self.options["autostart"], self.options["timeout"]
            made = Attachment(self.path, autostart=autostart, timeout=timeout, log=self._log)
            self._log = made.log
            self._attachments.append(made)

    def _check_open(self) -> None:
        if self._closed:
            for attachment in self._attachments.copy():  # of a call that was under way in the thread that closed
                self._drop(attachment, _closed())
            raise ClosedError("this client is closed")

    def bind(self, name: str) -> Binding:
        """Everything that an append to the stream of that name needs, of the live attachment.

        Raises:
            As `attachment`; ConfigError: the name is not legal, or the engine's own.
        """
        check_own_name(name)
        attachment, lane = self._lock.run(self._lane)
        return Binding(attachment, lane, attachment.handle_of(name))

    def _lane(self) -> tuple[Attachment, Lane]:
        """No other thread lets go of the attachment while its lane is being made."""
        attachment = self._attach()
        return attachment, attachment.lane(self.options["lane_bytes"])

    def _drop(self, attachment: Attachment, error: Error) -> None:
        attachment.end(error)
        for stream in self._handles():
            stream.detach(attachment)
        attachment.close()
        with contextlib.suppress(ValueError):  # a signal handler has done all this
            self._attachments.remove(attachment)

    def _handles(self) -> list[Stream]:
        while True:
            with contextlib.suppress(RuntimeError):  # another thread, or a destructor, opened one meanwhile
                return list(self._streams.values())

    def forked(self) -> None:
        """In the child of a fork: forget the parent's attachment; the next use attaches afresh."""
        self._lock = ThreadLock()
        attachments, self._attachments = self._attachments, []
        for stream in self._handles():
            stream.forked()
        for attachment in attachments:
            attachment.forked()

    # ------------------------------------------------------------------------------------------------------- use

    def stream(self, name: str) -> Stream:
        """The stream of that name, which need not exist: its first append creates it. Handles are cached and cheap.

        Raises:
            ConfigError: not a legal name (1 to 120 bytes of UTF-8, no control characters).
        """
        self._check_open()
        found = self._streams.get(name)
        if found is None:
            check_stream_name(name)
            found = Stream(self, name)
            found = self._streams.setdefault(name, found)
        return found

    def create_stream(
        self,
        name: str,
        *,
        retention_age: Age | None = None,
        retention_bytes: Size | None = None,
        retention_records: Count | None = None,
        retain_until: Iterable[str] = (),
    ) -> Stream:
        """As `stream`, and the stream is there, on stable storage, with these settings, before anything is appended.

        Where it is there, this changes nothing if its settings are these. One of which nobody has said any, as only an append
        has made it, gets these.

        Args:
            retention_age: records that are older may be dropped: ``"30d"``, a timedelta, or seconds.
            retention_bytes: payload beyond the newest so many bytes may be dropped: ``"10GiB"``, or bytes.
            retention_records: records beyond the newest so many may be dropped.
            retain_until: names of consumers: what one of them has not committed is kept.

        A limit that is ``None`` is the engine's default, whatever that is by then; ``"none"`` says that there is none.

        Raises:
            StreamExists: it is there with other settings; `Stream.configure` changes them.
            ShmUnavailable: the engine's stream table is full.
            ConfigError: the name begins with ``_``: such streams are the engine's own; a setting outside of its limits.
            NotRunning: no engine serves the directory. Nothing was made.
            AckTimeout, EngineFailed: not confirmed within the client's ``timeout``, or when the engine ended: it may be there.
            As `stream`.
        """
        stream = self.stream(name)
        check_own_name(name)
        wanted = retention.asked(retention_age, retention_bytes, retention_records, retain_until)
        attachment = self.attachment()
        attachment.keep_handle(name, configuring.create(attachment, name, wanted, self.options["timeout"]))
        return stream

    def delete_stream(self, name: str) -> None:
        """Deletes the stream with all of its records: when this returns, that is on stable storage.

        It is gone at once, for everybody: readers are told `NoSuchStream`, tails end with `StreamDeleted`. Appends that are
        on their way to it, of any client, are in it, and gone with it, or refused alone (`StreamDeleted`, not appended). The
        next append to the name makes another stream, which begins at offset 0.

        Raises:
            NoSuchStream: there is none of that name.
            ConfigError: the name begins with ``_``: such streams are the engine's own.
            NotRunning: no engine serves the directory. Nothing was deleted.
            AckTimeout, EngineFailed: not confirmed within the client's ``timeout``, or when the engine ended: it may be
                deleted.
        """
        check_stream_name(name)
        check_own_name(name)
        removal.delete(self.attachment(), name, self.options["timeout"])

    def streams(self) -> list[StreamInfo]:
        """All streams, by name: those that have or had records, or were created or opened since the engine started."""
        return sorted(self.attachment().stream_infos())

    def status(self) -> dict[str, Any]:
        """The engine's own report: processes, counters, clients, durability."""
        return self.attachment().status()

    def close(self, timeout: float | None = 30.0) -> None:
        """Waits until every append is confirmed, then detaches. Closing twice is allowed.

        Raises:
            AckTimeout: not all were confirmed in time. The client is closed all the same.
            Error: an append failed and nobody had asked its receipt.
            ValueError: a timeout that is none. The client is not closed.
        """
        self._lock.run(partial(self._close, seconds(timeout)))

    def _close(self, timeout: float | None) -> None:
        try:
            for attachment in self._attachments.copy():
                attachment.flush(timeout)
        finally:
            self._closed = True
            for attachment in self._attachments.copy():
                self._drop(attachment, _closed())
            self.latest_batch = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(Error):
                self.close(timeout=1.0)  # the error under way is the one to tell

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconnect, (str(self.path), self.options, self._log)

    def __repr__(self) -> str:
        return f"<Client {str(self.path)!r}{' closed' if self._closed else ''}>"


def _closed() -> ClosedError:
    return ClosedError("the client was closed before this append was confirmed", outcome="unknown")


def _reconnect(path: str, options: dict[str, Any], log: bytes | None) -> Client:
    """One for all that come, say with each task of a pool: theirs would keep their places until the collector finds them."""
    key = (path, log, *sorted(options.items()))
    found = _unpickled.get(key)
    if found is None or found._closed:
        found = _unpickled[key] = Client(path, **options)  # threads that come here at once may have one each
    return found


_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_unpickled: weakref.WeakValueDictionary[tuple[object, ...], Client] = weakref.WeakValueDictionary()


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
