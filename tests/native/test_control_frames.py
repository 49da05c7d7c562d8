"""Trims, deletes and drops among the records of their streams; requests that are refused alone; places that are used again."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import pytest

from ringwal._native import ffi, lib
from ringwal.log.settings import NEVER_SET, Settings, decode
from tests.support.core import KIB, SEGMENT, STREAMS, Memory, Sequencer, Wal, Writer, handle, take

CLIENTS = 4
ENGINE = CLIENTS  # the slot of the engine's own lane


class World(Memory):
    """With a lane of the engine's own, and a client's."""

    def __init__(self, directory: Path, **options: Any) -> None:
        super().__init__(clients=CLIENTS, engine_slots=1, **options)
        self.directory = directory
        self.client, self.engine = Writer(self, 0), Writer(self, ENGINE)
        self.sequencer = Sequencer(self)

    def trim(self, before: int, stream: int = 0, number: int | None = None) -> int:
        """The request's number."""
        return self._ask(lib.RW_FRAME_TRIM, stream, number, struct.pack("<Q", before))

    def delete(self, stream: int = 0, number: int | None = None) -> int:
        return self._ask(lib.RW_FRAME_DELETE, stream, number, b"")

    def set(self, payload: bytes, stream: int = 0) -> int:
        return self._ask(lib.RW_FRAME_SETTINGS, stream, None, payload)

    def _ask(self, kind: int, place: int, number: int | None, payload: bytes) -> int:
        whom = lib.rw_handle(place, place if number is None else number)
        self.engine.last += 1
        code = lib.rw_append_control(self.engine.writer, kind, whom, payload, len(payload), self.engine.last)
        assert code == lib.RW_OK
        return self.engine.last

    def take(self) -> int:
        """Write what is published; the number of the first new block."""
        first = int(self.control.sealed)
        take(self, self.directory)
        return first

    def settle(self) -> None:
        self.take()
        self.sequencer.settle()

    def answer(self, writer: Writer, number: int | None = None) -> int:
        return int(lib.rw_completion_poll(writer.writer, writer.last if number is None else number))

    def withhold(self, block: int) -> None:
        """As if the block's write were still on its way."""
        for record in self.records(block):
            record.persisted = 0
        self.entry(block).state = lib.RW_BLOCK_SEALED


@pytest.fixture
def world(tmp_path: Path) -> Any:
    with World(tmp_path) as memory:
        yield memory


def reuse(world: World, place: int, number: int, name: bytes = b"another") -> None:
    lib.rw_stream_open(world.control, place, number, name, len(name))


def kinds(world: World, block: int) -> list[int]:
    return [record.kind for record in world.records(block)]


def test_a_trim_is_in_force_with_what_it_follows_and_not_before(world: World) -> None:
    for n in range(3):
        assert world.client.append(b"%d" % n) == lib.RW_OK
    early = world.take()
    asked = world.trim(2)
    world.take()
    world.withhold(early)
    world.sequencer.settle()
    assert world.stream(0).start_offset == 0 and world.answer(world.engine, asked) == lib.RW_PENDING
    assert world.stream(0).trimmed_offset == 2  # as what is composed has it: what a checkpoint says
    world.persist(early)
    world.sequencer.settle()
    assert world.stream(0).start_offset == 2 and world.answer(world.engine, asked) == 3
    assert world.stream(0).next_offset == world.stream(0).confirmed_offset == 3


def test_a_trim_never_goes_back(world: World) -> None:
    for n in range(5):
        assert world.client.append(b"%d" % n) == lib.RW_OK
    for before, start in ((3, 3), (1, 3), (3, 3), (5, 5)):
        world.trim(before)
        world.settle()
        assert (world.stream(0).start_offset, world.stream(0).trimmed_offset) == (start, start)
    assert world.client.append(b"goes on") == lib.RW_OK
    world.settle()
    assert world.answer(world.client) == 5


def test_a_trim_beyond_the_end_refuses_the_lane(world: World) -> None:
    assert world.client.append(b"one") == lib.RW_OK
    world.take()
    world.trim(2)
    world.settle()
    assert world.slot(ENGINE).fault == 1 and world.slot(0).fault == 0
    assert world.stream(0).trimmed_offset == world.stream(0).start_offset == 0


def test_a_stream_without_records_can_be_trimmed_and_deleted(world: World) -> None:
    world.trim(0, 3)
    world.delete(3)
    block = world.take()
    assert kinds(world, block) == [lib.RW_FRAME_STREAM, lib.RW_FRAME_TRIM, lib.RW_FRAME_DELETE]
    world.sequencer.settle()
    assert lib.rw_stream_gone(world.control, 3)


def test_a_delete_lets_everything_before_it_through_and_nothing_behind_it(world: World) -> None:
    assert world.client.append(b"before") == lib.RW_OK
    before = world.client.last
    world.take()
    asked = world.delete()
    world.take()
    assert world.client.append(b"behind") == lib.RW_OK
    behind = world.client.last
    assert world.client.append(b"elsewhere", stream=1) == lib.RW_OK
    world.settle()
    assert world.answer(world.client, before) == 0
    assert world.answer(world.engine, asked) == 1
    assert world.answer(world.client, behind) == lib.RW_DELETED
    assert world.answer(world.client) == 0
    assert world.slot(0).fault == 0  # its lane lives on
    assert (world.stream(0).start_offset, world.stream(0).confirmed_offset) == (1, 1)
    assert lib.rw_stream_gone(world.control, 0)
    bounds = ffi.new("rw_stream_bounds *")
    assert lib.rw_stream_look(world.control, handle(0), bounds) == lib.RW_DELETED
    assert lib.rw_tail_wait(world.client.writer, handle(0), 5, 0, 0) == lib.RW_DELETED


def test_delete_and_what_comes_behind_it_in_one_block(world: World) -> None:
    world.delete()
    assert world.client.append(b"x" * 500) == lib.RW_OK
    for _ in range(2):
        world.delete()
    block = world.take()
    found = kinds(world, block)
    # Whoever's turn it was: what is behind the first DELETE in the block is refused.
    assert found.count(lib.RW_FRAME_DELETE) == 1
    assert set(found[found.index(lib.RW_FRAME_DELETE) + 1 :]) == {lib.RW_FRAME_VERDICT}
    world.sequencer.settle()
    assert world.answer(world.engine) == lib.RW_DELETED
    assert world.slot(0).head == world.client.lane.claim and world.slot(ENGINE).head == world.engine.lane.claim


@pytest.mark.parametrize("number", [STREAMS - 1, 77, lib.RW_NO_STREAM], ids=["closed", "never", "none"])
def test_a_request_to_nobody_is_refused_alone(world: World, number: int) -> None:
    for whom in (handle(1), lib.rw_handle(STREAMS - 1, number), handle(1)):
        assert lib.rw_append(world.client.writer, whom, b"x", 1, world.client.last + 1) == lib.RW_OK
        world.client.last += 1
    world.settle()
    answers = [world.answer(world.client, world.client.last - back) for back in (2, 1, 0)]
    assert answers == [0, lib.RW_DELETED, 1]
    assert world.slot(0).fault == 0


def test_a_place_is_used_again_and_its_streams_do_not_meet(world: World) -> None:
    for n in range(3):
        assert world.client.append(b"old %d" % n) == lib.RW_OK
    world.trim(2)
    world.delete()
    world.settle()
    reuse(world, 0, 99)
    assert lib.rw_stream_confirmed(world.control, handle(0)) == 0
    assert world.client.append(b"to the old one") == lib.RW_OK
    new = lib.rw_handle(0, 99)
    assert lib.rw_append(world.client.writer, new, b"new", 3, world.client.last + 1) == lib.RW_OK
    block = world.take()
    world.sequencer.settle()
    assert world.answer(world.client) == lib.RW_DELETED
    assert world.answer(world.client, world.client.last + 1) == 0
    assert kinds(world, block) == [lib.RW_FRAME_VERDICT, lib.RW_FRAME_STREAM, lib.RW_FRAME_BATCH]
    s = world.stream(0)
    assert (s.number, s.start_offset, s.trimmed_offset, s.next_offset, s.confirmed_offset) == (99, 0, 0, 1, 1)
    assert world.control.numbers_end == 100


def test_a_successor_knows_from_the_last_block_what_it_changed(world: World) -> None:
    """Killed after seal and before anything of it was told."""
    for n in range(3):
        assert world.client.append(b"%d" % n) == lib.RW_OK
    world.take()
    world.delete(1)
    world.take()
    assert world.client.append(b"refused", stream=1) == lib.RW_OK
    world.trim(2)
    world.delete(2)
    before = [bytes(ffi.buffer(world.stream(place))) for place in range(3)]
    heads = world.slot(0).head, world.slot(ENGINE).head
    block = world.take()
    after = [bytes(ffi.buffer(world.stream(place))) for place in range(3)]
    told = world.slot(0).head, world.slot(ENGINE).head, world.control.numbers_end
    for place in range(3):
        ffi.memmove(world.stream(place), before[place], len(before[place]))
    (world.slot(0).head, world.slot(ENGINE).head), world.control.numbers_end = heads, 2
    world.withhold(block)
    with Wal(world, world.directory) as successor:
        successor.add_segments(range(2))
        assert lib.rw_wal_restore(successor.wal) == 1
        assert lib.rw_wal_rewrite(successor.wal) == lib.RW_OK
        assert [bytes(ffi.buffer(world.stream(place))) for place in range(3)] == after
        assert (world.slot(0).head, world.slot(ENGINE).head, world.control.numbers_end) == told
        assert world.client.append(b"refused as well", stream=2) == lib.RW_OK
        assert successor.drain_lanes() == lib.RW_OK
    world.sequencer.settle()
    assert [world.answer(world.client, world.client.last - back) for back in (1, 0)] == [lib.RW_DELETED] * 2


def test_a_successor_that_meets_half_of_what_was_told_tells_the_rest(world: World) -> None:
    """`ended` is stored last of a stream's words: where it stands, the others do."""
    assert world.client.append(b"one") == lib.RW_OK
    world.delete()
    assert world.client.append(b"two", stream=1) == lib.RW_OK
    heads = world.slot(0).head, world.slot(ENGINE).head
    block = world.take()
    world.stream(1).next_offset = 0
    world.slot(0).head, world.slot(ENGINE).head = heads
    world.withhold(block)
    with Wal(world, world.directory) as successor:
        successor.add_segments(range(2))
        assert lib.rw_wal_restore(successor.wal) == 1
        assert lib.rw_wal_rewrite(successor.wal) == lib.RW_OK
    assert world.stream(1).next_offset == 1 and world.stream(0).ended == 0
    world.sequencer.settle()
    assert lib.rw_stream_gone(world.control, 0) and world.answer(world.client) == 0


def test_a_successor_of_the_wal_process_leaves_a_place_alone_that_is_anothers_by_now(world: World) -> None:
    assert world.client.append(b"old") == lib.RW_OK
    world.delete()
    block = world.take()
    released = world.control.released, world.control.released_end
    world.sequencer.settle()
    reuse(world, 0, 99)
    world.control.released, world.control.released_end = released  # the drain confirms before it releases
    fresh = bytes(ffi.buffer(world.stream(0)))
    with Wal(world, world.directory) as successor:
        successor.add_segments(range(2))
        assert lib.rw_wal_restore(successor.wal) == 0
    assert bytes(ffi.buffer(world.stream(0))) == fresh
    assert set(world.persisted(block)) == {1}


def test_a_successor_of_the_drain_leaves_a_place_alone_that_is_anothers_by_now(world: World) -> None:
    assert world.client.append(b"old") == lib.RW_OK
    world.trim(1)
    asked = world.delete()
    world.take()
    released = world.control.released, world.control.released_end
    world.sequencer.settle()
    reuse(world, 0, 99)
    new = lib.rw_handle(0, 99)
    assert lib.rw_append(world.client.writer, new, b"new", 3, world.client.last + 1) == lib.RW_OK
    world.take()
    world.control.released, world.control.released_end = released
    world.cell(ENGINE, asked).number = 0  # delivered again
    successor = Sequencer(world)
    successor.settle()
    s = world.stream(0)
    assert (s.number, s.start_offset, s.confirmed_offset, s.confirmed_bytes) == (99, 0, 1, 3)
    assert s.deleted == 0 and world.completed(ENGINE, asked) == 1
    assert world.control.released == world.control.sealed


def test_a_verdict_is_delivered_again_by_a_successor(world: World) -> None:
    whom = lib.rw_handle(STREAMS - 1, 55)
    assert lib.rw_append(world.client.writer, whom, b"x", 1, world.client.last + 1) == lib.RW_OK
    world.client.last += 1
    block = world.take()
    world.withhold(block)
    world.sequencer.settle()
    assert world.answer(world.client) == lib.RW_PENDING  # not before it is durable
    world.persist(block)
    successor = Sequencer(world)
    successor.settle()
    assert world.answer(world.client) == lib.RW_DELETED


# ----------------------------------------------------------------------------------------------------- checkpoints


def snapshot(wal: Wal) -> tuple[list[Any], Any]:
    rows, found = ffi.new("rw_checkpoint_stream[]", STREAMS), ffi.new("rw_wal_snapshot *")
    lib.rw_wal_take_snapshot(wal.wal, rows, ffi.new("rw_checkpoint_owner[]", 4), found)
    return [ffi.new("rw_checkpoint_stream *", rows[i]) for i in range(found.count)], found  # copies: the table goes


def test_a_checkpoint_has_what_lives_in_order_of_numbers(world: World) -> None:
    for stream in range(4):
        assert world.client.append(b"x" * stream, stream=stream) == lib.RW_OK
    world.take()
    world.trim(1, 2)
    world.delete(1)
    world.settle()
    reuse(world, 1, 40, b"forty")
    assert lib.rw_append(world.client.writer, lib.rw_handle(1, 40), b"new", 3, world.client.last + 1) == lib.RW_OK
    with Wal(world, world.directory) as wal:
        wal.add_segments(range(2))
        assert wal.drain_lanes() == lib.RW_OK
        rows, found = snapshot(wal)
    assert [(r.number, r.next_offset, r.start_offset) for r in rows] == [(0, 1, 0), (2, 1, 1), (3, 1, 0), (40, 1, 0)]
    assert bytes(ffi.buffer(rows[3].name, rows[3].name_bytes)) == b"forty"
    assert (found.next_number, found.position) == (41, world.control.sealed_end)


def test_what_makes_records_droppable_is_counted_and_told(world: World) -> None:
    assert world.client.append(b"x") == lib.RW_OK
    world.take()
    with Wal(world, world.directory) as wal:
        wal.add_segments(range(2))
        world.trim(1)
        world.trim(1)  # changes nothing
        world.delete(1)
        assert wal.drain_lanes() == lib.RW_OK
        assert lib.rw_wal_cuts(wal.wal) == 2


# -------------------------------------------------------------------------------------------------------- settings


def own(version: int, records: int = 7, names: bytes = b"") -> bytes:
    return Settings(version=version, records=records, retain_until=(names.decode(),) if names else ()).encode()


def looked(world: World, stream: int = 0) -> Settings:
    found = ffi.new("rw_settings *")
    assert lib.rw_settings_look(world.control, handle(stream), found) == lib.RW_OK
    return decode(bytes(ffi.buffer(found)))


def test_settings_are_there_when_composed_and_confirmed_with_what_they_follow(world: World) -> None:
    assert world.client.append(b"one") == lib.RW_OK
    early = world.take()
    asked = world.set(own(1, 5, b"ship"))
    world.take()
    world.withhold(early)
    world.sequencer.settle()
    assert looked(world) == Settings(version=1, records=5, retain_until=("ship",))
    assert lib.rw_settings_confirmed(world.control, handle(0)) == 0
    assert world.answer(world.engine, asked) == lib.RW_PENDING
    world.persist(early)
    world.sequencer.settle()
    assert lib.rw_settings_confirmed(world.control, handle(0)) == 1
    assert world.answer(world.engine, asked) == 1
    assert looked(world, 1) == NEVER_SET


def test_of_several_settings_in_a_block_the_last_ones_hold(world: World) -> None:
    for version in (1, 2, 3):
        world.set(own(version, version, b"n" * 10 * (4 - version)))
    world.set(own(1), 1)
    world.settle()
    assert looked(world) == Settings(version=3, records=3, retain_until=("n" * 10,))
    assert lib.rw_settings_confirmed(world.control, handle(0)) == 3 and looked(world, 1).version == 1


@pytest.mark.parametrize("payload", [b"", bytes(32), own(1)[:-1], own(1) + b"x", own(1, names=b"y" * 87) + b"zz"], ids=len)
def test_settings_that_make_no_sense_refuse_the_lane(world: World, payload: bytes) -> None:
    world.set(payload)
    world.take()
    assert world.slot(ENGINE).fault == 1
    assert looked(world) == NEVER_SET


def test_a_client_sets_nothing(world: World) -> None:
    payload = own(1)
    world.client.last += 1
    code = lib.rw_append_control(
        world.client.writer, lib.RW_FRAME_SETTINGS, handle(0), payload, len(payload), world.client.last
    )
    assert code == lib.RW_OK
    world.take()
    assert world.slot(0).fault == 1 and looked(world) == NEVER_SET


def test_settings_go_with_their_stream(world: World) -> None:
    """Whoever gets its place has none, however the stream before ended."""
    world.set(own(1))
    world.delete()
    world.settle()
    reuse(world, 0, 99)
    found = ffi.new("rw_settings *")
    assert lib.rw_settings_look(world.control, handle(0), found) == lib.RW_DELETED
    assert lib.rw_settings_look(world.control, lib.rw_handle(0, 99), found) == lib.RW_OK
    assert found.version == 0 and lib.rw_settings_confirmed(world.control, lib.rw_handle(0, 99)) == 0
    world.set(own(2), 0)  # to the old one
    world.settle()
    assert world.answer(world.engine) == lib.RW_DELETED
    assert lib.rw_settings_look(world.control, lib.rw_handle(0, 99), found) == lib.RW_OK and found.version == 0


@pytest.mark.parametrize("died", ["before", "in the middle"])
def test_a_successor_stores_the_settings_that_its_predecessor_did_not(world: World, died: str) -> None:
    world.set(own(1, 5))
    world.settle()
    world.set(own(2, 6))
    block = world.take()
    lib.rw_settings_store(world.stream(0), own(1, 5), len(own(1, 5)))
    if died == "in the middle":
        world.stream(0).settings_turn += 1
        found = ffi.new("rw_settings *")
        assert lib.rw_settings_look(world.control, handle(0), found) == lib.RW_PENDING
    world.withhold(block)
    with Wal(world, world.directory) as successor:
        successor.add_segments(range(2))
        assert lib.rw_wal_restore(successor.wal) == 1
        assert lib.rw_wal_rewrite(successor.wal) == lib.RW_OK
        rows, _ = snapshot(successor)
    assert looked(world) == decode(bytes(ffi.buffer(rows[0].settings))) == Settings(version=2, records=6)
    Sequencer(world).settle()
    assert lib.rw_settings_confirmed(world.control, handle(0)) == 2


def test_a_checkpoint_has_the_settings_of_its_position(world: World) -> None:
    world.set(own(1, 5), 2)
    world.settle()
    assert world.client.append(b"x") == lib.RW_OK
    with Wal(world, world.directory) as wal:
        wal.add_segments(range(2))
        assert wal.drain_lanes() == lib.RW_OK
        rows, found = snapshot(wal)
        world.set(own(2, 9), 2)
        assert wal.drain_lanes() == lib.RW_OK  # it was held back, and is not forgotten
        later, _ = snapshot(wal)
    assert [decode(bytes(ffi.buffer(row.settings))) for row in rows] == [NEVER_SET, Settings(version=1, records=5)]
    assert [decode(bytes(ffi.buffer(row.settings))).version for row in later] == [0, 2]
    assert found.position < world.control.sealed_end


# ----------------------------------------------------------------------------------------------------------- drops


def drop(wal: Wal, *rows: tuple[int, int]) -> int:
    made = ffi.new("rw_drop_row[]", [{"stream": stream, "start_offset": offset} for stream, offset in rows])
    return int(lib.rw_wal_compose_drop(wal.wal, made, len(rows)))


def test_a_drop_is_in_force_when_all_before_it_is_confirmed(world: World) -> None:
    for stream in range(3):
        for _ in range(3):
            assert world.client.append(b"x", stream=stream) == lib.RW_OK
    first = world.take()
    with Wal(world, world.directory) as wal:
        wal.add_segments(range(2))
        assert drop(wal, (2, 1), (0, 2), (1, 9), (77, 5)) == lib.RW_OK  # beyond the end: to the end; nobody: nothing
        assert wal.drain_lanes() == lib.RW_OK
        assert lib.rw_wal_drop_left(wal.wal) == 0
        rows, _ = snapshot(wal)
    assert kinds(world, first + 1) == [lib.RW_FRAME_DROP]
    assert [row.start_offset for row in rows] == [world.stream(n).trimmed_offset for n in range(3)] == [2, 3, 1]
    world.withhold(first)
    world.sequencer.settle()
    assert [world.stream(n).start_offset for n in range(3)] == [0, 0, 0]
    world.persist(first)
    world.sequencer.settle()
    assert [world.stream(n).start_offset for n in range(3)] == [2, 3, 1]
    assert world.control.released == world.control.sealed


def test_a_drop_leaves_out_what_is_gone_or_was_trimmed_further(world: World) -> None:
    for stream in range(3):
        for _ in range(3):
            assert world.client.append(b"x", stream=stream) == lib.RW_OK
    world.trim(3, 1)
    world.delete(2)
    world.take()
    with Wal(world, world.directory) as wal:
        wal.add_segments(range(2))
        assert drop(wal, (1, 2), (2, 3)) == lib.RW_OK
        assert wal.drain_lanes() == lib.RW_OK
        assert lib.rw_wal_drop_left(wal.wal) == 0
        sealed = world.control.sealed
        assert drop(wal, (0, 1), (1, 2), (2, 3)) == lib.RW_OK
        assert wal.drain_lanes() == lib.RW_OK
    (frame,) = world.records(sealed)
    row = ffi.cast("rw_drop_row *", frame + 1)
    assert (frame.payload_bytes, row.stream, row.start_offset) == (16, 0, 1)


def test_a_drop_outlives_the_process_that_composed_it(world: World) -> None:
    for _ in range(3):
        assert world.client.append(b"x") == lib.RW_OK
    world.take()
    with Wal(world, world.directory) as wal:
        wal.add_segments(range(2))
        assert drop(wal, (0, 2)) == lib.RW_OK
        assert wal.drain_lanes() == lib.RW_OK
    world.stream(0).trimmed_offset = 0  # killed before it was told
    world.withhold(world.control.sealed - 1)
    with Wal(world, world.directory) as successor:
        successor.add_segments(range(2))
        assert lib.rw_wal_restore(successor.wal) == 1
        assert lib.rw_wal_rewrite(successor.wal) == lib.RW_OK
        rows, _ = snapshot(successor)
    assert (world.stream(0).trimmed_offset, rows[0].start_offset) == (2, 2)
    world.sequencer.settle()
    assert world.stream(0).start_offset == 2


# --------------------------------------------------------------------------------------------------------- reserve


def test_a_full_log_can_still_be_trimmed(world: World) -> None:
    with Wal(world, world.directory) as wal, contextlib.ExitStack() as stack:
        wal.add_segments(range(1))  # and no further one
        stack.enter_context(wal.thread())
        while not (world.client.append(b"f" * 3000) == lib.RW_FULL and world.control.starved):
            world.sequencer.settle()
            lib.rw_wait_room(world.client.writer, 3000, 1_000_000)
        room = SEGMENT - 4096 - world.control.sealed_end % SEGMENT
        assert SEGMENT // 16 <= room < SEGMENT // 16 + 64 * KIB + 4096
        for n in range(12):
            asked = world.trim(n)
            while world.answer(world.engine, asked) == lib.RW_PENDING:
                world.sequencer.step()
        assert drop(wal, (0, 30)) == lib.RW_OK
        while world.stream(0).start_offset != 30:
            world.sequencer.step()
        assert room - 13 * 4096 == SEGMENT - 4096 - world.control.sealed_end % SEGMENT  # a page each, and no data
        wal.add_segments(range(1, 2))  # there is room again
    world.sequencer.settle()
    assert world.answer(world.client) == world.stream(0).confirmed_offset - 1
    assert world.control.sealed_end > SEGMENT - SEGMENT // 16


def test_a_log_that_rests_leaves_the_reserve_alone(world: World) -> None:
    for _ in range(2):  # so that the last page in front of the reserve is one of data
        assert world.client.append(b"x") == lib.RW_OK
        world.settle()
    rows = 1024 * 16  # of a drop, which has a block of its own
    dropping = -(-(128 + 88 + rows) // 4096) * 4096
    reached = SEGMENT - SEGMENT // 16 - dropping - 4096
    with Wal(world, world.directory, idle_watermark_ns=1_000_000) as wal:
        wal.add_segments(range(1))
        while world.control.sealed_end < reached:  # a page of data and one that vouches for it, but for the last
            assert world.client.append(b"x") == lib.RW_OK
            assert wal.drain_lanes() == lib.RW_OK
            world.sequencer.settle()
        assert world.records(world.control.sealed - 1) and world.control.sealed_end == reached
        assert wal.drain_lanes() == lib.RW_OK
        assert world.control.sealed_end == reached
