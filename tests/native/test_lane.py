"""The lane: what is taken, when, and that damage in one lane is that lane's alone."""

from __future__ import annotations

import random
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from ringwal._native import ffi, lib
from tests.support.core import KIB, REQUEST, STREAMS, Memory, Sequencer, Writer, take, until


def frame_bytes(payload: int) -> int:
    return REQUEST + (payload + 63) // 64 * 64


def seal_header(request: Any) -> None:
    """Gives a changed header a right CRC again, as a hostile writer can."""
    request.crc = 0
    request.crc = lib.rw_crc32c(0, request, REQUEST)


def test_requests_are_taken_in_claim_order(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        for i in range(20):
            assert writer.append(b"x" * i, stream=i % 3) == lib.RW_OK
        take(memory, tmp_path)
        frames = memory.frames()
        assert [(f.slot, f.stream, f.number, f.payload) for f in frames] == [
            (0, i % 3, (1 << 32) + i + 1, b"x" * i) for i in range(20)
        ]
        assert [f.offset for f in frames if f.stream == 1] == list(range(7))
        assert memory.slot(0).head == writer.lane.claim


def test_a_batch_is_one_record_with_its_lengths_first(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        assert writer.append_many([b"a", b"", b"ccc"]) == lib.RW_OK
        assert writer.append_many([b"single"]) == lib.RW_OK
        take(memory, tmp_path)
        batch, single = memory.frames()
        assert (batch.offset, batch.count, batch.payload) == (0, 3, struct.pack("<3I", 1, 0, 3) + b"accc")
        assert (single.offset, single.count, single.payload) == (3, 1, b"single")


def test_a_claim_that_is_not_published_holds_up_its_own_lane_only(tmp_path: Path) -> None:
    with Memory() as memory:
        stuck, other = Writer(memory, 0), Writer(memory, 1)
        assert stuck.append(b"before") == lib.RW_OK
        unpublished = stuck.lane.claim
        stuck.lane.claim += frame_bytes(100)  # claimed; the thread stopped in its copy
        assert stuck.append(b"behind") == lib.RW_OK
        assert other.append(b"other") == lib.RW_OK
        take(memory, tmp_path)
        assert [f.payload for f in memory.frames()] == [b"before", b"other"]
        assert memory.slot(0).head == unpublished
        assert memory.slot(0).fault == 0


def test_wraps_around_for_many_laps(tmp_path: Path) -> None:
    rng = random.Random(7)
    with Memory() as memory:
        writer = Writer(memory, 0)
        laps = 0
        while laps < 4:
            sent = [rng.randbytes(rng.choice((0, 1, 63, 64, 65, rng.randrange(9000)))) for _ in range(rng.randrange(1, 6))]
            for payload in sent:
                assert writer.append(payload) == lib.RW_OK
            before = memory.control.sealed
            take(memory, tmp_path)
            assert [f.payload for f in memory.frames() if f.block >= before] == sent
            assert memory.slot(0).head == writer.lane.claim
            memory.control.released_end, memory.control.released = memory.control.sealed_end, memory.control.sealed
            laps = writer.lane.claim // writer.lane.lane_bytes


def test_full_until_the_requests_are_taken(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        room = writer.lane.lane_bytes // frame_bytes(1000)
        assert [writer.append(b"x" * 1000) for _ in range(room + 1)] == [lib.RW_OK] * room + [lib.RW_FULL]
        assert writer.lane.claim == room * frame_bytes(1000)
        assert lib.rw_wait_room(writer.writer, 1000, 0) == lib.RW_PENDING
        take(memory, tmp_path)
        assert lib.rw_wait_room(writer.writer, 1000, 0) == lib.RW_OK
        assert writer.append(b"x" * 1000) == lib.RW_OK


def test_the_largest_record_and_one_byte_more(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        limit = lib.rw_writer_record_limit(writer.writer)
        assert limit == 32 * KIB
        assert writer.append(b"y" * (limit + 1)) == lib.RW_TOO_LARGE
        assert writer.append_many([b"y" * (limit - 8), b"y"]) == lib.RW_TOO_LARGE
        assert writer.lane.claim == 0
        assert writer.append(b"y" * limit) == lib.RW_OK
        take(memory, tmp_path)
        assert [len(f.payload) for f in memory.frames()] == [limit]


def test_nothing_is_accepted_once_the_engine_does_not_run() -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        lib.rw_set_state(memory.control, lib.RW_STOPPING, 0)
        assert writer.append(b"late") == lib.RW_GONE
        assert writer.lane.claim == 0
        assert lib.rw_completion_wait(writer.writer, writer.last + 1, 0, 0) == lib.RW_PENDING  # what was taken still counts
        lib.rw_set_state(memory.control, lib.RW_STOPPED, 0)
        assert lib.rw_completion_wait(writer.writer, writer.last + 1, 0, 0) == lib.RW_GONE


def test_a_payload_of_an_earlier_lap_cannot_pass_for_a_request(tmp_path: Path) -> None:
    """Payloads may come from anybody: here one is full of forged requests for every place of the next lap."""
    with Memory() as memory:
        writer = Writer(memory, 0)
        size = writer.lane.lane_bytes // 4 - REQUEST
        for quarter in range(8):
            forged = bytearray()
            for at in range(REQUEST, REQUEST + size, REQUEST):
                position = quarter * (size + REQUEST) + at + writer.lane.lane_bytes
                request = ffi.new("rw_request *", {"valid": position + 1, "count": 1, "number": (1 << 32) + 999})
                request.digest = lib.rw_xxh3(b"", 0)
                seal_header(request)
                forged += ffi.buffer(request)
            assert writer.append(bytes(forged)) == lib.RW_OK
            take(memory, tmp_path)
        for _ in range(100):  # small ones now: the places behind them hold the forgeries
            assert writer.append(b"small") == lib.RW_OK
            take(memory, tmp_path)
            memory.control.released_end, memory.control.released = memory.control.sealed_end, memory.control.sealed
        assert memory.slot(0).fault == 0
        assert memory.slot(0).requests == 108


@pytest.mark.parametrize(
    "field",
    ["crc", "stream", "payload_bytes", "count", "kind", "flags", "place", "digest", "number", "producer_id"],
)
def test_a_scribbled_header_refuses_the_lane_and_no_other(field: str, tmp_path: Path) -> None:
    with Memory() as memory:
        writer, other = Writer(memory, 0), Writer(memory, 1)
        assert writer.append(b"good") == lib.RW_OK
        position = writer.lane.claim
        assert writer.append(b"scribbled") == lib.RW_OK
        assert other.append(b"other") == lib.RW_OK
        request = writer.request(position)
        setattr(request, field, getattr(request, field) ^ 0x40)
        expect_refused(memory, writer, other, tmp_path, position)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("place", STREAMS),
        ("place", 2**32 - 1),
        ("kind", 0),
        ("kind", lib.RW_FRAME_STREAM),
        ("kind", lib.RW_FRAME_DELETE),  # by a client
        ("flags", 1),
        ("flags", 0x8020),
        ("flags", lib.RW_OWN_TIMES),  # without room for them
        ("payload_bytes", 64 * KIB),
        ("payload_bytes", 2**32 - 1),
        ("count", 0),
        ("count", 2),  # without lengths that fit
        ("count", 2**32 - 1),
        ("digest", 1),
        ("number", (2 << 32) + 1),  # another generation's
        ("number", 1),
        ("producer_sequence", 1),  # nobody's
    ],
)
def test_a_forged_header_refuses_the_lane_and_no_other(field: str, value: int, tmp_path: Path) -> None:
    with Memory() as memory:
        writer, other = Writer(memory, 0), Writer(memory, 1)
        assert writer.append(b"good") == lib.RW_OK
        position = writer.lane.claim
        assert writer.append(b"forged") == lib.RW_OK
        assert other.append(b"other") == lib.RW_OK
        request = writer.request(position)
        setattr(request, field, value)
        seal_header(request)
        expect_refused(memory, writer, other, tmp_path, position)


def test_a_payload_changed_after_publishing_refuses_the_lane(tmp_path: Path) -> None:
    with Memory() as memory:
        writer, other = Writer(memory, 0), Writer(memory, 1)
        assert writer.append(b"good") == lib.RW_OK
        position = writer.lane.claim
        assert writer.append(b"changed") == lib.RW_OK
        assert other.append(b"other") == lib.RW_OK
        writer.data[position + REQUEST] ^= 1
        expect_refused(memory, writer, other, tmp_path, position)


def expect_refused(memory: Memory, writer: Writer, other: Writer, directory: Path, position: int) -> None:
    take(memory, directory)
    assert [f.payload for f in memory.frames()] == [b"good", b"other"]
    assert [f.offset for f in memory.frames()] == [0, 1]  # the refused one left no gap
    assert memory.slot(0).fault == 1
    assert memory.slot(0).head == position
    assert memory.slot(1).fault == 0
    assert writer.append(b"more") == lib.RW_FAULT
    assert lib.rw_completion_wait(writer.writer, writer.last, 0, 0) == lib.RW_FAULT
    assert lib.rw_wait_room(writer.writer, 1, 0) == lib.RW_FAULT
    assert other.append(b"goes on") == lib.RW_OK
    take(memory, directory)  # a successor leaves the lane alone as well
    assert [f.payload for f in memory.frames()] == [b"good", b"other", b"goes on"]


def test_a_header_whose_valid_word_is_scribbled_is_no_request(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        assert writer.append(b"lost") == lib.RW_OK
        writer.request(0).valid ^= 1
        take(memory, tmp_path)
        assert memory.frames() == []
        assert memory.slot(0).fault == 0


def test_the_size_of_a_lane_is_not_the_writers_to_change(tmp_path: Path) -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        writer.lane.lane_bytes = 4 * KIB
        for _ in range(5):
            assert writer.append(b"x" * 3000) == lib.RW_OK
        take(memory, tmp_path)
        assert [len(f.payload) for f in memory.frames()] == [3000] * 5


def test_a_completion_cell_answers_for_its_own_number_only() -> None:
    with Memory() as memory:
        writer = Writer(memory, 0)
        cell = memory.cell(0, 5)
        cell.offset, cell.number = 77, (1 << 32) + 5
        assert lib.rw_completion_poll(writer.writer, (1 << 32) + 5) == 77
        assert lib.rw_completion_poll(writer.writer, (1 << 32) + 5 + 64) == lib.RW_PENDING
        cell.offset = lib.RW_FAILED_OFFSET
        assert lib.rw_completion_poll(writer.writer, (1 << 32) + 5) == lib.RW_FAILED_REQUEST


def test_a_caller_sleeps_at_once_under_contention() -> None:
    with Memory() as memory:
        writer, sequencer = Writer(memory, 0), Sequencer(memory)
        sequencer.settle()
        memory.control.callers = memory.control.contention + 1
        number, hour = writer.last + 1, 3600 * 10**9
        answers: list[int] = []
        caller = threading.Thread(
            target=lambda: answers.append(lib.rw_completion_wait(writer.writer, number, hour, hour))  # may spin for an hour
        )
        caller.start()
        try:
            until(lambda: bool(writer.lane.completion_waiters == 1), "the caller announces that it sleeps")
        finally:
            memory.persist(memory.seal([(0, 1, number)]))
            sequencer.settle()
            caller.join()
        assert answers == [0]
