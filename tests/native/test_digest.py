"""XXH3-64 against the `xxhash` package, CRC-32C against its published vectors and a bitwise definition."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import xxhash

from ringwal._native import ffi, lib

# RFC 3720 appendix B.4, and the check value of the catalogue of CRCs.
CRC_VECTORS = [
    (b"", 0),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
]


def random_bytes(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def crc_by_bits(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_xxh3_of_every_length_that_takes_a_path_of_its_own() -> None:
    # 0, 1-3, 4-8, 9-16, 17-128, 129-240, then stripes of 64 and blocks of 1024: 2100 reaches into a third block.
    data = random_bytes(1, 2100)
    wrong = [n for n in range(len(data) + 1) if lib.rw_xxh3(data, n) != xxhash.xxh3_64_intdigest(data[:n])]
    assert wrong == []


@pytest.mark.parametrize("seed", range(40))
def test_xxh3_of_random_long_payloads(seed: int) -> None:
    length = random.Random(seed).choice([4096, 65536, 1 << 20]) + random.Random(-seed).randrange(-1030, 1030)
    data = random_bytes(seed, length)
    assert lib.rw_xxh3(data, length) == xxhash.xxh3_64_intdigest(data)


def test_xxh3_does_not_depend_on_alignment() -> None:
    data = random_bytes(2, 1500)
    expected = xxhash.xxh3_64_intdigest(data)
    for shift in range(1, 64):
        shifted = ffi.new("uint8_t[]", bytes(shift) + data)
        assert lib.rw_xxh3(shifted + shift, len(data)) == expected


def test_xxh3_of_special_bytes() -> None:
    for byte in (0x00, 0x01, 0x80, 0xFF):
        for length in (3, 8, 16, 128, 240, 241, 1024, 1025, 5000):
            data = bytes([byte]) * length
            assert lib.rw_xxh3(data, length) == xxhash.xxh3_64_intdigest(data), (byte, length)


@pytest.mark.parametrize(("data", "crc"), CRC_VECTORS)
def test_crc_vectors(data: bytes, crc: int) -> None:
    assert lib.rw_crc32c(0, data, len(data)) == crc


def test_crc_of_every_short_length() -> None:
    data = random_bytes(3, 300)
    assert [n for n in range(301) if lib.rw_crc32c(0, data, n) != crc_by_bits(data[:n])] == []


def test_crc_of_pieces_chained_is_the_crc_of_the_whole() -> None:
    data = random_bytes(4, 1000)
    whole = lib.rw_crc32c(0, data, len(data))
    dice = random.Random(5)
    for _ in range(100):
        cuts = [0, *sorted(dice.sample(range(1, 1000), dice.randrange(1, 6))), 1000]
        crc = 0
        for begin, end in pairwise(cuts):
            crc = lib.rw_crc32c(crc, data[begin:end], end - begin)
        assert crc == whole
