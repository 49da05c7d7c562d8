"""A consumer of streams, in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ringwal.client.awaiting import drive
from ringwal.client.consuming import ConsumerCore
from ringwal.errors import Error
from ringwal.limits import seconds, whole

if TYPE_CHECKING:
    from ringwal.client.aio import Client
    from ringwal.model import StreamRecord
    from ringwal.positions import Position

TURN = 256
"""So many records are given out before the loop's other tasks have a turn."""


class Consumer(ConsumerCore):
    """As `ringwal.Consumer`, for an event loop. For one task at a time."""

    _client: Client

    async def __aiter__(self) -> AsyncIterator[StreamRecord]:
        """Records, as they come; never ends."""
        places = self._places
        while True:
            self._client._check_loop()
            await drive(self._fetched_steps(None))
            while self._at < len(self._fetched):  # the caller may poll or seek in between
                record = self._fetched[self._at]
                self._at += 1
                places[record.stream].given = record.offset + 1
                yield record
                if self._at % TURN == 0:
                    await asyncio.sleep(0)

    async def poll(self, max_records: int = 1000, timeout: float | None = 0.0) -> list[StreamRecord]:
        """As `ringwal.Consumer.poll`."""
        count = whole(max_records, "max_records", 1)
        self._client._check_loop()
        return await drive(self._poll_steps(count, seconds(timeout, "timeout")))

    async def commit(self, record: StreamRecord | None = None) -> None:
        """As `ringwal.Consumer.commit`, waited for."""
        self._client._check_loop()
        await drive(self._commit_steps(record, None))

    def commit_nowait(self, record: StreamRecord | None = None) -> None:
        """As ``commit(record, wait=False)`` of `ringwal.Consumer`."""
        self._client._check_loop()
        self._commit_now(record)  # what cannot go now goes when the consumer next waits

    async def seek(self, stream: str, position: Position) -> None:
        """As `ringwal.Consumer.seek`."""
        self._client._check_loop()
        await drive(self._seek_steps(stream, position))

    async def flush(self, timeout: float | None = 30.0) -> None:
        """As `ringwal.Consumer.flush`."""
        self._client._check_loop()
        self._check()
        await drive(self._flush_steps(seconds(timeout)))

    async def close(self, timeout: float | None = 30.0) -> None:
        """As `ringwal.Consumer.close`."""
        self._client._check_loop()
        await drive(self._close_steps(seconds(timeout)))

    if not TYPE_CHECKING:  # what is written where somebody took one face for the other

        def __iter__(self):
            raise TypeError("use `async for` for a consumer of ringwal.aio")

        def __enter__(self):
            raise TypeError("use `async with` for a consumer of ringwal.aio")

        def __exit__(self, *_):
            pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            with contextlib.suppress(Error):
                await self.close()  # the error under way is the one to tell
