"""The verbs that print records: `read` and `tail`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringwal import cli_kit as kit
from ringwal import cli_source as sources
from ringwal import textio
from ringwal.cli_follow import Follower, Several
from ringwal.errors import CorruptionError
from ringwal.limits import WHOLE_MAX
from ringwal.times import TIME_HELP, At

if TYPE_CHECKING:
    from collections.abc import Callable

READ_RECORDS = 20_000
READ_BYTES = 4 * 1024 * 1024

FORMATS: dict[str, Callable[[Any], bytes]] = {
    "raw": textio.raw_records, "lines": textio.record_lines, "json": textio.json_records,
}  # fmt: skip
FORMATS_OF_SEVERAL: dict[str, Callable[[Any], bytes]] = {
    "lines": textio.named_lines, "json": textio.named_json_records,
}  # fmt: skip


@click.command()
@kit.directory_argument
@kit.stream_argument
@click.option("--start", callback=kit.start_value, default="earliest", metavar="OFFSET", show_default=True,
              help="Offset to begin at; earliest, latest, or -N for the last N records.")
@click.option("--since", callback=kit.at_value, metavar="TIME",
              help=f"Begin with what the engine took at that time or later: {TIME_HELP}.")
@click.option("--until", callback=kit.at_value, metavar="TIME", help="End before what it took at that time or later.")
@click.option("--max-records", type=kit.Number(int, 0, WHOLE_MAX), metavar="N",
              help="Stop after N records.  [default: all]")
@click.option("--skip-damaged", is_flag=True,
              help="Go on behind records that are damaged or missing: each gap is told on stderr, and the exit code is 65.")
@kit.raw_option
@sources.offline_option
@kit.timeout_option
@kit.json_option
def read(
    *, directory: Path, stream: str, start: int | str, since: At | None, until: At | None, max_records: int | None,
    skip_damaged: bool, raw: bool, offline: bool, timeout: float, as_json: bool,
) -> None:
    """Print the confirmed records of STREAM, each followed by a newline.

    Ends at the record that was the last one when the command began, or at damage. Where no engine runs, the files are read.
    """
    from ringwal import positions

    gaps: list[CorruptionError] = []

    def gap(damage: CorruptionError) -> None:
        gaps.append(damage)
        kit.report(damage, as_json)

    form, output, begin = kit.form_of(as_json, raw), textio.Output(), kit.begin_of(start, since)
    with sources.reading(directory, timeout, offline=offline) as client:
        source = kit.existing(client, stream)
        info = source.stat()
        offset = kit.first_offset(begin, source, info)
        end = info.confirmed_offset if until is None else source.offset_at(until)
        end = end if max_records is None else min(end, offset + max_records)
        records = positions.range_of(client._attachment(), stream, offset, end)
        for text in records.text(form, gap if skip_damaged else None):
            output.write(text)
    if gaps:
        lost = sum(min(gap.next_offset or 0, end) - (gap.first_offset or 0) for gap in gaps)
        raise CorruptionError(f"of stream {stream!r}, {lost} of {end - offset} records could not be read")


@click.command()
@kit.directory_argument
@click.argument("streams", metavar="STREAM...", nargs=-1, required=True)
@click.option("--start", callback=kit.start_value, default="latest", metavar="OFFSET", show_default=True,
              help="Offset to begin at; earliest, latest, or -N for the last N records.")
@click.option("--since", callback=kit.at_value, metavar="TIME",
              help=f"Begin with what the engine took at that time or later: {TIME_HELP}.")
@click.option("--until", callback=kit.at_value, metavar="TIME", help="End before what it took at that time or later.")
@click.option("--max-records", type=kit.Number(int, 1, WHOLE_MAX), metavar="N",
              help="Stop after N records.  [default: never]")
@click.option("-F", "--follow", "lasting", is_flag=True,
              help="Wait for the engine and for the stream where there is none yet, and go on over restarts of the engine.")
@kit.raw_option
@kit.timeout_option
@kit.json_option
def tail(
    *, directory: Path, streams: tuple[str, ...], start: int | str, since: At | None, until: At | None, max_records: int | None,
    lasting: bool, raw: bool, timeout: float, as_json: bool,
) -> None:
    """Follow STREAM: print records as they are confirmed, until Ctrl-C, or until nobody reads them any more.

    Of several, records come in log order, each behind the name of its stream and a tab, or with the key stream (--json).

    Ends at once where there is no engine or no such stream, and with its engine, unless -F is given; and a second after
    --until, or with the first record that is not older.
    """
    names, form = list(dict.fromkeys(streams)), kit.form_of(as_json, raw)
    output, begin = textio.Output(), kit.begin_of(start, since)
    if len(names) > 1 and (raw or lasting):
        raise click.UsageError(f"{'--raw' if raw else '--follow'} is for one stream; each may have a tail of its own")
    text = (FORMATS if len(names) == 1 else FORMATS_OF_SEVERAL)[form]
    with kit.awaited_client(directory, timeout, output, lasting) as client:
        if len(names) == 1:
            follower = Follower(client, names[0], begin, until, output, lasting)
        else:
            follower = Several(client, names, begin, until, output)
        left = max_records
        while left is None or left > 0:
            records = follower.next(min(READ_RECORDS, left or READ_RECORDS), READ_BYTES)
            if not records:
                break
            output.write(text(records))
            left = None if left is None else left - len(records)
