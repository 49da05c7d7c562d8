"""The asyncio face of the engine: connect and the client. Its streams are in aio_stream.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from ringwal import retention
from ringwal.client import merging
from ringwal.client.aio_batch import Batch
from ringwal.client.aio_consumer import Consumer
from ringwal.client.aio_producer import Producer
from ringwal.client.aio_stream import AT_ONCE, Stream, each
from ringwal.client.awaiting import drive
from ringwal.client.consumer_rows import consumer_infos, delete_consumer_steps
from ringwal.client.core import ClientCore
from ringwal.client.turns import Turns
from ringwal.errors import Error, NotRunning
from ringwal.limits import seconds
from ringwal.model import EARLIEST, ConsumerInfo, StreamInfo, StreamRecord
from ringwal.positions import Position
from ringwal.protocol.messages import check_own_name
from ringwal.retention import Age, Count, Size

if TYPE_CHECKING:
    from ringwal.client.attachment import Attachment
    from ringwal.client.joint import Placed


def connect(
    path: str | os.PathLike[str],
    *,
    autostart: bool = False,
    timeout: float | None = 5.0,
    lane_bytes: int | None = None,
    append_timeout: float | None = 5.0,
    reconnect: float | None = None,
) -> Connecting:
    """As `ringwal.connect`: ``async with connect(DIR) as client``, or ``client = await connect(DIR)``.

    Arguments and errors are those of `ringwal.connect`; nothing of it holds the event loop.
    """
    client = Client(
        path,
        autostart=autostart,
        timeout=timeout,
        lane_bytes=lane_bytes,
        append_timeout=append_timeout,
        reconnect=reconnect,
    )
    return Connecting(client)


class Connecting:
    """A client that is not attached yet: to be awaited, or entered."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __await__(self) -> Generator[Any, None, Client]:
        return self._client._connect().__await__()

    def __reduce__(self) -> NoReturn:
        raise TypeError("what connect gives is neither pickled nor copied: pass on the path, and connect where it arrives")

    if not TYPE_CHECKING:  # what is often written instead says what to write

        def __enter__(self):
            raise TypeError("use `async with` for ringwal.aio.connect, or `client = await ...`")

        def __exit__(self, *_):
            pass

        def __getattr__(self, name):
            raise AttributeError(f"not attached yet: `client = await ringwal.aio.connect(...)`, then client.{name}")

    async def __aenter__(self) -> Client:
        return await self._client._connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)


class Client(ClientCore[Stream]):
    """A connection to an engine, of one event loop: the one that runs when it is awaited first. `connect` makes it.

    Names, errors and what they mean are those of `ringwal.Client`. Cancelling an await cancels nothing in the engine. A
    process may have one for each of its loops.
    """

    _batch_turns: Turns[list[Placed]] | None = None

    async def _connect(self) -> Self:
        """Attaches it. Raises as `connect`."""
        self._loop = self._loop or asyncio.get_running_loop()
        try:
            await drive(self._attachment_steps())
        except NotRunning as error:
            if error.why == "absent" and not self._options["autostart"]:
                error.args = (f"{error}, or connect with autostart=True",)
            raise
        return self

    def _live_attachment(self) -> Attachment | None:
        self._check_loop()
        return super()._live_attachment()

    def _check_loop(self) -> None:
        """Raises RuntimeError: the loop that runs is another one."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:  # none runs in this thread
            here = False
        if not here:
            raise RuntimeError(
                f"this client of {str(self.path)!r} belongs to another event loop; a process may connect once for each"
            )

    def _new_stream(self, name: str) -> Stream:
        return Stream(self, name)

    @property
    def _own_loop(self) -> asyncio.AbstractEventLoop:
        """The one that it belongs to. Raises RuntimeError: none is yet."""
        if self._loop is None:
            raise RuntimeError("this client is not attached: await it, or enter it, first")
        return self._loop

    async def create_stream(
        self,
        name: str,
        *,
        retention_age: Age | None = None,
        retention_bytes: Size | None = None,
        retention_records: Count | None = None,
        retain_until: Iterable[str] = (),
        exist_ok: bool = False,
    ) -> Stream:
        """As `ringwal.Client.create_stream`."""
        check_own_name(name)
        wanted = retention.asked(retention_age, retention_bytes, retention_records, retain_until)
        return await drive(self._create_steps(name, wanted, exist_ok=exist_ok))

    async def consumer(
        self,
        name: str,
        streams: Iterable[str],
        start: Position = EARLIEST,
        *,
        on_trimmed: Literal["raise", "earliest"] = "raise",
    ) -> Consumer:
        """As `ringwal.Client.consumer`."""
        made = Consumer(self, name, streams, start, on_trimmed)
        await drive(made._claim_steps())
        return made

    async def consumers(self) -> list[ConsumerInfo]:
        """As `ringwal.Client.consumers`."""
        return consumer_infos(await drive(self._attachment_steps()))

    async def delete_consumer(self, name: str) -> list[str]:
        """As `ringwal.Client.delete_consumer`."""
        return await drive(delete_consumer_steps(self, name))

    async def producer(self, stream: str, name: str) -> Producer:
        """As `ringwal.Client.producer`."""
        made = Producer(self, stream, name)
        await drive(made._claim_steps())
        return made

    def batch(self, *, timeout: float | None = 30.0) -> Batch:
        """As `ringwal.Client.batch`, with ``async with``; ``await batch.receipt`` has the Acks."""
        return Batch(self, timeout)

    async def delete_stream(self, name: str) -> None:
        """As `ringwal.Client.delete_stream`."""
        await drive(self._delete_steps(name))

    def tail(
        self,
        streams: Mapping[str, Position],
        *,
        max_records: int = 1000,
        idle_timeout: float | None = None,
        missing: Literal["raise", "wait"] = "raise",
        on_trimmed: Literal["raise", "earliest"] = "raise",
    ) -> AsyncIterator[StreamRecord]:
        """As `ringwal.Client.tail`, except that it begins, and what is said is checked, with the first step."""
        steps = merging.merge_steps(
            self,
            streams,
            max_records=max_records,
            idle_timeout=idle_timeout,
            missing=missing,
            on_trimmed=on_trimmed,
        )
        return each(steps)

    async def streams(self) -> list[StreamInfo]:
        """As `ringwal.Client.streams`."""
        attachment = await drive(self._attachment_steps())
        found = []
        for info in attachment.stream_infos():
            found.append(info)
            if len(found) % AT_ONCE == 0:
                await asyncio.sleep(0)
        return sorted(found)

    async def status(self) -> dict[str, Any]:
        """As `ringwal.Client.status`."""
        return await drive(self._status_steps())

    async def close(self, timeout: float | None = 30.0) -> None:
        """As `ringwal.Client.close`: waits until every append is confirmed, then detaches. A task that is cancelled
        meanwhile has closed it, too.

        Where its loop is closed, any other loop may close it; nothing is waited for then.
        """
        limit = seconds(timeout)
        if self._own_loop.is_closed():  # and nothing is awaited in it any more
            self._end()
            return
        self._check_loop()
        deadline = None if limit is None else self._own_loop.time() + limit
        try:
            with contextlib.suppress(TimeoutError):  # what is left then is told that the client was closed
                async with asyncio.timeout_at(deadline):
                    for turns in self._all_turns():
                        await turns.none()
            await drive(self._close_steps(None if deadline is None else max(0.0, deadline - self._own_loop.time())))
        finally:  # a task that is cancelled while it closes has closed: nobody comes back for it
            self._end()
        for turns in self._all_turns():
            await turns.none()  # they are refused now

    def _all_turns(self) -> list[Turns[Any]]:
        of_producers = [each._turns for each in self._numbering() if isinstance(each, Producer)]
        own = () if self._batch_turns is None else (self._batch_turns,)
        return [*own, *(each._turns for each in self._handles()), *of_producers]

    @property
    def _batches(self) -> Turns[list[Placed]]:
        """Of batches of several streams."""
        if self._batch_turns is None:
            self._batch_turns = Turns(self._own_loop, "several streams")
        return self._batch_turns

    def _forked(self) -> None:
        super()._forked()
        if self._batch_turns is not None:
            self._batch_turns.forked()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Client of ringwal.aio is neither pickled nor copied: it belongs to its event loop. Pass on its path, and connect"
            " where it arrives"
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            with contextlib.suppress(Error):
                await self.close(timeout=1.0)  # the error under way is the one to tell
