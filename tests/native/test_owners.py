"""Owners: what is appended of them, once, and what they are told; who is fenced; what a successor knows."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from ringwal._native import ffi, lib
from ringwal.client.verdicts import error_of, is_refused, repeated_at
from ringwal.errors import ProducerFenced, SequenceGap
from tests.native.test_control_frames import World
from tests.support.core import Sequencer, Wal, handle

OWNERS = 4  # places of `Memory`


class Owned(World):
    """With owners that claim, and batches of theirs."""

    def claim(self, name: bytes, stream: int = 0, forgets: int = 0, seen_ns: int = 0) -> int:
        """The request's number."""
        payload = struct.pack("<IIQ", lib.RW_OWNER_PRODUCER, forgets, seen_ns) + name
        return self._ask(lib.RW_FRAME_CLAIM, stream, None, payload)

    def row(self, name: bytes, stream: int = 0) -> Any:
        """None: there is none."""
        found = ffi.new("rw_checkpoint_owner *")
        code = lib.rw_owner_look(self.control, lib.RW_OWNER_PRODUCER, stream, name, len(name), found)
        assert code in (lib.RW_OK, lib.RW_DELETED)
        return found if code == lib.RW_OK else None

    def owners(self) -> list[tuple[Any, ...]]:
        rows = ffi.new("rw_checkpoint_owner[]", OWNERS)
        count = lib.rw_owners_list(self.control, rows)
        return sorted((rows[i].number, bytes(ffi.buffer(rows + i, ffi.sizeof(rows[i])))) for i in range(count))

    def claimed(self, name: bytes, stream: int = 0) -> int:
        """What its requests have to say from now on: number and epoch."""
        self.claim(name, stream)
        self.settle()
        row = self.row(name, stream)
        return int(row.epoch) << 32 | int(row.number)

    def submit(self, owner: int, sequence: int, count: int = 1, stream: int = 0) -> int:
        terms = ffi.new("rw_terms *", {"producer": owner, "sequence": sequence})
        data, lengths = b"x" * count, [1] * count
        number = int(lib.rw_submit_many(self.client.writer, handle(stream), lengths, count, data, count, terms))
        assert number >= 0
        return number

    def told(self, number: int) -> object:
        """An offset; ("repeat", offset), ("gap", expected), "fenced"; None: nothing yet."""
        found = self.answer(self.client, number)
        if found == lib.RW_PENDING:
            return None
        if not is_refused(found):
            return found
        if (offset := repeated_at(found)) is not None:
            return "repeat", offset
        error = error_of(found, "s")
        assert error.outcome == "not_appended"
        if isinstance(error, SequenceGap):
            return "gap", error.expected
        return "fenced" if isinstance(error, ProducerFenced) else error

    def refused(self, asked: int) -> bool:
        """Was that claim refused for want of a place?"""
        found = self.answer(self.engine, asked)
        assert found != lib.RW_PENDING
        return found < 0 and found >> 56 & 0x7F == lib.RW_VERDICT_TABLE


@pytest.fixture
def world(tmp_path: Path) -> Any:
    with Owned(tmp_path) as memory:
        lib.rw_writer_grant(memory.client.writer, lib.rw_writer_next(memory.client.writer) + 64)
        yield memory


def test_each_sequence_is_appended_once(world: Owned) -> None:
    me = world.claimed(b"me")
    sent = [(0, 1), (1, 3), (4, 1), (4, 1), (2, 2), (1, 3), (0, 1), (6, 1), (3, 3), (5, 1)]
    numbers = [world.submit(me, sequence, count) for sequence, count in sent]
    world.settle()
    assert [world.told(number) for number in numbers] == [
        0, 1, 4, ("repeat", 4), ("repeat", -1), ("repeat", -1), ("repeat", -1), ("gap", 5), ("gap", 5), 5,
    ]  # fmt: skip
    row = world.row(b"me")
    assert (row.next_sequence, row.last_sequence, row.last_offset) == (6, 5, 5)
    assert world.stream(0).confirmed_offset == 6 and world.slot(0).fault == 0


def test_the_offset_of_a_part_of_the_newest_batch_is_known(world: Owned) -> None:
    me = world.claimed(b"me")
    world.submit(0, 0)  # nobody's
    world.take()
    world.submit(me, 0, 5)
    again = [world.submit(me, sequence, 1) for sequence in (0, 2, 4)]
    world.settle()
    assert [world.told(number) for number in again] == [("repeat", 1), ("repeat", 3), ("repeat", 5)]


def test_a_newer_claim_fences_the_older_one(world: Owned) -> None:
    old = world.claimed(b"me")
    world.submit(old, 0)
    new = world.claimed(b"me")
    assert (new & 0xFFFFFFFF, new >> 32) == (old & 0xFFFFFFFF, 2)
    late, right = world.submit(old, 1), world.submit(new, 1)
    world.settle()
    assert [world.told(late), world.told(right)] == ["fenced", 1]


@pytest.mark.parametrize("owner", [7, 1 << 32 | 7, 2 << 32 | 1, 1], ids=["nobody", "no row", "an epoch to come", "no epoch"])
def test_who_has_no_row_is_fenced_and_never_new(world: Owned, owner: int) -> None:
    world.claimed(b"me")
    number = world.submit(owner, 0)
    world.settle()
    assert world.told(number) == "fenced"
    assert world.stream(0).next_offset == 0


def test_an_owner_is_of_one_stream(world: Owned) -> None:
    here, there = world.claimed(b"me", 0), world.claimed(b"me", 1)
    assert here != there
    astray, right = world.submit(here, 0, stream=1), world.submit(there, 0, stream=1)
    world.settle()
    assert [world.told(astray), world.told(right)] == ["fenced", 0]


@pytest.mark.parametrize("late", ["original", "claim"])
def test_a_repeat_is_told_when_the_original_is_confirmed(world: Owned, late: str) -> None:
    """Else the engine could die, lose the original, and have said that it was there."""
    me = world.claimed(b"me")
    if late == "claim":
        world.claim(b"me")
        held = world.take()
        me += 1 << 32
        first = world.submit(me, 0)
        world.take()
    else:
        first = world.submit(me, 0)
        held = world.take()
    again, gap = world.submit(me, 0), world.submit(me, 9)
    world.take()
    world.withhold(held)
    for sequencer in (world.sequencer, Sequencer(world)):
        sequencer.settle()
        assert [world.told(number) for number in (first, again, gap)] == [None, None, None]
    world.persist(held)
    sequencer.settle()
    assert [world.told(number) for number in (first, again, gap)] == [0, ("repeat", 0), ("gap", 1)]


def test_a_claim_needs_a_place_and_takes_that_of_a_silent_one_only(world: Owned) -> None:
    owners = [world.claimed(b"%d" % n) for n in range(OWNERS)]
    asked = world.claim(b"one more")
    world.settle()
    assert world.refused(asked) and world.row(b"one more") is None
    seen = int(world.row(b"0").timestamp_ns)
    world.submit(owners[0], 0)
    world.take()
    asked = world.claim(b"one more", forgets=owners[0] & 0xFFFFFFFF, seen_ns=seen)
    world.settle()
    assert world.refused(asked), "it has appended since"
    asked = world.claim(b"one more", forgets=owners[0] & 0xFFFFFFFF, seen_ns=int(world.row(b"0").timestamp_ns))
    world.settle()
    assert not world.refused(asked)
    assert world.row(b"0") is None and world.row(b"one more").number == OWNERS + 1
    forgotten, other = world.submit(owners[0], 1), world.submit(owners[1], 0)
    world.settle()
    assert [world.told(forgotten), world.told(other)] == ["fenced", 1]


def test_a_claim_forgets_whom_it_says_also_where_a_place_has_become_free(world: Owned) -> None:
    """The log says it, and whoever reads that after a crash does not know which places were free."""
    owners = [world.claimed(b"%d" % n, stream=n) for n in range(OWNERS)]
    seen, silent = int(world.row(b"0").timestamp_ns), owners[0] & 0xFFFFFFFF
    world.delete(3)
    world.settle()
    world.submit(owners[0], 0)
    world.take()
    asked = world.claim(b"one more", forgets=silent, seen_ns=seen)
    world.settle()
    assert world.refused(asked), "it has appended since"
    asked = world.claim(b"one more", forgets=silent, seen_ns=int(world.row(b"0").timestamp_ns))
    world.settle()
    assert not world.refused(asked) and world.row(b"0") is None
    late, other = world.submit(owners[0], 1), world.submit(owners[1], 0, stream=1)
    world.settle()
    assert [world.told(late), world.told(other)] == ["fenced", 0]


def test_a_successor_forgets_whom_a_claim_says_though_another_place_is_free_by_now(world: Owned) -> None:
    """Killed between two rows of one block, which took a place for one owner and freed that of another."""
    owners = [world.claimed(b"%d" % n, stream=n) for n in range(OWNERS)]
    first = lib.rw_owner_of(world.control, 0)
    before, heads = bytes(ffi.buffer(first, 192)), (world.slot(0).head, world.slot(4).head)
    world.submit(owners[3], 0, stream=3)
    world.claim(b"one more", forgets=owners[0] & 0xFFFFFFFF, seen_ns=int(world.row(b"0").timestamp_ns))
    world.delete(3)
    block = world.take()
    assert world.row(b"0") is None and world.row(b"3", 3) is None
    ffi.memmove(first, before, len(before))
    world.slot(0).head, world.slot(4).head = heads
    world.withhold(block)
    with Wal(world, world.directory) as successor:
        successor.add_segments(range(2))
        assert lib.rw_wal_restore(successor.wal) == 1
        assert lib.rw_wal_rewrite(successor.wal) == lib.RW_OK
        assert world.row(b"0") is None and world.row(b"one more").number == OWNERS + 1


def test_the_owners_of_a_stream_go_with_it(world: Owned) -> None:
    for stream in (0, 1):
        world.claimed(b"me", stream)
    world.delete(0)
    world.settle()
    assert world.row(b"me", 0) is None and world.row(b"me", 1) is not None


@pytest.mark.parametrize("torn", [False, True])
def test_a_successor_knows_from_the_last_block_what_it_changed(world: Owned, torn: bool) -> None:
    """Killed after seal, before anything of it was told, or while a row was being stored."""
    me = world.claimed(b"me")
    world.claimed(b"gone", 1)
    world.submit(me, 0, 2)
    world.settle()
    table = [lib.rw_owner_of(world.control, place) for place in range(OWNERS)]
    before, end = [bytes(ffi.buffer(row, 192)) for row in table], int(world.control.owners_end)
    head = world.slot(0).head, world.slot(4).head
    world.submit(me, 2, 3)
    world.submit(me, 2, 3)
    world.claim(b"new", 2)
    world.claim(b"me")
    world.delete(1)
    block = world.take()
    after = world.owners()
    assert world.control.owners_end == end + 1 and len(after) == 2
    for row, old in zip(table, before, strict=True):
        changed, number, following = bytes(ffi.buffer(row, 192)) != old, row.number, row.next_sequence
        ffi.memmove(row, old, len(old))
        if torn and changed:
            row.turn += 1
            if row.number == number:
                row.next_sequence = following
            else:
                row.number = 0
    world.control.owners_end = end
    world.slot(0).head, world.slot(4).head = head
    world.stream(1).ended = lib.RW_NO_STREAM
    world.withhold(block)
    with Wal(world, world.directory) as successor:
        successor.add_segments(range(2))
        assert lib.rw_wal_restore(successor.wal) == 1
        assert lib.rw_wal_rewrite(successor.wal) == lib.RW_OK
        assert world.owners() == after and world.control.owners_end == end + 1
        late, right = world.submit(me, 5), world.submit(me + (1 << 32), 5)
        assert successor.drain_lanes() == lib.RW_OK
    world.sequencer.settle()
    assert [world.told(late), world.told(right)] == ["fenced", 5]


@pytest.mark.parametrize("told", [0, 1, 2], ids=["no row", "the first row", "all rows"])
def test_a_successor_needs_no_place_for_whom_the_same_block_forgets(world: Owned, told: int) -> None:
    """A claim, the deletion of its stream and claims that took the place, in one block; killed after so many rows of it."""
    for n in range(OWNERS - 2):
        world.claimed(b"%d" % n)
    table = [lib.rw_owner_of(world.control, place) for place in range(OWNERS - 2, OWNERS)]
    before, heads = [bytes(ffi.buffer(row, 192)) for row in table], (world.slot(0).head, world.slot(4).head)
    world.claim(b"doomed", 1)
    world.claim(b"stays", 2)
    world.delete(1)
    world.claim(b"last", 3)
    block = world.take()
    after, end = world.owners(), int(world.control.owners_end)
    assert world.row(b"last", 3).number == OWNERS + 1 == end - 1
    for row, old in list(zip(table, before, strict=True))[told:]:
        ffi.memmove(row, old, len(old))
    world.slot(0).head, world.slot(4).head = heads
    world.control.owners_end = OWNERS - 1 if told == 0 else end
    if told < 2:
        world.stream(1).ended = lib.RW_NO_STREAM
    world.withhold(block)
    with Wal(world, world.directory) as successor:
        successor.add_segments(range(2))
        assert lib.rw_wal_restore(successor.wal) == 1
        assert lib.rw_wal_rewrite(successor.wal) == lib.RW_OK
        assert world.owners() == after and world.control.owners_end == end


def test_epochs_and_numbers_end_and_do_not_begin_anew(world: Owned) -> None:
    world.claimed(b"me")
    world.claimed(b"other", 1)
    lib.rw_owner_of(world.control, 0).epoch = (1 << 32) - 2
    last = world.claimed(b"me")
    assert last >> 32 == (1 << 32) - 1
    asked = world.claim(b"me")
    world.submit(last, 0)
    world.settle()
    assert world.refused(asked) and world.row(b"me").next_sequence == 1
    world.control.owners_end = (1 << 32) - 1
    asked, known = world.claim(b"new", 2), world.claim(b"other", 1)
    world.settle()
    assert world.refused(asked) and world.row(b"new", 2) is None
    assert not world.refused(known) and world.row(b"other", 1).epoch == 2
