"""The writer (writer.py) as a program for asyncio writes it: a task for each append of its window, one client that reconnects.

Tasks learn of their appends in whatever order the loop has them run. So an end is noted behind those of the appends before it
to the stream: the journal says in which order they were confirmed, and not which task was told first.
"""

from __future__ import annotations

import asyncio
import collections
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ringwal
import ringwal.aio
from ringwal.demo.journal import Journal, Kind, digest
from tests.support.host import PATIENCE
from tests.support.payload import Origin, own_time, payload

RECONNECT_SECONDS = 60.0
REST = 0.02


class Writer:
    """Appends from as many tasks as may be outstanding, round robin over the streams."""

    def __init__(self, directory: Path, journal: Path, name: str, streams: list[str], window: int) -> None:
        self.directory, self.name, self.window, self.streams = directory, name, window, streams
        self.journal = Journal(journal)
        self.numbers = dict.fromkeys(streams, 0)
        self.open: dict[str, collections.deque[list[Callable[[], None]]]] = collections.defaultdict(collections.deque)
        """By stream, its appends in order: each with what is to be noted of its end, once that is known."""
        self.turn = 0
        self.stopped = False

    async def run(self, seconds: float) -> None:
        """Until that much time is over, or SIGTERM; then what is outstanding is waited for."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop)
        end = time.monotonic() + seconds
        connecting = ringwal.aio.connect(self.directory, timeout=RECONNECT_SECONDS, reconnect=RECONNECT_SECONDS)
        async with connecting as client, asyncio.TaskGroup() as tasks:
            for _ in range(self.window):
                tasks.create_task(self._work(client, end))

    def _stop(self) -> None:
        self.stopped = True

    async def _work(self, client: ringwal.aio.Client, end: float) -> None:
        while time.monotonic() < end and not self.stopped:
            stream = self.streams[self.turn % len(self.streams)]
            self.turn += 1
            await self._append(client.stream(stream), 3 if self.turn % 7 == 5 else 1)

    async def _append(self, stream: ringwal.aio.Stream, count: int) -> None:
        """Its place in the order is taken before the first await."""
        first = self.numbers[stream.name]
        self.numbers[stream.name] = first + count
        batch = [payload(Origin(stream.name, self.name, first + i)) for i in range(count)]
        digests = list(map(digest, batch))
        self.journal.submitted(stream.name, first, digests)
        self.journal.push()
        told: list[Callable[[], None]] = []
        self.open[stream.name].append(told)
        try:
            async with asyncio.timeout(PATIENCE):
                times = [own_time(self.name, first + i) for i in range(count)]
                if count == 1:
                    ack = await stream.append(batch[0], timestamp_ns=times[0])
                else:
                    ack = await stream.append_many(batch, timestamp_ns=None if None in times else [n or 0 for n in times])
        except TimeoutError:
            told.append(partial(self.journal.ended, Kind.HUNG, stream.name, first, digests))
        except ringwal.Error as error:
            kind = Kind.REFUSED if error.outcome == "not_appended" else Kind.UNKNOWN
            told.append(partial(self.journal.ended, kind, stream.name, first, digests))
            if error.outcome is None:
                self.journal.complain(f"{error!r} does not say what became of it")
            self._note(stream.name)
            await asyncio.sleep(REST)  # refused at once, as it is behind one that is lost
        else:
            if (ack.stream, ack.count) != (stream.name, count):
                self.journal.complain(f"the proof of an append of {count} to {stream.name} is {ack}")
            told.append(partial(self.journal.confirmed, stream.name, first, ack.offset, digests))
        self._note(stream.name)

    def _note(self, stream: str) -> None:
        waiting = self.open[stream]
        while waiting and waiting[0]:
            waiting.popleft()[0]()
        self.journal.push()
