"""The attic by docs/format.md and nothing else: beside decode.py."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

import xxhash

from tests.faults.decode_frames import DecodeError

PAGE = 4096
VERSION = 2
CATALOGUE = struct.Struct("<8sII16sQQIIQ")
NAMED = struct.Struct("<QQQ")
HEADER = struct.Struct("<8sII16sQQIIQQ")
ROW = struct.Struct("<QQQII")


def catalogue(directory: Path, uuid: bytes) -> tuple[int, list[tuple[int, int, int]]]:
    """Its end, and number, bytes and digest of each file; nothing where there is none. Raises DecodeError."""
    try:
        raw = (directory / "attic").read_bytes()
    except FileNotFoundError:
        return 0, []
    if len(raw) < CATALOGUE.size:
        raise DecodeError("the catalogue of the attic is too short")
    magic, version, features, its, end, next_file, count, zero, digest = CATALOGUE.unpack_from(raw)
    blank = raw[: CATALOGUE.size - 8] + bytes(8) + raw[CATALOGUE.size :]
    good = (magic, version, features, zero, its) == (b"RWATTIC1", VERSION, 0, 0, uuid)
    if not good or digest != xxhash.xxh3_64_intdigest(blank):
        raise DecodeError("the catalogue of the attic is damaged")
    if len(raw) != CATALOGUE.size + count * NAMED.size:
        raise DecodeError("the catalogue of the attic contradicts itself")
    files = list(NAMED.iter_unpack(raw[CATALOGUE.size :]))
    if any(number >= next_file for number, _, _ in files):
        raise DecodeError("the catalogue of the attic has a file with a number that was not given out")
    return end, files


def blocks(directory: Path, uuid: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Log position, epoch and bytes of every block in the attic, in log order. Raises DecodeError."""
    _, files = catalogue(directory, uuid)
    found: list[tuple[int, int, bytes]] = []
    for named in files:
        found += _file(directory, uuid, *named)
    found.sort()
    if any(a[0] + len(a[2]) > b[0] for a, b in itertools.pairwise(found)):
        raise DecodeError("the attic has a block twice")
    yield from found


def _file(directory: Path, uuid: bytes, number: int, size: int, digest: int) -> list[tuple[int, int, bytes]]:
    raw = (directory / "segments" / f"{number:020d}.attic").read_bytes()
    if len(raw) != size or size < PAGE:
        raise DecodeError(f"attic file {number} has {len(raw)} bytes instead of {size}")
    magic, version, features, its, its_number, its_size, count, zero, its_digest, own = HEADER.unpack_from(raw)
    good = (magic, version, features, zero) == (b"RWATTICF", VERSION, 0, 0)
    if not good or own != xxhash.xxh3_64_intdigest(raw[: HEADER.size - 8]):
        raise DecodeError(f"the header of attic file {number} is damaged")
    index = raw[PAGE : PAGE + count * ROW.size]
    if (its, its_number, its_size, its_digest) != (uuid, number, size, digest) or digest != xxhash.xxh3_64_intdigest(index):
        raise DecodeError(f"attic file {number} is another one, or its index is damaged")
    found = []
    at = PAGE + (count * ROW.size + PAGE - 1) // PAGE * PAGE
    for position, epoch, place, length, nothing in ROW.iter_unpack(index):
        if place != at or nothing or length % PAGE or place + length > size:
            raise DecodeError(f"the index of attic file {number} makes no sense at {position}")
        found.append((position, epoch, raw[place : place + length]))
        at += length
    return found
