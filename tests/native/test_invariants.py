"""A process that finds an invariant broken says so and ends before it does anything more.

Each test breaks one from outside, in a child, and looks at how the child ended.
"""

from __future__ import annotations

import os
import resource
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ringwal._native import lib
from tests.support.core import KIB, RING, Memory, Sequencer, Wal, Writer

GENERATION = 1 << 32

Break = Callable[[Memory, Path], None]


def ended(break_it: Break, tmp_path: Path) -> tuple[int, str]:
    """The signal by which a child ended that did this, and what it said."""
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if pid == 0:
            try:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                signal.signal(signal.SIGABRT, signal.SIG_DFL)
                os.dup2(said.fileno(), 2)
                with Memory() as memory:
                    break_it(memory, tmp_path)
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        said.seek(0)
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, said.read().decode()


def compose_again(memory: Memory, tmp_path: Path, spoil: Callable[[Memory], None]) -> None:
    """A request is taken, something is spoilt, and another one is taken."""
    writer = Writer(memory, 0)
    with Wal(memory, tmp_path) as wal:
        wal.add_segments(range(2))
        writer.append(b"one")
        wal.drain_lanes()
        spoil(memory)
        writer.append(b"two")
        wal.drain_lanes()


def more_in_the_ring_than_it_holds(memory: Memory, tmp_path: Path) -> None:
    def spoil(memory: Memory) -> None:
        memory.control.sealed_end += RING

    compose_again(memory, tmp_path, spoil)


def more_released_than_sealed(memory: Memory, tmp_path: Path) -> None:
    def spoil(memory: Memory) -> None:
        memory.control.released = memory.control.sealed + 1

    compose_again(memory, tmp_path, spoil)


def a_lane_head_that_went_on_alone(memory: Memory, tmp_path: Path) -> None:
    def spoil(memory: Memory) -> None:
        memory.slot(0).head += 4 * KIB

    compose_again(memory, tmp_path, spoil)


def a_next_offset_that_went_on_alone(memory: Memory, tmp_path: Path) -> None:
    def spoil(memory: Memory) -> None:
        for stream in range(2):
            memory.stream(stream).next_offset += 100

    compose_again(memory, tmp_path, spoil)


def an_entry_of_another_block(memory: Memory, tmp_path: Path) -> None:
    def spoil(memory: Memory) -> None:
        memory.control.sealed += 1

    compose_again(memory, tmp_path, spoil)


def watchers_below_none(memory: Memory, tmp_path: Path) -> None:
    writer = Writer(memory, 0)
    with Wal(memory, tmp_path) as wal:
        wal.add_segments(range(1))
        writer.append(b"one")
        memory.control.doorbell = (1 << 64) - 1  # as if one thread more had stopped than there are
        wal.drain_lanes()


def an_offset_that_is_not_the_next(memory: Memory, tmp_path: Path) -> None:
    memory.open_lane(0)
    sequencer = Sequencer(memory)
    sequencer.settle()
    memory.seal([(0, 1, GENERATION + 1)])
    sequencer.settle()  # registered
    memory.stream(0).confirmed_offset = 5
    memory.persist(1)
    sequencer.settle()


def a_place_that_is_given_away_before_its_time(memory: Memory, tmp_path: Path) -> None:
    def spoil(memory: Memory) -> None:
        memory.stream(0).number = 99

    compose_again(memory, tmp_path, spoil)


def a_record_that_is_confirmed_for_another_stream(memory: Memory, tmp_path: Path) -> None:
    memory.open_lane(0)
    sequencer = Sequencer(memory)
    memory.seal([(0, 1, GENERATION + 1)])
    sequencer.settle()
    memory.stream(0).number = 99
    memory.persist(1)
    sequencer.settle()


def a_number_that_was_there_before(memory: Memory, tmp_path: Path) -> None:
    lib.rw_set_next_number(memory.control, 3)


def a_block_that_is_completed_under_another_number(memory: Memory, tmp_path: Path) -> None:
    memory.open_lane(0)
    sequencer = Sequencer(memory)
    memory.seal([(0, 1, GENERATION + 1)])
    sequencer.settle()
    memory.persist(1)
    memory.entry(1).number = 3
    sequencer.settle()


def ring_space_that_is_given_back_twice(memory: Memory, tmp_path: Path) -> None:
    memory.open_lane(0)
    sequencer = Sequencer(memory)
    memory.seal([(0, 1, GENERATION + 1)])
    sequencer.settle()
    memory.persist(1)
    memory.control.released_end += RING
    sequencer.settle()


def a_state_that_goes_back(memory: Memory, tmp_path: Path) -> None:
    lib.rw_set_state(memory.control, lib.RW_STOPPED, 0)
    lib.rw_set_state(memory.control, lib.RW_RUNNING, 0)


def a_slot_that_has_an_owner(memory: Memory, tmp_path: Path) -> None:
    memory.open_lane(0)
    memory.open_lane(0, generation=2)


def a_generation_that_was_there_before(memory: Memory, tmp_path: Path) -> None:
    memory.open_lane(0, generation=2)
    memory.free_slot(0)
    memory.open_lane(0, generation=2)


def a_slot_that_is_freed_without_being_closed(memory: Memory, tmp_path: Path) -> None:
    memory.open_lane(0)
    lib.rw_slot_set(memory.control, 0, lib.RW_SLOT_FREE)


def a_stream_that_is_open(memory: Memory, tmp_path: Path) -> None:
    lib.rw_stream_open(memory.control, 0, 99, b"again", 5)


def a_persisted_byte_that_changes_its_mind(memory: Memory, tmp_path: Path) -> None:
    memory.open_lane(0)
    memory.seal([(0, 1, GENERATION + 1)])
    block = memory.ring + memory.entry(1).position % RING
    lib.rw_persist_block(block)
    lib.rw_fail_block(block)


CASES: list[tuple[Break, str, str]] = [
    (more_in_the_ring_than_it_holds, "log_ring.c", "used <= r->c->ring_bytes"),
    (more_released_than_sealed, "log_ring.c", "blocks <= RW_BLOCK_ENTRIES"),
    (a_lane_head_that_went_on_alone, "wal_compose.c", "e->cursor - slot->head <= e->bytes"),
    (a_next_offset_that_went_on_alone, "wal_streams.c", "p->next_offset >= s->next_offset"),
    (an_entry_of_another_block, "log_ring.c", "e->number == r->prefix"),
    (watchers_below_none, "doorbell.h", "RW_DOORBELL_WATCHERS"),
    (an_offset_that_is_not_the_next, "sequencer.c", "r->base_offset == stream->confirmed_offset"),
    (a_place_that_is_given_away_before_its_time, "wal_streams.c", "s->number) == p->number"),
    (a_record_that_is_confirmed_for_another_stream, "sequencer.c", "!rw_stream_over(stream, r->stream)"),
    (a_number_that_was_there_before, "stream.c", "number >= c->next_number"),
    (a_block_that_is_completed_under_another_number, "sequencer.c", "b->number == number"),
    (ring_space_that_is_given_back_twice, "sequencer.c", "end - c->released_end <= c->ring_bytes"),
    (a_state_that_goes_back, "memory.c", "state >= c->state"),
    (a_slot_that_has_an_owner, "memory.c", "slot->state == RW_SLOT_FREE"),
    (a_generation_that_was_there_before, "memory.c", "generation > slot->generation"),
    (a_slot_that_is_freed_without_being_closed, "memory.c", "RW_SLOT_CLOSING + 1"),
    (a_stream_that_is_open, "stream.c", "s->state == RW_STREAM_FREE"),
    (a_persisted_byte_that_changes_its_mind, "persisted.c", "== outcome"),
]


@pytest.mark.parametrize(("break_it", "file", "condition"), CASES, ids=[case[0].__name__ for case in CASES])
def test_a_broken_invariant_ends_the_process_and_is_named(break_it: Break, file: str, condition: str, tmp_path: Path) -> None:
    number, said = ended(break_it, tmp_path)
    assert number == signal.SIGABRT, said
    assert file in said
    assert condition in said
    assert said.count("ringwal: ") == 1


def test_a_client_may_hold_anything_in_its_lane_and_ends_nobody(tmp_path: Path) -> None:
    def scribble(memory: Memory, tmp_path: Path) -> None:
        def spoil(memory: Memory) -> None:
            lane = memory.lanes[0]
            lane.claim = lane.last_rung = (1 << 64) - 1
            lane.completion_waiters = lane.room_waiters = lane.tail_any = (1 << 32) - 1
            lane.salt = lane.magic = lane.lane_bytes = 0

        compose_again(memory, tmp_path, spoil)

    assert ended(scribble, tmp_path) == (0, "")
