"""The command line: `ringwal VERB` or `python -m ringwal VERB`.

Results go to stdout, everything else to stderr; `--json` turns results into JSON (one object, or one object a line for
records and streams) and an error into one JSON object on stderr. Exit codes: exit_codes.py. The engine itself is
imported by the verb that needs it, so that help and usage errors answer at once.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import stat as file_modes
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import click

from ringwal import cli_kit as kit
from ringwal import cli_source as sources
from ringwal import textio
from ringwal.cli_backup import backup, restore
from ringwal.cli_consumer import consumer
from ringwal.cli_dump import dump
from ringwal.cli_offline import salvage, verify
from ringwal.cli_read import read, tail
from ringwal.cli_settings import configure, create, stat
from ringwal.cli_streams import rm, trim
from ringwal.config import from_text
from ringwal.errors import ConfigError, CorruptionError
from ringwal.exit_codes import EXIT_CODES, INTERRUPTED, exit_code_of
from ringwal.file_errors import advice
from ringwal.ingest import Ingest, tell, too_large
from ringwal.interrupts import INTERRUPTS, Fate, is_lack_of_memory
from ringwal.limits import WHOLE_MAX
from ringwal.standard import Hasty, hold_streams, takes
from ringwal.times import TIME_HELP
from ringwal.version import __version__

if TYPE_CHECKING:
    import ringwal
    from ringwal.protocol.client import Registration

BATCH_BYTES = 128 * 1024  # lines that go into one append
OWN_TIME_BYTES = 8
OWN_TIME_BATCHES = 3  # a line's length takes 4 bytes, and its time twice as many: a third of what is counted always fits

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {row.code:>3}  {row.meaning}" for row in EXIT_CODES)


@click.group(cls=kit.VerbGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, prog_name="ringwal")
def cli() -> None:
    """Durable, ordered appends from many processes of one host.

    DIR is the directory of one engine: start it with `ringwal run DIR`, then append, read and tail from any process.
    """


def main() -> Never:
    """The console script. Ends the process with a code of the table."""
    INTERRUPTS.begin()  # it has begun already, unless this is called by a program
    try:
        code = _code_of_verb("--json" in sys.argv)
    finally:
        INTERRUPTS.over()
    sys.exit(code)


def _code_of_verb(as_json: bool) -> int:
    try:
        textio.CLOSED.update(hold_streams())  # before any file is opened
        code = cli.main(prog_name="ringwal", standalone_mode=False)
        return code if isinstance(code, int) else os.EX_OK
    except click.ClickException as error:
        kit.report_usage(error, as_json)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except Exception as error:
        if getattr(error, "errno", None) == errno.EPIPE and isinstance(error, textio.OutputFailedError):
            textio.die_of_broken_pipe()
        told: Exception = error
        if is_lack_of_memory(error):
            told = MemoryError(f"there is no memory left{advice(errno.ENOMEM)}")
            if INTERRUPTS.fate is not None:
                tell(told, INTERRUPTS.fate)
        elif not kit.is_expected(error):
            raise
        if isinstance(told, CorruptionError):
            told.add_note(kit.WAY_OUT)
        kit.report(told, as_json)
        return exit_code_of(told)


# --------------------------------------------------------------------------------------------------------- verbs


@cli.command()
@kit.directory_argument
@click.option("--autostart", is_flag=True, hidden=True, help="End when the last client has gone.")
@kit.setting_options
@kit.json_option
def run(directory: Path, as_json: bool, autostart: bool, **settings: str | None) -> int:
    """Run an engine on DIR in the foreground until SIGTERM or Ctrl-C.

    Recovers first, prints one line on stdout when clients can connect, logs to stderr.
    """
    from ringwal.log.recovery import made_with
    from ringwal.processes.supervisor import Supervisor

    logging.basicConfig(level=logging.INFO, stream=Hasty(2), format="%(asctime)s ringwal %(levelname)s %(message)s")

    def ready(report: dict[str, Any]) -> None:
        INTERRUPTS.off()  # from here on they are the supervisor's, and at its end they change no code
        if not takes(1):  # the engine runs, and does not wait to say so
            logging.getLogger("ringwal").warning("ready; nobody reads standard output, so it is not said there")
            return
        with kit.output_apart(as_json) as output:
            if as_json:
                output.json({"ready": True, **report})
            else:
                output.line(f"ready: {textio.visible(str(directory))} pid {report['pid']} epoch {report['epoch']}")

    code = Supervisor(directory, from_text(settings, made_with(directory)), on_ready=ready, autostart=autostart).run()
    INTERRUPTS.over()
    return code


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
@kit.directory_argument
@kit.wait_option(60.0, "How long to wait until it has stopped.")
@kit.json_option
def stop(directory: Path, timeout: float, as_json: bool) -> None:
    """Stop the engine of DIR in order: what was appended is confirmed first."""
    from ringwal.protocol.client import Registration

    began = time.monotonic()
    asked = Registration(directory, min(timeout, 5.0), role="stop")
    with contextlib.closing(asked) as registration, _end_of(registration) as end:
        registration.stop()
        if not select.select([end], [], [], timeout)[0]:
            raise TimeoutError(
                f"the engine on {directory} is still stopping after {timeout:g} s, and goes on with it:"
                f" `ringwal status {directory}` says when it has ended"
            )
        kit.check_stopped(directory, registration)
    seconds = round(time.monotonic() - began, 3)
    with kit.output_apart(as_json) as output:
        if as_json:
            output.json({"stopped": True, "seconds": seconds})
        else:
            output.line("stopped")


@cli.command()
@kit.directory_argument
@kit.timeout_option
@kit.json_option
def status(directory: Path, timeout: float, as_json: bool) -> int:
    """Say whether an engine runs on DIR, and its processes and counters.

    Of an engine that does not answer it says what can be seen in its memory, and ends with code 75; so it does where it
    cannot vouch for confirmations: a process is stopped, or nothing is confirmed although something is pending.
    """
    facts, code = kit.status_of(directory, timeout)
    output = textio.Output()
    if as_json:
        output.json(facts)
        return code
    pairs = list(textio.flat(facts))
    width = max(len(key) for key, _ in pairs)
    output.line("\n".join(f"{key.ljust(width)}  {value}" for key, value in pairs))
    return code


@cli.command()
@kit.directory_argument
@sources.offline_option
@kit.json_option
@kit.timeout_option
def ls(directory: Path, offline: bool, timeout: float, as_json: bool) -> None:
    """List the streams of DIR. Where no engine runs, those of its files."""
    with sources.reading(directory, timeout, offline=offline) as client:
        infos = sorted(client.streams(), key=lambda info: info.name)
    output = textio.Output()
    if as_json:
        for info in infos:
            output.json(_info_object(info))
    elif infos:
        rows = [(info.start_offset, info.confirmed_offset, info.name) for info in infos]
        output.line(textio.table(rows, ("START", "CONFIRMED", "STREAM")))


def _info_object(info: ringwal.StreamInfo) -> dict[str, Any]:
    return info._asdict()


@cli.command()
@kit.directory_argument
@kit.stream_argument
@click.argument("file", type=click.Path(dir_okay=False, readable=False, allow_dash=True), default="-")
@click.option("--lines", is_flag=True, help="Each line of the input is a record (without its newline).")
@click.option("--lane-bytes", callback=kit.lane_value, metavar="SIZE",
              help="Size of this writer's lane, for example 64MiB; a record may take up to half of it.")
@click.option("--timestamp", callback=kit.time_value, metavar="TIME",
              help=f"A time of their own for all of these records, kept beside the engine's: {TIME_HELP}; or now.")
@click.option("--resume", metavar="KEY",
              help="With --lines: go on where an earlier append of this input under this key was cut short, by whatever. KEY"
              " names the input: the same one has to come again, from its first line on.")
@kit.wait_option(30.0, "How long to wait for an answer, for room, or for a confirmation.")
@kit.json_option
def append(
    *, directory: Path, stream: str, file: str, lines: bool, lane_bytes: int | None, timestamp: int | None,
    resume: str | None, timeout: float, as_json: bool,
) -> int:
    """Append FILE (or stdin) to STREAM: one record, or one for each line.

    Returns when everything is confirmed, that is on stable storage. Ctrl-C and SIGTERM end it, too, and it says what is
    confirmed by then. The exit code speaks of the input, whatever becomes of the output.
    """
    if resume is not None and not lines:
        raise click.UsageError("--resume goes with --lines: it counts lines")
    began = time.monotonic()
    work: Ingest | None = None
    there = 0
    try:
        with INTERRUPTS, contextlib.ExitStack() as stack:
            fd = _input(file, stack)
            client = stack.enter_context(kit.client(directory, timeout, lane_bytes))
            limit = client._attachment().lane(lane_bytes).record_limit - (0 if timestamp is None else OWN_TIME_BYTES)
            batch = min(BATCH_BYTES, limit // (1 if timestamp is None else OWN_TIME_BATCHES))
            batches = _batches(fd, lines, limit, batch)
            target: ringwal.Stream | ringwal.Producer = client.stream(stream)
            if resume is not None:
                target = client.producer(stream, resume)
                there = target.next
                batches = _behind(batches, there, resume)
            INTERRUPTS.fate = work = Ingest(client, target, timeout, limit, INTERRUPTS, timestamp)
            work.run(batches, textio.Progress(os.fstat(fd).st_size or None))
    except (Exception, KeyboardInterrupt) as error:
        if not getattr(error, "__notes__", []) and not is_lack_of_memory(error):
            tell(error, INTERRUPTS.fate or Fate())
        if isinstance(error, KeyboardInterrupt):
            kit.report(error, as_json)
            INTERRUPTS.over()
            return exit_code_of(error)
        raise
    with kit.output_apart(as_json) as output:
        _say_appended(output, stream, work, time.monotonic() - began, as_json, there if resume is not None else None)
    return os.EX_OK


def _behind(batches: Iterable[Sequence[bytes]], count: int, key: str) -> Iterable[Sequence[bytes]]:
    """What follows the first so many records. Raises ConfigError: there are not so many."""
    left = count
    for batch in batches:
        if left < len(batch):
            yield batch[left:]
        left = max(0, left - len(batch))
    if left:
        raise ConfigError(
            f"{count} lines were appended under the key {key!r}, and this input has {count - left}: it is another one; nothing"
            " was appended"
        )


def _input(file: str, stack: contextlib.ExitStack) -> int:
    """The descriptor to read from."""
    if file != "-":
        return stack.enter_context(Path(file).open("rb", buffering=0)).fileno()
    if textio.STDIN in textio.CLOSED:
        raise OSError(errno.EBADF, "standard input is closed")
    return textio.STDIN


def _batches(fd: int, lines: bool, limit: int, batch: int) -> Iterable[Sequence[bytes]]:
    """What one append takes, one after the other. Raises RecordTooLarge as soon as it can be known."""
    pieces = textio.chunks(fd, BATCH_BYTES)
    if lines:
        yield from textio.line_batches(pieces, batch, limit)
        return
    size = os.fstat(fd).st_size if file_modes.S_ISREG(os.fstat(fd).st_mode) else 0
    if size and size - os.lseek(fd, 0, os.SEEK_CUR) > limit:
        raise too_large("the input", limit)
    record = textio.whole(pieces, limit)
    if len(record) > limit:
        raise too_large("the input", limit)
    yield [record]


def _say_appended(
    output: textio.Output, stream: str, work: Ingest, seconds: float, as_json: bool, there: int | None
) -> None:
    first, last, name = work.first_offset, work.last_offset, textio.visible(stream)
    if as_json:
        output.json({
            "stream": stream,
            "first_offset": first,
            "last_offset": last,
            "records": work.records,
            "bytes": work.bytes,
            "seconds": round(seconds, 6),
            **({} if there is None else {"records_before": there}),
        })
        return
    if there:
        output.line(f"{name}: {textio.counted(there, 'record')} of this input were there already")
    if first is None or last is None:
        output.line(f"{name}: nothing to append")
    elif work.records == 1:
        output.line(f"{name}[{first}] confirmed")
    else:
        others = ", others in between" if last - first >= work.records else ""
        output.line(f"{name}: {work.records} records confirmed, offsets {first} to {last}{others}")


@cli.command()
@click.option("--seed", type=kit.Number(int, 0, WHOLE_MAX),
              help="Seed of the random moments.  [default: a new one, which is printed]")
@click.option("--seconds", type=kit.Number(float, 2, 60), default=5.0, show_default=True, help="How long to write.")
@click.option("--writers", type=kit.Number(int, 2, 64), default=8, show_default=True, help="Writer processes.")
@click.option("--temp", type=click.Path(exists=True, file_okay=False, readable=False, path_type=Path), metavar="DIR",
              help="Where to make the temporary directory.  [default: $TMPDIR or /tmp]")
@kit.json_option
def demo(seed: int | None, seconds: float, writers: int, temp: Path | None, as_json: bool) -> int:
    """Write from eight processes, kill the engine's processes at random, and count what is left.

    Ends with exit code 1 if a confirmed record is lost, duplicated or out of order.
    """
    from ringwal.demo.report import text_of
    from ringwal.demo.show import play

    chosen = int.from_bytes(os.urandom(4)) if seed is None else seed
    click.echo(f"seed {chosen}", err=True)
    result = play(chosen, seconds, writers, temp, lambda text: click.echo(text, err=True))
    output = textio.Output()
    if as_json:
        output.json(result.as_json())
    else:
        output.line(text_of(result))
    return os.EX_OK if result.ok else 1


cli.add_command(read)
cli.add_command(tail)
cli.add_command(trim)
cli.add_command(rm)
cli.add_command(verify)
cli.add_command(dump)
cli.add_command(salvage)
cli.add_command(backup)
cli.add_command(restore)
cli.add_command(create)
cli.add_command(configure)
cli.add_command(stat)
cli.add_command(consumer)
