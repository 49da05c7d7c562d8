"""A checkpoint: what the log says up to one position, so that nobody has to read what is before. Pure bytes.

    +--------+--------------------+------------------+------------------+
    | header | a row per stream   | a row per epoch  | a row per owner  |
    | 4096   | 280 each           | 24 each          | 176 each         |
    +--------+--------------------+------------------+------------------+

docs/format.md has every byte. One digest covers all of it; it is repeated in the manifest, which names the file
(checkpoint_file.py). Rows of streams and owners stay bytes until somebody asks: C writes them and C reads them
(csrc/layout_log.h).
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import xxhash

from ringwal._native import lib
from ringwal.errors import CorruptionError, VersionMismatch
from ringwal.log import manifest as manifests
from ringwal.log import settings

HEADER_BYTES = 4096
STREAM_BYTES = 280
OWNER_BYTES = 176
_MAGIC = b"RWCHKPT1"
_HEADER = struct.Struct("<8sII16sQQQQIIIIQ")
_DIGEST = struct.Struct("<Q")
_ROWS = struct.Struct("<III")
"""Bytes of a stream's row, of an owner's, and the owners' end."""
_STREAM = struct.Struct("<IHHQQQQ120s120s")
_EPOCH = struct.Struct("<QQQ")
_OWNER = struct.Struct("<IIIIQQQQII120s")
_NUMBERS_END = 1 << 62
_KINDS = (lib.RW_OWNER_PRODUCER, lib.RW_OWNER_CONSUMER)


class EpochRow(NamedTuple):
    """One epoch: its log positions are begin <= position < end. `end` is its cut, 0 for the one in force."""

    epoch: int
    begin: int
    end: int


class StreamRow(NamedTuple):
    """One stream that lives, as of the checkpoint's position."""

    number: int
    name: str
    next_offset: int
    start_offset: int
    payload_bytes: int
    """Of all its batches so far."""
    timestamp_ns: int
    """Of the newest one; 0: none."""
    settings: bytes = b""
    """As `settings.decode` takes them; none where nobody has set any."""


class OwnerRow(NamedTuple):
    """One owner that is not forgotten, as of the checkpoint's position (csrc/owners.h)."""

    number: int
    kind: int
    epoch: int
    stream: int
    next_sequence: int
    last_sequence: int
    last_offset: int
    timestamp_ns: int
    name: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint says."""

    uuid: bytes
    epoch: int
    position: int
    """It has everything below this log position, and nothing else."""
    block_number: int
    """Of the next block."""
    timestamp_ns: int
    """No block has a newer one."""
    next_number: int
    """No stream of the log ever had it, or a larger one."""
    streams: bytes
    """Rows of all streams, in order of numbers: `rows`."""
    epochs: tuple[EpochRow, ...]
    """All that have a byte in the log, oldest first; the last one is the one in force."""
    owners: bytes = b""
    """Rows of all owners, in order of numbers: `owner_rows`."""
    owners_end: int = 1
    """No owner of the log ever had that number, or a larger one."""

    def owner_rows(self) -> list[OwnerRow]:
        """Every owner, in order of numbers. Raises as `rows`."""
        found: list[OwnerRow] = []
        names: set[tuple[int, int, bytes]] = set()
        last = 0
        for number, kind, epoch, stream, following, latest, offset, newest, size, _, raw in _OWNER.iter_unpack(self.owners):
            name = raw[:size]
            good = last < number < self.owners_end and kind in _KINDS and epoch and 0 < size <= len(raw)
            if not good or latest > following or max(following, offset, newest) >= _NUMBERS_END:
                raise CorruptionError(f"the checkpoint's row of owner {number} contradicts itself or the others")
            try:
                said = name.decode()
            except UnicodeDecodeError:
                raise CorruptionError(f"the checkpoint has an owner {number} with a name that is not UTF-8") from None
            if stream >= self.next_number or (kind, stream, name) in names:
                raise CorruptionError(f"the checkpoint's row of owner {number} contradicts the others")
            last = number
            names.add((kind, stream, name))
            found.append(OwnerRow(number, kind, epoch, stream, following, latest, offset, newest, said))
        return found

    def epochs_up_to(self, position: int) -> tuple[EpochRow, ...]:
        """The epochs, as if the one in force ended at that log position."""
        return (*self.epochs[:-1], self.epochs[-1]._replace(end=position))

    def rows(self) -> list[StreamRow]:
        """Every stream, in order of numbers.

        Raises:
            CorruptionError: they are not what anybody of ours wrote, whatever the digest says.
        """
        found: list[StreamRow] = []
        names: set[str] = set()
        last = -1
        for number, state, name_bytes, following, start, size, newest, raw, own in _STREAM.iter_unpack(self.streams):
            try:
                name = raw[:name_bytes].decode()
            except UnicodeDecodeError:
                raise CorruptionError(f"the checkpoint has a stream {number} with a name that is not UTF-8") from None
            good = last < number < self.next_number and state == lib.RW_STREAM_OPEN and 0 < name_bytes <= len(raw)
            if not good or start > following or max(following, size, newest) >= _NUMBERS_END or name in names:
                raise CorruptionError(f"the checkpoint's row of stream {number} contradicts itself or the others")
            held = own if any(own) else b""
            settings.decode(held)
            last = number
            names.add(name)
            found.append(StreamRow(number, name, following, start, size, newest, held))
        return found


def living(epochs: Sequence[EpochRow], begin: int) -> tuple[EpochRow, ...]:
    """Those with a byte at or behind log position `begin`: all before is freed."""
    return tuple(row for row in epochs if row.end == 0 or row.end > begin)


def extents(epochs: Iterable[EpochRow], begin: int, end: int, size: int) -> Iterator[EpochRow]:
    """What each segment has of each of these epochs between two log positions, oldest first: rows that are cut to it. Segments
    have `size` bytes of data; an epoch without a cut goes on to `end`."""
    for row in epochs:
        low, high = max(row.begin, begin), min(row.end or end, end)
        while low < high:
            behind = min(high, (low // size + 1) * size)
            yield EpochRow(row.epoch, low, behind)
            low = behind


def pack(rows: Sequence[StreamRow]) -> bytes:
    """`Checkpoint.streams` of these rows."""
    return b"".join(_packed(*row) for row in rows)


def pack_owners(rows: Sequence[OwnerRow]) -> bytes:
    """`Checkpoint.owners` of these rows."""
    return b"".join(_OWNER.pack(*row[:8], len(name := row.name.encode()), 0, name) for row in rows)


def _packed(number: int, name: str, following: int, start: int, size: int, newest: int, own: bytes) -> bytes:
    raw = name.encode()
    return _STREAM.pack(number, lib.RW_STREAM_OPEN, len(raw), following, start, size, newest, raw, own)


def encode(c: Checkpoint) -> tuple[bytes, int]:
    """Its bytes, and their digest."""
    epochs = b"".join(_EPOCH.pack(*row) for row in c.epochs)
    head = _HEADER.pack(
        _MAGIC,
        lib.RW_FORMAT_VERSION,
        manifests.FEATURES,
        c.uuid,
        c.epoch,
        c.position,
        c.block_number,
        c.timestamp_ns,
        len(c.streams) // STREAM_BYTES,
        len(c.owners) // OWNER_BYTES,
        len(c.epochs),
        c.next_number,
        HEADER_BYTES + len(c.streams) + len(epochs) + len(c.owners),
    )
    data = bytearray(b"".join((head.ljust(HEADER_BYTES, b"\0"), c.streams, epochs, c.owners)))
    _ROWS.pack_into(data, _HEADER.size + _DIGEST.size, STREAM_BYTES, OWNER_BYTES, c.owners_end)
    digest = xxhash.xxh3_64_intdigest(data)
    _DIGEST.pack_into(data, _HEADER.size, digest)
    return bytes(data), digest


def digest_of(data: bytes | bytearray) -> int:
    """The digest that these bytes, a header at least, say they have."""
    (digest,) = _DIGEST.unpack_from(data, _HEADER.size)
    return int(digest)


def size_of(data: bytes) -> int:
    """How long the checkpoint is that begins these bytes, as its header says: not more than there are."""
    return min(int(_HEADER.unpack_from(data)[-1]), len(data)) if len(data) >= HEADER_BYTES else 0


def decode(data: bytes) -> Checkpoint:
    """What these bytes say.

    Raises:
        CorruptionError: they are not a checkpoint, or a damaged one.
        VersionMismatch: whole, and written in a format that this build does not know.
    """
    if len(data) < HEADER_BYTES:
        raise CorruptionError(f"a checkpoint of {len(data)} bytes is too short")
    magic, version, features, uuid, *numbers = _HEADER.unpack_from(data)
    epoch, position, number, newest, streams, owners, epochs, next_number, total = numbers
    blank = bytearray(data)
    _DIGEST.pack_into(blank, _HEADER.size, 0)
    if magic != _MAGIC or digest_of(data) != xxhash.xxh3_64_intdigest(blank):
        raise CorruptionError("the checkpoint is damaged")
    if version != lib.RW_FORMAT_VERSION:
        raise VersionMismatch(f"the checkpoint has format {version}, this build reads {lib.RW_FORMAT_VERSION}")
    manifests.check_features(features, "the checkpoint")
    row_bytes, owner_bytes, owners_end = _ROWS.unpack_from(data, _HEADER.size + _DIGEST.size)
    if row_bytes != STREAM_BYTES or (owners and owner_bytes != OWNER_BYTES):
        raise VersionMismatch(
            f"the checkpoint has {row_bytes} bytes for each stream, and this build reads {STREAM_BYTES}: the log is of an"
            " earlier draft of this format; read it with the build that wrote it, and append it to a new one"
        )
    rows_end = HEADER_BYTES + streams * STREAM_BYTES
    epochs_end = rows_end + epochs * _EPOCH.size
    if len(data) != total or total != epochs_end + owners * OWNER_BYTES:
        raise CorruptionError("the checkpoint's sizes contradict each other")
    found = Checkpoint(
        uuid=uuid,
        epoch=epoch,
        position=position,
        block_number=number,
        timestamp_ns=newest,
        next_number=next_number,
        streams=data[HEADER_BYTES:rows_end],
        epochs=tuple(EpochRow(*row) for row in _EPOCH.iter_unpack(data[rows_end:epochs_end])),
        owners=data[epochs_end:],
        owners_end=max(owners_end, 1),  # an earlier draft says nothing
    )
    _check_epochs(found)
    return found


def _check_epochs(c: Checkpoint) -> None:
    """Could a program of ours have written it?"""
    rows = c.epochs
    in_order = all(a.epoch < b.epoch and a.begin < a.end <= b.begin for a, b in itertools.pairwise(rows))
    last = rows[-1] if rows else EpochRow(0, 0, 0)
    good = in_order and 0 < last.epoch == c.epoch and last.end == 0 and last.begin < c.position
    if not good or max(c.position, c.epoch, c.block_number, c.timestamp_ns) >= _NUMBERS_END:
        raise CorruptionError("the checkpoint's epochs contradict each other")
