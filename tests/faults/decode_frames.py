"""Frames and what is in them, by docs/format.md and nothing else: the part of decode.py that needs no file."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import xxhash

RECORD = struct.Struct("<IBBHIIIIQQQQQQQII")
DROPPED = struct.Struct("<IIQ")
SETTINGS_HEAD = struct.Struct("<IHHQQQ")
SETTINGS_TEXT, SETTINGS_SAID = 88, 7
VERDICT_PAYLOAD = struct.Struct("<IIQ")
CLAIM_HEAD = struct.Struct("<IIQ")
PACKED = struct.Struct("<IIQ")
KEYED = struct.Struct("<IHH")
NAMED = struct.Struct("<HHI")

BATCH, DEFINITION, TRIM, DELETE, VERDICT, DROP, _, SETTINGS, CLAIM, COMMIT = range(1, 11)
KINDS = (BATCH, DEFINITION, TRIM, DELETE, VERDICT, DROP, SETTINGS, CLAIM, COMMIT)
JOIN = (BATCH, COMMIT)
KEYS, COMPRESSED = 2, 4
"""Features."""
KNOWN = KEYS | COMPRESSED
NO_STREAM, NO_KEY = 0xFFFFFFFF, 0xFFFFFFFF
CODEC, KEYED_FLAG, TIMED_FLAG, JOINED_FLAG = 0xF, 0x10, 0x20, 0x80
PARTS_MAX = 64
TIME_MAX = (1 << 63) - 1
ZSTD, LZ4 = 1, 2
PRODUCER, CONSUMER, OWNER_NAME_MAX, NUMBERS = 1, 2, 120, 1 << 32
FORGET = (1 << 64) - 1
DEAD_STREAM, OTHER_PART, REASONS = 1, 7, range(1, 8)
ZSTD_MAGIC = 0xFD2FB528


class DecodeError(Exception):
    """The files are not what the format says."""


def _crc_table() -> list[int]:
    table = []
    for i in range(256):
        c = i
        for _ in range(8):
            c = (c >> 1) ^ (0x82F63B78 if c & 1 else 0)
        table.append(c)
    return table


_TABLE = _crc_table()


def _wide_table() -> list[int]:
    """The effect of two bytes at once."""
    wide = []
    for i in range(1 << 16):
        c = (i >> 8) ^ _TABLE[i & 0xFF]
        wide.append((c >> 8) ^ _TABLE[c & 0xFF])
    return wide


_WIDE = _wide_table()


@functools.lru_cache(1 << 15)  # logs that are judged again and again, each time with another ending
def crc32c(data: bytes, seed: int = 0) -> int:
    """CRC-32C of an even number of bytes, continuing from ``seed``."""
    c = ~seed & 0xFFFFFFFF
    for pair in struct.unpack(f"<{len(data) // 2}H", data):
        c = (c >> 16) ^ _WIDE[(c ^ pair) & 0xFFFF]
    return ~c & 0xFFFFFFFF


class Frame(NamedTuple):
    """One frame."""

    kind: int
    stream: int
    base: int
    records: int
    payload: bytes
    flags: int = 0
    timestamp_ns: int = 0
    producer: tuple[int, int, int] = (0, 0, 0)
    """Id, epoch, sequence."""
    features: int = 0
    """That the log needs for it."""


class Record(NamedTuple):
    """One record: its data, and where the frame has them its key (None: none) and headers."""

    data: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    own_ns: int | None = None
    """The time that its writer gave it."""


def frames(raw: bytes, at: int, used: int, count: int, seed: int) -> list[Frame] | None:
    """The frames of a block that stand in ``raw`` from ``at`` on; None if they are not whole.

    Raises:
        DecodeError: one is whole, and not what the format says.
    """
    found: list[Frame] = []
    for _ in range(count):
        head = raw[at : at + RECORD.size]
        if len(head) < RECORD.size:
            return None
        crc, kind, _, _, size, records, stream, flags, base, when, digest, _, _, owner, sequence, epoch, _ = RECORD.unpack(head)
        payload = raw[at + RECORD.size : at + RECORD.size + size]
        if crc != crc32c(bytes(4) + head[4:5] + bytes(1) + head[6:], seed) or len(payload) != size:
            return None
        frame = Frame(kind, stream, base, records, payload, flags, when, (owner, epoch, sequence))
        if digest != xxhash.xxh3_64_intdigest(payload):
            return None
        found.append(_checked(frame))
        at += RECORD.size + _padded(size)
    return found if at == used else None


def _padded(size: int) -> int:
    return (size + 7) // 8 * 8


def _checked(frame: Frame) -> Frame:
    """With the features that it needs. Raises DecodeError."""
    kind, count, size = frame.kind, frame.records, len(frame.payload)
    if kind not in KINDS:
        raise DecodeError(f"a frame of kind {kind}")
    known = (CODEC | KEYED_FLAG | TIMED_FLAG if kind == BATCH else 0) | (JOINED_FLAG if kind in JOIN else 0)
    unknown = frame.flags & ~known
    if (kind == BATCH) != (count > 0) or unknown:
        raise DecodeError(f"a frame of kind {kind} with {count} records and flags {frame.flags:#x}")
    if frame.flags & CODEC not in (0, ZSTD, LZ4):
        raise DecodeError(f"a payload of codec {frame.flags & CODEC}")
    if (frame.stream == NO_STREAM) != (kind == DROP) and kind != VERDICT:
        raise DecodeError(f"a frame of kind {kind} of stream {frame.stream}")
    sizes = {TRIM: size == 8, COMMIT: size == 8, DELETE: size == 0, VERDICT: size == VERDICT_PAYLOAD.size}
    sizes[DROP] = bool(size) and size % DROPPED.size == 0
    if not sizes.get(kind, True):
        raise DecodeError(f"a frame of kind {kind} with {size} bytes")
    _check_producer(frame)
    features = KEYS if frame.flags & KEYED_FLAG else 0
    features |= COMPRESSED if frame.flags & CODEC else 0
    return frame._replace(features=features)


def _check_producer(frame: Frame) -> None:
    """Raises DecodeError."""
    number, epoch, sequence = frame.producer
    if frame.kind == VERDICT:
        reason, _, value = VERDICT_PAYLOAD.unpack(frame.payload)
        nothing = (reason == DEAD_STREAM and (value or frame.base)) or (reason == OTHER_PART and value)
        if reason not in REASONS or nothing:
            raise DecodeError(f"a verdict of reason {reason}, with {value}")
        return
    owned = frame.kind in (CLAIM, COMMIT) or (frame.kind == BATCH and number)
    if owned and not (0 < number < NUMBERS and epoch):
        raise DecodeError(f"a frame of kind {frame.kind} of owner {number}, epoch {epoch}")
    if not owned and (number or epoch or sequence):
        raise DecodeError(f"a frame of kind {frame.kind} with the producer {number}, {epoch}/{sequence}")


def joints(frames: Sequence[Frame], *, hole: bool = False) -> list[list[Frame]]:
    """Of the frames of a block those of each joint append. In a hole parts may be missing, so there is none to be told.

    Raises:
        DecodeError: one is not whole, or not what one may be.
    """
    found: list[list[Frame]] = []
    open_part = False
    for frame in () if hole else frames:
        if open_part and frame.kind not in JOIN:
            raise DecodeError(f"a frame of kind {frame.kind} stands in a joint append")
        if open_part:
            found[-1].append(frame)
        elif frame.flags & JOINED_FLAG:
            found.append([frame])
        open_part = bool(frame.flags & JOINED_FLAG)
    if open_part:
        raise DecodeError("a joint append ends with its block, and goes on")
    for parts in found:
        if len(parts) > PARTS_MAX or len({part.stream for part in parts}) != len(parts):
            raise DecodeError(f"a joint append has {len(parts)} parts, or two of one stream")
        if any(part.producer[0] for part in parts if part.kind == BATCH):
            raise DecodeError("a part of a joint append has a producer")
    return found


class Settings(NamedTuple):
    """What a stream has of its own."""

    version: int = 0
    """0: it has never had any."""
    said: int = 0
    age_ns: int = 0
    payload_bytes: int = 0
    records: int = 0
    retain_until: tuple[str, ...] = ()


NEVER_SET = Settings()


def settings_of(payload: bytes) -> Settings:
    """What a frame of settings says. Raises DecodeError."""
    left = _Bytes(payload, "a frame of settings")
    version, said, size, age, most, records = SETTINGS_HEAD.unpack(left.take(SETTINGS_HEAD.size))
    if not version or said & ~SETTINGS_SAID or size > SETTINGS_TEXT or size != len(payload) - SETTINGS_HEAD.size:
        raise DecodeError("a frame of settings makes no sense")
    if any(limit >= 1 << 63 or (limit and not said >> bit & 1) for bit, limit in enumerate((age, most, records))):
        raise DecodeError("a frame of settings has a limit that it does not say, or none that there could be")
    names = []
    while left.at < len(payload):
        (length,) = left.take(1)
        if not length:
            raise DecodeError("a frame of settings has a name of no bytes")
        names.append(text(left.take(length)))
    return Settings(version, said, age, most, records, tuple(names))


def claim_of(claim: Frame) -> tuple[int, int, str]:
    """The kind of owner, whom it forgets, and the owner's name. Raises DecodeError."""
    left = _Bytes(claim.payload, "a claim")
    kind, forgets, _ = CLAIM_HEAD.unpack(left.take(CLAIM_HEAD.size))
    name = claim.payload[left.at :]
    if kind not in (PRODUCER, CONSUMER) or not 0 < len(name) <= OWNER_NAME_MAX or (forgets and kind == CONSUMER):
        raise DecodeError(f"a claim of an owner of kind {kind}, with a name of {len(name)} bytes")
    return kind, forgets, text(name)


def committed_in(commit: Frame) -> int:
    """Where a consumer goes on; `FORGET`: nowhere. Raises DecodeError."""
    (offset,) = struct.unpack("<Q", commit.payload)
    if commit.base < offset < FORGET:
        raise DecodeError(f"stream {commit.stream}: a commit at {offset}, beyond its end at {commit.base}")
    return int(offset)


def start_offset(trim: Frame) -> int:
    """What a trim says. Raises DecodeError."""
    (offset,) = struct.unpack("<Q", trim.payload)
    if offset > trim.base:
        raise DecodeError(f"stream {trim.stream} is trimmed to {offset}, beyond its end at {trim.base}")
    return int(offset)


def dropped(drop: Frame) -> Iterator[tuple[int, int]]:
    """Stream and start offset of each row. Raises DecodeError."""
    last = -1
    for stream, _, offset in DROPPED.iter_unpack(drop.payload):
        if stream <= last or stream == NO_STREAM:
            raise DecodeError(f"the row of stream {stream} in a drop makes no sense")
        last = stream
        yield stream, offset


def split(payload: bytes, count: int) -> list[bytes]:
    """The records of a batch, as far as lengths say."""
    if count == 1:
        return [payload]
    if 4 * count > len(payload):
        raise DecodeError("a batch has no room for its lengths")
    lengths = struct.unpack_from(f"<{count}I", payload)
    parts, at = [], 4 * count
    for length in lengths:
        parts.append(payload[at : at + length])
        at += length
    if at != len(payload):
        raise DecodeError("a batch's lengths do not add up")
    return parts


def records_of(batch: Frame) -> list[Record]:
    """The records of a batch, unpacked. Raises DecodeError."""
    payload = unpacked(batch.payload, batch.flags & CODEC) if batch.flags & CODEC else batch.payload
    own: tuple[int, ...] = ()
    if batch.flags & TIMED_FLAG:
        payload, own = _times(payload, batch.records)
    parts = split(payload, batch.records)
    found = list(map(_keyed, parts)) if batch.flags & KEYED_FLAG else list(map(Record, parts))
    return [record._replace(own_ns=when) for record, when in zip(found, own, strict=True)] if own else found


def _times(payload: bytes, count: int) -> tuple[bytes, tuple[int, ...]]:
    """What stands before the records' own times, and those. Raises DecodeError."""
    end = len(payload) - 8 * count
    if end < 0:
        raise DecodeError("a batch has no room for its times")
    own = struct.unpack_from(f"<{count}Q", payload, end)
    if max(own) > TIME_MAX:
        raise DecodeError("a record has a time that there is not")
    return payload[:end], own


class _Bytes:
    """Bytes that are taken from the front."""

    def __init__(self, raw: bytes, what: str) -> None:
        self.raw, self.at, self._what = raw, 0, what

    def take(self, size: int) -> bytes:
        """Raises DecodeError."""
        if size > len(self.raw) - self.at:
            raise DecodeError(f"{self._what} ends early")
        self.at += size
        return self.raw[self.at - size : self.at]


def _keyed(raw: bytes) -> Record:
    left = _Bytes(raw, "a record with a key")
    key_bytes, headers, zero = KEYED.unpack(left.take(KEYED.size))
    key = None if key_bytes == NO_KEY else left.take(key_bytes)
    found = []
    for _ in range(headers):
        name_bytes, also_zero, value_bytes = NAMED.unpack(left.take(NAMED.size))
        if name_bytes == 0 or also_zero:
            raise DecodeError("a header of a record makes no sense")
        name = text(left.take(name_bytes))
        found.append((name, left.take(value_bytes)))
    if zero:
        raise DecodeError("a record's head makes no sense")
    return Record(raw[left.at :], key, tuple(found))


def text(raw: bytes) -> str:
    """Raises DecodeError."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"a name is not UTF-8: {raw!r}") from error


def unpacked(payload: bytes, codec: int) -> bytes:
    """What was compressed. Raises DecodeError, also for what this program cannot unpack but can see to be in order."""
    if len(payload) < PACKED.size:
        raise DecodeError("a compressed payload is too short")
    size, zero, digest = PACKED.unpack_from(payload)
    packed = payload[PACKED.size :]
    if zero:
        raise DecodeError("the head of a compressed payload makes no sense")
    if codec == ZSTD:
        stated = zstd_size(packed)
        if stated is not None and stated != size:
            raise DecodeError(f"a compressed payload says {size} bytes, and what is in it {stated}")
        raise DecodeError("a payload is compressed with Zstandard, which this program has not")
    found = lz4(packed, size)
    if len(found) != size or digest != xxhash.xxh3_64_intdigest(found):
        raise DecodeError("a compressed payload is not what was compressed")
    return found


def zstd_size(packed: bytes) -> int | None:
    """What the frame's header says of its content (RFC 8878, 3.1.1); None if it does not. Raises DecodeError."""
    if len(packed) < 5 or struct.unpack_from("<I", packed)[0] != ZSTD_MAGIC:
        raise DecodeError("a compressed payload is not Zstandard's")
    descriptor = packed[4]
    single, width = descriptor >> 5 & 1, (descriptor >> 5 & 1, 2, 4, 8)[descriptor >> 6]
    at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    if len(packed) < at + width:
        raise DecodeError("a compressed payload has not even its header")
    return int.from_bytes(packed[at : at + width], "little") + (256 if width == 2 else 0) if width else None


def lz4(packed: bytes, limit: int) -> bytes:
    """One LZ4 block (its block format), of at most ``limit`` bytes. Raises DecodeError."""
    left, out = _Bytes(packed, "an LZ4 block"), bytearray()

    def length(nibble: int) -> int:
        more = 255 if nibble == 15 else 0
        while more == 255:
            (more,) = left.take(1)
            nibble += more
        return nibble

    while left.at < len(packed):
        (token,) = left.take(1)
        out += left.take(length(token >> 4))
        if left.at == len(packed):  # the last sequence has literals only
            break
        distance = int.from_bytes(left.take(2), "little")
        count = length(token & 15) + 4
        if not 0 < distance <= len(out) or len(out) + count > limit:
            raise DecodeError("an LZ4 block copies what is not there, or too much")
        for _ in range(count):
            out.append(out[-distance])
    return bytes(out)
