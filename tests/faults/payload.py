"""Payloads that verify themselves: bytes derived from stream, writer and number, and from nothing else."""

from __future__ import annotations

import functools
import hashlib
from typing import NamedTuple


class Origin(NamedTuple):
    """Who appended a record, and as which of his."""

    stream: str
    writer: str
    number: int


def size_of(origin: Origin, largest: int) -> int:
    """How long this payload is: mostly small, now and then up to ``largest``."""
    spread = int.from_bytes(hashlib.blake2b(f"{origin}".encode(), digest_size=4).digest(), "little")
    return 16 + (spread % largest if spread % 16 == 0 else spread % 200)


def payload(origin: Origin, largest: int = 2000) -> bytes:
    """The record that ``origin`` appends."""
    head = f"{origin.stream}|{origin.writer}|{origin.number}|".encode()
    body = hashlib.shake_128(head).digest(size_of(origin, largest))
    return head + body


@functools.lru_cache(1 << 15)  # logs that are judged again and again, each time with another ending
def origin_of(data: bytes, largest: int = 2000) -> Origin | None:
    """Who appended this, or None if nobody ever did: the bytes are not those of any origin."""
    parts = data.split(b"|", 3)
    if len(parts) != 4 or not parts[2].isdigit():
        return None
    try:
        origin = Origin(parts[0].decode(), parts[1].decode(), int(parts[2]))
    except UnicodeDecodeError:
        return None
    return origin if payload(origin, largest) == data else None
