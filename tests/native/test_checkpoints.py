"""Checkpoints beside the threads that write: what they say, and when the manifest may name them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ringwal._native import ffi, lib
from ringwal.log import checkpoint_file
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import EpochRow
from ringwal.processes.checkpoints import Checkpoints
from ringwal.processes.log_state import LogState
from tests.support.core import BEGIN, EPOCH, SEGMENT, Memory, Wal, Writer, take
from tests.support.log_place import log_at
from tests.support.wal_log import MIB, context, named


@pytest.fixture
def memory() -> Iterator[Memory]:
    with Memory() as memory:
        yield memory


def checkpoints(memory: Memory, wal: Wal, directory: Path) -> tuple[Checkpoints, LogState]:
    named(directory)
    around = context(memory, directory)
    state = LogState(around)
    return Checkpoints(around, wal.wal, state), state


def test_a_checkpoint_waits_for_what_is_still_being_written(memory: Memory, tmp_path: Path) -> None:
    writer = Writer(memory, 0)
    for block in range(3):
        assert writer.append(b"x" * 100, stream=block) == lib.RW_OK
        take(memory, tmp_path)
    memory.entry(2).state = lib.RW_BLOCK_SEALED  # as a predecessor leaves it that died in the write
    for record in memory.records(2):
        record.persisted = 0
    with Wal(memory, tmp_path) as wal:
        wal.add_segments(range(BEGIN // SEGMENT, BEGIN // SEGMENT + 2))
        found, state = checkpoints(memory, wal, tmp_path)
        before = state.manifest
        for _ in range(3):
            found.work(wanted=True)
            assert state.manifest == before and found.waits
        assert lib.rw_wal_rewrite(wal.wal) == lib.RW_OK
        found.work()
        after = state.manifest
        assert not found.waits and manifests.load(log_at(tmp_path)) == after
        assert after.checkpoint_position == memory.control.sealed_end == lib.rw_wal_persisted_end(wal.wal)
        found.work(wanted=True)
        assert state.manifest == after, "nothing has been written since"


def test_it_says_what_was_composed(memory: Memory, tmp_path: Path) -> None:
    writer = Writer(memory, 0)
    for size in (10, 0, 7):
        assert writer.append(b"x" * size, stream=5) == lib.RW_OK
    assert writer.append(b"y", stream=2) == lib.RW_OK
    take(memory, tmp_path)
    with Wal(memory, tmp_path) as wal:
        found, state = checkpoints(memory, wal, tmp_path)
        found.work(wanted=True)
    said = checkpoint_file.load(log_at(tmp_path), state.manifest)
    assert (said.position, said.block_number, said.epochs) == (
        memory.control.sealed_end, memory.control.sealed, (EpochRow(EPOCH, BEGIN - 4096, 0),)
    )  # fmt: skip
    rows = {row.number: row for row in said.rows()}
    assert {stream: (row.next_offset, row.payload_bytes) for stream, row in rows.items()} == {2: (1, 1), 5: (3, 17)}
    assert 0 < rows[5].timestamp_ns <= said.timestamp_ns
    names = {number: bytes(ffi.buffer(lib.rw_stream_of(memory.control, number).name, 120)).rstrip(b"\0") for number in rows}
    assert {stream: row.name.encode() for stream, row in rows.items()} == names


def test_a_successor_counts_on(memory: Memory, tmp_path: Path) -> None:
    writer = Writer(memory, 0)
    for size in (10, 20, 30):
        assert writer.append(b"x" * size, stream=5) == lib.RW_OK
        take(memory, tmp_path)
    with Wal(memory, tmp_path) as wal:
        assert lib.rw_wal_restore(wal.wal) == 0
        found, state = checkpoints(memory, wal, tmp_path)
        found.work(wanted=True)
    (row,) = checkpoint_file.load(log_at(tmp_path), state.manifest).rows()
    assert (row.next_offset, row.payload_bytes) == (3, 60)


def test_an_orderly_end_is_marked_only_where_all_is_written(memory: Memory, tmp_path: Path) -> None:
    writer = Writer(memory, 0)
    assert writer.append(b"x", stream=5) == lib.RW_OK
    take(memory, tmp_path)
    last = memory.control.sealed - 1
    memory.entry(last).state = lib.RW_BLOCK_SEALED
    with Wal(memory, tmp_path) as wal:
        found, state = checkpoints(memory, wal, tmp_path)
        before = state.manifest
        found.finish()
        assert state.manifest == before
    memory.entry(last).state = lib.RW_BLOCK_PERSISTED
    with Wal(memory, tmp_path) as wal:
        found, state = checkpoints(memory, wal, tmp_path)
        found.finish()
    after = state.manifest
    assert after.end == after.checkpoint_position == memory.control.sealed_end


def test_no_segment_is_used_that_recovery_could_not_read_in_time(memory: Memory, tmp_path: Path) -> None:
    with Wal(memory, tmp_path) as wal:
        found, _ = checkpoints(memory, wal, tmp_path)
        allowed = [number for number in range(BEGIN // SEGMENT, 2000 * MIB // SEGMENT) if found.allows(number)]
    assert allowed == list(range(allowed[0], allowed[-1] + 1))
    assert allowed[-1] == BEGIN // SEGMENT + 4, "twice the two segments between checkpoints"
