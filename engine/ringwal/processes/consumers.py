"""Claims of consumers: a row for each of its streams (csrc/owners.h), and all of them are one process's.

Who claims a consumer claims all rows that there are of its name, also of streams that it does not read itself: so whoever had
it before is fenced everywhere. Claims of one name are made one after the other: of two processes that begin at the same
moment, one has all rows, and not each of them some.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ringwal.errors import ConfigError, Error
from ringwal.processes.claims import Claimed, Claims
from ringwal.processes.streams import Key, StreamTable
from ringwal.protocol.messages import CONSUMED_MAX, Message, check_consumer_name, check_own_name, check_stream_name

Told = Callable[["list[dict[str, Any]] | Error"], None]
"""Told of each row: the stream's name, the owner's number and epoch, and where it goes on."""


class _Target(NamedTuple):
    stream: str
    key: Key
    start: int


class _Request(NamedTuple):
    name: bytes
    wanted: list[tuple[str, int]]
    """Streams, and where it begins in each."""
    told: Told


class Consumers:
    """Of one epoch."""

    def __init__(self, streams: StreamTable, claims: Claims) -> None:
        self._streams = streams
        self._claims = claims
        self._waiting: dict[bytes, collections.deque[_Request]] = {}

    def claim(self, said: Message, told: Told) -> None:
        """The consumer of that ``name`` is another process's from now on. It reads ``count`` streams: ``stream0``, where it
        begins at ``start0`` if it is new, and so on; none: some of what is there of it.

        Raises ConfigError, ShmUnavailable, StorageFull: see `Claims.claim`.
        """
        encoded = check_consumer_name(said.get("name"))
        wanted = _wanted(said)
        self._claims.check_space("no consumer is claimed")
        request = _Request(encoded, wanted, told)
        queue = self._waiting.setdefault(encoded, collections.deque())
        queue.append(request)
        if len(queue) == 1:
            self._begin(request)

    def _target(self, said: tuple[str, int]) -> _Target:
        return _Target(said[0], self._streams.open(said[0]), said[1])

    def _begin(self, request: _Request) -> None:
        others = self._claims.streams_of(request.name)
        keys = [self._streams.look(name) for name, _ in request.wanted]
        new = sum(key is None or key.number not in others for key in keys)
        if new > self._claims.room():  # before anything is claimed: whoever has it goes on
            self._end(request, self._claims.full())
            return
        try:
            # Only now: one that had that name when the claim began to wait may be deleted.
            targets = {each.key.number: each for each in map(self._target, request.wanted)}
        except Error as error:
            self._end(request, error)
            return
        # All of them, so that whoever had it is fenced. Where none is wanted they are to be deleted, as many as one answer has.
        for number in sorted(others - targets.keys())[: None if request.wanted else CONSUMED_MAX]:
            if (named := self._streams.by_number(number)) is not None:
                targets[number] = _Target(named[0], named[1], 0)
        found: dict[int, Claimed | Error] = {}
        if not targets:
            self._end(request, [])
        for each in targets.values():
            done = partial(self._done, request, targets, found, each.key.number)
            self._claims.claim_position(each.key, request.name, each.start, done)

    def _done(
        self,
        request: _Request,
        targets: dict[int, _Target],
        found: dict[int, Claimed | Error],
        stream: int,
        one: Claimed | Error,
    ) -> None:
        found[stream] = one
        if len(found) < len(targets):
            return
        wanted = {name for name, _ in request.wanted}
        rows: list[dict[str, Any]] = []
        for number, each in found.items():
            name = targets[number].stream
            if isinstance(each, Claimed) and (name in wanted or not wanted):
                rows.append({"stream": name, **each._asdict()})
            elif isinstance(each, Error) and name in wanted:  # of another one, deleted meanwhile, there is nothing to claim
                self._end(request, each)
                return
        self._end(request, rows)

    def _end(self, request: _Request, outcome: list[dict[str, Any]] | Error) -> None:
        queue = self._waiting[request.name]
        queue.popleft()
        if not queue:
            del self._waiting[request.name]
        request.told(outcome)
        if queue:
            self._begin(queue[0])


def _wanted(said: Message) -> list[tuple[str, int]]:
    count = said.get("count")
    if type(count) is not int or not 0 <= count <= CONSUMED_MAX:
        raise ConfigError(f"a consumer reads at most {CONSUMED_MAX} streams")
    found = []
    for n in range(count):
        stream, start = said.get(f"stream{n}"), said.get(f"start{n}")
        check_own_name(stream)
        check_stream_name(stream)
        if type(start) is not int or not 0 <= start < 1 << 63:
            raise ConfigError("a consumer begins at an offset")
        assert isinstance(stream, str)
        found.append((stream, start))
    return found
