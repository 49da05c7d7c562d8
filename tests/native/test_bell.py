"""The bell of a lane: when the drain rings it, and what it was rung for (csrc/wait.h, THE BELL)."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringwal._native import lib
from tests.support.core import STREAMS, Memory, Sequencer, Writer, handle, take

GENERATION = 1 << 32


def rings(bell: select.epoll) -> int:
    """Was it rung since this was asked last? 1: once or several times."""
    shown = select.select([bell], [], [], 0)[0]
    taken = int(lib.rw_take_bell(bell.fileno()))
    assert taken == len(shown)
    assert not select.select([bell], [], [], 0)[0]
    return taken


def rung_of(writer: Writer) -> select.epoll:
    """Hangs a bell beside this writer's lane, which no sequencer has yet."""
    return writer.memory.hang_bell(writer.slot)


def confirm(memory: Memory, sequencer: Sequencer, number: int, *, stream: int = 0, slot: int = 0) -> None:
    memory.persist(memory.seal([(stream, 1, GENERATION + number)], slot=slot))
    sequencer.settle()


@contextlib.contextmanager
def bystander() -> Iterator[tuple[Memory, Writer, select.epoll, Sequencer]]:
    """A lane with a bell, a second one without, and the drain, which knows both."""
    with Memory() as memory:
        writer = Writer(memory, 0)
        bell = rung_of(writer)
        memory.open_lane(1)
        sequencer = Sequencer(memory)
        sequencer.settle()
        yield memory, writer, bell, sequencer


def test_a_completion_rings_only_while_it_is_wanted() -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        bell = rung_of(writer)
        sequencer = Sequencer(memory)
        confirm(memory, sequencer, 1)
        assert rings(bell) == 0
        lib.rw_bell_want(writer.writer, 1)
        confirm(memory, sequencer, 2)
        assert memory.completed(0, GENERATION + 2) == 1
        assert rings(bell) == 1
        lib.rw_bell_want(writer.writer, 0)
        confirm(memory, sequencer, 3)
        assert rings(bell) == 0
        assert memory.control.drain_rings == 1


def test_it_rings_once_for_a_batch_whatever_is_in_it() -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        bell = rung_of(writer)
        lib.rw_bell_want(writer.writer, 1)
        watched = [lib.rw_tail_watch(writer.writer, handle(stream)) for stream in (0, 1)]
        sequencer = Sequencer(memory)
        sequencer.settle()
        assert rings(bell) == 1  # it was wanted when the lane came
        for block in range(3):
            memory.seal([(stream, 1, GENERATION + 2 * block + 1 + stream) for stream in (0, 1)])
        for block in range(1, 4):
            memory.persist(block)
        sequencer.settle()
        assert [memory.completed(0, GENERATION + number) for number in range(1, 7)] == [0, 0, 1, 1, 2, 2]
        assert memory.control.drain_rings == 2
        assert rings(bell) == 1
        for place in watched:
            lib.rw_tail_unwatch(writer.writer, place)


def test_another_clients_completions_ring_nothing() -> None:
    with bystander() as (memory, writer, bell, sequencer):
        lib.rw_bell_want(writer.writer, 1)
        confirm(memory, sequencer, 1, slot=1)
        assert rings(bell) == 0


def test_a_tail_rings_for_the_streams_that_are_watched() -> None:
    with bystander() as (memory, writer, bell, sequencer):
        place = lib.rw_tail_watch(writer.writer, handle(3))
        confirm(memory, sequencer, 1, stream=3, slot=1)
        assert rings(bell) == 0  # nobody awaits it
        lib.rw_bell_want(writer.writer, 1)
        confirm(memory, sequencer, 2, stream=3, slot=1)
        assert rings(bell) == 1
        confirm(memory, sequencer, 3, stream=4, slot=1)
        assert rings(bell) == 0
        lib.rw_tail_unwatch(writer.writer, place)
        confirm(memory, sequencer, 4, stream=3, slot=1)
        assert rings(bell) == 0


def test_more_streams_than_the_table_holds_are_watched_all_the_same() -> None:
    with bystander() as (memory, writer, bell, sequencer):
        places = [lib.rw_tail_watch(writer.writer, handle(stream)) for stream in range(lib.RW_TAIL_INTERESTS + 2)]
        assert places == [*range(lib.RW_TAIL_INTERESTS), lib.RW_TAIL_INTERESTS, lib.RW_TAIL_INTERESTS]
        assert writer.lane.tail_any == 2
        lib.rw_bell_want(writer.writer, 1)
        confirm(memory, sequencer, 1, stream=lib.RW_TAIL_INTERESTS + 1, slot=1)
        assert rings(bell) == 1
        for place in places:
            lib.rw_tail_unwatch(writer.writer, place)
        assert (writer.lane.tail_any, list(writer.lane.tail_streams)) == (0, [0] * lib.RW_TAIL_INTERESTS)
        confirm(memory, sequencer, 2, stream=lib.RW_TAIL_INTERESTS + 1, slot=1)
        assert rings(bell) == 0


def test_a_successor_rings_for_what_its_predecessor_may_not_have_lived_to_ring_for() -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        bell = rung_of(writer)
        memory.open_lane(1)
        first = Sequencer(memory)
        lib.rw_tail_watch(writer.writer, handle(0))
        confirm(memory, first, 1, slot=1)  # not wanted, so not rung: as if it had died before
        lib.rw_bell_want(writer.writer, 1)
        assert rings(bell) == 0
        Sequencer(memory).settle()
        assert memory.control.drain_confirmed_requests == 1
        assert rings(bell) == 1
        lib.rw_bell_want(writer.writer, 0)
        Sequencer(memory).settle()
        assert rings(bell) == 0


def test_a_client_that_never_listens_or_has_gone_holds_nobody_up() -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        bell = rung_of(writer)
        sequencer = Sequencer(memory)
        lib.rw_bell_want(writer.writer, 1)
        for number in range(1, 100):
            confirm(memory, sequencer, number)
        assert memory.control.drain_rings == 100  # with the one for what was wanted when the lane came
        assert rings(bell) == 1
        bell.close()
        confirm(memory, sequencer, 100)
        assert memory.completed(0, GENERATION + 100) == 99


def test_a_ring_stays_until_it_is_taken_whoever_listens_when() -> None:
    with Memory() as memory:
        bell = memory.hang_bell(0)
        ring = memory.bells[0]
        for _ in range(3):
            os.eventfd_write(ring, 1)
            os.eventfd_write(ring, 1)
            with select.epoll() as loop:  # which comes after the ring
                loop.register(bell, select.EPOLLIN)
                assert loop.poll(0) == loop.poll(0) == [(bell.fileno(), select.EPOLLIN)]
                assert rings(bell) == 1
                assert loop.poll(0) == []
                os.eventfd_write(ring, 1)
                assert loop.poll(0) == [(bell.fileno(), select.EPOLLIN)]
                assert rings(bell) == 1


def test_a_lane_without_a_bell_may_want_one() -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        lib.rw_bell_want(writer.writer, 1)
        lib.rw_tail_watch(writer.writer, handle(0))
        sequencer = Sequencer(memory)
        confirm(memory, sequencer, 1)
        assert memory.completed(0, GENERATION + 1) == 0
        assert memory.control.drain_rings == 0


def test_the_next_generation_has_the_bell_that_came_with_it() -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        before = rung_of(writer)
        lib.rw_bell_want(writer.writer, 1)
        sequencer = Sequencer(memory)
        sequencer.settle()
        assert rings(before) == 1
        lib.rw_slot_set(memory.control, 0, lib.RW_SLOT_CLOSING)
        memory.slot(0).wal_done = 1
        sequencer.settle()
        assert sequencer.detached == [0]
        memory.free_slot(0)
        os.close(memory.bells.pop(0))
        following = Writer(memory, 0, generation=2)
        bell = rung_of(following)
        lib.rw_bell_want(following.writer, 1)
        sequencer.settle()
        assert rings(bell) == 1


def fill(writer: Writer, stream: int) -> None:
    while (code := writer.append(bytes(1000), stream)) == lib.RW_OK:
        pass
    assert code == lib.RW_FULL


@pytest.mark.parametrize("nobodys", [False, True], ids=["appended", "refused alone"])
def test_room_in_a_full_lane_is_there_when_it_rings(tmp_path: Path, nobodys: bool) -> None:
    """Nobody has taken a request of the lane yet when its owner begins to wait."""
    with Memory() as memory:
        writer = Writer(memory, 0)
        bell = rung_of(writer)
        sequencer = Sequencer(memory)
        sequencer.settle()
        fill(writer, STREAMS - 1 if nobodys else 0)
        lib.rw_bell_want(writer.writer, 1)
        assert writer.append(bytes(1000)) == lib.RW_FULL
        assert rings(bell) == 0
        take(memory, tmp_path)
        assert writer.append(bytes(1000)) == lib.RW_OK
        assert rings(bell) == 0
        sequencer.settle()
        assert rings(bell) == 1
        assert lib.rw_completion_poll(writer.writer, GENERATION + 1) == (lib.RW_DELETED if nobodys else 0)
