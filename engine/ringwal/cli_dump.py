"""The verb that shows the blocks and frames of a log: `dump`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringwal import cli_kit as kit
from ringwal import cli_source as sources
from ringwal import textio
from ringwal.errors import NoSuchStream
from ringwal.limits import WHOLE_MAX

if TYPE_CHECKING:
    from ringwal.log.dump import Block, Dump, Frame, Gap, Head

_PIECE_BYTES = 64 << 10


def from_value(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, int]:
    """A log position, or a segment, as the name of its file: ("position", N) or ("segment", N)."""
    found = re.fullmatch(r"(\d{1,20})(\.seg)?", value or "0")
    if found is None or int(found[1]) > WHOLE_MAX:
        raise click.BadParameter(f"{kit.shortened(value or '')} is neither a log position nor a segment, such as 3.seg")
    return ("segment" if found[2] else "position"), int(found[1])


@click.command()
@kit.directory_argument
@click.option("--from", "start", callback=from_value, metavar="POSITION|N.seg",
              help="Begin at a log position, or with a segment.  [default: with the oldest block]")
@click.option("--stream", metavar="NAME", help="Only the frames of that stream, and their blocks.")
@kit.json_option
def dump(directory: Path, start: tuple[str, int], stream: str | None, as_json: bool) -> None:
    """Show the blocks and frames of the log in DIR, damaged ones, too. Changes nothing; needs no engine.

    With --json, one object a line: the log, then each block with its frames, and each place without a valid block. Where an
    engine runs, it ends at its checkpoint.
    """
    from ringwal.log.dump import Dump

    with sources.log_of(directory) as (log, running):
        found = Dump(log, running=running)
        output = textio.Output()
        objects = _objects(found, start, stream)
        if stream is not None:
            objects = _some(objects, stream)
        for text in _pieces(map(textio.json_text, objects) if as_json else _lines(objects)):
            output.write(text)


def _some(objects: Iterator[dict[str, Any]], stream: str) -> Iterator[dict[str, Any]]:
    """Raises NoSuchStream if there are none of that stream."""
    seen = False
    for each in objects:
        seen = seen or bool(each.get("frames"))
        yield each
    if not seen:
        raise NoSuchStream(
            f"no segment has a frame of a stream {textio.visible(stream)!r} there; what is in the attic, or was"
            " appended a moment ago to an engine that runs, is not shown"
        )


def _pieces(lines: Iterator[str]) -> Iterator[bytes]:
    held = bytearray()
    for line in lines:
        held += line.encode("utf-8", "backslashreplace") + b"\n"
        if len(held) >= _PIECE_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _objects(found: Dump, start: tuple[str, int], stream: str | None) -> Iterator[dict[str, Any]]:
    from ringwal.log.dump import Block

    if stream is None:
        yield _head_object(found.head())
    kind, number = start
    for item in found.items(number * found.segment_bytes if kind == "segment" else number):
        if not isinstance(item, Block):
            yield _gap_object(found, item)
            continue
        frames = [frame for frame in item.frames if stream is None or frame.name == stream]
        if frames or stream is None or item.wrong:
            yield _block_object(found, item, frames)


def _head_object(head: Head) -> dict[str, Any]:
    return {
        **dataclasses.asdict(head),
        "what": "log",
        "epochs": [row._asdict() for row in head.epochs],
        "faults": [{"file": file, "offset": offset, "what": what} for file, offset, what in head.faults],
    }


def _place(found: Dump, position: int) -> dict[str, Any]:
    file, offset = found.file_of(position)
    return {"position": position, "file": file, "offset": offset}


def _gap_object(found: Dump, gap: Gap) -> dict[str, Any]:
    return {"what": "bad", **_place(found, gap.position), "until": gap.until, "epoch": gap.epoch, "why": gap.why}


def _block_object(found: Dump, block: Block, frames: list[Frame]) -> dict[str, Any]:
    return {
        "what": "block",
        **_place(found, block.position),
        "kind": block.kind,
        "epoch": block.epoch,
        "number": block.number,
        "length": block.length,
        "span": block.span,
        "watermark": block.watermark,
        "timestamp_ns": block.timestamp_ns,
        "previous": None if block.previous is None else block.previous._asdict(),
        "wrong": block.wrong,
        "frames": [_frame_object(frame) for frame in frames],
    }


def _frame_object(frame: Frame) -> dict[str, Any]:
    return {
        "position": frame.position,
        "kind": frame.kind,
        "stream": frame.name,
        "number": frame.stream,
        "first_offset": frame.offset,
        "records": frame.records,
        "payload_bytes": frame.payload_bytes,
        "timestamp_ns": frame.timestamp_ns,
        "wrong": frame.wrong,
        **{key: value for key, value in frame.says.items() if key != "name"},
    }


# ------------------------------------------------------------------------------------------------------------ text


def _lines(objects: Iterator[dict[str, Any]]) -> Iterator[str]:
    shown = {"log": _head_lines, "block": _block_lines, "bad": _bad_lines}
    for found in objects:
        yield from shown[found["what"]](found)


def _head_lines(head: dict[str, Any]) -> Iterator[str]:
    segments = f"segments {head['first_segment']} to {head['named_end'] - 1} of {head['segment_bytes']} bytes"
    yield f"log {head['uuid']}: {segments}, checkpoint at {head['checkpoint']}, {head['streams']} streams"
    for row in head["epochs"]:
        yield f"epoch {row['epoch']}: from {row['begin']} to {row['end'] or 'the end'}"
    yield from (f"damaged: {one['file']} byte {one['offset']}: {textio.visible(one['what'])}" for one in head["faults"])


def _bad_lines(gap: dict[str, Any]) -> Iterator[str]:
    yield f"bad: no block of epoch {gap['epoch']} at {gap['position']}, to {gap['until']} ({_in_file(gap)}): {gap['why']}"


def _block_lines(block: dict[str, Any]) -> Iterator[str]:
    size = f"{block['length']} bytes" + (f", covers {block['span']}" if block["span"] != block["length"] else "")
    yield (
        f"block {block['position']} ({_in_file(block)}): {block['kind']}, epoch {block['epoch']}, number {block['number']},"
        f" {size}, watermark {block['watermark']}, {_time(block['timestamp_ns'])}"
    )
    if block["previous"]:
        yield "  before it: epoch {epoch} from {begin} to {end}".format(**block["previous"])
    yield from (f"  {_frame_line(frame)}" for frame in block["frames"])
    if block["wrong"]:
        yield f"  bad: {block['wrong']}"


def _frame_line(frame: dict[str, Any]) -> str:
    name = "" if frame["number"] is None else f" {textio.visible(frame['stream'] or '?')} ({frame['number']})"
    what = f"at {frame['first_offset']}"
    if frame["records"]:
        what = f"offsets {frame['first_offset']} to {frame['first_offset'] + frame['records'] - 1}"
    if "before" in frame:
        what += f", drops what is below {frame['before']}"
    if "rows" in frame:
        what = ", ".join(f"stream {row['number']} below {row['before']}" for row in frame["rows"])
    if "joint" in frame:
        what += ", part {part} of {of} of a joint append".format(part=frame["joint"]["part"], of=frame["joint"]["parts"] or "?")
    what += "".join(_owner_words(frame))
    wrong = f"; bad: {frame['wrong']}" if frame["wrong"] else ""
    return f"{frame['position']} {frame['kind']}{name}: {what}, {frame['payload_bytes']} bytes{wrong}"


def _owner_words(frame: dict[str, Any]) -> Iterator[str]:
    if "producer" in frame:
        owner = frame["producer"]
        name = textio.visible(owner["name"] or "?")
        yield f", producer {name} ({owner['number']}), epoch {owner['epoch']}, sequence {owner['sequence']}"
    if "consumer" in frame:
        owner = frame["consumer"]
        name = textio.visible(owner["name"] or "?")
        yield f", consumer {name} ({owner['number']}), epoch {owner['epoch']}, from {owner['position']}"
    if "commits" in frame:
        yield ", forgotten" if frame["commits"] is None else f" to {frame['commits']}"
    if frame.get("forgets"):
        yield f", forgets producer ({frame['forgets']})"


def _in_file(item: dict[str, Any]) -> str:
    return f"{item['file'].rpartition('/')[2]} byte {item['offset']}"


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
