"""The synchronous face of the engine: connect and the client. Its streams are in stream.py."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from ringwal import retention
from ringwal.client import merging
from ringwal.client.attachment import Attachment
from ringwal.client.batch import Batch
from ringwal.client.consumer import Consumer
from ringwal.client.consumer_rows import consumer_infos, delete_consumer_steps
from ringwal.client.core import ClientCore
from ringwal.client.producer import Producer
from ringwal.client.stream import Stream, each
from ringwal.errors import Error, NotRunning
from ringwal.limits import seconds
from ringwal.model import EARLIEST, ConsumerInfo, StreamInfo, StreamRecord
from ringwal.positions import Position
from ringwal.protocol.messages import check_own_name
from ringwal.retention import Age, Count, Size
from ringwal.steps import park


def connect(
    path: str | os.PathLike[str],
    *,
    autostart: bool = False,
    timeout: float | None = 5.0,
    lane_bytes: int | None = None,
    append_timeout: float | None = 5.0,
    reconnect: float | None = None,
) -> Client:
    """Attaches to the engine that serves the directory ``path``.

    Args:
        path: the engine's directory.
        autostart: start an engine for the directory if none runs. It lives until its last client has gone. The directory is
            made if it is missing, what lies above it is not.
        timeout: seconds to wait for the engine to answer, recovery included; ``None`` for ever. A Python that has not loaded
            the engine by then is ended; an engine that has begun to start goes on, and the next ``connect`` finds it.
        lane_bytes: size of this process's lane, 64 KiB to 1 GiB; a record may take half of it. Rounded up to a power of two.
        append_timeout: seconds that an append waits for room before it raises `BackpressureTimeout`; ``None`` for ever.
        reconnect: seconds that a call waits for the engine to come back once it has ended, instead of raising `NotRunning`
            at once. An append that was certainly not made is made then, and a tail goes on where it was; one of which nobody
            knows raises `EngineFailed`, as ever. ``None``: not at all.

    Raises:
        NotRunning: no engine serves the directory, and ``autostart`` is off; or it did not answer in time.
        FileError: the system does not let this process use, or make, the directory, or run the interpreter.
        VersionMismatch: the engine was built from another version.
        ShmUnavailable: there is no shared memory, or no place, for another client.
        ValueError: a number outside of its limits.
        ConfigError: a path that no file can have.
    """
    try:
        return Client(
            path,
            autostart=autostart,
            timeout=timeout,
            lane_bytes=lane_bytes,
            append_timeout=append_timeout,
            reconnect=reconnect,
        )
    except NotRunning as error:
        if error.why == "absent" and not autostart:
            error.args = (f"{error}, or connect with autostart=True",)
        raise


class Client(ClientCore[Stream]):
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
        reconnect: float | None = None,
    ) -> None:
        super().__init__(
            path,
            autostart=autostart,
            timeout=timeout,
            lane_bytes=lane_bytes,
            append_timeout=append_timeout,
            reconnect=reconnect,
        )
        self._attachment()

    def _attachment(self) -> Attachment:
        """As `_attachment_steps`."""
        return self._live_attachment() or park(self._attachment_steps())

    def _new_stream(self, name: str) -> Stream:
        return Stream(self, name)

    def create_stream(
        self,
        name: str,
        *,
        retention_age: Age | None = None,
        retention_bytes: Size | None = None,
        retention_records: Count | None = None,
        retain_until: Iterable[str] = (),
        exist_ok: bool = False,
    ) -> Stream:
        """As `stream`, and the stream is there, on stable storage, with these settings, before anything is appended.

        Where it is there, this changes nothing if its settings are these. One of which nobody has said any, as only an append
        has made it, gets these.

        Args:
            retention_age: records that are older may be dropped: ``"30d"``, a timedelta, or seconds.
            retention_bytes: payload beyond the newest so many bytes may be dropped: ``"10GiB"``, or bytes.
            retention_records: records beyond the newest so many may be dropped.
            retain_until: names of consumers: what one of them has not committed is kept.
            exist_ok: take the stream as it is where it is there with other settings; `StreamInfo` says which it has.

        A limit that is ``None`` is the engine's default, whatever that is by then; ``"none"`` says that there is none.

        Raises:
            StreamExists: it is there with other settings, which the message names; `Stream.configure` changes them.
            ShmUnavailable: the engine's stream table is full.
            ConfigError: the name begins with ``_``: such streams are the engine's own; a setting outside of its limits.
            NotRunning: no engine serves the directory. Nothing was made.
            AckTimeout, EngineFailed: not confirmed within the client's ``timeout``, or when the engine ended: it may be there.
            As `stream`.
        """
        check_own_name(name)
        wanted = retention.asked(retention_age, retention_bytes, retention_records, retain_until)
        return park(self._create_steps(name, wanted, exist_ok=exist_ok))

    def consumer(
        self,
        name: str,
        streams: Iterable[str],
        start: Position = EARLIEST,
        *,
        on_trimmed: Literal["raise", "earliest"] = "raise",
    ) -> Consumer:
        """Claims the consumer of that name, which reads these streams, and keeps in the log how far it is::

            with client.consumer("billing", ["orders", "refunds"]) as consumer:
                for record in consumer:
                    handle(record)
                    consumer.commit(record)

        When this returns it is claimed, on stable storage, and whoever had it before is fenced: its next commit, also one in a
        batch, raises `ConsumerFenced`. It goes on where it has committed, and begins at ``start`` in a stream that is new to
        it. Streams that are not there are made. The engine never forgets a consumer by itself: `delete_consumer`.

        Args:
            name: of the consumer, 1 to 120 bytes of UTF-8.
            streams: names of 1 to 64 streams.
            start: as for `Stream.tail`.
            on_trimmed: as for `Stream.tail`; records that are dropped before it has read them.

        Raises:
            ConfigError: a name that is none, or a stream of the engine's own.
            ValueError: no streams, one of them twice, too many; a place that is none.
            ShmUnavailable: there is no place for another row, or stream.
            StorageFull: the log is full. Nothing was claimed.
            NotRunning: no engine serves the directory.
        """
        made = Consumer(self, name, streams, start, on_trimmed)
        park(made._claim_steps())
        return made

    def consumers(self) -> list[ConsumerInfo]:
        """All consumers, by name and stream: a row for each stream that one has committed to, or was claimed for."""
        return consumer_infos(self._attachment())

    def delete_consumer(self, name: str) -> list[str]:
        """The engine forgets the consumer of that name; whoever has it is fenced. Returns the streams that it had read.

        Raises:
            ConfigError: a name that is none.
            As `consumer`.
        """
        return park(delete_consumer_steps(self, name))

    def producer(self, stream: str, name: str) -> Producer:
        """Claims the producer of that name, of that stream: who numbers what it appends, so that a repeat is known as one.
        It has done so, on stable storage, when this returns.

        Whoever has claimed it before is fenced from now on (`ProducerFenced`). `Producer.next` says how many of its records
        are in the stream. The engine remembers ``max_producers`` of them; one that was silent for ``producer_age`` may be
        forgotten, if another one needs its place, and is fenced then.

        Raises:
            ConfigError: a name that is none, or a stream of the engine's own.
            ShmUnavailable: there is no place for another producer, or stream.
            StorageFull: the log is full. Nothing was claimed.
            StreamDeleted: the stream was deleted meanwhile.
            NotRunning: no engine serves the directory.
        """
        made = Producer(self, stream, name)
        park(made._claim_steps())
        return made

    def batch(self, *, timeout: float | None = 30.0) -> Batch:
        """Appends to several streams that are made together: all of them are in the log, or none, whatever dies meanwhile::

            with client.batch() as batch:
                batch.append("orders", order)
                batch.append("audit", entry)

        Leaving the block sends them, and waits for one sync; ``batch.receipt.result()`` has an `Ack` for each. A block that is
        left by an exception sends nothing. Whoever follows both streams together (`tail`) never sees a part of it; a reader of
        one stream may see its record a moment before another stream has the other one.

        Args:
            timeout: seconds that leaving the block waits for the confirmation; ``None`` waits for ever.

        Leaving the block raises:
            OffsetMismatch: a stream goes on at another offset than was expected. Nothing of the batch was appended.
            AckTimeout: not confirmed in time. The outcome is unknown; its receipt may be asked again.
            EngineFailed: the engine ended first. The outcome is unknown: all of it is in the log, or nothing.
            RecordTooLarge, BackpressureTimeout, StorageFull, NotRunning: as `Stream.append`. Nothing was written.
        """
        return Batch(self, timeout)

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
        park(self._delete_steps(name))

    def tail(
        self,
        streams: Mapping[str, Position],
        *,
        max_records: int = 1000,
        idle_timeout: float | None = None,
        missing: Literal["raise", "wait"] = "raise",
        on_trimmed: Literal["raise", "earliest"] = "raise",
    ) -> Iterator[StreamRecord]:
        """Follows several streams: yields their records in log order, each with the name of its `stream`.

        Log order is the order in which the engine took them, and is the same for everybody. A tail goes as far as the log is
        confirmed without a gap: what was written by one thread is never seen without what that thread wrote before it. So
        a record may be in `Stream.tail` a moment earlier, where ``confirm_order`` is ``"stream"``.

        Args:
            streams: where to begin in each, by name: as ``start`` of `Stream.tail`.
            max_records: how many are fetched at once, of all together, as far as they take no more than a few megabytes.
            idle_timeout: end after so many seconds without a record; ``None`` never ends.
            missing: as for `Stream.tail`, of each.
            on_trimmed: as for `Stream.tail`, of each; `OffsetTrimmed` says which in its ``stream``.

        Raises:
            ValueError: no streams, or a place that is none.
            As `Stream.tail`.
        """
        steps = merging.merge_steps(
            self,
            streams,
            max_records=max_records,
            idle_timeout=idle_timeout,
            missing=missing,
            on_trimmed=on_trimmed,
        )
        return each(park(steps))

    def streams(self) -> list[StreamInfo]:
        """All streams, by name: those that have or had records, or were created or opened since the engine started."""
        return sorted(self._attachment().stream_infos())

    def status(self) -> dict[str, Any]:
        """The engine's own report: processes, counters, clients, durability."""
        return park(self._status_steps())

    def close(self, timeout: float | None = 30.0) -> None:
        """Waits until every append is confirmed, then detaches. Closing twice is allowed.

        Raises:
            AckTimeout: not all were confirmed in time. The client is closed all the same.
            Error: an append failed and nobody had asked its receipt.
            ValueError: a timeout that is none. The client is not closed.
        """
        park(self._close_steps(seconds(timeout)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(Error):
                self.close(timeout=1.0)  # the error under way is the one to tell

    if not TYPE_CHECKING:  # what is written where somebody took one face for the other

        async def __aenter__(self):
            raise TypeError("use `with` for ringwal.connect; in an event loop, `async with ringwal.aio.connect(...)`")

        async def __aexit__(self, *_):
            pass

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (str(self.path), self._options, self._log)


def _unpickle(path: str, options: dict[str, Any], log: bytes | None) -> Client:
    """One for all that come, say with each task of a pool: theirs would keep their places until the collector finds them."""
    key = (path, log, *sorted(options.items()))
    found = _unpickled.get(key)
    if found is None or found._closed:
        found = _unpickled[key] = Client(path, **options)  # threads that come here at once may have one each
    return found


_unpickled: weakref.WeakValueDictionary[tuple[object, ...], Client] = weakref.WeakValueDictionary()
