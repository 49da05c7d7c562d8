"""What the verbs of the command line share: their options, how values are read, how errors are told."""

from __future__ import annotations

import contextlib
import difflib
import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import click
from click.core import ParameterSource

from ringwal import textio, times
from ringwal.config import LANE_BYTES_MAX, LANE_BYTES_MIN, Setting, format_size, parse_size, settings
from ringwal.demo import DemoError
from ringwal.errors import (
    ConfigError,
    CorruptionError,
    EngineFailed,
    Error,
    NoSuchStream,
    NotRunning,
    describe_full,
    full_errno,
)
from ringwal.exit_codes import exit_code_of
from ringwal.interrupts import INTERRUPTS
from ringwal.limits import SECONDS_MAX, WHOLE_MAX

if TYPE_CHECKING:
    import ringwal
    from ringwal.protocol.client import Registration

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # older ones cannot be subscripted

Verb = TypeVar("Verb", bound=Callable[..., Any])
AGAIN_SECONDS = 0.2
"""How long it waits, its eye on the output, before it looks for an engine again."""
PROGRESS_SECONDS = 1.0
"""How long `status` waits for a confirmation while something is pending."""
LOOK_SECONDS = 0.02
WAY_OUT = (
    "`ringwal verify DIR` names every damaged place, and the records that it takes; `ringwal salvage DIR DEST` makes a log of"
    " everything else"
)


class NoSuchOffsetError(Exception):
    """The verb was asked to begin beyond the end of the stream."""


class NoSuchConsumerError(Exception):
    """The verb was asked about a consumer that there is not, or that does not read that stream."""


_MEANT = {"start": ["run"]}
"""Verbs that others have, and what they are called here."""


class VerbGroup(click.Group):
    """Ctrl-C ends a verb with its code and without a word; click would print an empty line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            sys.exit(exit_code_of(error))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """A mistyped verb is told which ones there are; one of them is guessed only where it begins alike."""
        name, verbs = args[0], self.list_commands(ctx)
        if name in verbs or name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = _MEANT.get(name) or difflib.get_close_matches(name, [verb for verb in verbs if verb[0] == name[0:1]], 1, 0.74)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise click.UsageError(f"There is no verb {shortened(name)}.{guess} There are: {', '.join(verbs)}.", ctx)


# ---------------------------------------------------------------------------------------------- options and values


def start_value(_ctx: click.Context, _param: click.Parameter, value: str) -> int | str:
    """earliest, latest, an offset, or a negative number: that many records before the end."""
    if value in ("earliest", "latest"):
        return value
    try:
        number = int(value)
    except ValueError:
        hint = "; for a time, use --since" if is_time(value) else ""
        raise click.BadParameter(f"{shortened(value)} is neither a number nor earliest or latest{hint}") from None
    if not -WHOLE_MAX <= number <= WHOLE_MAX:
        raise click.BadParameter(f"{shortened(value)} is no offset; the largest is {WHOLE_MAX}")
    return number


def is_time(value: str) -> bool:
    try:
        return times.point_ns(value) >= 0
    except ValueError:
        return False


def before_value(ctx: click.Context, param: click.Parameter, value: str) -> int | str | times.At:
    """As `start_value`, or a time, which is no number."""
    number = value.removeprefix("-").isdecimal()
    if number or value in ("earliest", "latest"):
        return start_value(ctx, param, value)
    try:
        return times.At.from_ns(times.point_ns(value, param.opts[0]))
    except ValueError as error:
        raise click.BadParameter(f"{error}; or an offset, latest, or -N") from None


def at_value(ctx: click.Context, param: click.Parameter, value: str | None) -> times.At | None:
    found = time_value(ctx, param, value)
    return None if found is None else times.At.from_ns(found)


def begin_of(start: int | str, since: times.At | None) -> int | str | times.At:
    """Where --start or --since says. Raises UsageError: both are given."""
    if since is None:
        return start
    if click.get_current_context().get_parameter_source("start") is not ParameterSource.DEFAULT:
        raise click.UsageError("--start and --since exclude each other")
    return since


def time_value(_ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Nanoseconds since 1970."""
    try:
        return None if value is None else times.point_ns(value, param.opts[0])
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def lane_value(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    limits = f"a lane takes {format_size(LANE_BYTES_MIN)} to {format_size(LANE_BYTES_MAX)}"
    try:
        size = None if value is None else parse_size(value)
    except ConfigError as error:
        raise click.BadParameter(f"{error}; {limits}") from None
    if size is not None and not LANE_BYTES_MIN <= size <= LANE_BYTES_MAX:
        raise click.BadParameter(f"{shortened(str(value))} is outside the limits: {limits}")
    return size


class Number(ParamType):
    """A number within limits; what is no number is outside of them, too."""

    def __init__(self, kind: type[int] | type[float], least: float, most: float, *, above: bool = False) -> None:
        self.name = "number"
        self._kind, self._least, self._most, self._above = kind, least, most, above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        try:
            number = self._kind(value)
        except (ValueError, OverflowError):
            number = math.nan
        if not self._least <= number <= self._most or (self._above and number == self._least):
            what = f"more than {self._least}" if self._above else f"{self._least}"
            self.fail(f"{shortened(str(value))} is not a number from {what} to {self._most}", param, ctx)
        return number


def shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:32]}...")


# Whether it may be read is seen when it is, and then told as what it is: click would call it a wrong command line.
_DIRECTORY = click.Path(file_okay=False, readable=False, path_type=Path)
directory_argument = click.argument("directory", metavar="DIR", type=_DIRECTORY)
stream_argument = click.argument("stream")
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output with stable keys.")
raw_option = click.option("--raw", is_flag=True, help="Payloads back to back, without the newlines between them.")


def wait_option(seconds: float, what: str) -> Callable[[Verb], Verb]:
    """--timeout, with the default and the meaning that it has for one verb."""
    positive = Number(float, 0, SECONDS_MAX, above=True)
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
    return {"bytes": "SIZE", "seconds": "SECONDS", "count": "N", "duration": "AGE"}[setting.kind]


# ---------------------------------------------------------------------------------------------------------- errors


def is_expected(error: Exception) -> bool:
    """Errors that a message explains; anything else is a defect and keeps its traceback."""
    missing = (NoSuchStream, NoSuchOffsetError, NoSuchConsumerError)
    return isinstance(error, (OSError, Error, *missing, textio.OutputFailedError, DemoError))


@contextlib.contextmanager
def output_apart(as_json: bool) -> Iterator[textio.Output]:
    """Standard output of a verb whose code speaks of something else: that it cannot be written is said, and no more."""
    try:
        yield textio.Output()
    except textio.OutputFailedError as error:
        report(error, as_json)


def message_of(error: BaseException) -> str:
    return str(error) or type(error).__name__


def report_usage(error: click.ClickException, as_json: bool) -> None:
    """A wrong command line, as click shows it; as JSON the message alone, and how the verb is called as notes."""
    words = io.StringIO()
    error.show(words)
    lines = [line for line in words.getvalue().rstrip("\n").split("\n") if line]
    if not as_json:
        textio.say("\n".join(map(textio.visible, words.getvalue().rstrip("\n").split("\n"))))
        return
    fate = INTERRUPTS.fate
    value = {
        "error": type(error).__name__,
        "message": error.format_message(),
        "outcome": None if fate is None else fate.outcome(),
        "retriable": False,
        "exit_code": error.exit_code,
        "notes": [line for line in lines if not line.startswith("Error")],
        **({} if fate is None else fate.facts()),
    }
    textio.say(textio.json_text(value))


def report(error: BaseException, as_json: bool) -> None:
    notes = getattr(error, "__notes__", [])
    if as_json:
        value = {
            "error": type(error).__name__,
            "message": message_of(error),
            "outcome": getattr(error, "outcome", None),
            "retriable": getattr(error, "retriable", False),
            "exit_code": exit_code_of(error),
            "notes": notes,
            **(_denied(error) if isinstance(error, CorruptionError) else {}),
            **getattr(error, "progress", {}),
        }
        textio.say(textio.json_text(value))
        return
    for text in (message_of(error), *notes):
        textio.say(f"ringwal: {textio.visible(text)}")


def _denied(error: CorruptionError) -> dict[str, Any]:
    keys = ("segment", "position", "stream", "first_offset", "next_offset")
    return {key: getattr(error, key) for key in keys}


@contextlib.contextmanager
def client(directory: Path, timeout: float, lane_bytes: int | None = None) -> Iterator[ringwal.Client]:
    import ringwal

    with ringwal.Client(directory, timeout=timeout, lane_bytes=lane_bytes, append_timeout=timeout) as client:
        yield client


@contextlib.contextmanager
def awaited_client(directory: Path, timeout: float, output: textio.Output, lasting: bool) -> Iterator[ringwal.Client]:
    """`client`; with `lasting`, of an engine, on a directory, that need not be there yet: the output is watched meanwhile."""
    told = False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                attached = stack.enter_context(client(directory, timeout))
                break
            except NotRunning as error:
                if not lasting:
                    raise
                if not told:
                    textio.say(f"ringwal: {textio.visible(message_of(error))}; waiting for it")
                    told = True
                output.watch(AGAIN_SECONDS)
        yield attached


def status_of(directory: Path, timeout: float) -> tuple[dict[str, Any], int]:
    """The engine's report and 0; EX_TEMPFAIL with one that cannot vouch for confirmations, or, if it does not answer,
    with what its memory says. Raises Error."""
    from ringwal.observer import LAST_STATUS_NAME, last_status, observe

    try:
        with client(directory, timeout) as attached:
            facts = attached.status()
            doubts = _doubts(facts, attached, min(timeout, PROGRESS_SECONDS))
            for doubt in doubts:
                textio.say(f"ringwal: {doubt}")
            return {**facts, "answers": True, "doubts": doubts}, os.EX_TEMPFAIL if doubts else os.EX_OK
    except NotRunning as error:
        seen = observe(directory)
        if seen is None:
            if last := last_status(directory):
                refused = last.get("started") is False
                error.add_note(
                    f"the last {'start was refused' if refused else 'one ended'} at {last.get('ended')} with code"
                    f" {last.get('exit_code')}{': ' if last.get('reason') else ''}{last.get('reason') or ''};"
                    f" {'this' if refused else 'its report'} is in {LAST_STATUS_NAME}"
                )
            raise
        textio.say(f"ringwal: {textio.visible(message_of(error))}; what follows is read from its memory")
        return {**seen, "answers": False}, os.EX_TEMPFAIL


def _doubts(facts: dict[str, Any], attached: ringwal.Client, seconds: float) -> list[str]:
    """Why an engine that says it runs may confirm nothing: its processes, and what is pending without any progress."""
    states: dict[str, str] = facts["processes"]
    found = [
        f"its {name} process is {state}: nothing may be confirmed"
        for name, state in states.items()
        if state != "running" and name != "keeper"  # which nobody waits for
    ]
    if facts["storage_full"]:  # what waits in the lanes is in no figure yet
        why = describe_full(full_errno(facts["storage_full"]))
        return [*found, f"it can prepare no further segment, and confirms nothing beyond this one: {why}"]
    deadline, now, done = time.monotonic() + seconds, facts, facts["counters"]["drain_confirmed_requests"]
    while now["ring"]["used"] and now["counters"]["drain_confirmed_requests"] == done:
        if time.monotonic() > deadline:
            found.append(f"{now['ring']['used']} bytes are pending, and nothing was confirmed for {seconds:g} s")
            break
        time.sleep(LOOK_SECONDS)
        now = attached.status()
    return found


def check_stopped(directory: Path, registration: Registration) -> None:
    """Raises EngineFailed: the engine has ended, and not as it was asked to."""
    from ringwal import memory
    from ringwal._native import lib
    from ringwal.observer import last_status
    from ringwal.protocol.messages import Descriptors

    hello, place = registration.hello, Descriptors._fields.index("control")
    control = memory.attach_control(registration.arrival[place], hello.control_bytes, hello.uuid, hello.epoch)
    if lib.rw_engine_state(control.pointer) == lib.RW_STOPPED:
        return
    last = last_status(directory) or {}  # an engine that was killed has left that of an earlier one
    reason = f": {last['reason']} (code {last['exit_code']})" if last.get("epoch") == hello.epoch and last.get("reason") else ""
    raise EngineFailed(f"the engine on {directory} ended, but not in order{reason}; what was not confirmed by then is unknown")


@overload
def existing(client: ringwal.Client, name: str) -> ringwal.Stream: ...
@overload
def existing(
    client: ringwal.Client | ringwal.ReadOnlyLog, name: str
) -> ringwal.Stream | ringwal.ReadOnlyStream: ...
def existing(client: ringwal.Client | ringwal.ReadOnlyLog, name: str) -> ringwal.Stream | ringwal.ReadOnlyStream:
    """The stream, which must have been appended to before: looking must not create it."""
    if all(info.name != name for info in client.streams()):
        raise NoSuchStream(f"no stream named {name!r}; `ringwal ls` lists what is there")
    return client.stream(name)


def first_offset(
    start: int | str | times.At, source: ringwal.Stream | ringwal.ReadOnlyStream, info: ringwal.StreamInfo
) -> int:
    """The offset that a value of --start, --since or --before stands for, in this stream and now. The next one to come is
    there, too."""
    if isinstance(start, times.At):
        return source.offset_at(start)
    if start == "earliest":
        return info.start_offset
    if start == "latest":
        return info.confirmed_offset
    assert isinstance(start, int)
    if start > info.confirmed_offset:
        raise NoSuchOffsetError(
            f"there is no offset {start} in stream {info.name!r}: the next record gets {info.confirmed_offset}"
        )
    return start if start >= 0 else max(info.start_offset, info.confirmed_offset + start)


def form_of(as_json: bool, raw: bool) -> Literal["raw", "lines", "json"]:
    """How records are printed."""
    if as_json and raw:
        raise click.UsageError("--json and --raw exclude each other")
    return "json" if as_json else "raw" if raw else "lines"
