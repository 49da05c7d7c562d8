"""The segment files as a source: which of their bytes are the log, epoch after epoch, each up to its cut, and the bytes.

A checkpoint has a row for every epoch: where it begins, and where it ends, its cut; bytes of an epoch at or beyond its cut
are never believed, whatever they look like. Epochs begin anywhere in a segment, so a segment may have parts of several;
an *extent* is what one segment has of one epoch::

    segment        7               8                       9
            | epoch 3 ......|... cut  xxxx | epoch 4 .|... epoch 4, live ...
    extents    (7, 3)        (8, 3)          (8, 4)     (9, 4): to the end of what is on disk
"""

from __future__ import annotations

import bisect
import errno
import os

from ringwal.errors import CorruptionError, Error, NotRunning, StreamDeleted
from ringwal.log import checkpoint_file
from ringwal.log import manifest as manifests
from ringwal.log import segment as segments
from ringwal.log.checkpoint import Checkpoint, EpochRow
from ringwal.log.directory import Directory
from ringwal.log.sidefile import SideFile
from ringwal.read.attic_blocks import AtticBlocks
from ringwal.read.bounds import Bounds, check_trimmed
from ringwal.read.sides import Sides
from ringwal.read.source import Extent

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO does not wait for its writer
_NO_FILE = (errno.ESPIPE, errno.EISDIR, errno.ENXIO)

AGAIN_MAX = 2
"""How often a place of a segment that is freed is looked for again."""
AGAIN_KEPT = 1000

NEWEST_FEW = 8
"""So many segments are asked for a side file before larger steps are made."""


class SegmentFiles:
    """The segment files of one log, read only. Safe to use from several threads: none of them is held open."""

    def __init__(self, directory: Directory, segment_bytes: int, uuid: bytes) -> None:
        self.segment_bytes = segment_bytes
        self.uuid = uuid
        self._directory = directory

    def segment_of(self, position: int) -> int:
        return position // self.segment_bytes

    def start_of(self, segment: int) -> int:
        return segment * self.segment_bytes

    def damaged(self, position: int, why: str) -> CorruptionError:
        """The error for damage at ``position``, to be raised."""
        return CorruptionError(why, self.segment_of(position), position)

    def read(self, position: int, into: memoryview, *, fresh: bool = False, ahead: int = 0) -> None:
        """Fill ``into`` from log position ``position`` on; it must not cross the segment's end.

        ``ahead`` bytes behind it are asked for and not waited for.
        ``fresh`` drops what the page cache holds of that range first. The engine writes past the cache; the kernel then
        drops cached pages of the range, but promises no more than to try.

        Raises CorruptionError if the file is missing or too short, NotRunning if it is missing because the log is no longer in
        its directory, OSError if it cannot be read.
        """
        segment = self.segment_of(position)
        at = segments.HEADER_BYTES + position - self.start_of(segment)
        try:
            fd = os.open(segments.name_of(segment), _FLAGS, dir_fd=self._directory.segments)
        except FileNotFoundError:
            raise self._missing(position) from None
        except OSError as error:
            raise self._no_file(position, error) from error
        try:
            # No read-ahead: it would cache bytes of the live segment that are still being written.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            if fresh:
                os.posix_fadvise(fd, at, len(into), os.POSIX_FADV_DONTNEED)
            if ahead:
                os.posix_fadvise(fd, at + len(into), ahead, os.POSIX_FADV_WILLNEED)
            done = 0
            while done < len(into):
                got = os.preadv(fd, [into[done:]], at + done)
                if got == 0:
                    raise self.damaged(position + done, "the segment file is too short")
                done += got
        except OSError as error:
            raise self._no_file(position, error) from error
        finally:
            os.close(fd)

    def _no_file(self, position: int, error: OSError) -> Exception:
        """What the error is to a reader: damage, if a directory or a special file is in the segment's place."""
        if error.errno not in _NO_FILE:
            return error
        return self.damaged(position, "a directory or a special file is in the segment's place")

    def epochs(self) -> tuple[EpochRow, ...]:
        """The epochs with a byte in the log, as the checkpoint in force has them.

        Raises CorruptionError if manifest or checkpoint are damaged, NotRunning if the log is no longer in its directory.
        """
        return self.look()[1].epochs

    def look(self) -> tuple[int, Checkpoint]:
        """The first segment that there still is, and the checkpoint in force, as the files have them. Raises as `epochs`."""
        try:
            first = manifests.load(self._directory).first_segment  # before: the checkpoint is at least as new
            found = checkpoint_file.look(self._directory, self.uuid)
        except FileNotFoundError:
            found = None
        if found is None:
            raise self._gone()
        return first, found

    def _missing(self, position: int) -> Error:
        """What it means that the segment's file is not there: only the manifest can tell."""
        try:
            gone = manifests.load(self._directory).uuid != self.uuid
        except FileNotFoundError:
            gone = True
        except CorruptionError:  # of the manifest, too
            gone = False
        return self._gone() if gone else self.damaged(position, "the segment file is missing")

    def _gone(self) -> NotRunning:
        return NotRunning(f"the log that this client reads is no longer in {self._directory.path}: deleted or replaced")


class Segments:
    """The segments of the log from the first one to its end, as a source. Older epochs are looked up once, when first asked
    for."""

    def __init__(self, directory: Directory, bounds: Bounds) -> None:
        self.files = SegmentFiles(directory, bounds.segment_bytes, bounds.uuid)
        self.uuid, self.segment_bytes = bounds.uuid, bounds.segment_bytes
        self.damaged = self.files.damaged
        self._bounds = bounds
        self._attic = AtticBlocks(directory, bounds.uuid, bounds.segment_bytes)
        self._sides = Sides(directory, bounds.uuid, bounds.segment_bytes)
        self.ask_side, self.guess_side, self.disbelieve = self._sides.ask, self._sides.guess, self._sides.disbelieve
        self.side_times, self.sides_open = self._sides.times, self._sides.opened
        self._again: dict[int, int] = {}
        self._newest = (-1, -1)  # newest side file that was found, and from which segment on it was looked for
        self._known = 0  # the first segment by the files
        self._epoch, self._epoch_begin = bounds.epoch, bounds.epoch_begin
        self._older: tuple[list[EpochRow], list[Extent]] | None = None

    def read(self, position: int, into: memoryview, *, fresh: bool = False, ahead: int = 0) -> None:
        if position < self.files.start_of(self.begins()):
            self._attic.read(position, into)
        else:
            self.files.read(position, into, fresh=fresh, ahead=ahead)

    def release(self) -> None:
        """Let go of the files that are open."""
        self._sides.release()

    def begins(self) -> int:
        """The first segment that there still is, as far as this reader knows. Nothing below it is looked for."""
        return max(self._known, self._bounds.first_segment())

    def segments(self) -> range:
        first = self.begins()
        return range(self._attic.first(first), -(-self._bounds.disk_end() // self.segment_bytes))

    def at(self, position: int) -> Extent | None:
        first = self.begins()
        if position < self.files.start_of(first):
            if (kept := self._attic.at(position, first)) is not None:
                return kept
            position = self.files.start_of(first)
        while position < self._epoch_begin:
            segment = self.files.segment_of(position)
            rows = self.ask_side(segment, SideFile.epochs, None)
            if rows is None:
                return self._at_by_checkpoint(position)
            for row in rows:
                if position < row.end:
                    return Extent(segment, *row)
            position = self.files.start_of(segment + 1)
        return self._live(position)

    def _live(self, position: int) -> Extent | None:
        position, end = max(position, self._epoch_begin), self._bounds.disk_end()
        return self._extent(self._epoch, self._epoch_begin, end, position) if position < end else None

    def _at_by_checkpoint(self, position: int) -> Extent | None:
        rows, _ = self._history()
        place = bisect.bisect_right(rows, position, key=_begin) - 1
        if place < 0 or position >= rows[place].end:
            place, position = place + 1, 0
        if place == len(rows):
            return self._live(position)
        row = rows[place]
        return self._extent(row.epoch, row.begin, row.end, max(position, row.begin))

    def extents(self, segment: int) -> list[Extent]:
        if segment < (begins := self.begins()):
            return self._attic.extents(segment, begins)
        first, behind = self.files.start_of(segment), self.files.start_of(segment + 1)
        live = self._live(first) if behind > self._epoch_begin else None
        found = [live] if live is not None and live.segment == segment else []
        if first >= self._epoch_begin:
            return found
        rows = self.ask_side(segment, SideFile.epochs, None)
        if rows is not None:
            return [Extent(segment, *row) for row in rows]
        _, older = self._history()
        place = bisect.bisect_left(older, segment, key=_segment)
        return older[place : bisect.bisect_right(older, segment, key=_segment)] + found

    def newest_side(self) -> int:
        top = self.files.segment_of(self._bounds.disk_end())
        newest, looked = self._newest
        if looked == top:
            return newest
        # Sealed segments get theirs soon, so it is one of the last few, or the keeper lags.
        candidates = [*range(top - 1, max(newest, top - NEWEST_FEW), -1), newest]
        step = NEWEST_FEW
        while newest < 0 and top - step > self.begins():
            candidates.append(top - step)
            step *= 2
        newest = next(filter(self._sides.has, candidates), -1)
        self._newest = (newest, top)
        return newest

    def grows(self, extent: Extent) -> bool:
        return extent.epoch == self._epoch and extent.end < self.files.start_of(extent.segment + 1)

    def look_again(self, stream: int, offset: int, damage: CorruptionError) -> bool:
        """As `Source.look_again`. The bounds were asked first: an engine frees nothing before its memory says so. Then the
        files: the memory may be that of an engine that has ended, and another one has freed since."""
        if damage.segment is not None and damage.segment < self.begins():
            return self._freed_meanwhile(damage.position or 0)
        try:
            first, checkpoint = self.files.look()
        except CorruptionError:  # of what says it, too
            return False
        if damage.segment is not None and damage.segment < first and checkpoint.epoch == self._epoch:
            self._known = max(self._known, first)  # an engine that has just begun has not said so in memory yet
            return self._freed_meanwhile(damage.position or 0)
        if checkpoint.epoch == self._epoch:
            return False
        start_offset = next((row.start_offset for row in checkpoint.rows() if row.number == stream), None)
        if start_offset is None:
            raise StreamDeleted("the stream was deleted")
        check_trimmed(offset, start_offset)
        known = self.begins()
        self._known = max(self._known, first)
        return damage.segment is not None and known <= damage.segment < first

    def _freed_meanwhile(self, position: int) -> bool:
        """The segment may have gone under the reader's hands, once; what fails again is damage in the attic."""
        if len(self._again) >= AGAIN_KEPT:
            self._again.clear()
        self._again[position] = self._again.get(position, 0) + 1
        return self._again[position] <= AGAIN_MAX

    def _extent(self, epoch: int, begin: int, end: int, position: int) -> Extent:
        """The one that has `position`, of an epoch from begin to end."""
        segment = self.files.segment_of(position)
        first, behind = self.files.start_of(segment), self.files.start_of(segment + 1)
        return Extent(segment, epoch, max(begin, first), min(end, behind))

    def _extents(self, epoch: int, begin: int, end: int) -> list[Extent]:
        segment_of, start_of = self.files.segment_of, self.files.start_of
        segments = range(segment_of(begin), segment_of(end - 1) + 1) if begin < end else ()
        return [self._extent(epoch, begin, end, max(begin, start_of(segment))) for segment in segments]

    def _history(self) -> tuple[list[EpochRow], list[Extent]]:
        """The epochs before the live one, with their limits, and their extents."""
        older = self._older
        if older is None:  # a signal handler or another thread may do the same: it finds the same
            rows = self._bounds.epochs()
            if rows is None:
                rows = [row for row in self.files.epochs() if row.epoch < self._epoch]
            if rows and not rows[-1].begin < rows[-1].end <= self._epoch_begin:
                raise CorruptionError(f"the checkpoint does not know epoch {self._epoch}, which is live")
            older = self._older = list(rows), [extent for row in rows for extent in self._extents(*row)]
        return older


def _segment(extent: Extent) -> int:
    return extent.segment


def _begin(row: EpochRow) -> int:
    return row.begin
