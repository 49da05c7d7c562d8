"""Requests that are to get one offset, and no other: what is composed of them, and when their writers are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ringwal._native import ffi, lib
from ringwal.client.verdicts import error_of, is_refused
from ringwal.errors import OffsetMismatch
from tests.native.test_control_frames import World, kinds
from tests.support.core import Sequencer, Wal, handle


@pytest.fixture
def world(tmp_path: Path) -> Any:
    with World(tmp_path) as memory:
        lib.rw_writer_grant(memory.client.writer, lib.rw_writer_next(memory.client.writer) + 64)
        yield memory


def submit(world: World, data: bytes, expected: int | None = None, stream: int = 0, flags: int = 0) -> int:
    terms = ffi.new("rw_terms *", {"sequence": expected or 0, "flags": flags or (0 if expected is None else lib.RW_EXPECTS)})
    number = int(lib.rw_submit_on(world.client.writer, handle(stream), data, len(data), terms))
    assert number >= 0
    return number


def actual(found: int) -> int:
    assert is_refused(found)
    error = error_of(found, "s")
    assert isinstance(error, OffsetMismatch) and error.outcome == "not_appended"
    assert error.actual is not None
    return error.actual


def test_only_what_comes_to_its_offset_is_appended(world: World) -> None:
    numbers = [submit(world, b"x", expected) for expected in (0, 0, 1, 3, None, 3, 1)]
    block = world.take()
    world.sequencer.settle()
    found = [world.answer(world.client, number) for number in numbers]
    assert [each if each >= 0 else f"not {actual(each)}" for each in found] == [0, "not 1", 1, "not 2", 2, 3, "not 4"]
    assert kinds(world, block).count(lib.RW_FRAME_VERDICT) == 3
    assert world.stream(0).next_offset == world.stream(0).confirmed_offset == 4
    assert world.slot(0).fault == 0 and world.slot(0).head == world.client.lane.claim


def test_nobody_is_told_of_an_offset_that_is_not_confirmed(world: World) -> None:
    """What lies below could be lost with the engine: then the stream would not go on where it was said to."""
    first = submit(world, b"on its way", 0)
    early = world.take()
    second, elsewhere = submit(world, b"too late", 0), submit(world, b"elsewhere", 7, stream=1)
    world.take()
    world.withhold(early)
    world.sequencer.settle()
    assert [world.answer(world.client, number) for number in (first, second)] == [lib.RW_PENDING] * 2
    assert actual(world.answer(world.client, elsewhere)) == 0
    successor = Sequencer(world)
    successor.settle()
    assert world.answer(world.client, second) == lib.RW_PENDING
    world.persist(early)
    successor.settle()
    assert world.answer(world.client, first) == 0
    assert actual(world.answer(world.client, second)) == 1


def test_a_stream_is_not_made_by_what_is_refused(world: World) -> None:
    submit(world, b"", 5)
    block = world.take()
    assert kinds(world, block) == [lib.RW_FRAME_VERDICT]
    number = submit(world, b"", 0)
    block = world.take()
    assert kinds(world, block) == [lib.RW_FRAME_STREAM, lib.RW_FRAME_BATCH]
    world.sequencer.settle()
    assert world.answer(world.client, number) == 0


def test_a_successor_of_the_wal_process_does_not_change_its_mind(world: World) -> None:
    """Killed after seal, before heads and offsets are told: what is sealed is what is answered."""
    submit(world, b"0", 0)
    world.settle()
    head, before = world.slot(0).head, bytes(ffi.buffer(world.stream(0)))
    refused, taken = submit(world, b"r" * 300, 0), submit(world, b"1", 1)
    block = world.take()
    told = world.slot(0).head
    ffi.memmove(world.stream(0), before, len(before))
    world.slot(0).head = head
    world.withhold(block)
    with Wal(world, world.directory) as successor:
        successor.add_segments(range(2))
        assert lib.rw_wal_restore(successor.wal) == 1
        assert lib.rw_wal_rewrite(successor.wal) == lib.RW_OK
        assert world.slot(0).head == told
        assert successor.drain_lanes() == lib.RW_OK
    world.sequencer.settle()
    assert actual(world.answer(world.client, refused)) == 1
    assert world.answer(world.client, taken) == 1
    assert world.stream(0).next_offset == 2


def test_behind_the_end_of_its_stream_it_is_refused_as_all_are(world: World) -> None:
    submit(world, b"0", 0)
    world.delete()
    world.take()
    number = submit(world, b"1", 1)
    world.settle()
    assert world.answer(world.client, number) == lib.RW_DELETED


def test_a_sequence_that_nobody_asked_for_refuses_the_lane(world: World) -> None:
    """As a hostile writer may send it: without the flag the number has no meaning."""
    submit(world, b"x", 3)
    request = ffi.cast("rw_request *", world.client.data)
    request.flags, request.crc = 0, 0
    request.crc = lib.rw_crc32c(0, request, ffi.sizeof("rw_request"))
    world.take()
    assert world.slot(0).fault == 1
