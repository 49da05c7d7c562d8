"""When a segment is freed that holds nothing any more: not before its trims are in force for readers."""

from __future__ import annotations

from pathlib import Path

from ringwal._native import lib
from ringwal.log import segment
from ringwal.log.directory import SEGMENTS
from ringwal.processes.checkpoints import Checkpoints
from ringwal.processes.log_state import LogState
from ringwal.processes.space import Space
from tests.support.core import KIB, SEGMENT, UUID, Memory, Sequencer, Wal, Writer, take
from tests.support.log_place import log_at, path_of
from tests.support.wal_log import context, named

CLIENTS = 4
RECORD = 20 * KIB


def segment_files(directory: Path, count: int) -> None:
    """Made as an engine makes them, and found by `Wal` under its names."""
    for number in range(count):
        segment.create(log_at(directory), UUID, number, SEGMENT, direct=False)
        (directory / f"{number}.seg").symlink_to(path_of(directory, number))


def test_a_segment_stays_until_its_trims_are_confirmed(tmp_path: Path) -> None:
    """Persisted they are when the checkpoint is named. But who reads goes by what is confirmed, and would find damage."""
    with Memory(clients=CLIENTS, engine_slots=1) as memory:
        (tmp_path / SEGMENTS).mkdir()
        named(tmp_path)
        segment_files(tmp_path, 9)
        client, engine, sequencer = Writer(memory, 0), Writer(memory, CLIENTS), Sequencer(memory)
        count = SEGMENT // RECORD + 3
        for _ in range(count):
            assert client.append(b"x" * RECORD) == lib.RW_OK
            take(memory, tmp_path)
            sequencer.settle()
        before = count.to_bytes(8, "little")
        assert lib.rw_append_control(engine.writer, lib.RW_FRAME_TRIM, lib.rw_handle(0, 0), before, 8, 1 << 32 | 1) == lib.RW_OK
        take(memory, tmp_path)
        with Wal(memory, tmp_path) as wal:
            assert lib.rw_wal_restore(wal.wal) == 0
            around = context(memory, tmp_path, replacement=True)
            state = LogState(around)
            checkpoints = Checkpoints(around, wal.wal, state)
            space = Space(around, wal.wal, state, checkpoints, lambda: None)
            checkpoints.work(wanted=True)
            assert state.manifest.checkpoint_position == memory.control.sealed_end > SEGMENT
            space.work()
            assert state.manifest.first_segment == 0
            assert lib.rw_stream_of(memory.control, 0).start_offset == 0
            sequencer.settle()
            assert lib.rw_stream_of(memory.control, 0).start_offset == count
            space.work()
            assert state.manifest.first_segment == 1
            assert not (path_of(tmp_path, 0)).exists()
