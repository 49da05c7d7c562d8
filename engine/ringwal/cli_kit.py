"""What the verbs of the command line share: their options, how values are read, how errors are told."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ringwal import textio
from ringwal.config import Setting, parse_size, settings
from ringwal.demo import DemoError
from ringwal.errors import ConfigError, Error, NotRunning
from ringwal.exit_codes import exit_code_of

if TYPE_CHECKING:
    import ringwal

Verb = TypeVar("Verb", bound=Callable[..., Any])


class NoSuchStreamError(Exception):
    """The verb needs a stream that has never been appended to."""


class VerbGroup(click.Group):
    """Ctrl-C ends a verb with its code and without a word; click would print an empty line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            sys.exit(exit_code_of(error))


# ---------------------------------------------------------------------------------------------- options and values


def start_value(_ctx: click.Context, _param: click.Parameter, value: str) -> int | str:
    """earliest, latest, an offset, or a negative number: that many records before the end."""
    if value in ("earliest", "latest"):
        return value
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor earliest or latest") from None


def size_value(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


directory_argument = click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
stream_argument = click.argument("stream")
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output with stable keys.")
raw_option = click.option("--raw", is_flag=True, help="Payloads back to back, without the newlines between them.")


def wait_option(seconds: float, what: str) -> Callable[[Verb], Verb]:
    """--timeout, with the default and the meaning that it has for one verb."""
    positive = click.FloatRange(min=0, min_open=True)
    return click.option("--timeout", type=positive, default=seconds, show_default=True, metavar="SECONDS", help=what)


timeout_option = wait_option(5.0, "How long to wait for the engine to answer.")


def setting_options(verb: Verb) -> Verb:
    """One option for each setting of ringwal.Config, given to the verb as text or None."""
    for setting in reversed(settings()):
        text = f"{setting.help}  [default: {setting.format()}]"
        verb = click.option(setting.flag, metavar=_metavar(setting), help=text)(verb)
    return verb


def _metavar(setting: Setting) -> str:
    if setting.kind == "choice":
        return "|".join(setting.choices)
    return {"bytes": "SIZE", "seconds": "SECONDS", "count": "N"}[setting.kind]


# ---------------------------------------------------------------------------------------------------------- errors


def is_expected(error: Exception) -> bool:
    """Errors that a message explains; anything else is a defect and keeps its traceback."""
    return isinstance(error, (OSError, Error, NoSuchStreamError, textio.OutputFailedError, DemoError))


@contextlib.contextmanager
def output_apart(as_json: bool) -> Iterator[textio.Output]:
    """Standard output of a verb whose code speaks of something else: that it cannot be written is said, and no more."""
    try:
        yield textio.Output()
    except textio.OutputFailedError as error:
        report(error, as_json)


def nothing_appended(error: BaseException) -> None:
    """Notes on the error that it came before anything of the input was on its way."""
    facts: Any = error
    facts.outcome = "not_appended"
    error.add_note("nothing of the input was appended")


def report(error: BaseException, as_json: bool) -> None:
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
        textio.say(json.dumps(value, ensure_ascii=False))
        return
    for text in (str(error) or type(error).__name__, *notes):
        textio.say(f"ringwal: {text}")


@contextlib.contextmanager
def client(directory: Path, timeout: float, lane_bytes: int | None = None) -> Iterator[ringwal.Client]:
    import ringwal

    with ringwal.connect(directory, timeout=timeout, lane_bytes=lane_bytes, append_timeout=timeout) as client:
        yield client


def status_of(directory: Path, timeout: float) -> tuple[dict[str, Any], int]:
    """The engine's report and 0, or, if it does not answer, what its memory says and EX_TEMPFAIL. Raises Error."""
    from ringwal.observer import LAST_STATUS_NAME, last_status, observe

    try:
        with client(directory, timeout) as attached:
            return {**attached.status(), "answers": True}, os.EX_OK
    except NotRunning as error:
        seen = observe(directory)
        if seen is None:
            if last := last_status(directory):
                error.add_note(
                    f"the last one ended at {last.get('ended')} with code {last.get('exit_code')}"
                    f"{': ' if last.get('reason') else ''}{last.get('reason') or ''}; its report is in {LAST_STATUS_NAME}"
                )
            raise
        textio.say(f"ringwal: {error}; what follows is read from its memory")
        return {**seen, "answers": False}, os.EX_TEMPFAIL


def existing(client: ringwal.Client, name: str) -> ringwal.Stream:
    """The stream, which must have been appended to before: looking must not create it."""
    if all(info.name != name for info in client.streams()):
        raise NoSuchStreamError(f"no stream named {name!r}; `ringwal ls` lists what is there")
    return client.stream(name)


def formatter(as_json: bool, raw: bool) -> Callable[[Any], bytes]:
    if as_json and raw:
        raise click.UsageError("--json and --raw exclude each other")
    return textio.json_records if as_json else textio.raw_records if raw else textio.record_lines


