"""The synchronous face of the engine: connect, streams, appends, reads."""

from __future__ import annotations

import array
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from ringwal._native import ffi, lib
from ringwal.attachment import Attachment, Binding
from ringwal.errors import AckTimeout, BackpressureTimeout, ClosedError, EngineFailed, Error, NotRunning
from ringwal.lane import SLICE_NS
from ringwal.reader import Cursor, Record
from ringwal.receipt import BatchReceipt, Receipt
from ringwal.results import Results

EARLIEST = -2
"""``start`` of a read or tail: the oldest record the stream still has."""
LATEST = -1
"""``start`` of a tail: only what is confirmed from now on."""

BATCH_KEPT_MAX = 1 << 20
"""Bytes of the latest batch that a client keeps at most, so that the next one finds warm memory."""

_submit = lib.rw_submit
_submit_many = lib.rw_submit_many


class StreamInfo(NamedTuple):
    """What is known of a stream. Offsets are dense from 0."""

    name: str
    start_offset: int
    """Offset of the oldest record that is kept."""
    confirmed_offset: int
    """Offset of the next record to be confirmed: all below are on stable storage."""
    records: int
    confirmed_bytes: int
    """Payload bytes confirmed since this engine started."""
    last_timestamp_ns: int
    """Wall-clock time at which the engine took the newest confirmed record; 0 if there is none since its start."""


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
        autostart: start an engine for the directory if none runs. It lives until its last client has gone.
        timeout: seconds to wait for the engine to answer, recovery included; ``None`` for ever.
        lane_bytes: size of this process's lane; a record may take half of it. Rounded up to a power of two.
        append_timeout: seconds that an append waits for room before it raises `BackpressureTimeout`.

    Raises:
        NotRunning: no engine serves the directory, and ``autostart`` is off.
        VersionMismatch: the engine was built from another version.
        ShmUnavailable: there is no shared memory, or no place, for another client.
    """
    return Client(path, autostart=autostart, timeout=timeout, lane_bytes=lane_bytes, append_timeout=append_timeout)


class Client:
    """A process's connection to an engine. Threads may share it. Pickles as its path and options.

    After a fork the child's first use attaches afresh. If the engine ends, pending receipts fail with `EngineFailed`, the
    next append is refused (`NotRunning`, not appended), and the use after that attaches to its successor. A client stays with
    its log: where another one has taken the place of the directory it is refused.
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
        self.path = Path(path).absolute()  # the same directory, wherever this process changes to
        self.options: dict[str, Any] = {
            "autostart": autostart,
            "timeout": timeout,
            "lane_bytes": lane_bytes,
            "append_timeout": append_timeout,
        }
        self.append_timeout = float("inf") if append_timeout is None else append_timeout
        self._attachment: Attachment | None = None
        self._log: bytes | None = None  # the uuid of the log that this client has used
        self._lock = threading.RLock()  # attaching and closing only
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
        if self._closed:
            raise ClosedError("this client is closed")
        current = self._attachment
        if current is not None and current.usable():
            return current
        with self._lock:
            if self._attachment is not None and not self._attachment.usable():
                self._drop(EngineFailed("the engine ended before this append was confirmed"))
            if self._attachment is None:
                autostart, timeout = self.options["autostart"], self.options["timeout"]
                self._attachment = Attachment(self.path, autostart=autostart, timeout=timeout, log=self._log)
                self._log = self._attachment.log
            return self._attachment

    def bind(self, name: str) -> Binding:
        """Everything that an append to the stream of that name needs, of the live attachment.

        Raises:
            As `attachment`; ConfigError: the name is not legal.
        """
        with self._lock:  # nobody lets go of the attachment while its lane is being made
            attachment = self.attachment()
            lane = attachment.lane(self.options["lane_bytes"])
        return Binding(attachment, lane, attachment.number_of(name))

    def _drop(self, error: Error) -> None:
        attachment, self._attachment = self._attachment, None
        if attachment is None:
            return
        attachment.end(error)
        for stream in list(self._streams.values()):
            stream.detach(attachment)
        attachment.close()

    def renew(self, attachment: Attachment) -> None:
        """Detaches from the engine if ``attachment`` is still in use; the next use attaches afresh."""
        with self._lock:
            if self._attachment is attachment:
                self._drop(ClosedError("this client has taken another lane"))

    def forked(self) -> None:
        """In the child of a fork: forget the parent's attachment; the next use attaches afresh."""
        self._lock = threading.RLock()
        attachment, self._attachment = self._attachment, None
        for stream in list(self._streams.values()):
            stream.forked()
        if attachment is not None:
            attachment.forked()

    # ------------------------------------------------------------------------------------------------------- use

    def stream(self, name: str) -> Stream:
        """The stream of that name, created on first use. Handles are cached and cheap.

        Raises:
            ConfigError: not a legal name (1 to 120 bytes of UTF-8, no control characters).
            ShmUnavailable: the engine's stream table is full.
        """
        found = self._streams.get(name)
        if found is None:
            self.attachment().number_of(name)
            found = Stream(self, name)
            found = self._streams.setdefault(name, found)
        return found

    def streams(self) -> list[StreamInfo]:
        """All streams that have records or were opened since the engine started, by name."""
        return sorted(self.attachment().stream_infos())

    def status(self) -> dict[str, Any]:
        """The engine's own report: processes, counters, clients, durability."""
        return self.attachment().status()

    def close(self, timeout: float | None = 30.0) -> None:
        """Waits until every append is confirmed, then detaches. Closing twice is allowed.

        Raises:
            AckTimeout: not all were confirmed in time. The client is closed all the same.
            Error: an append failed and nobody had asked its receipt.
        """
        with self._lock:
            if self._closed:
                return
            try:
                if self._attachment is not None:
                    self._attachment.flush(timeout)
            finally:
                self._closed = True
                self._drop(ClosedError("the client was closed before this append was confirmed", outcome="unknown"))
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
        return _reconnect, (str(self.path), self.options)

    def __repr__(self) -> str:
        return f"<Client {str(self.path)!r}{' closed' if self._closed else ''}>"


class Stream:
    """A handle for one named stream. Threads may share it."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name
        self._bound: Binding | None = None
        self._lost: Error | None = None

    def detach(self, attachment: Attachment) -> None:
        """Forget what belongs to ``attachment``; what was lost with it is told by the next `flush`."""
        bound = self._bound
        if bound is not None and bound.attachment is attachment:
            self._bound = None
            self._note_lost(bound)

    def forked(self) -> None:
        """In the child of a fork: what was bound is the parent's."""
        self._bound = None

    def _note_lost(self, bound: Binding) -> None:
        if bound.lane.lost is not None and bound.lane.unreported(bound.number):
            self._lost = bound.lane.lost

    def _bind(self) -> Binding:
        before, bound = self._bound, self.client.bind(self.name)
        if before is not None and before.lane is not bound.lane:
            self._note_lost(before)
        self._bound = bound
        return bound

    # --------------------------------------------------------------------------------------------------- append

    def append(self, data: bytes | bytearray | memoryview | Any) -> Receipt:
        """Appends one record and returns at once with its `Receipt`. Appends of one thread keep their order.

        Args:
            data: any C-contiguous bytes-like object; it is copied before this returns. Empty is legal. Never ``str``.

        Raises:
            TypeError: not bytes-like; encode text first.
            RecordTooLarge: more than `limit` bytes. Nothing was written.
            BackpressureTimeout: no room within the client's ``append_timeout``. Nothing was written.
            StorageFull: the engine waits for disk space. Nothing was written.
            NotRunning: the engine has ended. Nothing was written.
        """
        bound = self._bound
        if bound is None or type(data) is not bytes:
            return self._append_slowly(data)
        lane = bound.lane
        page = lane.page  # before the number is given out; see ringwal.results.Page
        number = _submit(bound.writer, bound.number, data, len(data))
        if number > page.last:
            return Receipt.of(lane.results_of(page, number), number, self)
        if number < 0:
            return self._append_slowly(data)
        receipt = Receipt()  # Receipt.of, without the call
        receipt._results = page.results
        receipt.number = number
        receipt._stream = self
        return receipt

    def _append_slowly(self, data: Any) -> Receipt:
        """The rest of `append`: other buffers than bytes, no lane yet, a full lane, errors."""
        view = data if type(data) is bytes else ffi.from_buffer("uint8_t[]", _buffer(data))
        size = len(view)
        return Receipt.of(*self._submit_slowly(lambda bound: _submit(bound.writer, bound.number, view, size), size), self)

    def _submit_slowly(self, submit: Callable[[Binding], int], payload_bytes: int) -> tuple[Results, int]:
        """An append that has to attach first, or to wait for room: its number and the results it is among."""
        deadline = time.monotonic() + self.client.append_timeout
        bound = self._bound
        if bound is None or bound.lane.lost is not None:
            bound = self._bind()
        while True:
            lane = bound.lane
            page = lane.page
            number = submit(bound)
            if number >= 0:
                return lane.results_of(page, number), number
            if number == lib.RW_CHORE and lane.used_up():
                bound = self._renew(bound, deadline)
            else:
                lane.refused(number, payload_bytes, deadline, self.client.append_timeout)

    def _renew(self, bound: Binding, deadline: float) -> Binding:
        """Another lane for one whose numbers are used up, when everything in it is confirmed."""
        try:
            bound.lane.flush(None, max(0.0, deadline - time.monotonic()))
        except AckTimeout as error:
            raise BackpressureTimeout(f"{error}; nothing was appended") from None
        self.client.renew(bound.attachment)
        return self._bind()

    def append_many(self, records: Iterable[bytes | bytearray | memoryview | Any]) -> Receipt:
        """Appends several records as one batch: all or nothing, with consecutive offsets, one Receipt.

        Args:
            records: at least one bytes-like object.

        Raises:
            ValueError: no records.
            As `append`; the limit is for the batch as a whole.
        """
        items: tuple[Any, ...] = tuple(records)  # another thread may be changing a list
        if not items:
            raise ValueError("append_many needs at least one record")
        # Bytes and lengths are taken in two passes, so what may change in between is copied first.
        if list(map(type, items)).count(bytes) != len(items):
            items = tuple(bytes(_buffer(item)) for item in items)
        data = b"".join(items)
        receipt = self._append_batch(_lengths(items), data)
        # Let go at once, a batch of 128 KB would be the top of the heap, which the C library gives back to the kernel; the next
        # one would touch its pages for the first time again, and that took half of the time of joining it.
        if len(data) <= BATCH_KEPT_MAX:
            self.client.latest_batch = data
        return receipt

    def _append_batch(self, lengths: array.array[int], data: bytes) -> Receipt:
        table, count, size = ffi.from_buffer("uint32_t[]", lengths), len(lengths), len(data)
        results, number = self._submit_slowly(
            lambda bound: _submit_many(bound.writer, bound.number, table, count, data, size), size + 4 * count
        )
        receipt = BatchReceipt.of(results, number, self)
        receipt.count = count
        return receipt

    def flush(self, timeout: float | None = 30.0) -> None:
        """Returns when every earlier append of this process to this stream is confirmed.

        Raises:
            AckTimeout: not all were confirmed in time.
            Error: the first append that failed and whose receipt nobody had asked.
        """
        bound, (lost, self._lost) = self._bound, (self._lost, None)
        if bound is not None:
            bound.lane.flush(bound.number, timeout)
        if lost is not None:
            raise lost

    # ----------------------------------------------------------------------------------------------------- read

    def read(self, start: int = 0, max_records: int = 1000, max_bytes: int | None = None) -> list[Record]:
        """Confirmed records from offset ``start`` on, in order; ``[]`` when there are none (yet).

        Args:
            start: an offset, `EARLIEST` or `LATEST`.
            max_records: at most so many.
            max_bytes: stop before the data exceeds this; one record is returned even if it is larger.

        Raises:
            OffsetTrimmed: ``start`` lies before the oldest record that is kept.
            CorruptionError: stored bytes are damaged; names the place.
        """
        attachment = self.client.attachment()
        number = attachment.number_of(self.name)
        return attachment.reader.read(number, _offset(attachment, number, start), max_records, max_bytes)

    def tail(self, start: int = LATEST, *, max_records: int = 1000, idle_timeout: float | None = None) -> Iterator[Record]:
        """Follows the stream: yields each confirmed record from ``start`` on, in order, and sleeps while there is none.

        Args:
            start: an offset, `EARLIEST` or `LATEST`.
            max_records: how many are fetched at once.
            idle_timeout: end after so many seconds without a record; ``None`` never ends.

        Raises:
            NotRunning: the engine ended.
            As `read`.
        """
        attachment = self.client.attachment()
        number = attachment.number_of(self.name)
        # The offset is fixed by the call, not by the first `next`: what is appended in between belongs to the tail.
        cursor = attachment.reader.cursor(number, _offset(attachment, number, start))
        return self._follow(attachment, number, cursor, max_records, idle_timeout)

    def _follow(
        self, attachment: Attachment, number: int, cursor: Cursor, max_records: int, idle_timeout: float | None
    ) -> Iterator[Record]:
        waiter = attachment.waiter()
        idle_since = time.monotonic()
        while True:
            records = cursor.next(max_records, None)
            if records:
                yield from records
                idle_since = time.monotonic()
                continue
            left = SLICE_NS if idle_timeout is None else int((idle_since + idle_timeout - time.monotonic()) * 1e9)
            if left <= 0:
                return
            code = lib.rw_tail_wait(waiter.writer, number, cursor.offset, 0, min(left, SLICE_NS))
            if code == lib.RW_GONE or (code != 0 and not attachment.usable()):
                if cursor.offset < lib.rw_stream_confirmed(attachment.control, number):
                    continue  # confirmed just before the end
                raise NotRunning("the engine ended, or this client was closed")
            if code == lib.RW_FAULT:  # nobody would wake it: waiting there would be no waiting
                waiter = attachment.other_waiter(waiter)

    def stat(self) -> StreamInfo:
        """What is known of the stream now. ``confirmed_offset`` is the offset of the next record to be confirmed."""
        attachment = self.client.attachment()
        return attachment.stream_info(attachment.number_of(self.name))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restream, (self.client, self.name)

    def __repr__(self) -> str:
        return f"<Stream {self.name!r} of {str(self.client.path)!r}>"


def _offset(attachment: Attachment, number: int, start: int) -> int:
    if start == EARLIEST:
        return int(attachment.stream(number).start_offset)
    if start == LATEST:
        return int(lib.rw_stream_confirmed(attachment.control, number))
    if start < 0:
        raise ValueError(f"start is {start}; it must be an offset, EARLIEST or LATEST")
    return start


def _lengths(items: tuple[bytes, ...]) -> array.array[int]:
    """The lengths of the items."""
    sizes = list(map(len, items))
    try:
        small = bytes(sizes)  # and widened in C: half the time of `array` with a list
    except ValueError:
        return array.array("I", sizes)
    lengths = array.array("I", bytes(4 * len(sizes)))
    lib.rw_lengths_widen(small, len(small), ffi.from_buffer("uint32_t[]", lengths))
    return lengths


def _buffer(data: Any) -> memoryview:
    """A flat view of any C-contiguous buffer.

    Raises:
        TypeError: text, or not a buffer.
    """
    if isinstance(data, str):
        raise TypeError("a record is bytes, not str: encode it first, for example data.encode()")
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"a record is a bytes-like object, not {type(data).__name__}") from None
    if not view.c_contiguous:
        raise TypeError("a record must be C-contiguous; copy it first, for example bytes(data)")
    return view.cast("B") if view.nbytes else memoryview(b"")


def _reconnect(path: str, options: dict[str, Any]) -> Client:
    return Client(path, **options)


def _restream(client: Client, name: str) -> Stream:
    return client.stream(name)


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
