"""Starts cost next to nothing, however long the log is, and what is known of a stream survives them."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

import ringwal
from ringwal._native import lib
from ringwal.log import checkpoint_file
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import Checkpoint, EpochRow, StreamRow, pack
from ringwal.log.manifest import Manifest
from tests.support.log_maker import UUID, Frame, block_bytes
from tests.support.log_place import log_at, path_of
from tests.support.rig import WAIT, Engine, arm, until

MIB = 1 << 20
SMALL = {"ring_bytes": "1MiB", "segment_bytes": "3MiB", "max_streams": 16}


def state(directory: Path) -> Manifest:
    return manifests.load(log_at(directory))


def size(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def append(directory: Path, count: int, data: bytes, stream: str = "s") -> None:
    with ringwal.connect(directory) as client:
        receipts = [client.stream(stream).append(data) for _ in range(count)]
        for receipt in receipts:
            receipt.result(WAIT)


def test_orderly_stops_and_starts_with_a_record_each_take_two_pages_each(
    directory: Path, start: Callable[..., Engine]
) -> None:
    assert start(**SMALL).terminate() == 0
    append_at = state(directory).end
    for n in range(8):
        running = start(**SMALL)
        append(directory, 1, b"%d" % n)
        assert running.terminate() == 0
        assert state(directory).end - append_at <= 4 * 4096, "the first block of an epoch, the record's, and what covers it"
        append_at = state(directory).end
    start(**SMALL)
    with ringwal.connect(directory) as client:
        assert [record.data for record in client.stream("s").read(0)] == [b"%d" % n for n in range(8)]
    assert state(directory).named_end <= 2


def test_kills_of_an_idle_engine_take_a_page_each(directory: Path, start: Callable[..., Engine]) -> None:
    start(**SMALL).kill()
    began, before = state(directory).epoch_begin, 0
    for n in range(8):
        running = start(**SMALL)
        until(lambda engine=running: engine.status()["segments"]["ahead"] == 1, "the segment ahead is filled")  # type: ignore[misc]
        running.kill()
        before = before or size(directory)
        assert state(directory).epoch_begin == began + (n + 1) * 4096
    assert size(directory) == before


def test_an_orderly_stop_marks_the_end_and_nothing_is_read_at_the_next_start(
    directory: Path, start: Callable[..., Engine]
) -> None:
    running = start(**SMALL)
    append(directory, 400, b"x" * 10_000)
    assert running.terminate() == 0
    ended = state(directory)
    assert ended.end == ended.checkpoint_position > 3 * MIB
    running = start(**SMALL)
    assert running.status()["recovery"]["blocks"] == 0
    assert state(directory).end == 0
    append(directory, 1, b"y")
    running.kill()
    running = start(**SMALL)
    with ringwal.connect(directory) as client:
        assert client.stream("s").stat().confirmed_offset == 401


def test_a_log_at_rest_is_recovered_from_its_end(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(**SMALL)
    append(directory, 300, b"x" * 10_000)
    until(lambda: state(directory).checkpoint_position > 3_000_000, "the log at rest has a checkpoint")
    running.kill()
    running = start(**SMALL)
    facts = running.status()["recovery"]
    assert (facts["blocks"], facts["records"], facts["carried"]) == (0, 0, 0)
    with ringwal.connect(directory) as client:
        assert client.stream("s").stat().confirmed_offset == 300


def test_a_log_that_is_written_without_a_pause_has_checkpoints_too(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(ring_bytes="4MiB", segment_bytes="16MiB", max_streams=16, lane_bytes="1MiB")
    with ringwal.connect(directory) as client:
        stream, data = client.stream("s"), b"x" * 250_000
        receipts = [stream.append(data)]
        while state(directory).checkpoint_position <= MIB:
            receipts.append(stream.append(data))
            if len(receipts) > 32:
                receipts.pop(0).result(WAIT)
            assert state(directory).named_end * 16 * MIB < 400 * MIB, "recovery would have to read more and more"
        count = 1 + receipts[-1].result(WAIT).offset
        running.kill()
    running = start(ring_bytes="4MiB", segment_bytes="16MiB", max_streams=16, lane_bytes="1MiB")
    facts = running.status()["recovery"]
    assert facts["bytes"] < 300 * MIB and facts["records"] < count
    with ringwal.connect(directory) as client:
        assert client.stream("s").stat().confirmed_offset == count
        assert client.stream("s").read(0, 1)[0].data == data


def test_what_is_known_of_a_stream_survives_stops_and_kills(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(**SMALL)
    append(directory, 3, b"12345")
    append(directory, 1, b"", "empty")

    def known() -> tuple[object, ...]:
        with ringwal.connect(directory) as client:
            return client.stream("s").stat(), client.stream("empty").stat()

    before = known()
    with ringwal.connect(directory) as client:
        newest = client.stream("s").read(2)[0].timestamp_ns
    assert (before[0].confirmed_bytes, before[0].last_timestamp_ns) == (15, newest)  # type: ignore[attr-defined]
    running.kill()
    running = start(**SMALL)
    assert known() == before
    assert running.terminate() == 0
    running = start(**SMALL)
    assert known() == before
    os.kill(running.facts["wal_pid"], 9)
    append(directory, 1, b"6")
    assert known()[0].confirmed_bytes == 16  # type: ignore[attr-defined]
    assert running.terminate() == 0
    start(**SMALL)
    assert known()[0].confirmed_bytes == 16  # type: ignore[attr-defined]


def test_a_missing_old_segment_is_told_and_denies_its_own_records_only(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(**SMALL)
    append(directory, 900, b"x" * 10_000)
    assert running.terminate() == 0
    (directory / "segments" / f"{1:020d}.seg").unlink()
    running = start(**SMALL)
    assert running.status()["recovery"]["missing_segments"] == [1]
    assert "segments 1 are missing" in running.said()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        assert stream.append(b"on").result(WAIT).offset == 900
        assert [record.data for record in stream.read(900)] == [b"on"]
        assert stream.read(0, 1)[0].data == b"x" * 10_000
        with pytest.raises(ringwal.CorruptionError, match="missing") as caught:
            stream.read(400)
        assert caught.value.segment == 1


def test_a_stream_that_is_only_opened_is_in_no_checkpoint(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(**SMALL)
    with ringwal.connect(directory) as client:
        client._attachment().handle_of("never")  # as an append does that is then refused
        client.create_stream("created")
        client.stream("once").append(b"x").result(WAIT)
    assert running.terminate() == 0
    found = checkpoint_file.load(log_at(directory), state(directory))
    assert [row.name for row in found.rows()] == ["created", "once"]


def test_an_end_that_is_marked_is_cleared_before_anybody_writes_on(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(**SMALL)
    append(directory, 1, b"x")
    until(lambda: state(directory).checkpoint_position > 4096, "the log at rest has a checkpoint")
    found = state(directory)
    # As a WAL process leaves it that has finished in order, and is killed before it ends.
    manifests.store(log_at(directory), dataclasses.replace(found, end=found.checkpoint_position))
    os.kill(running.facts["wal_pid"], 9)
    append(directory, 1, b"y")
    assert state(directory).end == 0
    running.kill()
    start(**SMALL)
    with ringwal.connect(directory) as client:
        assert [record.data for record in client.stream("s").read(0)] == [b"x", b"y"]


def many_segments(directory: Path, count: int) -> None:
    """A log that was stopped in order, with a record in each of so many segments of 3 MiB, which are holes for the rest."""
    (directory / "segments").mkdir(parents=True)
    size, log = 3 * MIB, log_at(directory)
    made = Manifest(uuid=UUID, segment_bytes=size, window_bytes=MIB)
    position = 0
    for number in range(count):
        with path_of(directory, number).open("wb") as file:
            head = struct.pack("<8sII16sQQQ", b"RWSEGMT1", 2, 0, UUID, number, size, 1)
            file.write(head + struct.pack("<Q", xxhash.xxh3_64_intdigest(head)))
            file.truncate(4096 + size)
            file.seek(4096)
            if number == 0:
                none = EpochRow(0, 0, 0)
                position += file.write(block_bytes([], epoch=1, position=0, kind=lib.RW_BLOCK_EPOCH, previous=none))
            position += file.write(block_bytes([Frame(0, number, [b"%d" % number])], epoch=1, position=position))
            if number < count - 1:
                left = size - position % size
                file.write(block_bytes([], epoch=1, position=position, kind=lib.RW_BLOCK_END, span=left))
                position += left
    known = Checkpoint(
        uuid=UUID, epoch=1, position=position, block_number=0, timestamp_ns=1, next_number=1, epochs=(EpochRow(1, 0, 0),),
        streams=pack([StreamRow(0, "s", count, 0, 0, 1)]),
    )  # fmt: skip
    made = dataclasses.replace(made, claimed=1, epoch=1, named_end=count, end=position)
    manifests.create(log, dataclasses.replace(checkpoint_file.put(log, made, known, 16), end=position))


def test_more_segments_than_open_files(directory: Path, start: Callable[..., Engine]) -> None:
    count = 10_000
    many_segments(directory, count)
    few_files = ("prlimit", "--nofile=256:256")
    running = start(wrapper=few_files, ring_bytes="1MiB", segment_bytes="3MiB", max_streams=16, max_clients=4)
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        for offset in (0, 1, count // 3, count // 2, count - 2, count - 1):
            assert stream.read(offset, 1)[0].data == b"%d" % offset
        assert stream.append(b"on").result(WAIT).offset == count
        cursor = iter(stream.tail(0))
        assert [next(cursor).data for _ in range(100)] == [b"%d" % n for n in range(100)]
    running.kill()
    running = start(wrapper=few_files, ring_bytes="1MiB", segment_bytes="3MiB", max_streams=16, max_clients=4)
    with ringwal.connect(directory) as client:
        assert client.stream("s").read(count)[0].data == b"on"
    assert running.terminate() == 0


@pytest.mark.parametrize("point", ["ckpt.taken", "ckpt.written", "ckpt.named"])
def test_a_stop_whose_wal_process_dies_at_its_checkpoint_is_an_orderly_one_all_the_same(
    point: str, points_build: Path, directory: Path, start: Callable[..., Engine]
) -> None:
    once = directory.parent / "once"
    running = start(points_build, once=once, **SMALL)
    append(directory, 100, b"x" * 5000)
    arm(once, f"{point}:1:kill")
    assert running.terminate() == 0
    assert not once.exists(), "nobody came by"
    ended = state(directory)
    assert ended.end == ended.checkpoint_position > 500_000
    assert start(**SMALL).status()["recovery"]["blocks"] == 0
    with ringwal.connect(directory) as client:
        assert client.stream("s").stat().confirmed_offset == 100


def test_no_checkpoint_is_put_into_a_directory_that_is_being_deleted(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(**SMALL)
    append(directory, 1, b"x")
    for name in ("checkpoint-0", "checkpoint-1", "manifest"):
        (directory / name).unlink()
    assert running.terminate() == os.EX_OSFILE, "the stop wants a checkpoint at once"
    assert not list(directory.glob("checkpoint-*"))
