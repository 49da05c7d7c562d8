"""Block and record frames: what is accepted, and that nothing else is."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest

from ringwal._native import ffi, lib

UUID = bytes(range(16))
EPOCH, POSITION = 7, 5 * 4096
HEADER, RECORD = ffi.sizeof("rw_block"), ffi.sizeof("rw_frame")
PERSISTED = ffi.offsetof("rw_frame", "persisted")
MAGIC = 0x314B434F4C425752


def batch(*pieces: bytes) -> tuple[int, bytes]:
    """Count and payload of a record batch."""
    lengths = struct.pack(f"<{len(pieces)}I", *(len(piece) for piece in pieces)) if len(pieces) > 1 else b""
    return len(pieces), lengths + b"".join(pieces)


def frame_bytes(payload: bytes) -> int:
    return RECORD + (len(payload) + 7) // 8 * 8


def record(payload: bytes, count: int = 1, **fields: Any) -> Any:
    values = {
        "kind": lib.RW_FRAME_BATCH, "slot": 3, "payload_bytes": len(payload), "count": count, "stream": 9, "place": 4,
        "base_offset": 1000, "timestamp_ns": 123456789, "digest": lib.rw_xxh3(payload, len(payload)), "ticket": 640,
        "number": 4 << 32 | 17, "producer_id": 0xABC, "producer_sequence": 5,
    }  # fmt: skip
    return ffi.new("rw_frame *", values | fields)


def build(records: list[tuple[Any, bytes]], /, **fields: Any) -> bytearray:
    """A sealed block with these records, padded to a multiple of 4096; `fields` replace header fields."""
    used = HEADER + sum(frame_bytes(payload) for _, payload in records)
    length = (used + 4095) // 4096 * 4096
    block = bytearray(length)
    base = ffi.from_buffer("uint8_t[]", block)
    at = HEADER
    for one, payload in records:
        at += lib.rw_frame_put(base + at, one, payload, lib.rw_frame_seed(EPOCH, POSITION))
    assert at == used
    header = ffi.cast("rw_block *", base)
    values = {
        "magic": MAGIC, "format_version": lib.RW_FORMAT_VERSION, "uuid": UUID, "epoch": EPOCH, "position": POSITION,
        "length": length, "used": used, "frames": len(records), "kind": lib.RW_BLOCK_DATA, "span": length,
        "watermark": 4096, "number": 12, "timestamp_ns": 99,
    }  # fmt: skip
    for name, value in (values | fields).items():
        setattr(header, name, value)
    lib.rw_block_stamp(header)
    return block


def check(block: bytes | bytearray, available: int | None = None, uuid: bytes = UUID, epoch: int = EPOCH,
          position: int = POSITION) -> int:  # fmt: skip
    held = ffi.from_buffer("uint8_t[]", block)
    return lib.rw_block_check(held, len(block) if available is None else available, uuid, epoch, position)


def verify(block: bytes | bytearray) -> int:
    """Both halves of the test, as every caller makes them."""
    return check(block) or lib.rw_block_verify(ffi.from_buffer("uint8_t[]", block))


def bit_flips(block: bytearray, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Flips one bit after the other of block[begin:end] in place; yields (byte, bit) while it is flipped."""
    for byte in range(begin, end):
        for bit in range(8):
            block[byte] ^= 1 << bit
            yield byte, bit
            block[byte] ^= 1 << bit


PAYLOADS = [batch(b"one record"), batch(b"a", b"", b"ccc"), batch(b"")]


@pytest.fixture
def block() -> bytearray:
    return build([(record(payload, count, stream=i), payload) for i, (count, payload) in enumerate(PAYLOADS)])


def test_a_sealed_block_is_accepted(block: bytearray) -> None:
    assert verify(block) == lib.RW_OK


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, *(end - HEADER - RECORD for end in (4095, 4096, 4097)), 100_000])
def test_records_of_any_length_come_back_whole(length: int) -> None:
    payload = bytes(i * 7 & 0xFF for i in range(length))
    block = build([(record(payload), payload)])
    assert verify(block) == lib.RW_OK
    assert bytes(block[HEADER + RECORD : HEADER + RECORD + length]) == payload
    assert not any(block[HEADER + RECORD + length :])


def test_frames_give_back_what_was_put(block: bytearray) -> None:
    frames, at = ffi.new("rw_frame_info[8]"), ffi.new("uint64_t *", HEADER)
    assert lib.rw_block_frames(ffi.from_buffer("uint8_t[]", block), at, frames, 8) == 3
    place = HEADER
    for i, (count, payload) in enumerate(PAYLOADS):
        frame = frames[i]
        assert (frame.at, frame.stream, frame.count, frame.payload_bytes) == (place, i, count, len(payload))
        assert (frame.base_offset, frame.timestamp_ns, frame.ticket, frame.number) == (1000, 123456789, 640, 4 << 32 | 17)
        assert (frame.slot, frame.place, frame.kind) == (3, 4, lib.RW_FRAME_BATCH)
        assert frame.digest == lib.rw_xxh3(payload, len(payload))
        place += frame_bytes(payload)
    assert at[0] == place


def test_frames_come_in_portions(block: bytearray) -> None:
    frames, at = ffi.new("rw_frame_info[2]"), ffi.new("uint64_t *", HEADER)
    base = ffi.from_buffer("uint8_t[]", block)
    assert lib.rw_block_frames(base, at, frames, 2) == 2
    assert lib.rw_block_frames(base, at, frames, 2) == 1
    assert frames[0].stream == 2
    assert lib.rw_block_frames(base, at, frames, 2) == 0


def test_every_bit_of_the_block_header_counts(block: bytearray) -> None:
    assert [flip for flip in bit_flips(block, 0, HEADER) if check(block) == lib.RW_OK] == []


def test_every_bit_of_every_record_header_counts_except_the_persisted_byte(block: bytearray) -> None:
    at = HEADER
    for _, payload in PAYLOADS:
        accepted = {byte - at for byte, _ in bit_flips(block, at, at + RECORD) if verify(block) == lib.RW_OK}
        assert accepted == {PERSISTED}
        at += frame_bytes(payload)


def test_every_bit_of_a_payload_counts(block: bytearray) -> None:
    at = HEADER
    for _, payload in PAYLOADS:
        begin = at + RECORD
        assert [flip for flip in bit_flips(block, begin, begin + len(payload)) if verify(block) == lib.RW_OK] == []
        at += frame_bytes(payload)


@pytest.mark.parametrize("persisted", [1, 2])
def test_put_clears_the_persisted_byte(persisted: int) -> None:
    block = build([(record(b"x", persisted=persisted), b"x")])
    assert block[HEADER + PERSISTED] == 0
    assert verify(block) == lib.RW_OK


def test_a_block_of_another_engine_epoch_or_place_is_refused(block: bytearray) -> None:
    assert check(block, uuid=bytes(16)) == lib.RW_BAD
    assert check(block, epoch=EPOCH - 1) == lib.RW_BAD
    assert check(block, epoch=EPOCH + 1) == lib.RW_BAD
    assert check(block, position=POSITION + 4096) == lib.RW_BAD


@pytest.mark.parametrize(("epoch", "position"), [(EPOCH - 1, POSITION), (EPOCH, POSITION + 4096)])
def test_records_of_another_block_do_not_fit_under_a_right_header(epoch: int, position: int) -> None:
    # A torn write: the new header reached the disk, the records are those that an older block left there.
    block = build([(record(b"old"), b"old")])
    lib.rw_frame_put(
        ffi.from_buffer("uint8_t[]", block) + HEADER, record(b"old"), b"old", lib.rw_frame_seed(epoch, position)
    )
    assert check(block) == lib.RW_OK
    assert verify(block) == lib.RW_BAD


@pytest.mark.parametrize("available", [0, 1, HEADER - 1, HEADER, 4096, 8191])
def test_a_truncated_block_is_refused(available: int) -> None:
    payload = bytes(5000)
    block = build([(record(payload), payload)])
    assert len(block) == 8192
    assert check(block, available=available) == lib.RW_BAD


def test_a_block_whose_tail_never_reached_the_disk_is_refused() -> None:
    payload = b"\xa5" * 9000
    block = build([(record(payload), payload)])
    for end in (512, 4096, 8192):
        torn = block[:end] + bytes(len(block) - end)
        assert check(torn) == lib.RW_OK
        assert verify(torn) == lib.RW_BAD


@pytest.mark.parametrize(
    "fields",
    [
        {"length": 0}, {"length": 4095}, {"length": 4097}, {"length": 2048}, {"used": HEADER - 1}, {"used": 4097},
        {"span": 0}, {"span": 4095}, {"magic": MAGIC + 1}, {"format_version": 0}, {"format_version": 1},
        {"span": 4097}, {"span": 2**64 - 4096}, {"span": 2**64 - POSITION}, {"frames": 2}, {"frames": 2**32 - 1},
        {"used": HEADER},
    ],
)  # fmt: skip
def test_impossible_headers_with_a_right_checksum_are_refused(fields: dict[str, int]) -> None:
    assert check(build([(record(b"x"), b"x")], **fields)) == lib.RW_BAD


@pytest.mark.parametrize("fields", [{"frames": 0}, {"used": HEADER + RECORD}, {"used": 4096}])
def test_records_must_end_at_used(fields: dict[str, int]) -> None:
    block = build([(record(b"x"), b"x")], **fields)
    assert check(block) == lib.RW_OK
    assert verify(block) == lib.RW_BAD


@pytest.mark.parametrize("payload_bytes", [9, 2**31, 2**32 - 8, 2**32 - 1])
def test_a_record_that_claims_more_than_the_block_holds_is_refused(payload_bytes: int) -> None:
    block = build([(record(b"x"), b"x")])
    base = ffi.from_buffer("uint8_t[]", block)
    liar = record(b"x", payload_bytes=payload_bytes)
    # The checksum of the lie is right: rw_frame_put would copy that many bytes, so it is stamped over a short frame.
    header = bytearray(ffi.buffer(liar))
    header[:4] = bytes(4)
    seed = lib.rw_frame_seed(EPOCH, POSITION)
    header[:4] = struct.pack("<I", lib.rw_crc32c(seed, bytes(header), len(header)))
    ffi.memmove(base + HEADER, header, len(header))
    assert verify(block) == lib.RW_BAD


def test_an_unknown_kind_of_record_is_refused() -> None:
    for kind in (0, 3, 255):
        assert verify(build([(record(b"x", kind=kind), b"x")])) == lib.RW_BAD


@pytest.mark.parametrize(("name", "verdict"), [(b"", lib.RW_BAD), (b"a", lib.RW_OK), (b"n" * lib.RW_STREAM_NAME_MAX, lib.RW_OK),
                                               (b"n" * (lib.RW_STREAM_NAME_MAX + 1), lib.RW_BAD)])  # fmt: skip
def test_a_stream_definition_has_a_name_of_a_possible_length(name: bytes, verdict: int) -> None:
    assert verify(build([(record(name, count=0, kind=lib.RW_FRAME_STREAM), name)])) == verdict


@pytest.mark.parametrize(
    ("count", "payload", "verdict"),
    [
        (1, b"", lib.RW_OK),
        (1, b"anything at all", lib.RW_OK),
        (2, batch(b"a", b"bc")[1], lib.RW_OK),
        (3, batch(b"", b"", b"")[1], lib.RW_OK),
        (0, b"", lib.RW_BAD),
        (0, b"xxxx", lib.RW_BAD),
        (2, b"", lib.RW_BAD),
        (2, bytes(7), lib.RW_BAD),
        (3, batch(b"a", b"bc")[1], lib.RW_BAD),
        (2, batch(b"a", b"bc")[1] + b"!", lib.RW_BAD),
        (2, batch(b"a", b"bc")[1][:-1], lib.RW_BAD),
        (2, struct.pack("<2I", 2**32 - 1, 1) + b"", lib.RW_BAD),
        (2, struct.pack("<2I", 2**31, 2**31) + b"", lib.RW_BAD),
        (2**32 - 1, bytes(64), lib.RW_BAD),
        (2**30, bytes(64), lib.RW_BAD),
    ],
)
def test_the_lengths_of_a_batch_must_add_up(count: int, payload: bytes, verdict: int) -> None:
    assert lib.rw_batch_check(payload, len(payload), count, 0) == verdict
    assert verify(build([(record(payload, count=count), payload)])) == verdict


@pytest.mark.parametrize(
    ("count", "payload", "verdict"),
    [
        (1, struct.pack("<Q", 0), lib.RW_OK),
        (1, b"data" + struct.pack("<Q", 2**63 - 1), lib.RW_OK),
        (2, batch(b"a", b"bc")[1] + struct.pack("<2Q", 7, 5), lib.RW_OK),
        (1, b"data" + struct.pack("<Q", 2**63), lib.RW_BAD),
        (2, batch(b"a", b"bc")[1] + struct.pack("<2Q", 2**63, 5), lib.RW_BAD),
        (1, b"", lib.RW_BAD),
        (1, bytes(7), lib.RW_BAD),
        (0, b"", lib.RW_BAD),
        (2, batch(b"a", b"bc")[1], lib.RW_BAD),
        (2, batch(b"a", b"bc")[1] + bytes(8), lib.RW_BAD),
        (3, bytes(24), lib.RW_BAD),
        (2**32 - 1, bytes(64), lib.RW_BAD),
        (2**29, bytes(64), lib.RW_BAD),
    ],
)
def test_times_of_their_own_stand_last_one_for_each_record(count: int, payload: bytes, verdict: int) -> None:
    assert lib.rw_batch_check(payload, len(payload), count, lib.RW_OWN_TIMES) == verdict
    assert verify(build([(record(payload, count=count, flags=lib.RW_OWN_TIMES), payload)])) == verdict


@pytest.mark.parametrize("flags", [1, 0x10, 0x40, 0x80000000, lib.RW_OWN_TIMES | 1])
def test_other_flags_are_of_no_frame_of_ours(flags: int) -> None:
    payload = batch(b"a", b"bc")[1] + bytes(16)
    assert verify(build([(record(payload, count=2, flags=flags), payload)])) == lib.RW_BAD
    trim = record(bytes(8), count=0, kind=lib.RW_FRAME_TRIM, flags=lib.RW_OWN_TIMES)
    assert verify(build([(trim, bytes(8))])) == lib.RW_BAD


J = lib.RW_JOINED


@pytest.mark.parametrize(
    ("frames", "owners", "right"),
    [
        ([("batch", J), ("batch", 0)], (0, 0), True),
        ([("batch", J), ("batch", J), ("batch", 0), ("trim", 0)], (0, 0, 0, 0), True),
        ([("batch", J)], (0,), False),
        ([("batch", 0), ("batch", J)], (0, 0), False),
        ([("batch", J), ("trim", 0)], (0, 0), False),
        ([("trim", J), ("batch", 0)], (0, 0), False),
        ([("batch", J), ("batch", 0)], (7, 0), False),
        ([("batch", J), ("batch", 0)], (0, 7), False),
    ],
)
def test_a_block_has_all_parts_of_a_joint_append(frames: list[tuple[str, int]], owners: tuple[int, ...], right: bool) -> None:
    sorts = {"batch": (lib.RW_FRAME_BATCH, 1), "trim": (lib.RW_FRAME_TRIM, 0)}
    made = []
    for n, ((sort, flags), owner) in enumerate(zip(frames, owners, strict=True)):
        kind, count = sorts[sort]
        made.append((record(bytes(8), count, kind=kind, flags=flags, producer_id=owner, stream=n), bytes(8)))
    assert verify(build(made)) == (lib.RW_OK if right else lib.RW_BAD)


@pytest.mark.parametrize(
    ("streams", "right"),
    [
        ([*range(64)], True),
        ([*range(65)], False),
        ([1, 2, 1], False),
        ([1, 1], False),
    ],
)
def test_each_part_is_of_another_stream(streams: list[int], right: bool) -> None:
    last = len(streams) - 1
    made = [(record(b"x", flags=J if n < last else 0, producer_id=0, stream=s), b"x") for n, s in enumerate(streams)]
    assert verify(build(made)) == (lib.RW_OK if right else lib.RW_BAD)
    behind = [(record(b"x", producer_id=0, stream=streams[0]), b"x")]
    assert verify(build(made + behind + made)) == (lib.RW_OK if right else lib.RW_BAD)


@pytest.mark.parametrize("owner", [0, 7])
def test_of_a_hole_parts_may_be_missing(owner: int) -> None:
    made = [(record(b"x", flags=J, producer_id=owner), b"x")]
    assert verify(build(made, kind=lib.RW_BLOCK_HOLE)) == lib.RW_OK


def test_search_finds_the_first_header_and_only_at_its_own_position(block: bytearray) -> None:
    area = bytearray(4096 * 6)
    area[4096 * 3 : 4096 * 4] = block
    held = ffi.from_buffer("uint8_t[]", area)

    def search(position: int) -> int:
        return lib.rw_block_search(held, len(area), UUID, EPOCH, position)

    assert search(POSITION - 4096 * 3) == 4096 * 3
    assert search(POSITION) == len(area)
    area[4096 * 3 + 40] ^= 1
    assert search(POSITION - 4096 * 3) == len(area)


def test_search_counts_a_block_that_runs_past_the_area() -> None:
    payload = bytes(9000)
    block = build([(record(payload), payload)])
    held = ffi.from_buffer("uint8_t[]", block)
    assert lib.rw_block_search(held, 4096, UUID, EPOCH, POSITION) == 0
    assert lib.rw_block_search(held, 4095, UUID, EPOCH, POSITION) == 4095
