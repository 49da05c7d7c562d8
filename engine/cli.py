"""The command line: `ringwal VERB` or `python -m engine VERB`.

Results go to stdout, everything else to stderr; `--json` turns results into JSON (one object, or one object a line for
records and streams) and an error into one JSON object on stderr. Exit codes: exit_codes.py. The engine itself is
imported by the verb that needs it, so that help and usage errors answer at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import click

from engine import textio
from engine.config import from_text, parse_size, settings
from engine.demo import DemoError
from engine.errors import ConfigError, Error
from engine.exit_codes import EXIT_CODES, INTERRUPTED, exit_code_of
from engine.ingest import Ingest

if TYPE_CHECKING:
    import engine
    from engine.config import Setting
    from engine.registration import Registration

BATCH_BYTES = 128 * 1024  # lines that go into one append
RECORD_LIMIT = 1024 * 1024 * 1024  # no lane takes a larger record, so no more than this is held in memory
READ_RECORDS = 20_000
READ_BYTES = 4 * 1024 * 1024

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {row.code:>3}  {row.meaning}" for row in EXIT_CODES)


def _parse_start(_ctx: click.Context, _param: click.Parameter, value: str) -> int | str:
    """earliest, latest, an offset, or a negative number: that many records before the end."""
    if value in ("earliest", "latest"):
        return value
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor earliest or latest") from None


def _parse_size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


class NoSuchStreamError(Exception):
    """The verb needs a stream that has never been appended to."""


# ------------------------------------------------------------------------------------------------ common pieces

_directory = click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
_stream = click.argument("stream")
_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output with stable keys.")
_raw = click.option("--raw", is_flag=True, help="Payloads back to back, without the newlines between them.")
_timeout = click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True, metavar="SECONDS",
    help="How long to wait for the engine to answer.",
)


class VerbGroup(click.Group):
    """Ctrl-C ends a verb with its code and without a word; click would print an empty line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


@click.group(cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(package_name="ringwal", prog_name="ringwal")
def cli() -> None:
    """Durable, ordered appends from many processes of one host.

    DIR is the directory of one engine: start it with `ringwal run DIR`, then append, read and tail from any process.
    """


def main() -> Never:
    """The console script. Ends the process with a code of the table."""
    as_json = "--json" in sys.argv
    try:
        code = cli.main(prog_name="ringwal", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else os.EX_OK)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not _is_expected(error):
            raise
        _report(error, as_json)
        sys.exit(exit_code_of(error))


def _is_expected(error: Exception) -> bool:
    """Errors that a message explains; anything else is a defect and keeps its traceback."""
    return isinstance(error, (OSError, Error, NoSuchStreamError, DemoError))


def _report(error: Exception, as_json: bool) -> None:
    notes = getattr(error, "__notes__", [])
    if as_json:
        value = {
            "error": type(error).__name__,
            "message": str(error),
            "outcome": getattr(error, "outcome", None),
            "retriable": getattr(error, "retriable", False),
            "exit_code": exit_code_of(error),
            "notes": notes,
        }
        click.echo(json.dumps(value, ensure_ascii=False), err=True)
        return
    for text in (str(error) or type(error).__name__, *notes):
        click.echo(f"ringwal: {text}", err=True)


@contextlib.contextmanager
def _client(directory: Path, timeout: float, lane_bytes: int | None = None) -> Iterator[engine.Client]:
    import engine

    with engine.connect(directory, timeout=timeout, lane_bytes=lane_bytes, append_timeout=timeout) as client:
        yield client


def _existing(client: engine.Client, name: str) -> engine.Stream:
    """The stream, which must have been appended to before: looking must not create it."""
    if all(info.name != name for info in client.streams()):
        raise NoSuchStreamError(f"no stream named {name!r}; `ringwal ls` lists what is there")
    return client.stream(name)


def _formatter(as_json: bool, raw: bool) -> Callable[[Any], bytes]:
    if as_json and raw:
        raise click.UsageError("--json and --raw exclude each other")
    return textio.json_records if as_json else textio.raw_records if raw else textio.record_lines


# --------------------------------------------------------------------------------------------------------- verbs


class RunCommand(click.Command):
    """`run` has one option for each setting of engine.config; they are looked up only when `run` is."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        options: list[click.Parameter] = [
            click.Option([s.flag], metavar=_metavar(s), help=f"{s.help}  [default: {s.format()}]")
            for s in settings()
        ]
        return [*super().get_params(ctx), *options]


def _metavar(setting: Setting) -> str:
    if setting.kind == "choice":
        return "|".join(setting.choices)
    return {"bytes": "SIZE", "seconds": "SECONDS", "count": "N"}[setting.kind]


@cli.command(cls=RunCommand)
@_directory
@click.option("--autostart", is_flag=True, hidden=True, help="End when the last client has gone.")
@_json
def run(directory: Path, as_json: bool, autostart: bool, **settings: str | None) -> int:
    """Run an engine on DIR in the foreground until SIGTERM or Ctrl-C.

    Recovers first, prints one line on stdout when clients can connect, logs to stderr.
    """
    from engine.processes.supervisor import Supervisor

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s ringwal %(levelname)s %(message)s")
    output = textio.Output()

    def ready(report: dict[str, Any]) -> None:
        if as_json:
            output.json({"ready": True, **report})
        else:
            output.line(f"ready: {directory} pid {report['pid']} epoch {report['epoch']}")

    return Supervisor(directory, from_text(settings), on_ready=ready, autostart=autostart).run()


@contextlib.contextmanager
def _end_of(registration: Registration) -> Iterator[int]:
    """A descriptor that becomes readable when the engine's process is gone, as the kernel says.

    That is its pidfd; where its number means nothing here (another pid namespace), its end of the socket.
    """
    with socket.socket(fileno=os.dup(registration.fileno())) as peer:
        pid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[0]
    if not pid:
        yield registration.fileno()
        return
    ended = os.pidfd_open(pid)
    try:
        yield ended
    finally:
        os.close(ended)


@cli.command()
@_directory
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
              metavar="SECONDS", help="How long to wait until it has stopped.")
@_json
def stop(directory: Path, timeout: float, as_json: bool) -> None:
    """Stop the engine of DIR in order: what was appended is confirmed first."""
    from engine.registration import Registration

    began = time.monotonic()
    with contextlib.closing(Registration(directory, min(timeout, 5.0))) as registration, _end_of(registration) as end:
        registration.stop()
        if not select.select([end], [], [], timeout)[0]:
            raise TimeoutError(f"the engine on {directory} is still stopping after {timeout:g} s")
    seconds = round(time.monotonic() - began, 3)
    output = textio.Output()
    if as_json:
        output.json({"stopped": True, "seconds": seconds})
    else:
        output.line("stopped")


@cli.command()
@_directory
@_timeout
@_json
def status(directory: Path, timeout: float, as_json: bool) -> None:
    """Say whether an engine runs on DIR, and its processes and counters."""
    with _client(directory, timeout) as client:
        facts = client.status()
    output = textio.Output()
    if as_json:
        output.json(facts)
        return
    pairs = list(textio.flat(facts))
    width = max(len(key) for key, _ in pairs)
    output.line("\n".join(f"{key.ljust(width)}  {value}" for key, value in pairs))


@cli.command()
@_directory
@_json
@_timeout
def ls(directory: Path, timeout: float, as_json: bool) -> None:
    """List the streams of DIR."""
    with _client(directory, timeout) as client:
        infos = sorted(client.streams(), key=lambda info: info.name)
    output = textio.Output()
    if as_json:
        for info in infos:
            output.json(_info_object(info))
    elif infos:
        rows = [(info.start_offset, info.confirmed_offset, info.name) for info in infos]
        output.line(textio.table(rows, ("START", "CONFIRMED", "STREAM")))


def _info_object(info: engine.StreamInfo) -> dict[str, Any]:
    return info._asdict()


@cli.command()
@_directory
@_stream
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@click.option("--lines", is_flag=True, help="Each line of the input is a record (without its newline).")
@click.option("--lane-bytes", callback=_parse_size, metavar="SIZE",
              help="Size of this writer's lane, for example 64MiB; a record may take up to half of it.")
@_timeout
@_json
def append(
    *, directory: Path, stream: str, file: str, lines: bool, lane_bytes: int | None, timeout: float, as_json: bool
) -> None:
    """Append FILE (or stdin) to STREAM: one record, or one for each line.

    Returns when everything is confirmed, that is on stable storage.
    """
    with contextlib.ExitStack() as stack:
        fd = sys.stdin.fileno() if file == "-" else stack.enter_context(Path(file).open("rb", buffering=0)).fileno()
        client = stack.enter_context(_client(directory, timeout, lane_bytes))
        began = time.monotonic()
        work = Ingest(client.stream(stream), timeout)
        pieces = textio.chunks(fd, BATCH_BYTES)
        if lines:
            batches = textio.line_batches(pieces, BATCH_BYTES, RECORD_LIMIT)
        else:
            batches = iter([[textio.whole(pieces, RECORD_LIMIT)]])
        work.run(batches, textio.Progress(os.fstat(fd).st_size or None))
        seconds = time.monotonic() - began
    _say_appended(stream, work, seconds, as_json)


def _say_appended(stream: str, work: Ingest, seconds: float, as_json: bool) -> None:
    output = textio.Output()
    if as_json:
        output.json({
            "stream": stream,
            "first_offset": work.first_offset,
            "last_offset": work.last_offset,
            "records": work.records,
            "bytes": work.bytes,
            "seconds": round(seconds, 6),
        })
    elif work.records == 1:
        output.line(f"{stream}[{work.first_offset}] confirmed")
    elif work.records:
        where = f"offsets {work.first_offset} to {work.last_offset}"
        if work.last_offset - work.first_offset >= work.records:
            where += ", others in between"
        output.line(f"{stream}: {work.records} records confirmed, {where}")
    else:
        output.line(f"{stream}: nothing to append")


@cli.command()
@_directory
@_stream
@click.option("--start", callback=_parse_start, default="earliest", metavar="OFFSET", show_default=True,
              help="Offset to begin at; earliest, latest, or -N for the last N records.")
@click.option("--max-records", type=click.IntRange(min=0), metavar="N", help="Stop after N records.  [default: all]")
@_raw
@_timeout
@_json
def read(
    *, directory: Path, stream: str, start: int | str, max_records: int | None, raw: bool, timeout: float, as_json: bool
) -> None:
    """Print the confirmed records of STREAM, each followed by a newline.

    Ends at the record that was the last one when the command began.
    """
    form, output = _formatter(as_json, raw), textio.Output()
    with _client(directory, timeout) as client:
        source = _existing(client, stream)
        info = source.stat()
        offset = _resolve(start, info)
        end = info.confirmed_offset if max_records is None else min(info.confirmed_offset, offset + max_records)
        while offset < end:
            records = source.read(offset, max_records=min(READ_RECORDS, end - offset), max_bytes=READ_BYTES)
            if not records:
                break
            output.write(form(records))
            offset = records[-1].offset + 1


@cli.command()
@_directory
@_stream
@click.option("--start", callback=_parse_start, default="latest", metavar="OFFSET", show_default=True,
              help="Offset to begin at; earliest, latest, or -N for the last N records.")
@click.option("--max-records", type=click.IntRange(min=1), metavar="N", help="Stop after N records.  [default: never]")
@_raw
@_timeout
@_json
def tail(
    *, directory: Path, stream: str, start: int | str, max_records: int | None, raw: bool, timeout: float, as_json: bool
) -> None:
    """Follow STREAM: print records as they are confirmed, until Ctrl-C."""
    form, output = _formatter(as_json, raw), textio.Output()
    with _client(directory, timeout) as client:
        source = client.stream(stream)
        left = max_records
        offset = _resolve(start, source.stat())
        while left is None or left > 0:
            records = source.read(offset, max_records=min(READ_RECORDS, left or READ_RECORDS), max_bytes=READ_BYTES)
            if not records:
                records = [next(source.tail(offset))]
            output.write(form(records))
            offset = records[-1].offset + 1
            left = None if left is None else left - len(records)


def _resolve(start: int | str, info: engine.StreamInfo) -> int:
    """The offset that a --start value stands for, in this stream and now."""
    if start == "earliest":
        return info.start_offset
    if start == "latest":
        return info.confirmed_offset
    assert isinstance(start, int)
    return start if start >= 0 else max(info.start_offset, info.confirmed_offset + start)


@cli.command()
@click.option("--seed", type=int, help="Seed of the random moments.  [default: a new one, which is printed]")
@click.option("--seconds", type=click.FloatRange(2, 60), default=5.0, show_default=True, help="How long to write.")
@click.option("--writers", type=click.IntRange(2, 64), default=8, show_default=True, help="Writer processes.")
@click.option("--temp", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR",
              help="Where to make the temporary directory.  [default: $TMPDIR or /tmp]")
@_json
def demo(seed: int | None, seconds: float, writers: int, temp: Path | None, as_json: bool) -> int:
    """Write from eight processes, kill the engine's processes at random, and count what is left.

    Ends with exit code 1 if a confirmed record is lost, duplicated or out of order.
    """
    from engine.demo.report import text_of
    from engine.demo.show import play

    chosen = int.from_bytes(os.urandom(4)) if seed is None else seed
    click.echo(f"seed {chosen}", err=True)
    result = play(chosen, seconds, writers, temp, lambda text: click.echo(text, err=True))
    output = textio.Output()
    if as_json:
        output.json(result.as_json())
    else:
        output.line(text_of(result))
    return os.EX_OK if result.ok else 1
