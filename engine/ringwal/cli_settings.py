"""The verbs about a stream as a whole: `create`, `configure` and `stat`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ringwal import cli_kit as kit
from ringwal import cli_source as sources
from ringwal import textio
from ringwal.config import format_size, parse_size
from ringwal.errors import ConfigError
from ringwal.times import DURATION_HELP, duration_ns, duration_text, iso

if TYPE_CHECKING:
    from collections.abc import Callable

    import ringwal

    Verb = TypeVar("Verb", bound=Callable[..., Any])

_timeout_option = kit.wait_option(30.0, "How long to wait for the engine to answer, and until it is on stable storage.")
LIMITS = ("retention_age", "retention_bytes", "retention_records")


def _limit(_: click.Context, param: click.Parameter, text: str | None) -> Any:
    """What the option says; None where it does not."""
    if text is None or text in ("none", "default"):
        return text
    try:
        if param.name == "retention_age":
            return duration_ns(text, "it", error=ConfigError) / 1e9
        return parse_size(text) if param.name == "retention_bytes" else int(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
    except ValueError:
        raise click.BadParameter(f"{kit.shortened(text)} is neither a number of records nor none or default") from None



def settings_options(verb: Verb) -> Verb:
    """One option for each setting of a stream."""
    none = "none: no limit; default: the engine's default."
    for add in (
        click.option("--retain-until", metavar="CONSUMER", multiple=True,
                     help="Keep what this consumer has not committed. May be given again."),
        click.option("--retention-records", metavar="N", help=f"Records beyond the newest so many go; {none}", callback=_limit),
        click.option("--retention-bytes", metavar="SIZE", help=f"Payload beyond the newest SIZE goes; {none}", callback=_limit),
        click.option("--retention-age", metavar="AGE", help=f"Older records go: {DURATION_HELP}; {none}", callback=_limit),
    ):  # fmt: skip
        verb = add(verb)
    return verb


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The limits that were said, as the library takes them."""
    return {name: None if options[name] == "default" else options[name] for name in LIMITS if options[name] is not None}


@click.command()
@kit.directory_argument
@kit.stream_argument
@settings_options
@click.option("--exist-ok", is_flag=True, help="Leave STREAM as it is where it is there with other settings.")
@_timeout_option
@kit.json_option
def create(
    *, directory: Path, stream: str, retain_until: tuple[str, ...], exist_ok: bool, timeout: float, as_json: bool,
    **limits: Any,
) -> None:
    """Make STREAM with these settings, before anything is appended to it.

    Where it is there with these settings, nothing changes; with others, code 78, which names them. What is printed is
    what it has.
    """
    with kit.client(directory, timeout) as client:
        info = client.create_stream(stream, retain_until=retain_until, exist_ok=exist_ok, **_given(limits)).stat()
    _say(info, as_json)


@click.command()
@kit.directory_argument
@kit.stream_argument
@settings_options
@click.option("--no-retain-until", is_flag=True, help="Nobody holds STREAM any more.")
@_timeout_option
@kit.json_option
def configure(
    *,
    directory: Path,
    stream: str,
    retain_until: tuple[str, ...],
    no_retain_until: bool,
    timeout: float,
    as_json: bool,
    **limits: Any,
) -> None:
    """Change settings of STREAM: those that are given. The others stay as they are."""
    wanted = _given(limits)
    if retain_until and no_retain_until:
        raise click.UsageError("--retain-until and --no-retain-until exclude each other")
    if retain_until or no_retain_until:
        wanted["retain_until"] = retain_until
    if not wanted:
        raise click.UsageError("nothing is to be changed: give at least one setting")
    with kit.client(directory, timeout) as client:
        source = kit.existing(client, stream)
        source.configure(**wanted)
        info = source.stat()
    _say(info, as_json)


@click.command()
@kit.directory_argument
@kit.stream_argument
@sources.offline_option
@kit.timeout_option
@kit.json_option
def stat(directory: Path, stream: str, offline: bool, timeout: float, as_json: bool) -> None:
    """Say what is known of STREAM: its offsets, what is set for it, and how far its consumers are.

    Where no engine runs, its files say it, but for the consumers.
    """
    from ringwal import Client

    with sources.reading(directory, timeout, offline=offline) as client:
        source = kit.existing(client, stream)
        info = source.stat()
        running = isinstance(client, Client)  # else the files, which do not know any engine's settings
        oldest = "" if as_json else _oldest(source, info)
        consumers = [one for one in client.consumers() if one.stream == stream] if isinstance(client, Client) else None
    if as_json:
        rows = [{"name": one.name, "committed": one.committed, "lag": one.lag} for one in consumers or ()]
        textio.Output().json({**info._asdict(), "consumers": None if consumers is None else rows})
        return
    pairs = _pairs(info, running=running, oldest=oldest)
    if consumers is not None:
        texts = [f"{textio.visible(one.name)} at {one.committed} (lag {one.lag})" for one in consumers]
        pairs["consumers"] = ", ".join(texts) or "none"
    _print(pairs)


def _oldest(source: Any, info: ringwal.StreamInfo) -> str:
    """The time of the oldest record that is kept."""
    from ringwal.errors import CorruptionError, OffsetTrimmed

    try:
        found = source.read(info.start_offset, max_records=1)
    except CorruptionError:
        return "damaged"
    except OffsetTrimmed:  # meanwhile
        return "trimmed just now"
    return iso(found[0].timestamp_ns) if found else "none"


def _say(info: ringwal.StreamInfo, as_json: bool) -> None:
    if as_json:
        textio.Output().json(info._asdict())
        return
    _print(_pairs(info, running=True, oldest=""))


def _print(pairs: dict[str, str]) -> None:
    width = max(map(len, pairs))
    textio.Output().line("\n".join(f"{name.ljust(width)}  {value}" for name, value in pairs.items()))


def _shown(value: str | None, *, own: bool, running: bool) -> str:
    if own or running:
        return (value or "none") + ("" if own else " (the engine's default)")
    return "the default of the engine that starts next"


def _pairs(info: ringwal.StreamInfo, *, running: bool, oldest: str) -> dict[str, str]:
    newest = iso(info.last_timestamp_ns) if info.last_timestamp_ns else "none"
    age = None if info.retention_age is None else duration_text(round(info.retention_age * 1e9))
    size = None if info.retention_bytes is None else format_size(info.retention_bytes)
    records = None if info.retention_records is None else str(info.retention_records)
    limits = {
        name: _shown(value, own=name in info.own_settings, running=running)
        for name, value in zip(LIMITS, (age, size, records), strict=True)
    }
    return {
        "stream": textio.visible(info.name),
        "number": str(info.number),
        "start_offset": str(info.start_offset),
        "confirmed_offset": str(info.confirmed_offset),
        "records": str(info.records),
        "confirmed_bytes": str(info.confirmed_bytes),
        **({"oldest": oldest} if oldest else {}),
        "newest": newest,
        **limits,
        "retain_until": ", ".join(map(textio.visible, info.retain_until)) or "nobody",
    }
