"""Small blocks that wait for more: how long, and where such waits bring nothing, how seldom."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringwal._native import ffi, lib
from tests.support.core import Memory, Wal, Writer, handle, until

LONG = 10**15
"""Nobody waits so long for a test."""
RECORD = b"r" * 300
LINGER = 1000


def well_filled(size: int) -> bool:
    length = -(-size // 4096) * 4096
    return (length - size) / length <= 1 / 8


@given(st.integers(128, 1 << 22))
def test_a_block_is_well_filled_where_at_most_an_eighth_is_zeros(size: int) -> None:
    assert lib.rw_policy_well_filled(size) == well_filled(size)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 5000)), max_size=200))
def test_no_block_waits_longer_than_it_may_and_none_that_is_well_filled(arrivals: list[tuple[int, int]]) -> None:
    linger, size, now, first = ffi.new("rw_linger *"), 0, 1, None
    for gap, more in arrivals:
        now, size = now + gap, size + more
        if not size:
            continue
        if lib.rw_policy_lingers(linger, LINGER, 128 + size, now):
            first = now if first is None else first
            assert now < first + LINGER
            assert not well_filled(128 + size)
        else:
            assert linger.until_ns == 0
            size, first = 0, None


def test_where_waits_bring_nothing_they_become_rare_and_come_back_when_one_does() -> None:
    linger, now, waited = ffi.new("rw_linger *"), 1, []
    for block in range(2000):
        if lib.rw_policy_lingers(linger, LINGER, 500, now):
            waited.append(block)
            now += LINGER
            assert not lib.rw_policy_lingers(linger, LINGER, 500, now)
        now += 10
    assert waited[:5] == [0, 1, 2, 3, 20]
    gaps = [later - earlier for earlier, later in itertools.pairwise(waited)]
    assert gaps == sorted(gaps) and gaps[-1] == 257
    while not lib.rw_policy_lingers(linger, LINGER, 500, now):
        now += 10
    assert not lib.rw_policy_lingers(linger, LINGER, 501, now + LINGER)  # a byte more came
    for _ in range(4):
        now += 2 * LINGER
        assert lib.rw_policy_lingers(linger, LINGER, 500, now)
        assert not lib.rw_policy_lingers(linger, LINGER, 500, now + LINGER)
    assert not lib.rw_policy_lingers(linger, LINGER, 500, now + 2 * LINGER)


def test_what_waits_is_written_as_one_block_when_that_is_well_filled(tmp_path: Path) -> None:
    with Memory() as memory, Wal(memory, tmp_path, linger_ns=LONG) as wal:
        writer = Writer(memory, 0)
        lib.rw_wal_attach_lane(wal.wal, 0, writer.lane, writer.lane.generation)
        wal.add_segments(range(2))
        with wal.thread():
            for _ in range(9):  # 128 + 9 x 384: the last eighth may be zeros
                assert writer.append(RECORD) == lib.RW_OK
            until(lambda: memory.control.sealed == 2, "the block is composed")
            assert (memory.control.wal_requests, memory.control.wal_blocks) == (9, 1)


def test_the_end_waits_for_nobody(tmp_path: Path) -> None:
    with Memory() as memory, Wal(memory, tmp_path, linger_ns=LONG) as wal:
        writer = Writer(memory, 0)
        lib.rw_wal_attach_lane(wal.wal, 0, writer.lane, writer.lane.generation)
        wal.add_segments(range(2))
        with wal.thread():
            assert writer.append(RECORD) == lib.RW_OK
        assert (memory.control.wal_requests, memory.control.wal_blocks) == (1, 1)


def test_what_the_engine_asks_for_itself_does_not_wait(tmp_path: Path) -> None:
    with Memory(clients=2, engine_slots=1) as memory, Wal(memory, tmp_path, linger_ns=LONG) as wal:
        client, engine = Writer(memory, 0), Writer(memory, 2)
        for slot, writer in ((0, client), (2, engine)):
            lib.rw_wal_attach_lane(wal.wal, slot, writer.lane, writer.lane.generation)
        wal.add_segments(range(2))
        with wal.thread():
            assert client.append(RECORD) == lib.RW_OK
            number = engine.last + 1
            trim = struct.pack("<Q", 0)
            assert lib.rw_append_control(engine.writer, lib.RW_FRAME_TRIM, handle(0), trim, 8, number) == lib.RW_OK
            until(lambda: memory.control.wal_requests == 2, "both are composed")


@pytest.mark.parametrize("size", [3584, 4096, 64 << 10])
def test_a_block_that_is_well_filled_at_once_does_not_wait(size: int, tmp_path: Path) -> None:
    with Memory() as memory, Wal(memory, tmp_path, linger_ns=LONG, block=128 << 10) as wal:
        writer = Writer(memory, 0, lane_bytes=1 << 18) if size > 8192 else Writer(memory, 0)
        lib.rw_wal_attach_lane(wal.wal, 0, writer.lane, writer.lane.generation)
        wal.add_segments(range(2))
        with wal.thread():
            assert writer.append(b"r" * (size - 128 - 64)) == lib.RW_OK
            until(lambda: memory.control.sealed == 2, "the block is composed")
