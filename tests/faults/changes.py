"""Changes to the files of a log: accidents, which checksums are there to find, and forgeries, whose checksums are right."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import xxhash
from hypothesis import strategies as st

from tests.faults.decode import BLOCK, MANIFEST, PAGE, RECORD, SEGMENT, crc32c

WORD = struct.Struct("<Q")
BLOCK_FIELDS = ((12, 4), (32, 8), (40, 8), *((at, 4) for at in range(48, 64, 4)), *((at, 8) for at in range(64, 128, 8)))
RECORD_FIELDS = (
    *((4, 1), (5, 1), (6, 2), *((at, 4) for at in range(8, 24, 4))),
    *((24, 8), (32, 8), (48, 8), (64, 8), (72, 8), (80, 4)),
)
MANIFEST_FIELDS = ((8, 4), (12, 4), (16, 8), *((at, 8) for at in range(40, 120, 8)), (120, 4), (128, 8))
CHECKPOINT_FIELDS = ((8, 4), (12, 4), *((at, 8) for at in range(32, 64, 8)), (64, 4), (68, 4), (72, 4), (76, 4), (80, 8))
SEGMENT_FIELDS = ((8, 4), (32, 8), (40, 8), (48, 8))
"""Place and width in the structs of decode.py; uuids, magics and checksums are for accidents."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A page of a file."""

    file: str
    page: int


@dataclasses.dataclass(frozen=True)
class Change:
    """What is done to a page. ``value`` is an offset into the field's old value if ``relative``."""

    kind: str
    place: Place
    at: int = 0
    value: int = 0
    relative: bool = False
    other: Place | None = None

    @property
    def forged(self) -> bool:
        """Its checksums are right: nobody can tell that it is not what was written."""
        return self.kind.startswith("forge")

    def apply(self, log: Path) -> None:
        """Does it; a file that an earlier change removed stays away."""
        path = log / self.place.file
        if not path.exists():
            return
        if self.kind == "remove":
            path.unlink()
        elif self.kind == "resize":
            os.truncate(path, max(0, path.stat().st_size + self.value % (64 * PAGE) - 32 * PAGE))
        else:
            page = bytearray(read(path, self.place.page).ljust(PAGE, b"\0"))
            page[:] = self._changed(page, log)
            with path.open("r+b") as file:
                os.pwrite(file.fileno(), page, self.place.page * PAGE)

    def _changed(self, page: bytearray, log: Path) -> bytearray:
        if self.kind == "bit":
            page[self.at] ^= 1 << self.value
        elif self.kind == "bytes":
            end = min(self.at + 1 + self.value % 600, PAGE)
            page[self.at : end] = (WORD.pack(self.value) * 76)[: end - self.at]
        elif self.kind == "zeros":
            page[:] = bytes(PAGE)
        elif self.kind == "page":
            assert self.other is not None
            source = log / self.other.file
            page[:] = (read(source, self.other.page) if source.exists() else b"").ljust(PAGE, b"\0")
        elif self.kind == "forge block":
            self._set(page, 0, BLOCK_FIELDS)
        elif self.kind == "forge record":
            self._set(page, BLOCK.size, RECORD_FIELDS)
        elif self.kind == "forge payload":
            page[BLOCK.size + RECORD.size + self.at % 64] ^= 1 + self.value % 255
        elif self.kind == "forge manifest":
            self._set(page, 0, MANIFEST_FIELDS)
            page[MANIFEST.size - 8 : MANIFEST.size] = WORD.pack(xxhash.xxh3_64_intdigest(bytes(page[: MANIFEST.size - 8])))
        elif self.kind == "forge checkpoint":
            self._set(page, 0, CHECKPOINT_FIELDS)
            blank = bytes(page[:88]) + bytes(8) + bytes(page[96:]) + (log / self.place.file).read_bytes()[PAGE:]
            size = int.from_bytes(page[80:88], "little")
            page[88:96] = WORD.pack(xxhash.xxh3_64_intdigest(blank[:size]))
        elif self.kind == "forge segment":
            self._set(page, 0, SEGMENT_FIELDS)
            page[SEGMENT.size - 8 : SEGMENT.size] = WORD.pack(xxhash.xxh3_64_intdigest(bytes(page[: SEGMENT.size - 8])))
        if self.kind in ("forge block", "forge record", "forge payload"):
            stamp(page)
        return page

    def _set(self, page: bytearray, begin: int, fields: Sequence[tuple[int, int]]) -> None:
        place, width = fields[self.at % len(fields)]
        where = slice(begin + place, begin + place + width)
        old = int.from_bytes(page[where], "little")
        value = (old + self.value if self.relative else self.value) % (1 << 8 * width)
        page[where] = value.to_bytes(width, "little")


def read(path: Path, page: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), PAGE, page * PAGE)


def stamp(page: bytearray) -> None:
    """Makes the checksums right: of the block, and of its first record as far as that lies in its first page."""
    epoch, position = struct.unpack_from("<QQ", page, 32)
    (size,) = struct.unpack_from("<I", page, BLOCK.size + 8)
    begin = BLOCK.size + RECORD.size
    if begin + size <= PAGE:
        page[BLOCK.size + 40 : BLOCK.size + 48] = WORD.pack(xxhash.xxh3_64_intdigest(bytes(page[begin : begin + size])))
    head = page[BLOCK.size : begin]
    crc = crc32c(bytes(4) + head[4:5] + bytes(1) + head[6:], crc32c(struct.pack("<QQ", epoch, position)))
    page[BLOCK.size : BLOCK.size + 4] = struct.pack("<I", crc)
    page[8:12] = struct.pack("<I", crc32c(bytes(page[:8]) + bytes(4) + bytes(page[12 : BLOCK.size])))


EDGES = st.one_of(
    st.sampled_from([0, 1, 2, 127, 128, 4095, 4096, 4097]),
    st.integers(0, 64).map(lambda n: (1 << n) - 1),
    st.integers(0, 63).map(lambda n: 1 << n),
    st.integers(0, 2**64 - 1),
)
RELATIVE = st.sampled_from([True])
NEAR = st.sampled_from([-8192, -4096, -8, -1, 1, 8, 4096, 8192, 4 << 20])


def changes(blocks: Sequence[Place], segments: Sequence[str], checkpoint: str) -> st.SearchStrategy[list[Change]]:
    """Of a log with these first pages of blocks, these segment files, and this checkpoint."""
    heads = st.sampled_from([Place(file, 0) for file in segments])
    slots = st.sampled_from([Place("manifest", 0), Place("manifest", 1)])
    block = st.sampled_from(blocks)
    known = st.sampled_from([Place(checkpoint, 0), Place(checkpoint, 1)])
    anywhere = st.one_of(block, block, block, heads, slots, known)
    files = st.sampled_from([Place(file, 0) for file in (*segments, "manifest", checkpoint)])

    def forge(kind: str, place: st.SearchStrategy[Place]) -> st.SearchStrategy[Change]:
        at = st.integers(0, 63)
        return st.one_of(
            st.builds(Change, st.just(kind), place, at, EDGES),
            st.builds(Change, st.just(kind), place, at, NEAR, relative=RELATIVE),
        )

    one = st.one_of(
        st.builds(Change, st.just("bit"), anywhere, st.integers(0, PAGE - 1), st.integers(0, 7)),
        st.builds(Change, st.just("bytes"), anywhere, st.integers(0, PAGE - 1), EDGES),
        st.builds(Change, st.just("zeros"), anywhere),
        st.builds(Change, st.just("page"), anywhere, other=anywhere),
        st.builds(Change, st.sampled_from(["remove", "resize"]), files, st.just(0), st.integers(0, 64 * PAGE)),
        forge("forge block", block),
        forge("forge record", block),
        forge("forge payload", block),
        forge("forge manifest", slots),
        forge("forge segment", heads),
        forge("forge checkpoint", st.just(Place(checkpoint, 0))),
    )
    return st.lists(one, min_size=1, max_size=4)
