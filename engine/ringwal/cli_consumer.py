"""The verbs about consumers: `consumer ls`, `info`, `seek` and `rm`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringwal import cli_kit as kit
from ringwal import textio
from ringwal.cli_streams import asked, dry_option
from ringwal.errors import OffsetTrimmed
from ringwal.times import TIME_HELP, At, iso, point_ns

if TYPE_CHECKING:
    import ringwal

_name_argument = click.argument("name")
_timeout_option = kit.wait_option(30.0, "How long to wait for the engine to answer, and until it is on stable storage.")
HEADER = ("STREAM", "COMMITTED", "LAG")


@click.group(cls=kit.VerbGroup)
def consumer() -> None:
    """Look at consumers, and change how far they are: programs that read streams and keep their positions in the log.

    A consumer is made by the program that reads (`client.consumer` in Python).
    """


def _position_value(_ctx: click.Context, param: click.Parameter, value: str) -> int | str | At:
    """An offset, earliest, latest, or a time, which is no number."""
    if value in ("earliest", "latest") or value.isdecimal():
        return kit.start_value(_ctx, param, value)
    try:
        return At.from_ns(point_ns(value, "POSITION"))
    except ValueError as error:
        raise click.BadParameter(f"{error}; or an offset, earliest, or latest") from None


def _existing(client: ringwal.Client, name: str) -> list[ringwal.ConsumerInfo]:
    """Its rows. It must be there: to look at a consumer, or to remove one, must fence nobody in vain."""
    found = [info for info in client.consumers() if info.name == name]
    if not found:
        raise kit.NoSuchConsumerError(f"no consumer named {name!r}; `ringwal consumer ls` lists what is there")
    return found


@consumer.command()
@kit.directory_argument
@kit.timeout_option
@kit.json_option
def ls(directory: Path, timeout: float, as_json: bool) -> None:
    """List the consumers of DIR: a row for each of their streams."""
    with kit.client(directory, timeout) as client:
        infos = client.consumers()
    output = textio.Output()
    if as_json:
        for info in infos:
            output.json(info._asdict())
    elif infos:
        rows = [(info.name, info.stream, info.committed, info.lag) for info in infos]
        output.line(textio.table(rows, ("CONSUMER", *HEADER)))


@consumer.command()
@kit.directory_argument
@_name_argument
@kit.timeout_option
@kit.json_option
def info(directory: Path, name: str, timeout: float, as_json: bool) -> None:
    """Say how far the consumer NAME is in each of its streams.

    committed: the offset at which it goes on. lag: confirmed records from there on. claimed: how often a program has begun
    as this consumer.
    """
    with kit.client(directory, timeout) as client:
        infos = _existing(client, name)
    output = textio.Output()
    if as_json:
        streams = [{key: value for key, value in one._asdict().items() if key != "name"} for one in infos]
        output.json({"name": name, "lag": sum(one.lag for one in infos), "streams": streams})
        return
    rows = [(one.stream, one.committed, one.lag, one.claimed, iso(one.timestamp_ns)) for one in infos]
    output.line(textio.table(rows, (*HEADER, "CLAIMED", "NEWEST COMMIT OR CLAIM")))


@consumer.command(help=f"""Move the committed position of the consumer NAME in STREAM: it goes on there.

    POSITION is an offset, earliest, latest, or a time: {TIME_HELP}; then it is the first record that the engine took from then
    on. It may lie before or behind the present one.

    This fences whoever has the consumer now: a program that reads as NAME gets ConsumerFenced at its next commit, and commits
    nothing any more. Start it again, and it goes on at POSITION.
    """)
@kit.directory_argument
@_name_argument
@kit.stream_argument
@click.argument("position", callback=_position_value)
@_timeout_option
@kit.json_option
def seek(*, directory: Path, name: str, stream: str, position: int | str | At, timeout: float, as_json: bool) -> None:
    from ringwal.client.consumer_rows import seek_consumer_steps
    from ringwal.steps import park

    with kit.client(directory, timeout) as client:
        reads = sorted(one.stream for one in _existing(client, name))
        if stream not in reads:
            raise _not_read(name, stream, reads)
        offset = _offset(client, stream, position)
        with asked(dry_run=False, what=f"the new position of consumer {name!r}", verb="consumer info"):
            before = park(seek_consumer_steps(client, name, stream, offset))
        if before is None:  # it was removed meanwhile
            raise _not_read(name, stream, [])
    output = textio.Output()
    if as_json:
        output.json({"name": name, "stream": stream, "committed": offset, "before": before})
        return
    output.line(
        f"{textio.visible(name)}: goes on at {offset} in {textio.visible(stream)}, before at {before}; whoever had it is"
        " fenced, and has to be started again"
    )


def _not_read(name: str, stream: str, reads: list[str]) -> kit.NoSuchConsumerError:
    others = f"; it reads {', '.join(map(repr, reads))}" if reads else ""
    return kit.NoSuchConsumerError(f"consumer {name!r} has no position in stream {stream!r}{others}")


def _offset(client: ringwal.Client, stream: str, position: int | str | At) -> int:
    """Raises NoSuchOffsetError: it is beyond the end. OffsetTrimmed: the consumer could not go on there."""
    source = kit.existing(client, stream)
    info = source.stat()
    offset = kit.first_offset(position, source, info)
    if offset < info.start_offset:
        raise OffsetTrimmed(
            f"offset {offset} of stream {stream!r} is trimmed: the oldest record that is kept has {info.start_offset}",
            info.start_offset,
        )
    return offset


@consumer.command()
@kit.directory_argument
@_name_argument
@dry_option
@_timeout_option
@kit.json_option
def rm(*, directory: Path, name: str, dry_run: bool, timeout: float, as_json: bool) -> None:
    """Forget the consumer NAME with all of its positions.

    This fences whoever has it now. A program that begins as NAME later is new, and begins where it says. A stream that is
    kept until NAME has committed (--retain-until) is kept whole from now on.
    """
    with kit.client(directory, timeout) as client:
        streams = sorted(one.stream for one in _existing(client, name))
        holds = sorted(one.name for one in client.streams() if name in one.retain_until)
        with asked(dry_run, f"the removal of consumer {name!r}", "consumer ls"):
            if not dry_run:
                streams = client.delete_consumer(name)
    _say_removed(name, streams, holds, dry_run=dry_run, as_json=as_json)


def _say_removed(name: str, streams: list[str], holds: list[str], *, dry_run: bool, as_json: bool) -> None:
    output = textio.Output()
    if as_json:
        facts: dict[str, Any] = {"name": name, "streams": streams, "holds": holds, "dry_run": dry_run}
        output.json(facts)
        return
    verb = "would be removed" if dry_run else "removed"
    held = f"; kept whole for it: {', '.join(map(textio.visible, holds))}" if holds else ""
    output.line(f"{textio.visible(name)}: {verb}, with its positions in {textio.counted(len(streams), 'stream')}{held}")
