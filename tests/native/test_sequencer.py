"""The sequencer alone: requests of any streams registered in order, their I/Os completed in any order."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringwal._native import lib
from tests.support.core import Memory, Sequencer, Writer

STREAM, LOG = 0, 1
GENERATION = 1 << 32


@dataclass
class Oracle:
    """What must be confirmed after each completion, said as simply as it can be."""

    blocks: list[list[tuple[int, int]]]  # (stream, request)
    order: int
    queues: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # stream: (block, request)
    persisted: set[int] = field(default_factory=set)
    confirmed: set[int] = field(default_factory=set)
    prefix: int = 0
    passes: int = 0
    waited: int = 0
    longest: int = 0

    def __post_init__(self) -> None:
        for block, requests in enumerate(self.blocks):
            for stream, request in requests:
                self.queues.setdefault(stream, []).append((block, request))

    def complete(self, block: int) -> None:
        self.persisted.add(block)
        if self.order == STREAM:
            self._advance(block, self.persisted)
        while self.prefix in self.persisted:
            if self.order == LOG:
                self._advance(self.prefix, {self.prefix})
            self.prefix += 1

    def _advance(self, block: int, good: set[int]) -> None:
        for stream, request in self.blocks[block]:
            queue = self.queues[stream]
            if queue and queue[0][1] == request:
                run = list(itertools.takewhile(lambda waiting: waiting[0] in good, queue))
                del queue[: len(run)]
                self.confirmed |= {one for _, one in run}
                self.passes += 1
                self.longest = max(self.longest, len(run))
            elif request not in self.confirmed:
                self.waited += 1

    def released(self) -> int:
        done = [n in self.persisted and {r for _, r in b} <= self.confirmed for n, b in enumerate(self.blocks)]
        return [*done, False].index(False)


def layouts() -> st.SearchStrategy[list[list[tuple[int, int]]]]:
    """Blocks of (stream, count)."""
    return st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=5), min_size=1, max_size=7)


def check(memory: Memory, oracle: Oracle, offsets: dict[int, int], ends: dict[int, list[tuple[int, int]]]) -> None:
    for request, offset in offsets.items():
        expected = offset if request in oracle.confirmed else None
        assert memory.completed(0, GENERATION + request) == expected
    for stream, requests in ends.items():
        assert memory.stream(stream).confirmed_offset == max((e for r, e in requests if r in oracle.confirmed), default=0)
    assert memory.control.released == 1 + oracle.released()


@settings(max_examples=120, deadline=None)
@given(layouts(), st.sampled_from([STREAM, LOG]), st.data())
def test_any_completion_order_confirms_exactly_the_runs_behind_the_heads(
    layout: list[list[tuple[int, int]]], order: int, data: st.DataObject
) -> None:
    numbers = itertools.count(1)
    blocks = [[(stream, count, next(numbers)) for stream, count in block] for block in layout]
    completions = data.draw(st.permutations(range(len(blocks))), "completions")
    replaced_after = data.draw(st.sets(st.integers(0, len(blocks) - 1)), "replaced after")
    oracle = Oracle([[(stream, number) for stream, _, number in block] for block in blocks], order)
    with Memory(confirm_order=order) as memory:
        memory.open_lane(0)
        offsets: dict[int, int] = {}
        ends: dict[int, list[tuple[int, int]]] = {}
        for block in blocks:
            for stream, count, number in block:
                offsets[number] = ends[stream][-1][1] if stream in ends else 0
                ends.setdefault(stream, []).append((number, offsets[number] + count))
            memory.seal([(stream, count, GENERATION + number) for stream, count, number in block])
        sequencer = Sequencer(memory)
        sequencer.settle()
        check(memory, oracle, offsets, ends)
        for i, block_index in enumerate(completions):
            memory.persist(1 + block_index)
            oracle.complete(block_index)
            sequencer.settle()
            check(memory, oracle, offsets, ends)
            if i in replaced_after:
                sequencer = Sequencer(memory)
                sequencer.settle()
                check(memory, oracle, offsets, ends)
        control = memory.control
        assert control.drain_confirmed_requests == len(offsets)
        assert control.drain_confirmed_records == sum(end[-1][1] for end in ends.values())
        if not replaced_after:
            assert (control.drain_passes, control.drain_waited) == (oracle.passes, oracle.waited)
            assert control.drain_longest_run == oracle.longest


def test_a_hot_stream_is_confirmed_in_one_pass_behind_its_head() -> None:
    with Memory() as memory:
        memory.open_lane(0)
        for number in range(1, 31):
            memory.seal([(0, 1, GENERATION + number)])
        sequencer = Sequencer(memory)
        for block in range(30, 1, -1):
            memory.persist(block)
            sequencer.settle()
        control = memory.control
        assert (control.drain_passes, control.drain_waited, control.drain_confirmed_requests) == (0, 29, 0)
        wakes = memory.slot(0).wake
        memory.persist(1)
        sequencer.settle()
        assert (control.drain_passes, control.drain_confirmed_requests, control.drain_longest_run) == (1, 30, 30)
        assert memory.slot(0).wake == wakes + 1  # one wake for the whole batch


def test_within_a_run_results_are_delivered_in_offset_order() -> None:
    with Memory(completions=16) as memory:
        memory.open_lane(0)
        same_cell = [GENERATION + 1 + 16 * i for i in range(5)]  # the last delivery wins
        for number in same_cell:
            memory.seal([(0, 1, number)])
        sequencer = Sequencer(memory)
        for block in (5, 3, 4, 2, 1):
            memory.persist(block)
            sequencer.settle()
        assert memory.completed(0, same_cell[-1]) == 4


@pytest.mark.parametrize(("order", "confirmed"), [(STREAM, 2), (LOG, 1)])
def test_log_order_waits_for_a_block_between_two_of_the_same_stream(order: int, confirmed: int) -> None:
    with Memory(confirm_order=order) as memory:
        memory.open_lane(0)
        for number, stream in enumerate((0, 1, 0), start=1):
            memory.seal([(stream, 1, GENERATION + number)])
        sequencer = Sequencer(memory)
        memory.persist(1)
        memory.persist(3)
        sequencer.settle()
        assert memory.stream(0).confirmed_offset == confirmed
        memory.persist(2)
        sequencer.settle()
        assert (memory.stream(0).confirmed_offset, memory.stream(1).confirmed_offset) == (2, 1)


def test_a_persisted_byte_without_its_block_confirms_but_does_not_release() -> None:
    with Memory() as memory:
        memory.open_lane(0)
        memory.seal([(0, 1, GENERATION + 1)])
        memory.seal([(0, 1, GENERATION + 2)])
        sequencer = Sequencer(memory)
        lib.rw_persist_block(memory.block(2))  # its WAL thread has not come to the block's state yet
        memory.persist(1)
        sequencer.settle()
        assert memory.stream(0).confirmed_offset == 2
        assert memory.control.released == 2
        memory.persist(2)
        sequencer.settle()
        assert memory.control.released == 3


def test_who_follows_the_log_is_woken_by_the_release_alone() -> None:
    with Memory() as memory:
        writer = Writer(memory, 0).writer
        memory.seal([(0, 1, GENERATION + 1)])
        memory.seal([(0, 1, GENERATION + 2)])
        place = lib.rw_tail_watch(writer, lib.RW_ANY_STREAM)
        sequencer = Sequencer(memory)
        lib.rw_persist_block(memory.block(2))
        memory.persist(1)
        sequencer.settle()
        assert memory.stream(0).confirmed_offset == 2  # beyond what is released
        end, woken = memory.control.released_end, memory.slot(0).wake
        assert lib.rw_log_wait(writer, end - 1, 0) == lib.RW_OK
        assert lib.rw_log_wait(writer, end, 0) == lib.RW_PENDING
        memory.persist(2)
        sequencer.settle()
        assert lib.rw_log_wait(writer, end, 0) == lib.RW_OK
        assert memory.slot(0).wake == woken + 1
        lib.rw_tail_unwatch(writer, place)
        assert memory.lanes[0].tail_any == 0


def test_a_successor_delivers_again_what_its_predecessor_may_not_have_delivered() -> None:
    with Memory() as memory:
        memory.open_lane(0)
        memory.seal([(1, 1, GENERATION + 1)])
        memory.seal([(0, 1, GENERATION + 2)])
        first = Sequencer(memory)
        memory.persist(2)
        first.settle()
        assert memory.stream(0).confirmed_offset == 1
        memory.cell(0, GENERATION + 2).number = 0  # killed between the offset and the cell
        successor = Sequencer(memory)
        successor.settle()
        assert memory.completed(0, GENERATION + 2) == 0
        assert memory.control.drain_confirmed_requests == 1
        memory.persist(1)
        successor.settle()
        assert lib.rw_sequencer_idle(successor.sequencer) == 1


def test_nothing_is_confirmed_after_a_failed_write() -> None:
    with Memory() as memory:
        memory.open_lane(0)
        memory.seal([(0, 1, GENERATION + 1)])
        sequencer = Sequencer(memory)
        memory.persist(1)
        memory.control.wal_error = 5
        assert sequencer.step() == lib.RW_IO
        assert memory.stream(0).confirmed_offset == 0
        assert memory.completed(0, GENERATION + 1) is None


def test_clients_confirmed_lately_are_its_callers() -> None:
    with Memory() as memory:
        for slot in range(4):
            memory.open_lane(slot)
        sequencer = Sequencer(memory)
        sequencer.settle()
        assert memory.control.callers == 0
        assert memory.control.contention >= 4
        for number in range(1, 5):
            for slot in (0, 1, 3):
                memory.persist(memory.seal([(0, 1, GENERATION + number)], slot=slot))
            assert lib.rw_sequencer_work(sequencer.sequencer, 0, 1) == lib.RW_PENDING
            assert memory.control.callers == 3


def test_a_lane_is_attached_before_its_first_request_and_let_go_after_its_last() -> None:
    with Memory() as memory:
        memory.open_lane(0)
        memory.open_lane(2)  # never appends: it only tails
        sequencer = Sequencer(memory)
        sequencer.settle()
        assert sequencer.attached == [0, 2]
        memory.seal([(0, 1, GENERATION + 1)])
        lib.rw_slot_set(memory.control, 0, lib.RW_SLOT_CLOSING)
        sequencer.settle()
        memory.slot(0).wal_done = 1
        sequencer.settle()
        assert sequencer.detached == []  # a request of it is out
        memory.persist(1)
        sequencer.settle()
        assert sequencer.detached == [0]
        assert lib.rw_slot_released(memory.control, 0) == 1
        assert memory.completed(0, GENERATION + 1) == 0


def test_a_result_of_a_former_generation_is_not_delivered_to_the_next() -> None:
    with Memory() as memory:
        memory.open_lane(0)
        memory.seal([(0, 1, GENERATION + 1)])
        memory.free_slot(0)
        memory.open_lane(0, generation=2)
        sequencer = Sequencer(memory)
        memory.persist(1)
        sequencer.settle()
        assert memory.stream(0).confirmed_offset == 1
        assert memory.completed(0, GENERATION + 1) is None
