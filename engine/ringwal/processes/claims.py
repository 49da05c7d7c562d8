"""Claims of producers and of consumers' rows, on their way into the engine's own lane: what csrc/owners.h leaves to decide.

Of one owner one claim is on the way at a time, so that what its row says when the claim is confirmed is the answer to it:
nobody else knows the new epoch yet. A claim that needs another one's place says whose: the longest silent one's, if it has
been silent for ``producer_age``.
"""

from __future__ import annotations

import collections
import dataclasses
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from ringwal import consumed, views
from ringwal._native import ffi, lib
from ringwal.config import Config
from ringwal.errors import EngineFailed, Error, ShmUnavailable, StorageFull, describe_full, of_code, verdict_of
from ringwal.log.checkpoint import OWNER_BYTES
from ringwal.processes.control_lane import ControlLane
from ringwal.processes.streams import Key, StreamTable
from ringwal.protocol.messages import check_own_name, check_owner_name

TRIES = 8
"""So often another one's place is looked for, where the one that was found is not silent any more."""

_CLAIM = struct.Struct("<IIQ")


class Claimed(NamedTuple):
    """What the owner is from now on."""

    number: int
    epoch: int
    next: int
    """The sequence of a producer's next record: so many of its records are in the log. Of a consumer, where it goes on."""


Told: TypeAlias = Callable[[Claimed | Error], None]


class _Claim(NamedTuple):
    kind: int
    key: Key
    name: bytes
    start: int
    """Where a consumer begins that is new."""
    told: Told

    @property
    def owner(self) -> tuple[int, int, bytes]:
        return self.kind, self.key.number, self.name


class Claims:
    """Of the owners of one epoch."""

    def __init__(self, control: Any, config: Config, streams: StreamTable, lane: ControlLane) -> None:
        self._control = control
        self._limit = config.max_producers
        self._age_ns = int(config.producer_age * 1e9)
        self._streams = streams
        self._lane = lane
        self._waiting: dict[tuple[int, int, bytes], collections.deque[_Claim]] = {}

    def claim(self, stream: object, name: object, told: Told) -> None:
        """The producer of that name, of the stream, begins anew; `told` once, when that is on stable storage.

        Raises ConfigError: names that are none, or a stream of the engine's own. ShmUnavailable: the stream table is full.
        StorageFull: the log is, and the room that it keeps for trims is not for claims, which programs make at each start.
        """
        check_own_name(stream)
        encoded = check_owner_name(name)
        self.check_space("no producer is claimed")
        self._add(_Claim(lib.RW_OWNER_PRODUCER, self._streams.open(stream), encoded, 0, told))

    def check_space(self, what: str) -> None:
        """Raises StorageFull."""
        if full := int(lib.rw_engine_storage_full(self._control)):
            raise StorageFull(f"{what}: {describe_full(full)}", full)

    def claim_position(self, key: Key, name: bytes, start: int, told: Told) -> None:
        """The same of a consumer's row of that stream; it is made, and begins at ``start``, if there is none."""
        self._add(_Claim(lib.RW_OWNER_CONSUMER, key, name, start, told))

    def streams_of(self, name: bytes) -> set[int]:
        """Numbers of the streams in which a consumer of that name has a row."""
        said = name.decode()
        return {row.stream for row in consumed.rows(self._control) if row.name == said}

    def room(self) -> int:
        """Rows that are free."""
        return self._limit - self._listed()[1]

    def full(self) -> ShmUnavailable:
        """What is told of a claim for which there is no place."""
        return ShmUnavailable(
            f"the engine remembers {self._limit} producers and positions of consumers, and no producer was silent for so"
            " long that it may be forgotten; start it with a larger max_producers, or a shorter producer_age, or delete"
            " consumers that are not needed"
        )

    def _add(self, claim: _Claim) -> None:
        queue = self._waiting.setdefault(claim.owner, collections.deque())
        queue.append(claim)
        if len(queue) == 1:
            self._submit(claim, TRIES)

    def _submit(self, claim: _Claim, tries: int) -> None:
        number, seen_ns = self._silent(claim) or (0, 0)
        if claim.kind == lib.RW_OWNER_CONSUMER:
            number, seen_ns = 0, claim.start
        payload = _CLAIM.pack(claim.kind, number, seen_ns) + claim.name
        done = partial(self._done, claim, tries)
        self._lane.submit(lib.RW_FRAME_CLAIM, claim.key.place, claim.key.number, payload, done)

    def _silent(self, claim: _Claim) -> tuple[int, int] | None:
        """Whose place may be taken, and how newly it was seen to append; 0: none is needed. None: nobody's."""
        rows, count = self._listed()
        if count < self._limit or self._look(claim) is not None:
            return 0, 0
        # What a consumer has read would be read again: its place is never taken.
        producers = [rows[i] for i in range(count) if rows[i].kind == lib.RW_OWNER_PRODUCER]
        if not producers or claim.kind != lib.RW_OWNER_PRODUCER:
            return None
        silent = min(producers, key=lambda row: row.timestamp_ns)
        if time.time_ns() - silent.timestamp_ns < self._age_ns:
            return None
        return int(silent.number), int(silent.timestamp_ns)

    def _listed(self) -> tuple[Any, int]:
        """All rows (`rw_checkpoint_owner[]`), and how many."""
        rows = ffi.new("rw_checkpoint_owner[]", max(self._limit, 1))
        return rows, int(lib.rw_owners_list(self._control, rows))

    def _look(self, claim: _Claim) -> Claimed | None:
        row = ffi.new("rw_checkpoint_owner *")
        found = lib.rw_owner_look(self._control, claim.kind, claim.key.number, claim.name, len(claim.name), row)
        return Claimed(row.number, row.epoch, row.next_sequence) if found == lib.RW_OK else None

    def _done(self, claim: _Claim, tries: int, code: int) -> None:
        found = self._look(claim) if code >= 0 else None
        full = verdict_of(code)[0] == lib.RW_VERDICT_TABLE
        # Without a row: its stream is being deleted, which the next try is told of, or its place was taken at once.
        if tries and ((code >= 0 and found is None) or (full and self._silent(claim) is not None)):
            self._submit(claim, tries - 1)
            return
        queue = self._waiting[claim.owner]
        queue.popleft()
        if not queue or not (code >= 0 or full):  # stream or engine have ended, for those behind it as well
            del self._waiting[claim.owner]
            for one in (claim, *queue):
                one.told(self._outcome(found, code))
            return
        claim.told(self._outcome(found, code))
        self._submit(queue[0], TRIES)

    def _outcome(self, found: Claimed | None, code: int) -> Claimed | Error:
        if code >= 0:
            return found or EngineFailed("the row that was claimed cannot be read", outcome="not_appended")
        if verdict_of(code)[0] == lib.RW_VERDICT_TABLE:
            return self.full()
        seen = views.engine(self._control)
        return of_code(code, "the claim", stopped=seen.state == lib.RW_STOPPED, errno=int(seen.error))


def with_room(config: Config, rows: bytes) -> Config:
    """`config`, with room for all that recovery found. That may be more than there was room for: what made room, a deletion or
    a claim that forgets, may be lost in a crash, while the claim that took the place was confirmed."""
    found = len(rows) // OWNER_BYTES
    return config if found <= config.max_producers else dataclasses.replace(config, max_producers=found)


def restore_owners(control: Any, rows: bytes, owners_end: int) -> None:
    """Fill the table of fresh memory (`rw_control *`) with what recovery found: rows of a checkpoint."""
    lib.rw_set_owners_end(control, owners_end)
    with ffi.from_buffer("rw_checkpoint_owner[]", rows) as owners:
        for place in range(len(rows) // OWNER_BYTES):
            row = ffi.new("rw_checkpoint_owner *", owners[place])
            lib.rw_owner_restore(control, place, row)

