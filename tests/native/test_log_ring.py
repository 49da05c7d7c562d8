"""The log ring seen from outside: what a reader may rely on while blocks are composed."""

from __future__ import annotations

from pathlib import Path

from ringwal._native import ffi, lib
from tests.support.core import BEGIN, RING, Memory, Sequencer, Writer, take


def test_blocks_follow_each_other_without_a_gap(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        position = BEGIN
        for number in range(1, 6):
            assert writer.append(b"x" * number * 3000) == lib.RW_OK
            take(memory, tmp_path)
            entry = memory.entry(number)
            assert (entry.number, entry.position, entry.requests) == (number, position, number - 1)
            assert entry.length % 4096 == 0
            position += entry.span
        assert (memory.control.sealed, memory.control.sealed_end) == (6, position)


def test_no_byte_is_written_beyond_what_is_reserved(tmp_path: Path) -> None:
    with Memory() as memory:
        writer, sequencer = Writer(memory, 0), Sequencer(memory)
        for _ in range(60):
            assert writer.append(b"r" * 30000) == lib.RW_OK
            take(memory, tmp_path)
            control = memory.control
            assert control.sealed_end <= control.reserve_end <= control.released_end + RING
            sequencer.settle()
        assert memory.control.sealed_end > RING  # it went around


def test_the_watermark_is_the_end_of_the_persisted_prefix(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        for _ in range(3):
            assert writer.append(b"w") == lib.RW_OK
            take(memory, tmp_path)
        ends = [memory.entry(n).position + memory.entry(n).span for n in range(1, 4)]
        marks = [ffi.cast("rw_block *", memory.block(n)).watermark for n in range(1, 4)]
        assert marks == [BEGIN, *ends[:2]]
        memory.entry(2).state = lib.RW_BLOCK_SEALED  # as if its write were still out
        assert writer.append(b"behind the hole") == lib.RW_OK
        take(memory, tmp_path)
        assert ffi.cast("rw_block *", memory.block(4)).watermark == ends[0]
