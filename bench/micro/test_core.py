"""The C core's hot pieces, each alone: memory of its own, no other process, no disk."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ringwal._native import ffi, lib
from tests.support.core import Memory, Sequencer, Wal, Writer, take

RECORD = bytes(range(256)) * 4
APPENDS = 400
LANE = 1 << 20
REQUESTS = 48
BLOCKS = 32
GENERATION = 1 << 32
ROUNDS = 50

Setup = Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]


def fresh(stack: ExitStack, make: Callable[[Memory], tuple[Any, ...]]) -> Setup:
    """A setup for each round: new memory, the old one let go."""

    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        stack.close()
        memory = stack.enter_context(Memory(completions=1024))
        return make(memory), {}

    return setup


def test_reserve_and_publish(benchmark: Any) -> None:
    """One round is 400 appends of 1 KiB: reserve, copy, digest, publish."""

    def publish(writer: Any, numbers: range) -> None:
        append = lib.rw_append
        for number in numbers:
            append(writer, 0, RECORD, 1024, number)

    def make(memory: Memory) -> tuple[Any, ...]:
        writer = Writer(memory, 0, lane_bytes=LANE)
        return writer.writer, range(GENERATION + 1, GENERATION + 1 + APPENDS)

    with ExitStack() as stack:
        benchmark.pedantic(publish, setup=fresh(stack, make), rounds=ROUNDS)


def test_take_and_compose(benchmark: Any, memory_directory: Path) -> None:
    """One round takes 400 requests of 1 KiB, composes their blocks and writes them to a file in memory."""

    def make(memory: Memory) -> tuple[Any, ...]:
        writer = Writer(memory, 0, lane_bytes=LANE)
        for _ in range(APPENDS):
            assert writer.append(RECORD) == lib.RW_OK
        wal = stack.enter_context(Wal(memory, memory_directory))
        wal.add_segments(range(2))
        return (wal,)

    with ExitStack() as stack:
        result = benchmark.pedantic(Wal.drain_lanes, setup=fresh(stack, make), rounds=ROUNDS)
        assert result == lib.RW_OK


def sealed(memory: Memory, streams: int, blocks: int = 1) -> None:
    numbers = iter(range(GENERATION + 1, GENERATION + 1 + blocks * REQUESTS))
    memory.open_lane(0)
    for _ in range(blocks):
        memory.seal([(i % streams, 1, next(numbers)) for i in range(REQUESTS)])


def test_cas_pass(benchmark: Any) -> None:
    """One round sets the persisted bytes of a block of 48 requests."""

    def make(memory: Memory) -> tuple[Any, ...]:
        sealed(memory, streams=1)
        return (memory.block(1),)

    with ExitStack() as stack:
        assert benchmark.pedantic(lib.rw_persist_block, setup=fresh(stack, make), rounds=ROUNDS) == REQUESTS


@pytest.mark.parametrize("order", ["as sealed", "last first"])
@pytest.mark.parametrize("streams", [1, 15])
def test_sequencer_pass(benchmark: Any, streams: int, order: str) -> None:
    """One round confirms 32 persisted blocks of 48 requests each; `last first` is one run behind the very first head."""

    def make(memory: Memory) -> tuple[Any, ...]:
        sealed(memory, streams, BLOCKS)
        sequencer = Sequencer(memory)
        sequencer.settle()
        blocks = range(1, BLOCKS + 1)
        for block in blocks if order == "as sealed" else reversed(blocks):
            memory.persist(block)
        return (sequencer,)

    with ExitStack() as stack:
        benchmark.pedantic(Sequencer.settle, setup=fresh(stack, make), rounds=ROUNDS)


def test_header_crc(benchmark: Any) -> None:
    """CRC-32C of a block header's 128 bytes."""
    header = bytes(128)
    assert benchmark(lib.rw_crc32c, 0, header, 128) == lib.rw_crc32c(0, header, 128)


def test_payload_digest(benchmark: Any) -> None:
    """XXH3-64 of 1 KiB."""
    assert benchmark(lib.rw_xxh3, RECORD, 1024) == lib.rw_xxh3(RECORD, 1024)


def test_decode(benchmark: Any) -> None:
    """Decodes the 48 frames of a verified block."""
    with Memory() as memory:
        sealed(memory, streams=1)
        frames, at = ffi.new("rw_frame_info[]", REQUESTS), ffi.new("uint64_t *")
        begin, block = ffi.sizeof("rw_block"), memory.block(1)

        def decode() -> int:
            at[0] = begin
            return int(lib.rw_block_frames(block, at, frames, REQUESTS))

        assert benchmark(decode) == REQUESTS


def test_verify(benchmark: Any, memory_directory: Path) -> None:
    """Checks every header and digest of a block of 50 records of 1 KiB."""
    with Memory() as memory:
        writer = Writer(memory, 0, lane_bytes=LANE)
        for _ in range(50):
            assert writer.append(RECORD) == lib.RW_OK
        take(memory, memory_directory)
        assert benchmark(lib.rw_block_verify, memory.block(1)) == lib.RW_OK
