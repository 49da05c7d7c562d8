"""The verbs that check and save the files of a log, without its engine: `verify` and `salvage`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringwal import cli_kit as kit
from ringwal import cli_source as sources
from ringwal import textio

if TYPE_CHECKING:
    from ringwal.log.salvage import Salvaged
    from ringwal.log.verify import Loss, Place, Report


@click.command()
@kit.directory_argument
@click.option("--deep", is_flag=True, help="Also read the payloads of all records, and what has to be zeros.")
@kit.json_option
def verify(directory: Path, deep: bool, as_json: bool) -> int:
    """Check every checksum and rule of the log in DIR. Changes nothing; needs no engine.

    Names the first bad byte of each damaged place, and the records it takes; code 65 if there is any. What a crash left behind
    the end is no damage. Where an engine runs, everything below its checkpoint is checked.
    """
    from ringwal.log.verify import verify as check

    with sources.log_of(directory) as (log, running):
        report = check(log, deep=deep, running=running)
    output = textio.Output()
    if as_json:
        output.json(_report_object(directory, report))
    else:
        output.line("\n".join(_report_lines(report)))
    return os.EX_OK if report.clean else os.EX_DATAERR


def _report_object(directory: Path, report: Report) -> dict[str, Any]:
    return {
        "directory": str(directory),
        "clean": report.clean,
        "uuid": report.uuid,
        "deep": report.deep,
        "running": report.running,
        "end": report.end,
        "segments": report.segments,
        "blocks": report.blocks,
        "frames": report.frames,
        "records": report.records,
        "bytes": report.bytes,
        "streams": report.streams,
        "places": [_place_object(place) for place in report.places],
        "holes": [_place_object(place) for place in report.holes],
    }


def _place_object(place: Place) -> dict[str, Any]:
    return {
        "what": place.what,
        "file": place.file,
        "offset": place.offset,
        "segment": place.segment,
        "position": place.position,
        "until": place.until,
        "losses": [_loss_object(loss) for loss in place.losses],
    }


def _loss_object(loss: Loss) -> dict[str, Any]:
    return {
        "stream": loss.name,
        "number": loss.number,
        "first_offset": loss.first_offset,
        "next_offset": loss.next_offset,
    }


def _report_lines(report: Report) -> Iterator[str]:
    for kind, places in (("damaged", report.places), ("hole", report.holes)):
        for place in places:
            yield f"{kind}: {_where(place)}: {textio.visible(place.what)}"
            yield from (f"  takes {_taken(loss)}" for loss in place.losses)
            if place.idle and not place.losses:
                yield "  takes nothing that is kept"
    checked = f"{report.segments} segments, {report.blocks} blocks, {report.records} records of {report.streams} streams"
    depth = "" if report.deep else ", without the payloads of records"
    until = ", up to the checkpoint of the engine that runs" if report.running else ""
    verdict = "clean" if report.clean else f"{len(report.places)} damaged"
    yield f"{verdict}: {checked}{depth}{until}"


def _where(place: Place) -> str:
    at = f"{place.file} byte {place.offset}"
    if place.position is None:
        return at
    until = "" if place.until is None else f", to {place.until}"
    return f"{at} (log position {place.position}{until})"


def _taken(loss: Loss) -> str:
    name = f"stream {loss.number}, whose name is lost" if loss.name is None else textio.visible(loss.name)
    last = loss.next_offset - 1
    return f"{name}: offset {last}" if loss.first_offset == last else f"{name}: offsets {loss.first_offset} to {last}"


@click.command()
@kit.directory_argument
@click.argument("dest", type=click.Path(file_okay=False, readable=False, path_type=Path))
@kit.json_option
def salvage(directory: Path, dest: Path, as_json: bool) -> int:
    """Make a log in DEST of everything in DIR that can be proven; DEST is empty, or not there.

    Nothing in DIR is changed; no engine may run there. Offsets stay as they are, and what is lost is named; code 65 if there is
    any. Reads of those offsets fail in the new log, and all others work.
    """
    from ringwal.errors import Locked
    from ringwal.file_errors import FileErrors
    from ringwal.log.salvage import salvage as save

    with sources.log_of(directory) as (log, running), FileErrors(dest, "salvage into"):
        if running:
            raise Locked(f"an engine holds {directory}: stop it first; what it confirms meanwhile would not be in {dest}")
        made = save(log, dest.absolute())
    output = textio.Output()
    if as_json:
        output.json(_salvaged_object(directory, dest, made))
    else:
        output.line("\n".join(_salvaged_lines(dest, made)))
    return os.EX_DATAERR if made.holes or made.leads or not made.made.clean else os.EX_OK


def _salvaged_object(directory: Path, dest: Path, made: Salvaged) -> dict[str, Any]:
    return {
        "directory": str(directory),
        "destination": str(dest),
        "uuid": made.made.uuid,
        "records": made.made.records,
        "streams": [
            {"stream": row.name, "number": row.number, "start_offset": row.start_offset, "next_offset": row.next_offset}
            for row in made.streams
        ],
        "nameless": list(made.nameless),
        "places": [_place_object(place) for place in made.found.places],
        "leads": [_loss_object(loss) for loss in made.leads],
        "holes": [_place_object(place) for place in made.holes],
        "clean": made.made.clean,
    }


def _salvaged_lines(dest: Path, made: Salvaged) -> Iterator[str]:
    yield from (f"damaged: {_where(place)}: {textio.visible(place.what)}" for place in made.found.places)
    lost = {(loss.number, loss.first_offset): loss for place in made.holes for loss in place.losses}
    lost |= {(loss.number, loss.first_offset): loss for loss in made.leads}
    yield from (f"lost: {_taken(loss)}" for loss in lost.values())
    yield from (f"{textio.visible(loss.name or '')} begins at offset {loss.next_offset} now" for loss in made.leads)
    yield from (f"the name of a stream is lost: it is {textio.visible(name)} now" for name in made.nameless)
    yield from (f"not as it should be: {_where(place)}: {textio.visible(place.what)}" for place in made.made.places)
    records = sum(loss.next_offset - loss.first_offset for loss in lost.values())
    yield f"salvaged: {made.made.records} records of {len(made.streams)} streams in {textio.visible(str(dest))}; {records} lost"
