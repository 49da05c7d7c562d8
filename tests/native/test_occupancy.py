"""What each segment holds, as it is gathered while blocks are composed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ringwal._native import ffi, lib
from tests.support.core import KIB, Memory, Wal, Writer

SMALL = 1024 * KIB


@pytest.fixture
def memory() -> Iterator[Memory]:
    with Memory(segment=SMALL) as memory:
        yield memory


def fetched(wal: Wal) -> tuple[int, dict[int, int]] | None:
    segment, rows, count = ffi.new("uint64_t *"), ffi.new("const rw_occupant **"), ffi.new("uint32_t *")
    if lib.rw_wal_fetch_occupancy(wal.wal, segment, rows, count) != lib.RW_OK:
        return None
    found = [(rows[0][i].stream, rows[0][i].end) for i in range(count[0])]
    assert found == sorted(found)
    return int(segment[0]), dict(found)


class Log:
    """A log that is written record by record, and what it holds."""

    def __init__(self, memory: Memory, wal: Wal, writer: Writer) -> None:
        self.memory, self.wal, self.writer = memory, wal, writer
        self.held: dict[int, dict[int, int]] = {}
        self.next = [0] * 16

    def append(self, stream: int, size: int = 10_000) -> None:
        assert self.writer.append(bytes(size), stream) == lib.RW_OK
        assert self.wal.drain_lanes() == lib.RW_OK
        self.next[stream] += 1
        control = self.memory.control
        blocks = [self.memory.entry(number) for number in range(control.released, control.sealed)]
        (position,) = [entry.position for entry in blocks if entry.frames]
        self.held.setdefault(position // SMALL, {})[stream] = self.next[stream]
        control.released, control.released_end = control.sealed, control.sealed_end

    def fill(self, streams: list[int]) -> int:
        """To the end of the segment; its number."""
        segment = int(lib.rw_wal_segment(self.wal.wal))
        while lib.rw_wal_segment(self.wal.wal) == segment:
            for stream in streams:
                self.append(stream)
        return segment


@pytest.fixture
def log(memory: Memory, tmp_path: Path) -> Iterator[Log]:
    writer = Writer(memory, 0)
    with Wal(memory, tmp_path) as wal:
        wal.add_segments(range(9))
        yield Log(memory, wal, writer)


def test_each_whole_segment_is_told_once(log: Log) -> None:
    first = log.fill([0, 1])
    assert fetched(log.wal) is None, "what was in it before this process is not known"
    second = log.fill([1, 2, 3])
    assert second == first + 1
    assert fetched(log.wal) == (second, log.held[second])
    assert fetched(log.wal) is None
    third = log.fill([3])
    log.append(5)
    log.append(5)
    assert fetched(log.wal) == (third, log.held[third])
    assert set(log.held[third]) <= {3}


def test_what_is_not_fetched_in_time_is_lost(log: Log) -> None:
    log.fill([0])
    log.fill([1])
    last = log.fill([2])
    assert fetched(log.wal) == (last, log.held[last])
    assert fetched(log.wal) is None


def test_a_successor_does_not_know_the_segment_in_which_it_begins(memory: Memory, tmp_path: Path) -> None:
    writer = Writer(memory, 0)
    with Wal(memory, tmp_path) as wal:
        wal.add_segments(range(3))
        log = Log(memory, wal, writer)
        log.fill([0])
        log.append(1)
    with Wal(memory, tmp_path) as wal:
        wal.add_segments(range(6))
        log.wal = wal
        log.append(2)
        log.fill([2])
        assert fetched(wal) is None
        whole = log.fill([2])
        assert fetched(wal) == (whole, log.held[whole])
