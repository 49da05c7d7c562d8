"""The socket between clients and the supervisor: both ends of one small protocol.

SOCK_SEQPACKET, so that a message is a packet and the kernel reports the peer's death as end of file, in any pid
namespace. A message is one JSON object of at most MESSAGE_BYTES_MAX; each request gets one reply.

    {"op": "hello", "layout": n, "format": n, "pid": n, "role": "client"}      first, and once;
        a "stop" is greeted by an engine that is stopping, too
        -> {"uuid", "epoch", "control_bytes", "ring_bytes", "directory", "config"}, and `Descriptors`
    {"op": "lane", "bytes": n, "wait": seconds}
        -> {"slot", "generation", "bytes"} and the lane, at once or, if every place is taken but some are closing, when one has
           closed; refused `wait` after it was received. Without it there is no limit. Any other request of the connection
           ends the waiting
    {"op": "lane", ..., "bell": true}  -> the same, and a second descriptor, which hears the lane's bell (csrc/wait.h)
    {"op": "withdraw", "request": tag}              -> {}: nobody waits any more for the lane of the request of that tag
    {"op": "release", "slot": n, "generation": n}   -> {}: the client has no use for that lane any more
    {"op": "stream", "name": s}   -> {"number", "place"} of the stream, which is made if need be
    {"op": "stream", "name": s, "look": true}       -> the same, or refused: there is none, and none is made
    {"op": "trim", "name": s, "number": n, "before": n}    -> {}: under way; memory says when it is in force, and for good
    {"op": "delete", "name": s, "number": n}               -> {}: under way, or done long ago, as numbers are not used again
    {"op": "create", "name": s, "age": ns, "bytes": n, "records": n, "retain": s}
        -> {"number", "place", "version"}: the stream is there, and its settings are under way, or were these before; memory
           says when that version is confirmed. Each setting may be left out: as it is, or not said. -1: not said, the
           engine's default holds; 0: there is no limit. The names of consumers are separated by newlines.
    {"op": "create", ..., "exist_ok": true}  -> the same; a stream that has other settings keeps them, and is not refused
    {"op": "configure", "name": s, "number": n, ...}       -> the same, of a stream that is there
    {"op": "claim", "stream": s, "name": s}
        -> {"number", "epoch", "next"} of the producer, when that is on stable storage
    {"op": "consume", "name": s, "count": n, "stream0": s, "start0": n, ...}
        -> {"rows"}: of each stream that the consumer has, "stream", "number", "epoch", "next", when that is on stable storage
    {"op": "status"}              -> the report
    {"op": "stop"}                -> {}, then the engine stops

The values of a request are plain (no lists, no objects) and short, and its tag is a whole number of 64 bits, so what is
sent back fits. Every reply has "ok", and the request's "tag", so that the answer to a request that timed out is never
taken for the answer to another. A refusal is {"ok": false, "error": class name, "message", facts}; without a tag it is
about the connection, which ends with it, and may come before any request is read. The connection stays open as long as the
client lives; what is no request, or carries descriptors, ends it. When it has ended, what was said last is still there.
"""

from __future__ import annotations

import json
import socket
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from ringwal._native import lib
from ringwal.errors import ConfigError

SOCKET_NAME = "engine.sock"
REQUEST_VALUE_MAX = 4096
MESSAGE_BYTES_MAX = 64 * 1024

Message: TypeAlias = dict[str, Any]


def check_stream_name(name: object) -> bytes:
    """The UTF-8 form of a legal stream name. Raises ConfigError: not 1 to 120 bytes, or with control characters."""
    if not isinstance(name, str):
        raise ConfigError(f"a stream name is a str, not {type(name).__name__}")
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"stream name {name!r} cannot be written as UTF-8") from None
    if not 1 <= len(encoded) <= lib.RW_STREAM_NAME_MAX:
        raise ConfigError(
            f"stream name {name[:40]!r} has {len(encoded)} bytes in UTF-8; it must have 1 to {lib.RW_STREAM_NAME_MAX}"
        )
    if any(c < " " or "\x7f" <= c < "\xa0" for c in name):
        raise ConfigError(f"stream name {name!r} contains control characters")
    return encoded


def check_owner_name(name: object, owner: str = "producer") -> bytes:
    """The same of a producer's name, or a consumer's."""
    try:
        return check_stream_name(name)
    except ConfigError as error:
        said = str(error).replace("a stream name", f"a {owner}'s name").replace("stream name", f"{owner} name")
        raise ConfigError(said) from None


CONSUMED_MAX = 64
"""Streams of one consumer."""
check_consumer_name = partial(check_owner_name, owner="consumer")


def check_own_name(name: object) -> None:
    """Raises ConfigError: the engine keeps streams of such names for itself. They may be read, and nothing else."""
    if isinstance(name, str) and name.startswith("_"):
        raise ConfigError(f"stream name {name[:40]!r} begins with '_': such streams are the engine's own, and may only be read")


def encode(message: Message) -> bytes:
    # ASCII, as a directory's name may hold bytes that are no UTF-8: Python has them as lone surrogates.
    packet = json.dumps(message, separators=(",", ":")).encode()
    if len(packet) > MESSAGE_BYTES_MAX:
        raise ConfigError(f"a message of {len(packet)} bytes is larger than the limit of {MESSAGE_BYTES_MAX}")
    return packet


def decode(packet: bytes, flags: int) -> Message:
    if flags & socket.MSG_TRUNC:
        raise ConfigError(f"a message is larger than the limit of {MESSAGE_BYTES_MAX} bytes")
    try:
        message = json.loads(packet)
    except (ValueError, RecursionError):
        raise ConfigError("a message is not JSON") from None
    if not isinstance(message, dict):
        raise ConfigError("a message is not a JSON object")
    return message


def check_request(message: Message) -> Message:
    """`message`, if it is made as requests are. Raises ConfigError: its peer is no client, or out of its mind."""
    for key, value in message.items():
        if isinstance(value, dict | list) or len(key) > REQUEST_VALUE_MAX:
            raise ConfigError("a request has plain values only")
        if isinstance(value, str) and len(value) > REQUEST_VALUE_MAX:
            raise ConfigError(f"a request has values of at most {REQUEST_VALUE_MAX} characters")
        if isinstance(value, int) and value.bit_length() > 64:
            raise ConfigError("a request has whole numbers of at most 64 bits")
    if not isinstance(message.get("tag", 0), int | None):
        raise ConfigError("the tag of a request is a whole number")
    return message


class Descriptors(NamedTuple):
    """What an engine hands to a client with its hello."""

    doorbell: int
    """eventfd that wakes the WAL process"""
    directory: int
    """DIR, by an open of its own: it carries none of the engine's locks"""
    control: int
    """the control area, for reading"""
    ring: int
    """the log ring, for reading"""


class Hello(NamedTuple):
    """What the engine says of itself."""

    uuid: bytes
    epoch: int
    control_bytes: int
    ring_bytes: int
    directory: str
    config: dict[str, Any]


class LaneGrant(NamedTuple):
    """A place and a lane with `bytes` of data, made for this client."""

    slot: int
    generation: int
    bytes: int
