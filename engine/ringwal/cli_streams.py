"""The verbs that take something away: `trim` and `rm`. Both can say beforehand what they would."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ringwal import cli_kit as kit
from ringwal import textio
from ringwal.interrupts import INTERRUPTS, ChangeFate
from ringwal.times import TIME_HELP, At

if TYPE_CHECKING:
    import ringwal
    from ringwal.log.directory import Directory
    from ringwal.log.manifest import Manifest

dry_option = click.option("--dry-run", is_flag=True, help="Change nothing, and say what would be gone.")
_timeout_option = kit.wait_option(30.0, "How long to wait for the engine to answer, and until it is on stable storage.")


class Freed(NamedTuple):
    """Segment files that nobody needs any more, and their bytes; and those that follow when the attic has what is alive in
    them, less what that takes."""

    segments: int
    bytes: int
    attic_segments: int = 0
    attic_bytes: int = 0


@click.command()
@kit.directory_argument
@kit.stream_argument
@click.option("--before", callback=kit.before_value, required=True, metavar="OFFSET|TIME",
              help="Offset of the first record to keep; latest keeps none, -N the last N records. Or drop what the engine took"
                   f" before a time, which is no plain number: {TIME_HELP}.")
@dry_option
@_timeout_option
@kit.json_option
def trim(*, directory: Path, stream: str, before: int | str | At, dry_run: bool, timeout: float, as_json: bool) -> None:
    """Drop the records of STREAM below an offset, or from before a time, for good.

    Offsets stay as they are. Returns when that is on stable storage. The files are freed by whole segments: when all that is in
    the oldest one, of whichever streams, is trimmed or removed, or so much of it that the engine keeps the rest elsewhere.
    """
    with kit.client(directory, timeout) as client:
        source = kit.existing(client, stream)
        info = source.stat()
        offset = max(kit.first_offset(before, source, info), info.start_offset)
        freed = _would_free(client, info.number, offset) if dry_run else None
        with asked(dry_run, f"the trim of stream {stream!r}"):
            start = offset if dry_run else source.trim(offset)
    records = start - info.start_offset
    if as_json:
        _say({"stream": stream, "start_offset": start, "records": records}, freed)
        return
    verb = "would be trimmed" if dry_run else "trimmed"
    begins = "would begin" if dry_run else "begins"
    textio.Output().line(
        f"{textio.visible(stream)}: {textio.counted(records, 'record')} {verb}, {begins} at {start}{_space(freed)}"
    )


@click.command()
@kit.directory_argument
@kit.stream_argument
@dry_option
@_timeout_option
@kit.json_option
def rm(*, directory: Path, stream: str, dry_run: bool, timeout: float, as_json: bool) -> None:
    """Delete STREAM with all of its records, for good.

    An append to its name makes another stream, which begins at offset 0.
    """
    with kit.client(directory, timeout) as client:
        info = kit.existing(client, stream).stat()
        freed = _would_free(client, info.number, None) if dry_run else None
        with asked(dry_run, f"the deletion of stream {stream!r}"):
            if not dry_run:
                client.delete_stream(stream)
    if as_json:
        _say({"stream": stream, "records": info.records}, freed)
        return
    verb = "would be removed" if dry_run else "removed"
    textio.Output().line(f"{textio.visible(stream)}: {verb}, with {textio.counted(info.records, 'record')}{_space(freed)}")


@contextlib.contextmanager
def asked(dry_run: bool, what: str, verb: str = "ls") -> Iterator[None]:
    """Who interrupts the body is told that it may have its effect yet."""
    INTERRUPTS.fate = None if dry_run else ChangeFate(what, verb)
    try:
        yield
    finally:
        INTERRUPTS.fate = None  # an error knows its own


def _say(facts: dict[str, Any], freed: Freed | None) -> None:
    found = {} if freed is None else freed._asdict()
    textio.Output().json({**facts, "dry_run": freed is not None, **found})


def _space(freed: Freed | None) -> str:
    if freed is None:
        return ""
    more = f", {freed.attic_segments} more ({freed.attic_bytes} bytes) later, by the attic" if freed.attic_segments else ""
    return f"; {textio.counted(freed.segments, 'segment')} ({freed.bytes} bytes) would be freed{more}"


def _would_free(client: ringwal.Client, number: int, start: int | None) -> Freed:
    """What could go if the stream of that number began at ``start``, or did not exist: segments go oldest first, up to one in
    which there is something to read, and never the one in use."""
    from ringwal.log import checkpoint_file, manifest, occupancy
    from ringwal.log.checkpoint import StreamRow, pack
    from ringwal.log.segment import HEADER_BYTES

    attachment = client._attachment()
    directory, end = attachment.directory, attachment.reader.bounds.disk_end()
    known = checkpoint_file.look(directory, attachment.reader.bounds.uuid)
    state = manifest.load(directory)
    if known is None or known.uuid != state.uuid:
        return Freed(0, 0)  # another log is there by now, and the verb itself will say so
    infos = sorted(attachment.stream_infos(), key=lambda info: info.number)
    starts = {info.number: start if info.number == number else info.start_offset for info in infos}
    rows = [StreamRow(info.number, info.name, info.confirmed_offset, begin, 0, 0)
            for info in infos if (begin := starts[info.number]) is not None]  # fmt: skip
    streams, epochs, segment = pack(rows), known.epochs_up_to(end), state.first_segment
    while segment < end // state.segment_bytes:
        held = occupancy.read(directory, state, epochs, segment, direct=False)
        if occupancy.live(held, streams).count:
            break
        segment += 1
    count, each = segment - state.first_segment, HEADER_BYTES + state.segment_bytes
    more, kept = _would_move(client, directory, state, segment, streams)
    return Freed(count, count * each, more, more * each - kept)


def _would_move(client: ringwal.Client, directory: Directory, state: Manifest, first: int, streams: bytes) -> tuple[int, int]:
    """How many segments from `first` on the attic would empty, and the bytes that it would take for it, as the keeper decides
    by side files (processes/attic_task.py)."""
    from ringwal.log import sidefile
    from ringwal.processes.attic_task import ALIVE_PART

    said = client.status()
    if said["space"]["on_full"] == "drop_oldest":
        return 0, 0
    most, kept, segment = said["space"]["limit"], 0, first
    while (side := sidefile.SideFile.open(directory, state.uuid, state.segment_bytes, segment)) is not None:
        try:
            size, _ = side.live(streams)
        except sidefile.Unproven:
            break
        room = most is None or said["attic"]["bytes"] + kept + size <= most // ALIVE_PART
        if size * ALIVE_PART >= state.segment_bytes or not room:
            break
        segment, kept = segment + 1, kept + size
    return segment - first, kept
