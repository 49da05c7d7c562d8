"""What `tail` reads: one stream, also over the ends of engines, or several in log order."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from ringwal import cli_kit as kit
from ringwal import textio, times
from ringwal.errors import NoSuchStream, NotRunning, StreamDeleted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import ringwal
    from ringwal.client.merging import Merging

WATCH_SECONDS = 0.2
"""How long an idle tail waits for a record before it looks whether its output is still read."""
UNTIL_GRACE_NS = 1_000_000_000
"""How long behind its --until an idle `tail` still waits for what was under way then."""


class Follower:
    """One stream, read on and on: over idle times, during which the output is watched, and, if wanted, over engines."""

    def __init__(
        self, client: ringwal.Client, stream: str, start: int | str | times.At, until: times.At | None, output: textio.Output,
        lasting: bool,
    ) -> None:  # fmt: skip
        self._client = client
        self._since_ns = start.timestamp_ns if isinstance(start, times.At) else 0
        self._until_ns = None if until is None else until.timestamp_ns
        self._ended = False
        self._stream = stream
        self._start = start
        self._output = output
        self._lasting = lasting
        self._source: ringwal.Stream | None = None
        self._number: int | None = None  # of the stream that was read last
        self._told = False

    def next(self, most: int, most_bytes: int) -> list[ringwal.Record]:
        """The next records, waited for; none when --until is over. Without `lasting`, raises where there is no engine, or no
        such stream."""
        while not self._ended:
            try:
                if found := self._look(most, most_bytes):
                    self._start = found[-1].offset + 1
                    if found := self._between(found):
                        return found
                else:
                    self._ended = self._is_over()
                self._output.watch(0)
            except (NotRunning, NoSuchStream) as error:
                if not self._lasting or (isinstance(error, NotRunning) and not error.retriable):
                    raise  # another log has taken the place: nothing more will come
                self._source = None
                if isinstance(error, NoSuchStream) and self._start == "latest":
                    self._start = "earliest"  # what begins from now on is new
                if not self._told:
                    textio.say(f"ringwal: {textio.visible(kit.message_of(error))}; waiting for it")
                    self._told = True
                self._output.watch(kit.AGAIN_SECONDS)
                self._ended = self._is_over()
        return []

    def _between(self, records: list[ringwal.Record]) -> list[ringwal.Record]:
        """Those from --since up to --until. A time that lay ahead was no offset when the tail began."""
        if records[0].timestamp_ns < self._since_ns:
            records = [record for record in records if record.timestamp_ns >= self._since_ns]
        if self._until_ns is not None and records and records[-1].timestamp_ns >= self._until_ns:
            self._ended = True
            records = [record for record in records if record.timestamp_ns < self._until_ns]
        return records

    def _is_over(self) -> bool:
        """Nothing has come for a moment: has the clock passed --until, and what was under way then had time to come?"""
        return self._until_ns is not None and time.time_ns() >= self._until_ns + UNTIL_GRACE_NS

    def _look(self, most: int, most_bytes: int) -> list[ringwal.Record]:
        """What is there, or comes within a moment."""
        if self._source is None:
            source = kit.existing(self._client, self._stream)
            info = source.stat()
            if self._number not in (None, info.number):  # deleted, and made anew under its name
                self._start = "earliest"
            self._start = kit.first_offset(self._start, source, info)
            self._source, self._number, self._told = source, info.number, False
        assert isinstance(self._start, int)
        found = self._source.read(self._start, max_records=most, max_bytes=most_bytes)
        found = found or list(itertools.islice(self._source.tail(self._start, idle_timeout=WATCH_SECONDS), 1))
        if self._source.stat().number != self._number:  # else all of this was of the one stream
            raise StreamDeleted(f"stream {self._stream!r} was deleted")
        return found


class Several(Follower):
    """Several streams in log order, up to the end of their engine; each begins where --start or --since says in it."""

    def __init__(
        self, client: ringwal.Client, streams: Sequence[str], start: int | str | times.At, until: times.At | None,
        output: textio.Output,
    ) -> None:  # fmt: skip
        super().__init__(client, streams[0], start, until, output, lasting=False)
        self._streams = streams
        self._place = start
        self._merging: Merging | None = None

    def _look(self, most: int, most_bytes: int) -> list[Any]:
        from ringwal.client.merging import merge_steps
        from ringwal.steps import park

        if self._merging is None:
            starts = {}
            for name in self._streams:
                source = kit.existing(self._client, name)
                starts[name] = kit.first_offset(self._place, source, source.stat())
            self._merging = park(merge_steps(self._client, starts, max_records=most, idle_timeout=WATCH_SECONDS))
        return (park(self._merging.next_steps()) or [])[:most]
