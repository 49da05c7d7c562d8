"""Backups: a directory with a log as it was at one position, while engine and writers go on.

    hold     every sealed segment from the first on gets a name in DEST, too (a hard link), or is copied; then the manifest and
             the checkpoint that it names are read. Once every segment from their first one up to the end is held, no more can
             go: a file with two names is not used again by the engine, only removed (freeing.py)
    copy     the segment in use is copied up to the end. It is never linked, nor are those ahead: they are still written
    prove    what lies behind that checkpoint is walked as in a recovery, in DEST; it has to reach the end
    name     a checkpoint of the very end, then the note, then the manifest, each synced before the next

The end is a log position below which everything is confirmed, and not before the last block that was sealed when the backup
began. So everything is in it that was confirmed by then. The manifest says that the log has ended there in order: for who
reads it, a backup is a stopped log.

Segments are held oldest first, and the manifest is read afterwards. What was freed meanwhile was free by a checkpoint that
this manifest, or an older one, names; so nothing is missing that its checkpoint has.

INCREMENTAL. DEST has segments already; those that were sealed stay as they are, if they are the log's: the same file, or with
the same header and the same last block. Where the backup before ends with a block that the log has not, it is of another
history (a snapshot was put back, and the log went on from there once more), and is left as it is. The one that was in use
gives way to the whole one, with the same bytes up to where the backup before ends: until the manifest is replaced, that one
is in force. Then files go that the log has freed. Killed at any moment, it leaves the one or the other; the first one that is
not finished has no manifest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ringwal._native import ffi, lib
from ringwal.errors import ConfigError, CorruptionError, Locked
from ringwal.log import attic_copy, backup_note, checkpoint_file, same_history, segment, sidefile
from ringwal.log import home as homes
from ringwal.log import manifest as manifests
from ringwal.log.attic import Catalogue
from ringwal.log.backup_note import Made, Note
from ringwal.log.backup_part import PART, has_link
from ringwal.log.checkpoint import STREAM_BYTES, Checkpoint, EpochRow, extents, living
from ringwal.log.directory import SEGMENTS, Directory
from ringwal.log.files import check_regular, make_directory, opened, read_all, sync_directory, unlink, write_all
from ringwal.log.manifest import Manifest
from ringwal.log.proof import prove
from ringwal.log.recovery import end_of
from ringwal.log.walk import Walk
from ringwal.log.window import Window
from ringwal.points import point

_OURS = re.compile(r"\d{20}\.(seg|side)(\.part)?")
TURNS_MAX = 1000
"""How often it is begun anew because segments were freed meanwhile."""


class Reach(NamedTuple):
    """What the log is, and how far it is confirmed. `epoch` is the one in force then."""

    epoch: int
    end: int


@dataclasses.dataclass
class Counts:
    """What was done. `copied` are bytes."""

    linked: int = 0
    copied_segments: int = 0
    copied: int = 0
    kept: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _State:
    """What of the log is being backed up."""

    manifest: Manifest
    checkpoint: Checkpoint
    end: int

    @property
    def named_end(self) -> int:
        return -(-self.end // self.manifest.segment_bytes)


class Pace:
    """Keeps reading and copying to so many bytes a second; None: as fast as it goes."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._due = time.monotonic()

    def passed(self, count: int) -> None:
        """So many bytes were read, or copied."""
        if self._rate is not None:
            self._due = max(self._due, time.monotonic() - 0.1) + count / self._rate
            time.sleep(max(0.0, self._due - time.monotonic()))


def make(
    source: Directory, dest: Path, reach: Callable[[], Reach] | None, *, incremental: bool, copies: bool, pace: Pace
) -> tuple[Made, Counts]:
    """Back up the log in `source` to `dest`.

    `reach` says, again and again, how far the log of a running engine is confirmed; it raises when the engine has ended. None:
    no engine runs. `incremental`: `dest` may have an older backup of the log. `copies`: nothing is linked.

    Raises:
        ConfigError: `dest` is not empty, or a backup of another log; the log cannot be backed up as it is.
        CorruptionError: the log is damaged.
        Locked: another backup is being made there.
        OSError: a file cannot be read or made.
    """
    began = _now()
    if backup_note.load(source) is not None or backup_note.is_backup(source):
        raise ConfigError(f"{source.path} is a backup, or a restore that was cut short, and no log: copy it with cp -a")
    if homes.look(source).copied_from is not None:
        raise ConfigError(f"{source.path} is a copy of another directory; start an engine there first, which proves it whole")
    if source.path.resolve() in (dest.resolve(), *dest.resolve().parents):
        raise ConfigError(f"{dest} is in the log that is to be backed up: name a directory outside of {source.path}")
    with contextlib.suppress(FileExistsError):
        dest.mkdir(mode=0o700)  # what is missing above it was rather mistyped
    make_directory(dest)
    with Directory(dest) as directory:
        _lock(directory)
        previous = _previous(source, directory, incremental=incremental)
        if previous is not None:
            _refuse_other_history(source, directory, previous[1])
        directory.make_segments()
        point("bak.begun")
        held = _Holder(source, directory, previous, copies=copies, pace=pace)
        state = held.hold(reach)
        known, found = _walked(directory, state, pace)
        manifest = _checkpoint(directory, state, known, previous)
        made = _made(source, began, manifest, found)
        attic_copy.name(directory, held.attic, also_before=True)
        _name(directory, manifest, made, previous)
        attic_copy.name(directory, held.attic, also_before=False)
        _clear(directory, made)
    return made, held.counts


def _now() -> str:
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1_000_000:03d}Z"


def _lock(directory: Directory) -> None:
    """Raises Locked. The kernel lets go when the descriptor is closed."""
    try:
        fcntl.flock(directory.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        backup_note.refuse_log(directory)
        raise Locked(f"another backup is being made in {directory.path}: wait for it") from None


def _previous(source: Directory, dest: Directory, *, incremental: bool) -> tuple[Made, Manifest] | None:
    """The backup that is there. Else the place is made fit for the first one."""
    note = backup_note.load(dest)
    names = os.listdir(dest.path)
    if note is None and set(names) - backup_note.UNUSED:
        raise ConfigError(f"{dest.path} is neither empty nor a backup: name a directory that does not exist yet")
    if note is not None and note.what != "backup":
        raise ConfigError(f"{dest.path} is a log whose {note.what} was cut short, and no backup: name another directory")
    if note is not None and not incremental:
        what, do = ("already", "bring it up to date") if manifests.NAME in names else ("that was not finished", "finish it")
        raise ConfigError(f"{dest.path} is a backup {what}: {do} with `--incremental`, or name another directory")
    if note is None or manifests.NAME not in names:
        backup_note.store(dest, Note("backup"))
        return None
    found, manifest = backup_note.in_force(dest)
    homes_differ = found.home is not None and found.home != homes.look(source).id
    if homes_differ or manifests.load(source).uuid != manifest.uuid:
        raise ConfigError(
            f"{dest.path} is a backup of the log in {found.source}, or in what was there, and {source.path} is another"
            " directory: make a backup of its own"
        )
    return found, manifest


def _refuse_other_history(source: Directory, dest: Directory, before: Manifest) -> None:
    """Raises ConfigError: the log has not the last block of the backup before. CorruptionError."""
    size, end = before.segment_bytes, before.checkpoint_position
    epochs = checkpoint_file.load(dest, before).epochs
    extent = same_history.last_extent(epochs, before.first_segment * size, end, size)
    try:
        if extent is None or same_history.are_same(dest, source, before, extent):
            return
    except CorruptionError:
        if not _is_freed(source, extent, size):
            raise
    if not _is_freed(source, extent, size):
        raise ConfigError(
            f"{dest.path} has records that the log in {source.path} has not, which went on from an older state once more: make"
            " a new backup"
        )


def _is_freed(source: Directory, extent: EpochRow | None, size: int) -> bool:
    return extent is None or manifests.load(source).first_segment > extent.begin // size


class _Holder:
    """Gets files of the log into the backup's directory."""

    def __init__(
        self, source: Directory, dest: Directory, previous: tuple[Made, Manifest] | None, *, copies: bool, pace: Pace
    ) -> None:
        self.counts = Counts()
        self.attic: Catalogue
        self._source, self._dest, self._pace = source, dest, pace
        self._links = not copies
        self._held: set[int] = set()
        # Of the backup before: segments that were whole, and the one that was not.
        self._sealed = 0 if previous is None else previous[1].checkpoint_position // previous[1].segment_bytes
        self._previous = previous

    def hold(self, reach: Callable[[], Reach] | None) -> _State:
        """Every segment up to an end that is confirmed, as of one manifest."""
        uuid = manifests.load(self._source).uuid
        for _ in range(TURNS_MAX):
            self.attic = attic_copy.hold(self._source, self._dest, uuid, links=self._links)
            state = self._look(reach)
            first, whole = state.manifest.first_segment, state.end // state.manifest.segment_bytes
            if self._hold(state, first, whole) and attic_copy.covers(self._source, self.attic, first):
                break
        else:
            raise ConfigError(f"the log in {self._source.path} frees its segments faster than they can be held: try again")
        point("bak.held")
        for number in range(first, state.named_end):
            self._side_file(number, state)
        sync_directory(self._dest.segments)
        return state

    def _look(self, reach: Callable[[], Reach] | None) -> _State:
        if reach is None:
            manifest, end = end_of(self._source)
            known = checkpoint_file.load(self._source, manifest)
        else:
            reached, uuid = reach(), manifests.load(self._source).uuid
            while True:
                found, manifest = checkpoint_file.look(self._source, uuid), manifests.load(self._source)
                if found is None:
                    raise ConfigError(f"another log was put into {self._source.path}")
                if (found.epoch, found.position) == (manifest.epoch, manifest.checkpoint_position):
                    break  # else it was written meanwhile
            known = found
            end = max(reach().end, known.position)  # all below a checkpoint is persisted, though it may not be told yet
            if known.epoch != reached.epoch:
                raise ConfigError(f"the engine on {self._source.path} is not the one that it was: try again")
        self._follows(known, end)
        return _State(manifest, known, end)

    def _follows(self, known: Checkpoint, end: int) -> None:
        """Raises ConfigError: the log has not what the backup before has."""
        if self._previous is None:
            return
        made = self._previous[0]
        row = next((row for row in known.epochs if row.epoch == made.epoch), None)
        freed = row is None and known.epochs[0].epoch > made.epoch
        if not freed and (row is None or (row.end or end) < made.position):
            raise ConfigError(f"{self._dest.path} has records that the log in {self._source.path} has not: make a new backup")

    def _hold(self, state: _State, first: int, whole: int) -> bool:
        """False: what the manifest names has been freed meanwhile."""
        number = first
        try:
            for number in range(first, state.named_end):
                if number == whole:
                    self._copy(state, number)
                elif number not in self._held:
                    self._segment(state, number)
                    self._held.add(number)
        except (FileNotFoundError, CorruptionError) as error:
            if manifests.load(self._source).first_segment > first:
                return False
            if isinstance(error, CorruptionError):
                raise
            place = (number, number * self._size(state))
            raise CorruptionError("a segment that the manifest names is missing", *place) from None
        return True

    @staticmethod
    def _size(state: _State) -> int:
        return state.manifest.segment_bytes

    def _segment(self, state: _State, number: int) -> None:
        """One that is sealed."""
        name = segment.name_of(number)
        check_regular(name, at=self._source.segments)
        check_regular(name, at=self._dest.segments)
        if os.stat(name, dir_fd=self._source.segments).st_size != segment.HEADER_BYTES + self._size(state):
            raise CorruptionError("the segment's file is of another size than segments", number, number * self._size(state))
        here = _stat(name, self._dest)
        if here is not None and (number < self._sealed or self._is_linked(name, here)):
            self._check_same(state, number, here)
            self.counts.kept += 1
            return
        self._links = self._links and self._link(number)
        if self._links:
            self.counts.linked += 1
        else:
            self._copy(state, number)

    def _is_linked(self, name: str, here: os.stat_result) -> bool:
        """Is it the log's file, from a backup that was cut short?"""
        return os.path.samestat(os.stat(name, dir_fd=self._source.segments), here)

    def _check_same(self, state: _State, number: int, here: os.stat_result) -> None:
        """Raises ConfigError: the backup's segment of that number is not the log's."""
        name = segment.name_of(number)
        if self._is_linked(name, here):
            return
        pages = []
        for place in (self._source, self._dest):
            page = bytearray(segment.HEADER_BYTES)
            with opened(name, os.O_RDONLY, at=place.segments) as fd:
                read_all(fd, memoryview(page), 0)
            pages.append(page)
        size = self._size(state)
        begin, end = number * size, min((number + 1) * size, state.end)
        extent = same_history.last_extent(state.checkpoint.epochs, begin, end, size)
        same = extent is None or same_history.are_same(self._source, self._dest, state.manifest, extent)
        if pages[0] != pages[1] or not same:
            if manifests.load(self._source).first_segment > number:
                raise FileNotFoundError(errno.ENOENT, "freed meanwhile", name)
            raise ConfigError(f"segment {number} in {self._dest.path} is not that of {self._source.path}: make a new backup")

    def _link(self, number: int) -> bool:
        name, at = segment.name_of(number), self._dest.segments
        if not has_link(name, self._source, self._dest):
            return False
        unlink(sidefile.name_of(number), at=at)  # of what had the name before
        os.rename(name + PART, name, src_dir_fd=at, dst_dir_fd=at)
        point("bak.linked")
        return True

    def _copy(self, state: _State, number: int) -> None:
        """Its blocks up to the end, each proven; zeros elsewhere."""
        name, at, size = segment.name_of(number), self._dest.segments, self._size(state)
        begin, end = number * size, min((number + 1) * size, state.end)
        check_regular(name, at=self._source.segments)
        window = Window(self._source, state.manifest, direct=True)
        unlink(name + PART, at=at)
        try:
            with opened(name + PART, os.O_WRONLY | os.O_CREAT | os.O_EXCL, at=at) as fd:
                os.ftruncate(fd, segment.HEADER_BYTES + size)

                def into(piece: memoryview, position: int) -> None:
                    write_all(fd, piece, segment.HEADER_BYTES + position % size)
                    os.fdatasync(fd)  # as it comes: the log's own writes would wait behind all of it at once
                    self.counts.copied += len(piece)
                    self._pace.passed(len(piece))

                header = bytearray(segment.HEADER_BYTES)
                with opened(name, os.O_RDONLY, at=self._source.segments) as original:
                    read_all(original, memoryview(header), 0)
                write_all(fd, memoryview(header), 0)
                for extent in extents(state.checkpoint.epochs, begin, end, size):
                    prove(window, state.manifest.uuid, extent, into=into)
                os.fsync(fd)
        finally:
            window.close()
        unlink(sidefile.name_of(number), at=at)
        os.rename(name + PART, name, src_dir_fd=at, dst_dir_fd=at)
        self.counts.copied_segments += 1
        point("bak.copied")

    def _side_file(self, number: int, state: _State) -> None:
        """It can be made again, so what hinders it hinders nothing."""
        name = sidefile.name_of(number)
        if number >= state.checkpoint.position // self._size(state) or _stat(name, self._dest) is not None:
            return
        with contextlib.suppress(OSError, CorruptionError):
            check_regular(name, at=self._source.segments)
            if self._links:
                os.link(name, name, src_dir_fd=self._source.segments, dst_dir_fd=self._dest.segments)
                return
            content = (self._source.path / SEGMENTS / name).read_bytes()
            unlink(name + PART, at=self._dest.segments)
            with opened(name + PART, os.O_WRONLY | os.O_CREAT, at=self._dest.segments) as fd:
                write_all(fd, memoryview(content), 0)
                os.fsync(fd)
            os.rename(name + PART, name, src_dir_fd=self._dest.segments, dst_dir_fd=self._dest.segments)


def _stat(name: str, directory: Directory) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory.segments)
    except FileNotFoundError:
        return None


def _walked(directory: Directory, state: _State, pace: Pace) -> tuple[Checkpoint, dict[str, dict[str, int]]]:
    """A checkpoint of the very end, from the one of the log and what lies behind; and the streams by name. Raises
    CorruptionError: the log does not reach the end."""
    manifest, walked = dataclasses.replace(state.manifest, named_end=state.named_end), 0

    def tell(done: int, total: int) -> None:  # noqa: ARG001
        nonlocal walked
        pace.passed(done - walked)
        walked = done

    with Walk(directory, manifest, state.checkpoint, tell, direct=True) as walk:
        if walk.damage is not None:
            raise walk.damage
        walk.run_prefix()
        if walk.scan.position != state.end:
            raise CorruptionError(
                f"the log is confirmed up to position {state.end}, and what is on the disk ends before",
                *walk.place(walk.scan.position),
            )
        rows = ffi.new("rw_checkpoint_stream[]", max(walk.scan.stream_end, 1))
        count = lib.rw_recovery_rows(walk.scan, rows)
        known = dataclasses.replace(
            state.checkpoint,
            position=state.end,
            block_number=state.checkpoint.block_number + walk.scan.blocks,
            timestamp_ns=walk.scan.timestamp_ns,
            next_number=walk.scan.next_number,
            streams=bytes(ffi.buffer(rows, count * STREAM_BYTES)),
            owners=walk.owners(),
            owners_end=walk.scan.owners_end,
            epochs=living(state.checkpoint.epochs, manifest.first_segment * walk.size),
        )
    found = {
        row.name: {"number": row.number, "start_offset": row.start_offset, "next_offset": row.next_offset}
        for row in known.rows()
    }
    return known, found


def _checkpoint(directory: Directory, state: _State, known: Checkpoint, previous: tuple[Made, Manifest] | None) -> Manifest:
    """Written beside the one of the backup before. Returns the manifest that names it, not stored yet."""
    before = previous[1] if previous is not None else dataclasses.replace(state.manifest, checkpoint_bytes=0)
    place = dataclasses.replace(
        state.manifest,
        checkpoint_file=before.checkpoint_file,
        checkpoint_bytes=before.checkpoint_bytes,
        named_end=state.named_end,
    )
    put = checkpoint_file.put(directory, place, known, len(known.streams) // STREAM_BYTES)
    sync_directory(directory.fd)
    point("bak.checkpoint")
    return dataclasses.replace(put, end=state.end, backup=True)


def _made(source: Directory, began: str, manifest: Manifest, streams: dict[str, dict[str, int]]) -> Made:
    home = homes.look(source)
    return Made(
        uuid=manifest.uuid.hex(),
        home=home.id if home.stored else None,
        source=str(source.path),
        began=began,
        ended=_now(),
        epoch=manifest.epoch,
        position=manifest.checkpoint_position,
        first_segment=manifest.first_segment,
        named_end=manifest.named_end,
        checkpoint_digest=f"{manifest.checkpoint_digest:016x}",
        streams=streams,
    )


def _name(directory: Directory, manifest: Manifest, made: Made, previous: tuple[Made, Manifest] | None) -> None:
    backup_note.store(directory, Note("backup", made, None if previous is None else previous[0]))
    point("bak.noted")
    manifests.create(directory, manifest)
    point("bak.named")


def _clear(directory: Directory, made: Made) -> None:
    """Remove what this backup has not: files of segments that are freed, and what others left that were cut short."""
    with opened(".", os.O_RDONLY | os.O_DIRECTORY, at=directory.segments) as fd:
        names = [name for name in os.listdir(fd) if _OURS.fullmatch(name)]
    for name in names:
        if name.endswith(PART) or not made.first_segment <= int(name[:20]) < made.named_end:
            unlink(name, at=directory.segments)
    sync_directory(directory.segments)
