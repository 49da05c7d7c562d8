"""Writes small logs by docs/format.md alone, with what no engine writes yet: the counterpart of faults/decode.py, which has
other structs, another CRC and another walk, so that the document is what they agree by.

A log has one segment and one epoch. Frames are made when it is known where their block lies: they are functions of the seed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash

PAGE = 4096
SEGMENT_BYTES = 3 << 20
UUID = bytes(range(100, 116))
EPOCH = 7
NOBODY = 0xFFFFFFFF
BATCH, DEFINITION, TRIM, DELETE, VERDICT, DROP, _, SETTINGS, CLAIM = range(1, 10)
LZ4, ZSTD, KEYED, TIMED, JOINED = 2, 1, 16, 32, 128
KEYS, COMPRESSED = 2, 4

Frame = Callable[[int], bytes]
"""Its bytes, padding included, by the seed of its CRC."""


def crc(data: bytes, seed: int = 0) -> int:
    """CRC-32C, bit by bit."""
    c = seed ^ 0xFFFFFFFF
    for byte in data:
        c ^= byte
        for _ in range(8):
            c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
    return c ^ 0xFFFFFFFF


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def xxh3(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data)


class Producer(NamedTuple):
    """Who a batch is of."""

    id: int = 0
    epoch: int = 0
    sequence: int = 0


NONE = Producer()


def lengths(items: Sequence[bytes]) -> bytes:
    """The payload of a batch of these records."""
    if len(items) == 1:
        return items[0]
    return b"".join(len(item).to_bytes(4, "little") for item in items) + b"".join(items)


def frame(
    kind: int, stream: int, base: int, payload: bytes = b"", records: int = 0, *, flags: int = 0, by: Producer = NONE,
    time: int = 1,
) -> Frame:  # fmt: skip
    """Any frame."""

    def made(seed: int) -> bytes:
        rest = struct.pack("<BBHIIIIQQQQQ", kind, 0, 3, len(payload), records, stream, flags, base, time, xxh3(payload), 11, 12)
        rest += struct.pack("<QQII", by.id, by.sequence, by.epoch, 5)
        head = bytes(4) + rest
        return struct.pack("<I", crc(head, seed)) + rest + padded(payload)

    return made


def define(stream: int, name: str, base: int = 0) -> Frame:
    return frame(DEFINITION, stream, base, name.encode())


def batch(stream: int, base: int, *items: bytes, flags: int = 0, by: Producer = NONE, time: int = 1) -> Frame:
    """``items`` as they stand in the log: keys, headers and codec are the caller's."""
    return frame(BATCH, stream, base, lengths(items), len(items), flags=flags, by=by, time=time)


def trim(stream: int, base: int, start: int) -> Frame:
    return frame(TRIM, stream, base, struct.pack("<Q", start))


def delete(stream: int, base: int) -> Frame:
    return frame(DELETE, stream, base)


def verdict(stream: int, reason: int = 1, value: int = 0, base: int = 0, by: Producer = NONE) -> Frame:
    return frame(VERDICT, stream, base, struct.pack("<IIQ", reason, 77, value), by=by)


def claim(
    stream: int, base: int, by: Producer, name: str | bytes = "p", *, kind: int = 1, forgets: int = 0, time: int = 1
) -> Frame:  # fmt: skip
    """`by` is what the owner is from then on."""
    raw = name.encode() if isinstance(name, str) else name
    return frame(CLAIM, stream, base, struct.pack("<IIQ", kind, forgets, 99) + raw, by=by, time=time)


def drop(*rows: tuple[int, int]) -> Frame:
    return frame(DROP, NOBODY, 0, b"".join(struct.pack("<IIQ", stream, 5, start) for stream, start in rows))


def settings(stream: int, base: int, payload: bytes) -> Frame:
    return frame(SETTINGS, stream, base, payload)


def own(*names: bytes, version: int = 1, said: int = 0, limits: tuple[int, int, int] = (0, 0, 0), text: int = -1) -> bytes:
    """What a frame of settings holds; `text` is the length of the text, if it says another one."""
    held = b"".join(bytes((len(name),)) + name for name in names)
    return struct.pack("<IHHQQQ", version, said, len(held) if text < 0 else text, *limits) + held


def joint(*parts: Frame | tuple[int, int, bytes]) -> tuple[Frame, ...]:
    """A joint append; of a batch stream, base and one record, of anything else its frame."""
    last = len(parts) - 1
    return tuple(
        batch(part[0], part[1], part[2], flags=JOINED if n < last else 0) if isinstance(part, tuple) else part
        for n, part in enumerate(parts)
    )


def keyed(data: bytes, key: bytes | None, *headers: tuple[str, bytes]) -> bytes:
    """What stands for a record with key and headers."""
    raw = struct.pack("<IHH", NOBODY if key is None else len(key), len(headers), 0) + (key or b"")
    for name, value in headers:
        raw += struct.pack("<HHI", len(name.encode()), 0, len(value)) + name.encode() + value
    return raw + data


def packed(payload: bytes, made: bytes) -> bytes:
    """What stands for a payload of which a codec made this."""
    return struct.pack("<IIQ", len(payload), 0, xxh3(payload)) + made


def zstd(payload: bytes) -> bytes:
    """One frame with one raw block, of less than 256 bytes."""
    block = 1 | len(payload) << 3
    return struct.pack("<IBB", 0xFD2FB528, 0x20, len(payload)) + block.to_bytes(3, "little") + payload


def lz4(payload: bytes) -> bytes:
    """One block, with the matches that a simple search finds."""
    out, seen, at, literals = b"", dict[bytes, int](), 0, 0
    while at < len(payload) - 12:  # the end of a block is literals
        four = payload[at : at + 4]
        before, seen[four] = seen.get(four), at
        if before is None or at - before > 0xFFFF:
            at += 1
            continue
        size = 4
        while at + size < len(payload) - 5 and payload[before + size] == payload[at + size]:
            size += 1
        out += _sequence(payload[literals:at], at - before, size)
        at = literals = at + size
    return out + _sequence(payload[literals:], 0, 4)


def _sequence(literals: bytes, distance: int, size: int) -> bytes:
    def more(count: int) -> bytes:
        return b"" if count < 15 else b"\xff" * ((count - 15) // 255) + bytes([(count - 15) % 255])

    token = bytes([min(15, len(literals)) << 4 | (min(15, size - 4) if distance else 0)])
    tail = distance.to_bytes(2, "little") + more(size - 4) if distance else b""
    return token + more(len(literals)) + literals + tail


def timed(payload: bytes, *own: int) -> bytes:
    """The payload of a batch whose records have these times of their own."""
    return payload + struct.pack(f"<{len(own)}Q", *own)


def wrong_joints() -> dict[str, tuple[tuple[Frame | tuple[int, int, bytes], ...], int]]:
    """What no joint append may be, by name: its frames, and which of them is the first that may not stand there. Each has the
    records b"a" of stream 1 at 1 and, where it has another batch of one, b"b" of stream 2 at 0 or of stream 1 at 2."""
    return {
        "it ends with its block": (((1, 1, b"a"), batch(2, 0, b"b", flags=JOINED)), 1),
        "two parts of one stream": (((1, 1, b"a"), (1, 2, b"b")), 1),
        "a trim between its parts": (((1, 1, b"a"), frame(TRIM, 2, 0, bytes(8)), (2, 0, b"b")), 1),
        "a part with a producer": (((1, 1, b"a"), batch(2, 0, b"b", by=Producer(6, 1, 0))), 1),
    }


def with_wrong_joint(directory: Path, name: str, *, behind: bool = False) -> tuple[Path, int]:
    """A log with such a one, and the log position of the frame that may not stand there. It lies below the checkpoint, or
    ``behind`` it, where the next block vouches for it."""
    parts, wrong = wrong_joints()[name]
    of_one = 3 if name == "two parts of one stream" else 2  # of the four records in all
    made = Log(directory)
    made.add(define(1, "one"), define(2, "two"), batch(1, 0, b"first"))
    position = made.position + 128 + wrong * 96  # each frame in front has a payload of up to 8 bytes
    made.add(*joint(*parts))
    made.add(batch(1, of_one, b"last"))
    if behind:
        return made.write(), position
    rows = Row(1, "one", of_one + 1, 0, of_one + 8, 1), Row(2, "two", 3 - of_one, 0, 3 - of_one, 3 - of_one)
    return made.write(*rows, at=made.position), position


class Row(NamedTuple):
    """Of a stream, in the checkpoint."""

    stream: int
    name: str
    next: int = 0
    start: int = 0
    payload_bytes: int = 0
    time: int = 0
    settings: bytes = b""


class Owner(NamedTuple):
    """Of an owner, in the checkpoint."""

    id: int
    stream: int
    epoch: int = 1
    next: int = 0
    last: int = 0
    offset: int = 0
    time: int = 1
    name: bytes = b"p"
    kind: int = 1


class Log:
    """A log of some blocks, as its files."""

    def __init__(self, directory: Path, features: int = 0) -> None:
        self.directory = directory
        self.features = features
        self.data = bytearray()
        self.add(kind=2)

    @property
    def position(self) -> int:
        return len(self.data)

    def add(self, *frames: Frame, kind: int = 1) -> None:
        """The next block; it vouches for those before it."""
        where = struct.pack("<QQ", EPOCH, self.position)
        body = b"".join(made(crc(where)) for made in frames)
        used = 128 + len(body)
        length = -(-used // PAGE) * PAGE
        number = self.position // PAGE
        rest = struct.pack("<I", 2) + UUID + where + struct.pack("<IIII", length, used, len(frames), kind)
        rest += struct.pack("<QQQQQQQQ", length, self.position, number, 0, 0, 1, 0, 0)
        head = b"RWBLOCK1" + bytes(4) + rest
        self.data += (head[:8] + struct.pack("<I", crc(head)) + rest + body).ljust(length, b"\0")

    def write(
        self, *rows: Row, at: int = PAGE, owners: Sequence[Owner] = (), next_stream: int = 100, next_owner: int = 100,
        features: int | None = None, of_segment: int | None = None,
    ) -> Path:  # fmt: skip
        """The files, with a checkpoint about log position ``at``. ``features`` and ``of_segment`` are the checkpoint's and the
        segment's bits, if they are others than the manifest's. Returns the directory."""
        (self.directory / "segments").mkdir(parents=True)
        head = struct.pack("<8sII16sQQQ", b"RWSEGMT1", 2, self._bits(of_segment), UUID, 0, SEGMENT_BYTES, 1)
        raw = (head + struct.pack("<Q", xxh3(head))).ljust(PAGE, b"\0") + self.data.ljust(SEGMENT_BYTES, b"\0")
        (self.directory / "segments" / f"{0:020d}.seg").write_bytes(raw)
        table = self._checkpoint(rows, at, owners, (next_stream, next_owner), self._bits(features))
        (self.directory / "checkpoint-1").write_bytes(table + b"what was there before")
        (digest,) = struct.unpack_from("<Q", table, 88)
        copies = [self._manifest(counter, at, len(table), digest) for counter in (6, 5)]
        (self.directory / "manifest").write_bytes(b"".join(copy.ljust(PAGE, b"\0") for copy in copies))
        return self.directory

    def _bits(self, own: int | None) -> int:
        return self.features if own is None else own

    def _checkpoint(
        self, rows: Sequence[Row], at: int, owners: Sequence[Owner], nexts: tuple[int, int], features: int
    ) -> bytes:  # fmt: skip
        body = b"".join(
            struct.pack("<IHHQQQQ120s120s", row.stream, 1, len(row.name.encode()), *row[2:6], row.name.encode(), row.settings)
            for row in rows
        )
        body += struct.pack("<QQQ", EPOCH, 0, 0)
        for one in owners:
            body += struct.pack("<IIIIQQQQ", one.id, one.kind, one.epoch, one.stream, one.next, one.last, one.offset, one.time)
            body += struct.pack("<II120s", len(one.name), 0, one.name)
        counts = (len(rows), len(owners), 1, nexts[0], PAGE + len(body))
        head = struct.pack("<8sII16sQQQQIIIIQ", b"RWCHKPT1", 2, features, UUID, EPOCH, at, at // PAGE, 1, *counts)
        whole = (head + struct.pack("<QIII", 0, 280, 176 if nexts[1] else 0, nexts[1])).ljust(PAGE, b"\0") + body
        return whole[:88] + struct.pack("<Q", xxh3(whole)) + whole[96:]

    def _manifest(self, counter: int, at: int, size: int, digest: int) -> bytes:
        body = struct.pack("<8sIIQ16s", b"RWMANIF1", 2, self.features, counter, UUID)
        body += struct.pack("<QQQQQQQ", EPOCH, EPOCH, 0, 0, 1, SEGMENT_BYTES, 1 << 18)
        body += struct.pack("<QQQIIQ", at, size, digest, 1, 0, 0)
        return body + struct.pack("<Q", xxh3(body))
