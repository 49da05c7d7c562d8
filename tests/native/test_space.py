"""When a segment is freed that holds nothing any more: not before its trims are in force for readers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ringwal._native import lib
from ringwal.log import segment
from ringwal.log.directory import SEGMENTS
from ringwal.processes.checkpoints import Checkpoints
from ringwal.processes.log_state import LogState
from ringwal.processes.space import Space
from tests.support.core import KIB, SEGMENT, UUID, Memory, Sequencer, Wal, Writer, take
from tests.support.crashes import dies
from tests.support.log_place import log_at, path_of
from tests.support.wal_log import context, named

CLIENTS = 4
RECORD = 20 * KIB


def segment_files(directory: Path, count: int) -> None:
    """Made as an engine makes them, and found by `Wal` under its names."""
    for number in range(count):
        segment.create(log_at(directory), UUID, number, SEGMENT, direct=False)
        (directory / f"{number}.seg").symlink_to(path_of(directory, number))


class Trimmed(Memory):
    """A log in two segments and more, of which everything is trimmed: that is written, and not confirmed yet."""

    def __init__(self, directory: Path) -> None:
        super().__init__(clients=CLIENTS, engine_slots=1)
        (directory / SEGMENTS).mkdir()
        named(directory)
        segment_files(directory, 9)
        client, engine = Writer(self, 0), Writer(self, CLIENTS)
        self.sequencer, self.count = Sequencer(self), SEGMENT // RECORD + 3
        for _ in range(self.count):
            assert client.append(b"x" * RECORD) == lib.RW_OK
            take(self, directory)
            self.sequencer.settle()
        before = self.count.to_bytes(8, "little")
        asked = lib.rw_append_control(engine.writer, lib.RW_FRAME_TRIM, lib.rw_handle(0, 0), before, 8, 1 << 32 | 1)
        assert asked == lib.RW_OK
        take(self, directory)


def successor(memory: Memory, wal: Wal, directory: Path) -> tuple[Space, Checkpoints, LogState]:
    """The main thread's part of a WAL process that replaces another one."""
    around = context(memory, directory, replacement=True)
    state = LogState(around)
    checkpoints = Checkpoints(around, wal.wal, state)
    return Space(around, wal.wal, state, checkpoints, lambda: None), checkpoints, state


def test_a_segment_stays_until_its_trims_are_confirmed(tmp_path: Path) -> None:
    """Persisted they are when the checkpoint is named. But who reads goes by what is confirmed, and would find damage."""
    with Trimmed(tmp_path) as memory, Wal(memory, tmp_path) as wal:
        assert lib.rw_wal_restore(wal.wal) == 0
        space, checkpoints, state = successor(memory, wal, tmp_path)
        checkpoints.work(wanted=True)
        assert state.manifest.checkpoint_position == memory.control.sealed_end > SEGMENT
        space.work()
        assert state.manifest.first_segment == 0
        assert lib.rw_stream_of(memory.control, 0).start_offset == 0
        memory.sequencer.settle()
        assert lib.rw_stream_of(memory.control, 0).start_offset == memory.count
        space.work()
        assert state.manifest.first_segment == 1
        assert not path_of(tmp_path, 0).exists()


def test_a_successor_tells_readers_before_it_clears_what_was_freed(tmp_path: Path) -> None:
    """Its predecessor died when the manifest said so, and nobody else had heard of it."""
    with Trimmed(tmp_path) as memory, Wal(memory, tmp_path) as wal:
        assert lib.rw_wal_restore(wal.wal) == 0
        _, checkpoints, state = successor(memory, wal, tmp_path)
        memory.sequencer.settle()
        checkpoints.work(wanted=True)
        state.manifest = dataclasses.replace(state.manifest, first_segment=1)
        state.store()
        hit = 1
        while dies(hit, lambda: successor(memory, wal, tmp_path)):
            assert path_of(tmp_path, 0).exists() or memory.control.first_segment == 1, f"after a death at call {hit}"
            hit += 1
        assert hit > 2
        assert not path_of(tmp_path, 0).exists()
