"""What a log says of itself before its blocks are looked at: manifest, checkpoint, epochs. Also of a log where some of that is
damaged: then as much as the rest proves. Changes nothing.

A damaged checkpoint is replaced by the other one, if that can be read, or by none. A damaged manifest is replaced by what the
headers of the segments say. Which epochs there are, and where each ends, then comes from the first blocks of epochs: each
states the one before, with its cut. An epoch whose cut nobody states (`open`) ends at the first place without a valid block
that lies behind its last watermark, whatever may follow: blocks that a start has dropped look as good as any.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import itertools
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError, FileError, VersionMismatch
from ringwal.log import checkpoint, checkpoint_file, segment
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import Checkpoint, EpochRow
from ringwal.log.directory import SEGMENTS, Directory
from ringwal.log.files import ANY_LENGTH, PAGE, opened, read_all
from ringwal.log.manifest import Manifest
from ringwal.log.pages import Pages

_BLOCK_MAGIC = b"RWBLOCK1"
_SEARCH_BYTES = 1 << 20


class Fault(NamedTuple):
    """Something damaged that is no block: the file, relative to the log, the first byte, and what is wrong."""

    file: str
    offset: int
    what: str


@dataclasses.dataclass(slots=True)
class Premise:
    """Where to walk, and what should be met."""

    manifest: Manifest
    """The one in force; or what could be made out of it, with no claim to be complete."""
    checkpoint: Checkpoint | None
    """The one that is named, or an older one."""
    epochs: tuple[EpochRow, ...]
    """Oldest first; the last one's end is 0."""
    whole: bool
    """The manifest and the checkpoint that it names are there, so a start would look at the blocks next."""
    open: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Epochs of which nobody states the cut, and the highest watermark of each: it ends at the first place from there on
    without a valid block. Their `end` here is where the next one begins."""
    faults: tuple[Fault, ...] = ()

    @property
    def begin(self) -> int:
        """The first log position that there is."""
        return self.manifest.first_segment * self.manifest.segment_bytes

    @property
    def end(self) -> int:
        """Log position behind the last segment."""
        return self.manifest.named_end * self.manifest.segment_bytes


def gather(directory: Directory) -> Premise:
    """All that can be said.

    Raises:
        FileError: there is no log (ENOENT).
        CorruptionError: no part of the log says enough to read the rest.
        VersionMismatch: it is of another format.
        OSError: it cannot be read.
    """
    faults: list[Fault] = []
    state = _manifest(directory, faults)
    read = state is not None
    if state is None:
        state = _made_out(directory)
    if read and not state.epoch:
        return Premise(state, None, (), whole=True, faults=tuple(faults))
    named = _named(directory, state, faults) if read else None
    if named is not None:
        return Premise(state, named, named.epochs, whole=True, faults=tuple(faults))
    known = _any_checkpoint(directory, state, state.checkpoint_position if read else None)
    if not read and known is not None:
        state = _reaching(state, known)
    epochs, unknown = _Found(directory, state, known).epochs(state.epoch, state.epoch_begin)
    return Premise(state, known, epochs, whole=False, open=unknown, faults=tuple(faults))


# -------------------------------------------------------------------------------------------------------- manifest

_BOTH = "its two copies belong to different logs"


def _manifest(directory: Directory, faults: list[Fault]) -> Manifest | None:
    try:
        copies = manifests.copies(directory)
    except FileNotFoundError:
        faults.append(Fault(manifests.NAME, 0, "it is missing"))
        return None
    except CorruptionError as damage:
        faults.append(Fault(manifests.NAME, 0, str(damage)))
        return None
    for copy, state in enumerate(copies):
        if state is None:
            faults.append(Fault(manifests.NAME, copy * PAGE, f"copy {copy} is damaged"))
    good = [state for state in copies if state is not None]
    if len({(state.uuid, state.segment_bytes) for state in good}) > 1:
        faults.append(Fault(manifests.NAME, 0, _BOTH))
        return None
    return max(good, key=lambda state: state.counter, default=None)


def _made_out(directory: Directory) -> Manifest:
    """A manifest from the headers of the segments, and, where one is damaged, from a block."""
    names = segment.numbers(directory) if directory.has_segments() else []
    if not names:
        raise FileError(f"there is no log in {directory.path}", errno.ENOENT, str(directory.path))
    found = {number: _belongs(directory, number) for number in names}
    votes = collections.Counter(one for one in found.values() if one is not None)
    if not votes:
        where = f"{directory.path / manifests.NAME} cannot be read, and nothing in {SEGMENTS} says what it belongs to"
        raise CorruptionError(where)
    uuid, size = votes.most_common(1)[0][0]
    ours = [number for number, one in found.items() if one == (uuid, size)]
    return Manifest(uuid=uuid, segment_bytes=size, window_bytes=0, first_segment=min(ours), named_end=max(ours) + 1)


def _reaching(state: Manifest, known: Checkpoint) -> Manifest:
    """Segments that a checkpoint speaks of are of the log, too. Whether the one before the first that is there was freed or is
    lost, nobody says; so it counts as lost, where the checkpoint has an epoch that reaches so far back."""
    size = state.segment_bytes
    first = min(state.first_segment, known.position // size)
    if known.epochs[0].begin < first * size:
        first -= 1
    return dataclasses.replace(state, first_segment=first, named_end=max(state.named_end, -(-known.position // size)))


def _belongs(directory: Directory, number: int) -> tuple[bytes, int] | None:
    """The uuid and segment_bytes of the log that the file is that segment of, by its header, or by a block; None: of none."""
    try:
        with opened(segment.name_of(number), os.O_RDONLY, at=directory.segments) as fd:
            page = bytearray(PAGE)
            read_all(fd, memoryview(page), 0)
            header = segment.header_of(bytes(page))
            if header is not None:
                good = header.number == number and header.segment_bytes and header.segment_bytes % PAGE == 0
                return (header.uuid, header.segment_bytes) if good else None
            return _by_a_block(fd, number, os.fstat(fd).st_size - PAGE)
    except OSError:
        return None


def _by_a_block(fd: int, number: int, size: int) -> tuple[bytes, int] | None:
    if size <= 0 or size % PAGE:
        return None
    piece = bytearray(_SEARCH_BYTES)
    for begin in range(0, size, _SEARCH_BYTES):
        held = read_all(fd, memoryview(piece), PAGE + begin)
        for at in _magics(piece, held):
            position = number * size + begin + at
            page = bytes(piece[at : at + PAGE])
            head = ffi.cast("const rw_block *", ffi.from_buffer("uint8_t[]", page))
            uuid = bytes(ffi.buffer(head.uuid))
            if lib.rw_block_check(page, ANY_LENGTH, uuid, head.epoch, position) == lib.RW_OK:
                return uuid, size
    return None


def _magics(piece: bytes | bytearray, held: int) -> Iterator[int]:
    """Where a block may begin."""
    place = piece.find(_BLOCK_MAGIC, 0, held)
    while place >= 0:
        if place % PAGE == 0:
            yield place
        place = piece.find(_BLOCK_MAGIC, place + 1, held)


# ------------------------------------------------------------------------------------------------------ checkpoint


def _named(directory: Directory, state: Manifest, faults: list[Fault]) -> Checkpoint | None:
    try:
        found = checkpoint_file.load(directory, state)
        found.rows()
        found.owner_rows()
    except CorruptionError as damage:
        name = checkpoint_file.name_of(state.checkpoint_file)
        faults.append(Fault(name, 0, str(damage).removeprefix(f"{directory.path / name}: ")))
        return None
    return found


def _any_checkpoint(directory: Directory, state: Manifest, most: int | None) -> Checkpoint | None:
    """The newest one of this log that can be read, not of a later position than `most`."""
    good = []
    for number in (0, 1):
        try:
            with opened(checkpoint_file.name_of(number), os.O_RDONLY, at=directory.fd) as fd:
                data = bytearray(os.fstat(fd).st_size)
                read_all(fd, memoryview(data), 0)
            found = checkpoint.decode(bytes(data[: checkpoint.size_of(bytes(data))]))
            found.rows()
            found.owner_rows()
        except (OSError, CorruptionError, VersionMismatch):
            continue
        if found.uuid == state.uuid and (most is None or found.position <= most):
            good.append(found)
    return max(good, key=lambda one: (one.epoch, one.position), default=None)


# ---------------------------------------------------------------------------------------------------------- epochs


class _Found:
    """The epochs of which a block is there, by a search through all segments."""

    def __init__(self, directory: Directory, state: Manifest, known: Checkpoint | None) -> None:
        self._state = state
        self._first: dict[int, int] = {}
        self._before: dict[int, EpochRow] = {}  # by epoch: what its first block says of the one before
        self._watermark: dict[int, int] = {}
        rows = known.epochs if known else ()
        self._first.update((row.epoch, row.begin) for row in rows)
        self._before.update((row.epoch, before) for before, row in itertools.pairwise(rows))
        pages = Pages(directory, state.segment_bytes)
        try:
            for number in range(state.first_segment, state.named_end):
                self._search(pages, number * state.segment_bytes)
        finally:
            pages.close()

    def _search(self, pages: Pages, begin: int) -> None:
        for at in range(begin, begin + self._state.segment_bytes, _SEARCH_BYTES):
            piece = pages.bytes_at(at, min(_SEARCH_BYTES, begin + self._state.segment_bytes - at))
            for place in _magics(piece, len(piece)):
                self._take(piece[place : place + PAGE], at + place)

    def _take(self, page: bytes, position: int) -> None:
        data = ffi.from_buffer("uint8_t[]", page)
        head = ffi.cast("const rw_block *", data)
        epoch = int(head.epoch)
        if lib.rw_block_check(data, ANY_LENGTH, self._state.uuid, epoch, position) != lib.RW_OK:
            return
        self._first.setdefault(epoch, position)
        self._watermark[epoch] = max(self._watermark.get(epoch, 0), int(head.watermark))
        if head.kind == lib.RW_BLOCK_EPOCH:
            self._first[epoch] = position
            self._before[epoch] = EpochRow(int(head.previous_epoch), int(head.previous_begin), int(head.previous_end))

    def epochs(self, top: int, begin: int) -> tuple[tuple[EpochRow, ...], dict[int, int]]:
        """From the newest one back, each as the next one states it. `top` is the one in force, which begins at `begin`; 0: not
        known. Beside them, as `Premise.open`, those of which nobody states the cut."""
        rows: list[EpochRow] = []
        unknown: dict[int, int] = {}
        least = self._state.first_segment * self._state.segment_bytes
        if not top and self._first:
            top = max(self._first)
            begin = self._first[top]
        row = EpochRow(top, begin, 0)
        while row.epoch:
            rows.append(row)
            stated = self._before.get(row.epoch)
            if row.begin <= least or (stated is not None and stated.epoch == 0):
                break
            if stated is None or not stated.begin < stated.end <= row.begin:
                below = [epoch for epoch, first in self._first.items() if epoch < row.epoch and first < row.begin]
                if not below:
                    break
                stated = EpochRow(max(below), self._first[max(below)], row.begin)
                unknown[stated.epoch] = self._watermark.get(stated.epoch, 0)
            row = stated
        return tuple(reversed(rows)), unknown
