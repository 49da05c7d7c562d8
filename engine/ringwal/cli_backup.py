"""The verbs `backup` and `restore`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from ringwal import cli_kit as kit
from ringwal import textio
from ringwal.config import parse_size
from ringwal.errors import ConfigError

_NICE = 10
"""Writers and their engine go first."""
_place = click.Path(file_okay=False, readable=False, path_type=Path)


def _rate(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    try:
        size = None if value is None else parse_size(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
    if size == 0:
        raise click.BadParameter("nothing is ever copied at 0 bytes a second")
    return size


@click.command()
@kit.directory_argument
@click.argument("dest", metavar="DEST", type=_place)
@click.option("--incremental", is_flag=True, help="Bring the backup in DEST up to date, or finish it, or make the first one.")
@click.option("--copy", "copies", is_flag=True, help="Link nothing: the backup shares no file with the log.")
@click.option("--rate", callback=_rate, metavar="SIZE",
              help="Bytes a second to be copied at most.  [default: 32MiB while an engine runs]")
@kit.wait_option(60.0, "How long to wait for the engine, and for what is under way to be confirmed.")
@kit.json_option
def backup(
    *, directory: Path, dest: Path, incremental: bool, copies: bool, rate: int | None, timeout: float, as_json: bool
) -> None:
    """Back up the log of DIR to the directory DEST, while its engine goes on, or without one.

    Everything that was confirmed when it began is in it. On the same file system it takes links to the segments that are
    full, and copies one; a disk that fails takes both. `ringwal restore` makes a log of it.
    """
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    from ringwal.backups import backup as make

    made = make(directory, dest, incremental=incremental, copies=copies, rate=rate, timeout=timeout)
    output = textio.Output()
    if as_json:
        output.json(made._asdict())
        return
    output.line(
        f"{textio.visible(made.backup)}: {textio.counted(made.streams, 'stream')} as confirmed at {made.began} or later,"
        f" {textio.counted(made.segments, 'segment')} ({made.linked} linked, {made.copied} copied, {made.kept} there before),"
        f" {made.seconds:g} s"
    )


@click.command()
@click.argument("backup", metavar="BACKUP", type=_place)
@kit.directory_argument
@kit.json_option
def restore(*, backup: Path, directory: Path, as_json: bool) -> None:
    """Make a log in DIR, which is empty or does not exist, of a backup.

    All of the backup is read and checked. The log gets files and a uuid of its own: clients of the log that was backed up do
    not take it for that one.
    """
    from ringwal.backups import restore as make

    made = make(backup, directory)
    output = textio.Output()
    if as_json:
        output.json(made._asdict())
        return
    output.line(
        f"{textio.visible(made.directory)}: {textio.counted(made.streams, 'stream')} as of {made.began},"
        f" {textio.counted(made.segments, 'segment')}, log {made.uuid}, {made.seconds:g} s"
    )
