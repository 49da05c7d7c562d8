"""Who follows streams in an event loop: a look holds nobody, and what comes soon after a look is found without another."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import ringwal
import ringwal.aio
from ringwal._native import lib
from ringwal.client import bell
from tests.support.rig import WAIT, Engine

LOOKS = 1000


def test_a_look_without_time_does_not_give_the_processor_away(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        offset = stream.append(b"one").result(WAIT).offset + 1
        attachment = client._attachment()
        writer, handle = attachment.waiter().writer, attachment.handle_of("s")
        looks: list[Callable[[], int]] = [
            lambda: lib.rw_tail_wait(writer, handle, offset, 0, 0),
            lambda: lib.rw_log_wait(writer, 1 << 62, 0),
        ]
        for look in looks:
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
            assert {look() for _ in range(LOOKS)} == {lib.RW_PENDING}
            assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before < LOOKS / 10


@pytest.mark.parametrize("merged", [False, True])
def test_what_comes_soon_after_a_look_is_found_without_another_ring(
    directory: Path, start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, merged: bool
) -> None:
    start()
    monkeypatch.setattr(bell, "TICK", 3600.0)  # it would be found with that, too, and late

    async def scenario() -> None:
        async with ringwal.aio.connect(directory) as writing, ringwal.aio.connect(directory) as reading:
            await writing.create_stream("s")
            follow: AsyncIterator[Any] = reading.tail({"s": 0}) if merged else reading.stream("s").tail(0)
            got: asyncio.Queue[Any] = asyncio.Queue()

            async def reads() -> None:
                async for record in follow:
                    got.put_nowait(record)

            reader = asyncio.create_task(reads())
            async with asyncio.timeout(WAIT):
                for count in range(100):
                    await writing.stream("s").append(b"%d" % count)  # meanwhile the reader waits again
                    record = await got.get()
                    assert (record.offset, record.data) == (count, b"%d" % count)
            reader.cancel()

    asyncio.run(scenario())
