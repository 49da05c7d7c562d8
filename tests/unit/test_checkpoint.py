"""A checkpoint comes back as it was, and damaged bytes are never anything else than damage."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError, StorageFull, VersionMismatch
from ringwal.log import checkpoint, checkpoint_file
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import Checkpoint, EpochRow, OwnerRow, StreamRow, decode, encode, pack, pack_owners
from ringwal.log.manifest import Manifest
from tests.support.log_place import log_at

PAGE = 4096
UUID = bytes(range(16))
EPOCHS = (EpochRow(2, 4096, 8192), EpochRow(3, 12288, 1 << 30), EpochRow(7, 1 << 30, 0))
OWN = struct.pack("<IHHQQQ", 3, 5, 2, 77, 0, 88) + b"\1c"
ROWS = [
    StreamRow(0, "a", 10, 3, 1000, 77),
    StreamRow(2, "grün", 0, 0, 0, 0),
    StreamRow(9, "n" * 120, 5, 5, 9, 1, OWN.ljust(120, b"\0")),
]
OWNERS = [OwnerRow(2, 1, 4, 1, 30, 25, 3, 66, "p1"), OwnerRow(7, 2, 1, 9, 5, 0, 0, 67, "c")]
GOOD = Checkpoint(
    uuid=UUID, epoch=7, position=(1 << 30) + 8192, block_number=12, timestamp_ns=99, next_number=10,
    streams=pack(ROWS), epochs=EPOCHS, owners=pack_owners(OWNERS), owners_end=8,
)  # fmt: skip
DATA, DIGEST = encode(GOOD)


def signed(data: bytes) -> bytes:
    """With a right digest."""
    blank = bytearray(data)
    blank[88:96] = bytes(8)
    blank[88:96] = struct.pack("<Q", xxhash.xxh3_64_intdigest(blank))
    return bytes(blank)


def test_it_comes_back_as_it_was() -> None:
    assert decode(DATA) == GOOD and decode(DATA).rows() == ROWS and decode(DATA).owner_rows() == OWNERS
    assert checkpoint.digest_of(DATA) == DIGEST
    none = dataclasses.replace(GOOD, streams=b"")
    assert decode(encode(none)[0]).rows() == []


def test_it_is_laid_out_as_documented() -> None:
    head = struct.pack("<8sII16sQQQQIIIIQ", b"RWCHKPT1", 2, 0, UUID, 7, (1 << 30) + 8192, 12, 99, 3, 2, 3, 10, len(DATA))
    assert DATA[:88] == head and DATA[96:PAGE] == struct.pack("<III", 280, 176, 8) + bytes(PAGE - 108)
    assert DATA[PAGE : PAGE + 280] == struct.pack("<IHHQQQQ120s120x", 0, 1, 1, 10, 3, 1000, 77, b"a")
    assert DATA[PAGE + 2 * 280 + 160 : PAGE + 3 * 280] == OWN.ljust(120, b"\0")
    owners = PAGE + 3 * 280 + 3 * 24
    assert DATA[PAGE + 3 * 280 : owners] == b"".join(struct.pack("<QQQ", *row) for row in EPOCHS)
    assert DATA[owners : owners + 176] == struct.pack("<IIIIQQQQII120s", 2, 1, 4, 1, 30, 25, 3, 66, 2, 0, b"p1")
    assert len(DATA) == owners + 2 * 176
    assert DATA[88:96] == struct.pack("<Q", xxhash.xxh3_64_intdigest(DATA[:88] + bytes(8) + DATA[96:]))


def test_rows_are_what_the_core_writes() -> None:
    assert ffi.sizeof("rw_checkpoint_stream") == checkpoint.STREAM_BYTES
    row = ffi.new("rw_checkpoint_stream *")
    row.number, row.state, row.name_bytes, row.next_offset, row.start_offset = 9, lib.RW_STREAM_OPEN, 1, 5, 2
    row.payload_bytes, row.timestamp_ns, row.name = 6, 7, b"x" + bytes(119)
    row.settings = OWN.ljust(120, b"\0")
    assert bytes(ffi.buffer(row)) == pack([StreamRow(9, "x", 5, 2, 6, 7, OWN)])
    assert ffi.sizeof("rw_checkpoint_owner") == checkpoint.OWNER_BYTES


@pytest.mark.parametrize(
    "wrong",
    [
        {"number": 8}, {"number": 0}, {"kind": 0}, {"kind": 3}, {"epoch": 0}, {"stream": 10}, {"last_sequence": 31},
        {"name": ""}, {"next_sequence": 1 << 62}, {"number": 7, "kind": 2, "stream": 9, "name": "c"},
    ],
    ids=str,
)  # fmt: skip
def test_a_row_of_an_owner_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    rows = [OWNERS[0]._replace(**wrong), OWNERS[1]]
    with pytest.raises(CorruptionError, match="owner"):
        dataclasses.replace(GOOD, owners=pack_owners(rows)).owner_rows()


@settings(max_examples=300, deadline=None, database=None)
@given(seed=st.integers(0, 2**32), size=st.one_of(st.none(), st.integers(0, len(DATA) + 99)), hits=st.integers(0, 5))
def test_damaged_bytes_are_damage_and_nothing_else(seed: int, size: int | None, hits: int) -> None:
    chance = random.Random(seed)
    data = bytearray(DATA)
    for _ in range(hits):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    damaged = bytes(data) if size is None else bytes(data)[:size].ljust(size, b"\1")
    if damaged == DATA:
        return
    with pytest.raises(CorruptionError):
        decode(damaged)


@settings(max_examples=300, deadline=None, database=None)
@given(seed=st.integers(0, 2**32))
def test_with_a_right_digest_it_is_believed_or_damage(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(DATA)
    for _ in range(chance.randint(1, 4)):
        at = chance.choice([chance.randrange(12, 96), chance.randrange(PAGE, len(data))])
        data[at] = chance.choice([0, 255, chance.randrange(256)])
    data[12:16] = bytes(4)
    with contextlib.suppress(CorruptionError):
        decode(signed(bytes(data))).rows()


@pytest.mark.parametrize(("field", "value"), [(8, 3), (12, 1 << 9)])
def test_another_format_is_named(field: int, value: int) -> None:
    data = bytearray(DATA)
    struct.pack_into("<I", data, field, value)
    with pytest.raises(VersionMismatch):
        decode(signed(bytes(data)))


BAD_EPOCHS = [
    (),
    EPOCHS[:-1],
    (*EPOCHS[:-1], EpochRow(8, 1 << 30, 0)),
    (EPOCHS[1], EPOCHS[0], EPOCHS[2]),
    (EpochRow(2, 4096, 4096), *EPOCHS[1:]),
    (EpochRow(2, 4096, 16384), *EPOCHS[1:]),
    (*EPOCHS[:-1], EpochRow(7, 2 << 30, 0)),
]


@pytest.mark.parametrize("epochs", BAD_EPOCHS)
def test_epochs_that_contradict_each_other_are_refused(epochs: tuple[EpochRow, ...]) -> None:
    with pytest.raises(CorruptionError, match="epochs contradict"):
        decode(encode(dataclasses.replace(GOOD, epochs=epochs))[0])


BAD_ROWS = [
    [ROWS[1], ROWS[0]],
    [ROWS[0], ROWS[0]],
    [ROWS[0], ROWS[1]._replace(name="a")],
    [ROWS[0]._replace(name="")],
    [ROWS[0]._replace(start_offset=11)],
    [ROWS[0]._replace(next_offset=2**63)],
]


@pytest.mark.parametrize("rows", BAD_ROWS)
def test_streams_that_contradict_each_other_are_refused(rows: list[StreamRow]) -> None:
    found = decode(encode(dataclasses.replace(GOOD, streams=pack(rows)))[0])
    with pytest.raises(CorruptionError, match="contradicts"):
        found.rows()


# ------------------------------------------------------------------------------------------------------------- files


def fresh(directory: Path) -> Manifest:
    state = Manifest(uuid=UUID, segment_bytes=1 << 20, window_bytes=1 << 20, epoch=7, claimed=7, named_end=2000)
    return manifests.create(log_at(directory), state)


def put(directory: Path, state: Manifest, what: Checkpoint = GOOD) -> Manifest:
    log = log_at(directory)
    return manifests.store(log, checkpoint_file.put(log, state, what, 16))


def test_the_file_that_is_not_named_is_written(tmp_path: Path) -> None:
    state = fresh(tmp_path)
    for number in (0, 1, 0, 1):
        before = {path.name: path.read_bytes() for path in tmp_path.glob("checkpoint-*")}
        what = dataclasses.replace(GOOD, block_number=state.counter)
        state = put(tmp_path, state, what)
        assert state.checkpoint_file == number
        assert checkpoint_file.load(log_at(tmp_path), state) == what == checkpoint_file.look(log_at(tmp_path), UUID)
        other = f"checkpoint-{1 - number}"
        assert other not in before or (tmp_path / other).read_bytes() == before[other]


def test_it_has_its_room_before_it_is_needed(tmp_path: Path) -> None:
    put(tmp_path, fresh(tmp_path))
    assert (tmp_path / "checkpoint-0").stat().st_blocks * 512 >= PAGE + 16 * checkpoint.STREAM_BYTES
    assert (tmp_path / "checkpoint-0").stat().st_mode & 0o777 == 0o600


def test_more_epochs_than_there_was_room_for_make_it_grow(tmp_path: Path) -> None:
    ends = range(1, 9000)
    rows = tuple(EpochRow(n, n * PAGE, (n + 1) * PAGE) for n in ends)
    many = dataclasses.replace(GOOD, epochs=(*rows, EpochRow(9000, 9000 * PAGE, 0)), epoch=9000)
    state = put(tmp_path, dataclasses.replace(fresh(tmp_path), epoch=9000, claimed=9000), many)
    assert checkpoint_file.load(log_at(tmp_path), state) == many


def test_a_file_of_several_names_is_left_to_whom_it_belongs(tmp_path: Path) -> None:
    state = put(tmp_path, put(tmp_path, fresh(tmp_path)))
    for number in (0, 1):
        os.link(tmp_path / f"checkpoint-{number}", tmp_path / f"copied-{number}")
    before = [(tmp_path / f"copied-{number}").read_bytes() for number in (0, 1)]
    for n in itertools.islice(itertools.count(), 2):
        state = put(tmp_path, state, dataclasses.replace(GOOD, block_number=n))
        assert checkpoint_file.load(log_at(tmp_path), state).block_number == n
    assert [(tmp_path / f"copied-{number}").read_bytes() for number in (0, 1)] == before


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = put(tmp_path, fresh(tmp_path))

    def refuse(*_: object) -> int:
        raise OSError(28, "no room")

    log = log_at(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(StorageFull, match="checkpoint-1"):
            checkpoint_file.put(log, state, GOOD, 16)
    assert checkpoint_file.look(log, UUID) == GOOD
    assert put(tmp_path, state).checkpoint_file == 1


def test_a_reader_whose_checkpoint_is_written_again_takes_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = put(tmp_path, fresh(tmp_path))
    log, real = log_at(tmp_path), manifests.load
    newest = dataclasses.replace(GOOD, block_number=77)

    def late(directory: object) -> Manifest:
        nonlocal state
        found = real(log)
        if state.counter < 10:
            state = put(tmp_path, put(tmp_path, state), newest)
        return found

    monkeypatch.setattr(manifests, "load", late)
    assert checkpoint_file.look(log, UUID) == newest


def test_another_log_is_told_from_this_one(tmp_path: Path) -> None:
    put(tmp_path, fresh(tmp_path))
    assert checkpoint_file.look(log_at(tmp_path), bytes(16)) is None
