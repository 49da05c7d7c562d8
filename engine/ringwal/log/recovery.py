"""Recovery: from whatever a crash left to a new epoch that nobody has appended to.

    1  read the manifest, and the checkpoint that it names
    2  walk the epoch in force from the checkpoint to the first place without a valid block: the cut
    3  walk on behind it: what was in flight together with what is missing
    4  decide (decision.py); up to here nothing on the disk has been changed
    5  claim an epoch number, write the new epoch's beginning behind all that, put it in force in the manifest (epoch.py)

After an orderly stop the checkpoint is all there is: 2 and 3 fall away. No segment below the checkpoint is opened, so a start
takes the same time however long the log is; one that is missing there is told, and denies its own records only.

No block of the old epoch is ever changed, and the manifest's last change is the only step that counts. So a crash at any
point, any number of times, leads to what one recovery without a crash leads to.

Records beyond the cut that are not carried over are gone for good: blocks carry their epoch, and the old epoch is
believed up to its cut only, which every later checkpoint states.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ringwal._native import ffi, lib
from ringwal.config import Config, format_size
from ringwal.errors import ConfigError, CorruptionError, Error
from ringwal.log import checkpoint_file, copies, segment, settings
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import OWNER_BYTES
from ringwal.log.decision import Evidence, Outcome, Row, decide
from ringwal.log.directory import Directory
from ringwal.log.epoch import EpochWriter, begin_of
from ringwal.log.files import sync_directory, use_direct
from ringwal.log.manifest import Manifest
from ringwal.log.walk import Walk
from ringwal.points import point

LOG = logging.getLogger("ringwal")


@dataclasses.dataclass(frozen=True, slots=True)
class RecoveredStream:
    """A stream that the log defines. `next_offset` is the offset of the next record to be appended."""

    number: int
    name: str
    next_offset: int
    start_offset: int = 0
    payload_bytes: int = 0
    """Of all its batches so far."""
    timestamp_ns: int = 0
    """Of the newest one; 0: none."""
    settings: bytes = b""
    """As `settings.decode` takes them; none where nobody has set any."""


@dataclasses.dataclass(frozen=True, slots=True)
class Statistics:
    """What one recovery read and did. `bytes` are bytes of valid blocks; `seconds` are of the whole recovery."""

    blocks: int = 0
    records: int = 0
    bytes: int = 0
    holes: int = 0
    carried: int = 0
    dropped: int = 0
    missing_segments: tuple[int, ...] = ()
    """Below the checkpoint: missing, or of a wrong size. Their records are denied to whoever reads them."""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Recovered:
    """A log that is ready for appends."""

    manifest: Manifest
    """In force now; its epoch is the new one."""
    epoch_begin: int
    """Log position of the new epoch's first block."""
    previous_end: int
    """The cut: log position at which the epoch before ends."""
    position: int
    """Log position of the next block."""
    block_number: int
    """Its number; blocks are numbered from 0 in each epoch."""
    timestamp_ns: int
    """The newest timestamp in the log; later blocks should not go back behind it."""
    streams: tuple[RecoveredStream, ...]
    """Those that live, in order of their numbers, which may have gaps."""
    next_number: int
    """Of a stream that the log has never had."""
    owners: bytes
    """Rows of the owners, as a checkpoint has them."""
    owners_end: int
    """Number of an owner that the log has never had."""
    direct: bool
    """Segments are written with O_DIRECT."""
    statistics: Statistics

    @property
    def uuid(self) -> bytes:
        """16 bytes that name this log."""
        return self.manifest.uuid

    @property
    def epoch(self) -> int:
        """The new epoch, 1 or greater."""
        return self.manifest.epoch


def _nobody(done: int, total: int) -> None:
    """Whom recovery tells how far it is, unless somebody wants to know."""


def recover(
    directory: Directory, config: Config, tell: Callable[[int, int], object] = _nobody, *, copied: bool = False
) -> Recovered:
    """Bring the log in `directory` into a new epoch; make the log if there is none. The caller holds the lock. `tell` is called
    again and again with how many bytes were read, and how many there are to read. A log that was `copied` has to be proven
    whole (copies.py).

    Raises:
        CorruptionError: damage that no crash explains; nothing has been changed.
        ConfigError: `config` does not fit the log; nothing has been changed.
        VersionMismatch: the log is of another format; nothing has been changed.
        StorageFull: there is no room for the new epoch's segment or checkpoint; try again when there is.
        OSError: a read of the directory, or a write or sync failed.
    """
    began = time.monotonic()
    manifest = _load_or_create(directory, config, copied=copied)
    _check_fit(manifest, config)
    known = checkpoint_file.load(directory, manifest) if manifest.epoch else None
    if known is not None:
        known.rows()  # C believes them
        known.owner_rows()
    with Walk(directory, manifest, known, tell, direct=config.direct_io != "off") as walk:
        cut = _find_cut(walk, manifest)
        tell(walk.end - walk.begin, walk.end - walk.begin)  # what lies behind the tail is not read
        streams = streams_of(walk)
        if len(streams) > config.max_streams:
            raise ConfigError(f"the log has {len(streams)} streams; raise max_streams to {len(streams)}")
        _refuse_older_manifest(directory, manifest, begin_of(directory, manifest, walk.scan.taken_end))
        if copied:
            copies.prove_whole(directory, manifest, known, walk, cut, tell, direct=config.direct_io != "off")
        lost = segment.missing(directory, manifest, walk.begin // walk.size)
        if lost:
            LOG.warning("%s: segments %s are missing or of a wrong size; their records cannot be read",
                        directory.path, ", ".join(map(str, lost)))  # fmt: skip
        point("rec.decided")
        direct = _settle(directory, manifest, config)
        segment.unshare(directory, manifest, -(-walk.scan.taken_end // walk.size), direct=direct)
        writer = EpochWriter(directory, manifest, walk, cut, known.epochs if known else (), direct=direct)
        owners = walk.owners()
        switched = writer.write(config.ring_bytes, config.max_streams, max(config.max_producers, len(owners) // OWNER_BYTES))
        point("rec.switched")
        return Recovered(
            manifest=switched,
            epoch_begin=writer.begin,
            previous_end=cut,
            position=writer.position,
            block_number=writer.block_number,
            timestamp_ns=walk.scan.timestamp_ns,
            streams=streams,
            next_number=walk.scan.next_number,
            owners=owners,
            owners_end=walk.scan.owners_end,
            direct=direct,
            statistics=_statistics(walk.scan, tuple(lost), time.monotonic() - began),
        )


def end_of(directory: Directory) -> tuple[Manifest, int]:
    """The manifest of a log that nobody writes, and the log position at which it ends.

    Raises:
        CorruptionError, VersionMismatch, OSError: as `recover`.
        ConfigError: it has never been used, or only a start can tell where it ends.
    """
    try:
        manifest = manifests.load(directory)
    except FileNotFoundError:
        raise ConfigError(f"{directory.path} has no log") from None
    if not manifest.epoch:
        raise ConfigError(f"the log in {directory.path} has never been used: there is nothing in it")
    if manifest.end:
        return manifest, manifest.end
    known = checkpoint_file.load(directory, manifest)
    known.rows()
    known.owner_rows()
    with Walk(directory, manifest, known, _nobody, direct=True) as walk:
        cut = _find_cut(walk, manifest)
        if walk.scan.largest_frame:
            raise ConfigError(
                f"the engine on {directory.path} was killed, and the next start has to carry over records that stand behind a"
                " gap in the log: start an engine there first"
            )
    return manifest, cut


def fitted(directory: Directory, config: Config) -> Config:
    """`config`, with what it does not say taken from the log, if there is one. Raises as `recover`."""
    try:
        found = manifests.load(directory)
    except FileNotFoundError:
        return config
    return config.fitted(found.segment_bytes, found.window_bytes)


def made_with(path: Path) -> tuple[int, int] | None:
    """Segment size of the log in that directory, and the ring of its latest engine; None: none can be read there, which is said
    when it is started."""
    try:
        with Directory(path) as directory:
            found = manifests.load(directory)
    except (OSError, Error):
        return None
    return found.segment_bytes, found.window_bytes


def _load_or_create(directory: Directory, config: Config, *, copied: bool) -> Manifest:
    try:
        found = manifests.load(directory)
    except FileNotFoundError:
        if copied:
            raise CorruptionError(f"{directory.path} has no manifest") from None
    else:
        sync_directory(directory.fd)  # whoever made the manifest may have died before its name was durable
        return found
    directory.make_segments()
    if segment.numbers(directory):
        raise CorruptionError(f"{directory.path} has segments but no manifest")
    fresh = Manifest(uuid=os.urandom(16), segment_bytes=config.segment_bytes, window_bytes=config.ring_bytes)
    return manifests.create(directory, fresh)


def _check_fit(manifest: Manifest, config: Config) -> None:
    if manifest.segment_bytes != config.segment_bytes:
        raise ConfigError(
            f"segment_bytes is {format_size(config.segment_bytes)}, but this log was made with"
            f" {format_size(manifest.segment_bytes)}, which is fixed at creation; set segment_bytes to that"
        )


def accepted(directory: Directory, walk: Walk, manifest: Manifest) -> int:
    """The cut, if a start would accept the log that `walk` shows. Changes nothing. Raises CorruptionError."""
    cut = _find_cut(walk, manifest)
    _refuse_older_manifest(directory, manifest, begin_of(directory, manifest, walk.scan.taken_end))
    return cut


def _find_cut(walk: Walk, manifest: Manifest) -> int:
    """Walk the epoch and what lies beyond it; the cut, if the log is accepted. Changes nothing. Raises CorruptionError."""
    scan = walk.scan
    whole = walk.damage is None
    walks = whole and manifest.epoch > 0 and not manifest.end and _consistent(scan)
    hole = bool(manifest.end) or (walks and not walk.run_prefix())
    cut = scan.position
    beyond = None
    if walks and _consistent(scan):
        walk.begin_tail()
        beyond = walk.first_beyond() if walk.run_tail() else None
    if scan.finding == lib.RW_RECOVERY_NO_MEMORY:
        raise MemoryError("no memory for the table of streams")
    far_end = scan.valid_end if beyond is None else beyond
    later = far_end > cut
    row = decide(
        Evidence(
            segments_whole=whole,
            has_epoch=manifest.epoch > 0,
            consistent=_consistent(scan),
            hole=hole,
            covered=scan.watermark > cut,
            later=later,
            in_window=not later or far_end - cut <= manifest.window_bytes,
        )
    )
    if row.outcome is Outcome.CORRUPT:
        raise walk.damage or _corruption(walk, row, cut, far_end)
    return int(cut)


def _consistent(scan: Any) -> bool:
    return scan.finding in (lib.RW_RECOVERY_NOTHING, lib.RW_RECOVERY_TORN)


_CONTRADICTIONS = {
    lib.RW_RECOVERY_MISPLACED: "its kind or span does not belong there",
    lib.RW_RECOVERY_GAP: "it has a record of stream {} that does not follow the one before",
    lib.RW_RECOVERY_REPEAT: "it has a record of stream {} at an offset that another record has",
    lib.RW_RECOVERY_UNKNOWN: "it has a record of stream {}, which was never defined",
    lib.RW_RECOVERY_RENAMED: "it defines stream {} again, under another name",
    lib.RW_RECOVERY_DELETED: "it has a frame of stream {}, which was deleted before",
    lib.RW_RECOVERY_TRIM: "it drops records of stream {} that the stream does not have",
    lib.RW_RECOVERY_OWNER: "it has a batch of stream {} that does not follow its producer's last one",
}


def _corruption(walk: Walk, row: Row, cut: int, far_end: int) -> CorruptionError:
    scan = walk.scan
    place, detail = cut, ""
    if row.label == "CONTRADICTION":
        place, detail = scan.position, _CONTRADICTIONS[scan.finding].format(scan.finding_stream)
    elif row.label in ("LOST", "UNNAMED"):
        detail = f"the block at position {scan.watermark_at} says that all before {scan.watermark} was on the disk"
    elif row.label == "FAR":
        detail = f"valid blocks reach to position {far_end}"
    segment_number = min(place, walk.end - 1) // walk.size
    return CorruptionError(f"{row.message}: {detail}" if detail else row.message, segment_number, place)


def streams_of(walk: Walk) -> tuple[RecoveredStream, ...]:
    """Every stream that lives by checkpoint and epoch, with what is carried over counted in. Raises CorruptionError."""
    found: list[RecoveredStream] = []
    names: set[str] = set()
    for place in range(walk.scan.stream_end):
        entry = lib.rw_recovery_stream_of(walk.scan, place)
        if entry.state not in (lib.RW_RECOVERY_STREAM_DEFINED, lib.RW_RECOVERY_STREAM_BROKEN):
            continue
        name = walk.name_of(entry)
        if name in names:
            raise CorruptionError(f"two streams have the name {name!r}", *walk.place(walk.begin))
        names.add(name)
        numbers = (entry.next_offset, entry.start_offset, entry.payload_bytes, entry.timestamp_ns)
        own = bytes(ffi.buffer(entry.settings))
        settings.decode(own)
        found.append(RecoveredStream(entry.number, name, *numbers, own if any(own) else b""))
    return tuple(sorted(found, key=lambda stream: stream.number))


def _refuse_older_manifest(directory: Directory, manifest: Manifest, begin: int) -> None:
    """Raises CorruptionError: where the next epoch is to begin lies one that the manifest has not claimed."""
    if begin >= manifest.named_end * manifest.segment_bytes:
        return
    found = segment.block_at(directory, manifest, begin)
    if found is not None and found > manifest.claimed:
        raise CorruptionError(
            f"the manifest is older than the log: it knows no epoch {found}, which goes on here",
            begin // manifest.segment_bytes,
            begin,
        )


def _settle(directory: Directory, manifest: Manifest, config: Config) -> bool:
    """First changes after the decision: clear away what was never named; find out how segments are written."""
    segment.remove_orphans(directory, manifest)
    return use_direct(directory, config.direct_io)


def _statistics(scan: Any, missing: tuple[int, ...], seconds: float) -> Statistics:
    return Statistics(
        blocks=scan.blocks,
        records=scan.records,
        bytes=scan.bytes,
        holes=scan.holes,
        carried=scan.kept,
        dropped=scan.dropped,
        missing_segments=missing,
        seconds=seconds,
    )
