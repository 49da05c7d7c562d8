"""A log at several moments of its life, byte for byte, so that copies can be put together that mix them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from ringwal.log import checkpoint_file, freeing, segment
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import Checkpoint, StreamRow, pack
from ringwal.log.recovery import Recovered, recover
from tests.support.log_place import log_at
from tests.support.log_writer import CONFIG, LogWriter, trim

SMALL = dataclasses.replace(CONFIG, direct_io="off")
RECORD_BYTES = 300_000
Files = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Moment:
    """`ends` and `starts` are the streams' confirmed ends and their start offsets, `files` all there is by path."""

    name: str
    files: Files
    ends: dict[str, int]
    starts: dict[str, int]


def payload(stream: int, offset: int) -> bytes:
    """Of the record at that offset."""
    return b"%d:%d:" % (stream, offset) + bytes([offset % 251]) * RECORD_BYTES


class History:
    """Writes the log of two streams, moment after moment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.starts = {0: 0, 1: 0}
        self._begin(recover(log_at(directory), SMALL))

    def _begin(self, recovered: Recovered) -> None:
        self.log = LogWriter(self.directory, recovered)
        self.epochs = checkpoint_file.load(log_at(self.directory), recovered.manifest).epochs

    def write(self, blocks: int) -> None:
        """That many blocks of a record, in turns."""
        for _ in range(blocks):
            stream = self.log.number % 2
            self.log.put((stream, payload(stream, self.log.next.get(stream, 0))))

    def trim(self) -> None:
        """Both streams, to their ends."""
        for stream in self.starts:
            self.starts[stream] = self.log.next[stream]
            self.log.put(trim(stream, self.starts[stream]))

    def checkpoint(self, *, name: bool = True, end: bool = False) -> None:
        """Of all that is written, as an engine does it."""
        log, at = self.log, log_at(self.directory)
        rows = [StreamRow(k, f"s{k}", following, self.starts[k], 1, 1) for k, following in sorted(log.next.items())]
        made = Checkpoint(
            uuid=log.manifest.uuid, epoch=log.manifest.epoch, position=log.position, block_number=log.number,
            timestamp_ns=1 << 40, streams=pack(rows), next_number=len(rows), epochs=self.epochs,
        )  # fmt: skip
        named = checkpoint_file.put(at, log.manifest, made, 64)
        if name:
            log.manifest = manifests.store(at, dataclasses.replace(named, end=log.position if end else 0))

    def free(self, wanted: int) -> None:
        """All segments below the checkpoint's, whose files become the next ones."""
        end = self.log.manifest.checkpoint_position // self.log.manifest.segment_bytes
        self.log.manifest = freeing.free(
            log_at(self.directory), self.log.manifest, end, wanted=wanted, direct=False, announce=lambda _: None
        )

    def ahead(self) -> None:
        """The next segment is made and named."""
        number = self.log.manifest.named_end
        self.log.manifest = segment.prepare(log_at(self.directory), self.log.manifest, number, direct=False)

    def restart(self) -> None:
        """The engine is killed, and another one starts."""
        self._begin(recover(log_at(self.directory), SMALL))

    def moment(self, name: str) -> Moment:
        """All as it is now."""
        ends = {f"s{stream}": following for stream, following in self.log.next.items()}
        return Moment(name, files_of(self.directory), ends, {f"s{k}": start for k, start in self.starts.items()})


def files_of(directory: Path) -> Files:
    """Every file below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def put_files(directory: Path, files: Files) -> None:
    """A directory with these files."""
    (directory / "segments").mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)


def moments(directory: Path) -> Iterator[Moment]:
    """Of a log that is written, checkpointed, trimmed, freed, used again, killed and recovered."""
    history = History(directory)
    history.write(4)
    yield history.moment("begun")
    history.write(12)
    history.ahead()
    yield history.moment("grown")
    history.checkpoint()
    history.write(3)
    yield history.moment("checkpoint")
    history.trim()
    history.checkpoint()
    history.free(wanted=history.log.manifest.named_end + 1)
    history.write(18)
    yield history.moment("freed, used again")
    history.restart()
    history.write(3)
    yield history.moment("another epoch")
    history.checkpoint(end=True)
    yield history.moment("stopped")
