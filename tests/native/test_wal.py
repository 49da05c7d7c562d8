"""The WAL rooms: fairness, segments, back-pressure, a failed write, and a successor after a kill at each stage."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest

from ringwal._native import ffi, lib
from tests.support.core import BEGIN, EPOCH, KIB, PERSISTED, SEGMENT, UUID, Memory, Sequencer, Wal, Writer, take, until


def on_disk(memory: Memory, directory: Path, block: int) -> bytes:
    """The bytes of a block in its segment file."""
    entry = memory.entry(block)
    with (directory / f"{entry.position // memory.segment}.seg").open("rb") as file:
        file.seek(4096 + entry.position % memory.segment)
        return blank_persisted(memory, block, file.read(entry.length))


def in_ring(memory: Memory, block: int) -> bytes:
    return blank_persisted(memory, block, bytes(ffi.buffer(memory.block(block), memory.entry(block).length)))


def blank_persisted(memory: Memory, block: int, data: bytes) -> bytes:
    """The block without its persisted bytes: they change after the write, and a second write may take them along."""
    copy = bytearray(data)
    for record in memory.records(block):
        at = int(ffi.cast("uintptr_t", record)) - int(ffi.cast("uintptr_t", memory.block(block)))
        copy[at + PERSISTED] = 0
    return bytes(copy)


def test_what_is_on_disk_is_what_is_in_the_ring(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        for i in range(10):
            assert writer.append(bytes([i]) * i * 100, stream=i) == lib.RW_OK
        take(memory, tmp_path)
        block = on_disk(memory, tmp_path, 1)
        assert block == in_ring(memory, 1)
        assert lib.rw_block_check(block, len(block), UUID, EPOCH, BEGIN) == lib.RW_OK
        assert lib.rw_block_verify(block) == lib.RW_OK
        assert memory.persisted(1) == [1] * 20  # ten definitions, ten batches
        assert memory.entry(1).state == lib.RW_BLOCK_PERSISTED


def test_times_do_not_go_back_over_a_replacement_or_a_start(tmp_path: Path) -> None:
    ahead = 1 << 62  # of any clock
    with Memory() as memory:
        memory.control.started_ns = ahead  # as the supervisor found it in the log
        writer, sequencer = Writer(memory, 0), Sequencer(memory)
        for _ in range(3):  # a successor each, whose predecessor's blocks are all released
            assert writer.append(b"x") == lib.RW_OK
            take(memory, tmp_path)
            sequencer.settle()
            assert memory.control.released == memory.control.sealed
        stamps = [record.timestamp_ns for block in (1, 2, 3) for record in memory.records(block)]
        assert stamps == [ahead] * 4  # the stream's definition, and three records


def test_lanes_take_turns_by_quota(tmp_path: Path) -> None:
    with Memory() as memory:
        greedy, modest = Writer(memory, 0), Writer(memory, 1)
        for _ in range(40):
            assert greedy.append(b"g" * 1000) == lib.RW_OK
        for _ in range(8):
            assert modest.append(b"m" * 1000) == lib.RW_OK
        take(memory, tmp_path, quota=4 * KIB)
        turns = [(slot, len(list(run))) for slot, run in groupby(f.slot for f in memory.frames())]
        assert turns[:4] == [(0, 4), (1, 4), (0, 4), (1, 4)]
        assert sum(n for slot, n in turns if slot == 0) == 40


def test_under_contention_a_block_that_gathers_ends_even_if_nobody_else_comes(tmp_path: Path) -> None:
    with Memory() as memory:
        writers = [Writer(memory, slot) for slot in range(3)]
        memory.control.callers, memory.control.contention = 64, 8
        with Wal(memory, tmp_path, pipeline=64 * KIB) as wal:
            wal.add_segments(range(1))
            for writer in writers[:2]:
                assert writer.append(b"together") == lib.RW_OK
            with wal.thread():
                until(lambda: bool(memory.control.wal_writes == 1), "a block of two")
                assert writers[2].append(b"alone") == lib.RW_OK
                until(lambda: bool(memory.control.wal_writes == 2), "a block behind it")
        assert [frame.payload for frame in memory.frames()] == [b"together", b"together", b"alone"]


def test_a_record_larger_than_a_block_has_a_block_of_its_own(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0, lane_bytes=1024 * KIB)
        for size in (10, 400 * KIB, 10):
            assert writer.append(b"z" * size) == lib.RW_OK
        take(memory, tmp_path)
        assert [(f.block, len(f.payload)) for f in memory.frames()] == [(1, 10), (2, 400 * KIB), (2, 10)]
        assert memory.entry(2).length > 400 * KIB
        assert on_disk(memory, tmp_path, 2) == in_ring(memory, 2)


def test_an_empty_block_vouches_for_the_last_one_once(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        assert writer.append(b"last") == lib.RW_OK
        take(memory, tmp_path, idle_watermark_ns=1)
        covered = memory.control.sealed
        last, cover = memory.entry(covered - 2), memory.entry(covered - 1)
        assert (last.frames, cover.frames) == (2, 0)  # the stream's definition and the record
        assert ffi.cast("rw_block *", ffi.from_buffer(in_ring(memory, covered - 1))).watermark == cover.position
        assert on_disk(memory, tmp_path, covered - 1) == in_ring(memory, covered - 1)
        with Wal(memory, tmp_path, idle_watermark_ns=1) as wal:  # a successor does not know that and does it again, once
            wal.add_segments(range(1))
            wal.drain_lanes()
            again = memory.control.sealed
            wal.drain_lanes()
        assert (again, memory.control.sealed) == (covered + 1, covered + 1)


def test_a_full_segment_gets_a_watermark_too(tmp_path: Path) -> None:
    # The last block ends where only the END block's page is left: there is no room for an empty block of its own.
    pages = SEGMENT // 4096
    with Memory() as memory:
        writer, sequencer = Writer(memory, 0), Sequencer(memory)
        while (memory.control.sealed_end % SEGMENT) // 4096 < pages - 1:
            assert writer.append(b"one a block") == lib.RW_OK
            take(memory, tmp_path)
            sequencer.settle()
        full = memory.control.sealed
        take(memory, tmp_path, idle_watermark_ns=1)
        assert memory.control.sealed == full + 1
        last, cover = memory.entry(full - 1), ffi.cast("rw_block *", ffi.from_buffer(in_ring(memory, full)))
        assert cover.kind == lib.RW_BLOCK_END
        assert cover.watermark == last.position + last.span
        assert on_disk(memory, tmp_path, full) == in_ring(memory, full)
        assert memory.control.sealed_end == SEGMENT
        take(memory, tmp_path, idle_watermark_ns=1)  # a successor does not know that and does it again, in the next segment
        assert (memory.control.sealed, memory.entry(full + 1).position) == (full + 2, SEGMENT)


def test_a_segment_ends_with_an_end_block(tmp_path: Path) -> None:
    with Memory() as memory:
        writer, sequencer = Writer(memory, 0, lane_bytes=256 * KIB), Sequencer(memory)
        ends = []
        with Wal(memory, tmp_path) as wal, wal.thread():
            wal.add_segments(range(3))
            for _ in range(55):
                while writer.append(b"s" * 100 * KIB) == lib.RW_FULL:
                    sequencer.settle()
                    os.sched_yield()
        for number in range(3):
            position = BEGIN if number == 0 else 0
            data = (tmp_path / f"{number}.seg").read_bytes()[4096:]
            while position < SEGMENT:
                at = number * SEGMENT + position
                if at == memory.control.sealed_end:
                    break
                block = ffi.from_buffer("uint8_t[]", data) + position
                assert lib.rw_block_check(block, SEGMENT - position, UUID, EPOCH, at) == lib.RW_OK
                header = ffi.cast("rw_block *", block)
                assert header.span <= SEGMENT - position
                if header.kind == lib.RW_BLOCK_END:
                    ends.append(number)
                    assert (header.length, header.frames, header.span) == (4096, 0, SEGMENT - position)
                position += header.span
        assert ends == [0, 1]


def test_waits_for_ring_space_and_goes_on_when_it_is_released(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0, lane_bytes=2048 * KIB)
        with Wal(memory, tmp_path) as wal, wal.thread():
            wal.add_segments(range(3))
            for _ in range(15):
                assert writer.append(b"f" * 100 * KIB) == lib.RW_OK
            until(lambda: memory.control.starved == 1, "the ring is full")
            assert memory.control.sealed_end - memory.control.released_end <= memory.control.ring_bytes
            sequencer = Sequencer(memory)
            until(lambda: bool(sequencer.step() and memory.completed(0, writer.last) == 14), "all confirmed")
        assert memory.control.starved == 0


def test_no_more_blocks_than_entries_are_ever_unreleased(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        control = memory.control
        control.sealed = control.block_seed + lib.RW_BLOCK_ENTRIES - 1
        for block in range(control.block_seed, control.sealed):
            entry = memory.entry(block)
            entry.number, entry.position, entry.state = block, BEGIN, lib.RW_BLOCK_PERSISTED
        with Wal(memory, tmp_path) as wal, wal.thread():
            wal.add_segments(range(1))
            assert writer.append(b"one") == lib.RW_OK
            until(lambda: memory.slot(0).head == writer.lane.claim, "the last entry is used")
            assert writer.append(b"two") == lib.RW_OK
            until(lambda: control.starved == 1, "no entry is left")
            assert control.sealed - control.released == lib.RW_BLOCK_ENTRIES
            control.released = control.sealed
            os.eventfd_write(memory.doorbell, 1)


def test_a_doorbell_that_a_client_has_filled_and_made_blocking_holds_no_drain_up(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        assert writer.append(b"x") == lib.RW_OK  # before: a client rings it
        os.eventfd_write(memory.doorbell, (1 << 64) - 2)
        fcntl.fcntl(memory.doorbell, fcntl.F_SETFL, fcntl.fcntl(memory.doorbell, fcntl.F_GETFL) & ~os.O_NONBLOCK)
        memory.control.starved = 1
        sequencer = Sequencer(memory)
        assert os.eventfd_read(memory.inner) == 1  # its predecessor may not have lived to
        memory.control.starved = 0
        with Wal(memory, tmp_path) as wal, wal.thread():
            wal.add_segments(range(1))
            until(lambda: memory.entry(1).state == lib.RW_BLOCK_PERSISTED, "written")
            memory.control.starved = 1
            sequencer.settle()
        assert memory.completed(0, (1 << 32) + 1) == 0


def test_waits_for_a_segment_and_says_so(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        with Wal(memory, tmp_path) as wal, wal.thread():
            assert writer.append(b"early") == lib.RW_OK
            until(lambda: memory.control.starved == 1, "no segment")
            assert os.eventfd_read(memory.maintenance) >= 1
            wal.add_segments(range(1))
            until(lambda: memory.entry(1).state == lib.RW_BLOCK_PERSISTED, "written")


@pytest.mark.parametrize("threads", [False, True])
def test_a_failed_write_ends_the_epoch(threads: bool, tmp_path: Path) -> None:
    (tmp_path / "0.seg").write_bytes(bytes(4096))
    with Memory() as memory:
        writer, sequencer = Writer(memory, 0), Sequencer(memory)
        for _ in range(3):
            assert writer.append(b"doomed") == lib.RW_OK
        with Wal(memory, tmp_path) as wal:
            wal.add_segments(range(1), os.O_RDONLY)  # every write to it fails with EBADF
            if threads:
                with wal.thread():
                    until(lambda: memory.control.wal_error != 0, "the failure")
            else:
                assert wal.drain_lanes() == lib.RW_IO
            assert lib.rw_wal_work(wal.wal, 0) == lib.RW_IO  # no further block, whoever asks
        assert memory.control.wal_error == errno.EBADF
        assert memory.persisted(1) == [2] * 4
        assert memory.entry(1).state == lib.RW_BLOCK_BAD
        assert sequencer.step() == lib.RW_IO
        assert memory.completed(0, writer.last) is None
        assert memory.stream(0).confirmed_offset == 0
        with Wal(memory, tmp_path) as successor:
            assert lib.rw_wal_restore(successor.wal) == lib.RW_BAD


# ------------------------------------------------------------------------------------------------------ replacement


def killed_before_seal(memory: Memory, directory: Path) -> int:
    """A block was being composed behind the last one."""
    memory.control.reserve_end = memory.control.sealed_end + 64 * KIB
    ffi.memmove(memory.ring + memory.control.sealed_end, b"\xff" * 9000, 9000)
    return 0


def killed_inside_seal(memory: Memory, directory: Path) -> int:
    """Entry and end of the next block are stored, `sealed` is not."""
    memory.entry(3).number, memory.entry(3).state = 3, lib.RW_BLOCK_SEALED
    memory.control.sealed_end += 8192
    return 0


def killed_before_publish(memory: Memory, directory: Path) -> int:
    """The last block is sealed; heads, offsets and definitions are as the first block left them."""
    killed_before_write(memory, directory)
    slot, frames = memory.slot(0), memory.frames()
    slot.head, slot.requests = 128 * 3, 3
    for stream in range(3):
        memory.stream(stream).next_offset = sum(f.count for f in frames if f.block == 1 and f.stream == stream)
    memory.stream(2).defined_end = 0
    return 1


def killed_before_write(memory: Memory, directory: Path) -> int:
    for record in memory.records(2):
        record.persisted = 0
    memory.entry(2).state = lib.RW_BLOCK_SEALED
    with (directory / "0.seg").open("r+b") as file:
        file.seek(4096 + memory.entry(2).position)
        file.write(bytes(memory.entry(2).length))
    return 1


def killed_between_persisted_bytes(memory: Memory, directory: Path) -> int:
    memory.records(2)[-1].persisted = 0
    memory.entry(2).state = lib.RW_BLOCK_SEALED
    return 1


def killed_before_the_blocks_state(memory: Memory, directory: Path) -> int:
    memory.entry(2).state = lib.RW_BLOCK_SEALED
    return 1


def killed_after_everything(memory: Memory, directory: Path) -> int:
    return 0


STAGES = [
    killed_before_seal, killed_inside_seal, killed_before_publish, killed_before_write, killed_between_persisted_bytes,
    killed_before_the_blocks_state, killed_after_everything,
]  # fmt: skip


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_a_successor_goes_on_exactly_where_the_predecessor_was_killed(
    stage: Callable[[Memory, Path], int], tmp_path: Path
) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        for i in range(3):
            assert writer.append(b"first %d" % i, stream=i % 2) == lib.RW_OK
        take(memory, tmp_path)
        for i in range(4):
            assert writer.append(b"second %d" % i, stream=i % 3) == lib.RW_OK
        take(memory, tmp_path)
        sealed, end, head = memory.control.sealed, memory.control.sealed_end, memory.slot(0).head
        offsets = [memory.stream(stream).next_offset for stream in range(3)]
        frames, disk = memory.frames(), on_disk(memory, tmp_path, 2)
        unfinished = stage(memory, tmp_path)
        with Wal(memory, tmp_path) as successor:
            successor.add_segments(range(1))
            assert lib.rw_wal_restore(successor.wal) == unfinished
            assert lib.rw_wal_rewrite(successor.wal) == lib.RW_OK
            assert (memory.control.sealed, memory.control.sealed_end, memory.slot(0).head) == (sealed, end, head)
            assert [memory.stream(stream).next_offset for stream in range(3)] == offsets
            assert memory.frames() == frames
            assert on_disk(memory, tmp_path, 2) == disk
            assert set(memory.persisted(2)) == {1}
            assert memory.entry(2).state == lib.RW_BLOCK_PERSISTED
            assert writer.append(b"third", stream=2) == lib.RW_OK
            assert successor.drain_lanes() == lib.RW_OK
        assert [f.payload for f in memory.frames()][7:] == [b"third"]
        assert memory.frames()[-1].offset == offsets[2]
        assert memory.entry(3).position == end  # no hole
        kinds = [record.kind for record in memory.records(3)]
        assert kinds == [lib.RW_FRAME_BATCH]  # its stream is defined in the second block already
        sequencer = Sequencer(memory)
        sequencer.settle()
        assert memory.completed(0, writer.last) == offsets[2]
        assert memory.slot(0).requests == 8


@pytest.mark.parametrize("persisted", [(1, 0, 0), (0, 1, 0), (1, 1, 1)])
def test_a_block_with_a_persisted_record_is_not_written_again(persisted: tuple[int, ...], tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        for i in range(2):
            assert writer.append(b"record %d" % i) == lib.RW_OK
        take(memory, tmp_path)
        for record, byte in zip(memory.records(1), persisted, strict=True):  # a definition and two batches
            record.persisted = byte
        memory.entry(1).state = lib.RW_BLOCK_SEALED
        Sequencer(memory).step()  # may confirm the first ones: that depends on their streams' heads
        with Wal(memory, tmp_path) as successor:
            successor.add_segments(range(1), os.O_RDONLY)  # a write to it fails, and would end the epoch
            assert lib.rw_wal_restore(successor.wal) == 1
            assert lib.rw_wal_rewrite(successor.wal) == lib.RW_OK
        assert memory.persisted(1) == [1, 1, 1]
        assert memory.entry(1).state == lib.RW_BLOCK_PERSISTED
        assert memory.control.wal_rewrites == 0
        sequencer = Sequencer(memory)
        sequencer.settle()
        assert memory.completed(0, writer.last) == 1


def test_a_successor_is_not_disturbed_by_a_large_block_composed_over_the_last_one(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        assert writer.append(b"first") == lib.RW_OK
        take(memory, tmp_path)
        Sequencer(memory).settle()
        assert memory.control.released == memory.control.sealed
        ffi.memmove(memory.block(1), b"\xff" * 4096, 4096)  # all of the ring may be composed in, and was
        with Wal(memory, tmp_path) as successor:
            assert lib.rw_wal_restore(successor.wal) == 0
            successor.add_segments(range(1))
            assert writer.append(b"second") == lib.RW_OK
            assert successor.drain_lanes() == lib.RW_OK
        assert [(f.offset, f.payload) for f in memory.frames()] == [(1, b"second")]


def test_a_successor_refuses_damaged_memory(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        assert writer.append(b"first") == lib.RW_OK
        take(memory, tmp_path)
        memory.block(1)[140] ^= 1
        with Wal(memory, tmp_path) as successor:
            assert lib.rw_wal_restore(successor.wal) == lib.RW_BAD


def test_a_lane_that_was_being_let_go_is_not_taken_again(tmp_path: Path) -> None:
    """Killed after the head went back to 0 and before the generation was let go."""
    with Memory() as memory:
        writer = Writer(memory, 0)
        assert writer.append(b"once") == lib.RW_OK
        with Wal(memory, tmp_path) as wal:
            wal.add_segments(range(1))
            assert wal.drain_lanes() == lib.RW_OK
            lib.rw_slot_set(memory.control, 0, lib.RW_SLOT_CLOSING)
            lib.rw_wal_detach_lane(wal.wal, 0)
        assert (memory.slot(0).head, memory.slot(0).wal_done) == (0, 1)
        memory.slot(0).wal_done = 0
        take(memory, tmp_path)
        assert [f.payload for f in memory.frames()] == [b"once"]
        memory.free_slot(0)
        memory.open_lane(0, generation=2)
        assert memory.slot(0).fault != 2


def test_a_successor_tells_the_drain(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        assert writer.append(b"persisted, and nobody told") == lib.RW_OK
        take(memory, tmp_path)
        told = memory.control.completions
        with Wal(memory, tmp_path) as successor:
            assert lib.rw_wal_restore(successor.wal) == 0
            assert lib.rw_wal_rewrite(successor.wal) == lib.RW_OK
        assert memory.control.completions != told
