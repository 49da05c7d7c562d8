"""Side files by docs/format.md and nothing else, and whether they say what the segment says: beside decode.py."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import NamedTuple

import xxhash

from tests.faults import decode
from tests.faults.decode import BATCH, PAGE, DecodeError

HEADER = struct.Struct("<8sII16sQQQQIIIIIIQQQ")
EPOCH = struct.Struct("<QQQ")
STREAM = struct.Struct("<IIIIQQQ")
ENTRY = struct.Struct("<II")
BLOCK = struct.Struct("<QQII")
END = struct.Struct("<IIQ")
SECTIONS = (EPOCH, STREAM, ENTRY, BLOCK, END)


class Side(NamedTuple):
    newest_ns: int
    oldest_ns: int
    epochs: list[tuple[int, int, int]]
    streams: dict[int, tuple[int, int, int]]
    """First and next offset, payload bytes."""
    places: dict[int, list[tuple[int, int]]]
    """By stream: the first offset in each block, and the block's index."""
    blocks: list[tuple[int, int, int, int]]
    """Position, newest timestamp, length, frames."""
    ends: dict[int, int]


def _pages(size: int) -> int:
    return (size + PAGE - 1) // PAGE


def side(directory: Path, number: int, state: decode.Manifest) -> Side:
    """The side file of that segment. Raises DecodeError, FileNotFoundError."""
    raw = (directory / "segments" / f"{number:020d}.side").read_bytes()
    if len(raw) < PAGE:
        raise DecodeError("the side file is too short")
    magic, version, features, uuid, *rest = HEADER.unpack_from(raw)
    its, size, newest, oldest, *counts, zero, length, digests, digest = rest
    if magic != b"RWSIDEF1" or version != decode.VERSION or features or zero or digest != xxhash.xxh3_64_intdigest(raw[:104]):
        raise DecodeError("the side file's header is damaged")
    if (uuid, its, size, length) != (state.uuid, number, state.segment_bytes, len(raw)):
        raise DecodeError("the side file is another one's")
    tables = _sections(raw, counts, digests)
    unpacked = ([one.unpack(row) for row in rows] for one, rows in zip(SECTIONS, tables, strict=True))
    epochs, streams, entries, blocks, ends = unpacked
    found = Side(newest, oldest, epochs, {}, {}, blocks, {})
    for stream, count, first, nothing, low, high, payload in streams:
        if nothing or stream in found.streams or first + count > len(entries):
            raise DecodeError(f"the side file's row of stream {stream} makes no sense")
        found.streams[stream] = low, high, payload
        found.places[stream] = [(low + offset, block) for offset, block in entries[first : first + count]]
    for stream, nothing, end in ends:
        if nothing or stream in found.ends:
            raise DecodeError(f"the side file's end of stream {stream} makes no sense")
        found.ends[stream] = end
    if list(found.streams) != sorted(found.streams) or list(found.ends) != sorted(found.ends):
        raise DecodeError("the side file's rows are not in order")
    return found


def _sections(raw: bytes, counts: list[int], digests: int) -> list[list[bytes]]:
    """The rows of each, their pages checked."""
    sizes = [_pages(count * one.size) for count, one in zip(counts, SECTIONS, strict=True)]
    begin = PAGE * (1 + _pages(8 * sum(sizes)))
    if begin + PAGE * sum(sizes) != len(raw) or digests != xxhash.xxh3_64_intdigest(raw[PAGE:begin]):
        raise DecodeError("the side file's sizes do not add up, or its digests are damaged")
    for page in range(sum(sizes)):
        (wanted,) = struct.unpack_from("<Q", raw, PAGE + 8 * page)
        if wanted != xxhash.xxh3_64_intdigest(raw[begin + PAGE * page :][:PAGE]):
            raise DecodeError(f"page {page} of the side file is damaged")
    tables, at = [], begin
    for pages, count, one in zip(sizes, counts, SECTIONS, strict=True):
        tables.append([raw[at + i * one.size :][: one.size] for i in range(count)])
        if any(raw[at + count * one.size : at + PAGE * pages]):
            raise DecodeError("the side file has something behind its rows")
        at += PAGE * pages
    return tables


def check(directory: Path, number: int) -> Side:
    """Does the side file of that segment say what the segment says? Raises DecodeError if not, or if either is damaged."""
    log = decode.Log(directory)
    found = side(directory, number, log.manifest)
    size = log.manifest.segment_bytes
    begin, end = number * size, (number + 1) * size
    if end > log.manifest.position:
        raise DecodeError(f"segment {number} has a side file, and is not below the checkpoint")
    epochs = [(epoch, max(first, begin), min(cut or end, end)) for epoch, first, cut in log.epochs()]
    if found.epochs != [row for row in epochs if row[1] < row[2]]:
        raise DecodeError(f"the side file of segment {number} has other epochs: {found.epochs}")
    streams: dict[int, tuple[int, int, int]] = {}
    places: dict[int, list[tuple[int, int]]] = {}
    positions: list[int] = []
    for block in _blocks(log, found.epochs):
        for frame in block.frames:
            if frame.kind == BATCH:
                first, _, payload = streams.get(frame.stream, (frame.base, 0, 0))
                streams[frame.stream] = first, frame.base + frame.records, payload + len(frame.payload)
                of = places.setdefault(frame.stream, [])
                if not of or of[-1][1] != len(positions):
                    of.append((frame.base, len(positions)))
        positions.append(block.position)
    if (found.streams, found.places) != (streams, places):
        raise DecodeError(f"the side file of segment {number} has other streams than the segment")
    if [block[0] for block in found.blocks] != positions:
        raise DecodeError(f"the side file of segment {number} has other blocks than the segment")
    if any(stream in found.ends and found.ends[stream] != row[1] for stream, row in streams.items()):
        raise DecodeError(f"the side file of segment {number} has other ends than the segment")
    if missing := [stream for stream in streams if stream in log.checkpoint.streams and stream not in found.ends]:
        raise DecodeError(f"the side file of segment {number} has no ends of streams {missing}")
    _check_times(found)
    return found


def _blocks(log: decode.Log, epochs: list[tuple[int, int, int]]) -> list[decode.Block]:
    blocks = []
    for epoch, begin, end in epochs:
        position = begin
        while position < end:
            block = log.block(position, epoch)
            if block is None:
                raise DecodeError(f"there is no valid block at {position}")
            blocks.append(block)
            position += block.span
    return blocks


def _check_times(found: Side) -> None:
    times = [block[1] for block in found.blocks]
    if times != sorted(times) or (times and (times[-1] != found.newest_ns or found.oldest_ns > found.newest_ns)):
        raise DecodeError("the side file's times go back")


def check_all(directory: Path) -> list[int]:
    """`check` of every side file that is there. Returns their numbers."""
    found = sorted(int(path.stem) for path in (directory / "segments").glob("*.side"))
    for number in found:
        check(directory, number)
    return found


def forged(data: bytes, chance: random.Random) -> bytes:
    """A side file with changed numbers, and checksums that are right again."""
    raw = bytearray(data)
    counts = list(struct.unpack_from("<5I", raw, 64))
    sizes = [_pages(count * one.size) for count, one in zip(counts, SECTIONS, strict=True)]
    begin = PAGE * (1 + _pages(8 * sum(sizes)))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(begin, len(raw) - 4) // 4 * 4
        struct.pack_into("<I", raw, at, chance.choice((0, 1, 0xFFFFFFFF, chance.getrandbits(32), chance.randrange(64))))
    if chance.random() < 0.3:
        which = chance.randrange(5)
        counts[which] = max(0, counts[which] + chance.choice((-1, 1, 7, -7)))
        struct.pack_into("<5I", raw, 64, *counts)
    return _sealed(raw, begin)


def shifted(data: bytes, by: int) -> bytes:
    """A side file that leads to another block, so many further on in the segment, and checksums that are right again."""
    raw = bytearray(data)
    counts = list(struct.unpack_from("<5I", raw, 64))
    sizes = [_pages(count * one.size) for count, one in zip(counts, SECTIONS, strict=True)]
    begin = PAGE * (1 + _pages(8 * sum(sizes)))
    entries = begin + PAGE * (sizes[0] + sizes[1])
    for at in range(entries + 4, entries + 8 * counts[2], 8):
        (block,) = struct.unpack_from("<I", raw, at)
        struct.pack_into("<I", raw, at, (block + by) % counts[3])
    return _sealed(raw, begin)


def _sealed(raw: bytearray, begin: int) -> bytes:
    """With checksums that are right; the sections begin at that byte."""
    for page in range(len(raw[begin:]) // PAGE):
        digest = xxhash.xxh3_64_intdigest(raw[begin + PAGE * page :][:PAGE])
        struct.pack_into("<Q", raw, PAGE + 8 * page, digest)
    struct.pack_into("<Q", raw, 96, xxhash.xxh3_64_intdigest(raw[PAGE:begin]))
    struct.pack_into("<Q", raw, 104, xxhash.xxh3_64_intdigest(raw[:104]))
    return bytes(raw)
