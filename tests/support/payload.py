"""Payloads that verify themselves: bytes derived from stream, writer and number, and from nothing else.

They begin as the oracle (ringwal.demo.oracle) wants it: with the writer and the number.
"""

from __future__ import annotations

import functools
import hashlib
from typing import NamedTuple

LARGEST = 2000


class Origin(NamedTuple):
    """Who appended a record, and as which of his."""

    stream: str
    writer: str
    number: int


def size_of(origin: Origin, largest: int) -> int:
    """How long this payload is: mostly small, now and then up to ``largest``."""
    spread = int.from_bytes(hashlib.blake2b(f"{origin}".encode(), digest_size=4).digest(), "little")
    return 16 + (spread % largest if spread % 16 == 0 else spread % 200)


def payload(origin: Origin, size: int | None = None) -> bytes:
    """The record that ``origin`` appends. ``size``: of what follows its head; without it small, now and then larger."""
    head = f"{origin.writer} {origin.number} {origin.stream}|".encode()
    return head + hashlib.shake_128(head).digest(size_of(origin, LARGEST) if size is None else size)


def own_time(writer: str, number: int) -> int | None:
    """The time that this record is given beside the engine's: those of every second writer have one, in no order."""
    return None if writer[-1] in "02468" else number * 0x9E3779B97F4A7C15 % (1 << 63)


@functools.lru_cache(1 << 15)  # logs that are judged again and again, each time with another ending
def origin_of(data: bytes) -> Origin | None:
    """Who appended this, or None if nobody ever did: the bytes are not those of any origin."""
    try:
        writer, number, rest = data.split(b" ", 2)
        stream, mark, body = rest.partition(b"|")
        origin = Origin(stream.decode(), writer.decode(), int(number))
    except ValueError:
        return None
    return origin if mark and payload(origin, len(body)) == data else None


def mixed(origin: Origin, large: int) -> bytes:
    """As `payload`, and each eighth record is ``large``."""
    return payload(origin, large if origin.number % 8 == 7 else origin.number * 37 % 600)
