"""The exception tree, and the one map from the C core's return codes to it.

Every error says two things besides its message. `outcome` is what became of the append that the failed call was about:

    "not_appended"  certainly not written: appending again cannot duplicate it
    "unknown"       it may or may not be in the stream: only reading the stream can tell
    None            the call was not about an append (an append that raises a class without an outcome sets it)

`retriable` is True where the same call may succeed later, with nothing changed, and making it again writes nothing
twice.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import Any, Literal, TypeAlias

Outcome: TypeAlias = Literal["not_appended", "unknown"]
ANSWERED = -(1 << 62)
"""What a completion says below that is a verdict (`verdict_of`)."""


class Error(Exception):
    """Base of everything this package raises on purpose. Instances can be pickled with all their attributes."""

    outcome: Outcome | None = None
    retriable: bool = False

    def __init__(self, message: str = "", *, outcome: Outcome | None = None) -> None:
        super().__init__(message)
        if outcome is not None:
            self.outcome = outcome

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.facts())

    def facts(self) -> dict[str, Any]:
        """The attributes that belong to this instance, by name: what pickling and the socket protocol carry along."""
        return dict(vars(self))


class NotRunning(Error, ConnectionError):
    """No engine serves the directory (any more). An append was refused before anything was written.

    `why` is "absent" where no engine holds the directory, so that one may be started; "silent" where one does, and did not
    answer in time; "ending" where one does, and serves nobody any more, or cannot be reached for a moment.
    """

    outcome = "not_appended"
    retriable = True
    why: Literal["absent", "silent", "ending"] | None = None


class VersionMismatch(Error):
    """Client and engine, or engine and files, come from builds that do not fit together."""


class Locked(Error):
    """Another engine holds the directory. `pid` is the holder's, as written in the lock file; None if unreadable."""

    retriable = True

    def __init__(self, message: str = "", pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class ShmUnavailable(Error):
    """Shared memory, or a place in a shared table, cannot be had. `size` is what was asked for, in bytes, or None."""

    def __init__(self, message: str = "", size: int | None = None) -> None:
        super().__init__(message)
        self.size = size


class ForkError(Error):
    """A receipt made before `fork` was used in the child; its fate is known to the parent only. Or a producer was: it goes on
    in the parent, and the child claims one of its own (`outcome` "not_appended")."""

    outcome = "unknown"


class ClosedError(Error):
    """The client has been closed: nothing was written. `outcome` is "unknown" on a receipt that was pending then."""

    outcome = "not_appended"


class NotWritable(Error):
    """The log was opened for reading only: nothing was written."""

    outcome = "not_appended"


class BackpressureTimeout(Error, TimeoutError):
    """The lane stayed full for the whole append timeout. Nothing was written."""

    outcome = "not_appended"
    retriable = True


class AckTimeout(Error, TimeoutError):
    """The append was not confirmed in time. It is still on its way: wait for the same receipt, do not append again."""

    outcome = "unknown"


class RecordTooLarge(Error, ValueError):
    """A record or batch is larger than `limit` bytes, the most this client's lane and the log ring take."""

    outcome = "not_appended"

    def __init__(self, message: str = "", limit: int | None = None) -> None:
        super().__init__(message)
        self.limit = limit


class StorageFull(Error, OSError):
    """No room for another segment: `errno` is ENOSPC (the disk, or `min_free_bytes`) or EDQUOT (`max_log_bytes`, or a quota).
    Nothing was written."""

    outcome = "not_appended"
    retriable = True
    errno: int

    def __init__(self, message: str = "", errno: int = _errno.ENOSPC) -> None:
        super().__init__(message)
        self.errno = errno

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "errno": self.errno}


class FileError(Error, OSError):
    """The system refuses a file or a directory: `errno` says why, `path` which, and `owner` is its user id, or None."""

    errno: int

    def __init__(self, message: str = "", errno: int = 0, path: str | None = None, owner: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno
        self.path = path
        self.owner = owner

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "errno": self.errno}


class EngineFailed(Error):
    """The engine ended while the append was on its way: it may or may not be in the stream.

    `errno` is that of the failed write or sync, or None where the engine ended for another reason.
    """

    outcome = "unknown"

    def __init__(self, message: str = "", errno: int | None = None, *, outcome: Outcome | None = None) -> None:
        super().__init__(message, outcome=outcome)
        self.errno = errno


class NoSuchStream(Error, LookupError):
    """Nobody has appended to the stream, or created it. Looking at it does not."""


class StreamDeleted(NoSuchStream):
    """The stream was deleted meanwhile: a tail ends so, and an append that was on its way is refused.

    Its offsets are gone for good. A later append to the name makes another stream, which begins at 0.
    """

    outcome = "not_appended"


class OffsetMismatch(Error):
    """The append was to be made at one offset (``expected_offset``), and its stream goes on at another one, `actual`.

    Nothing was appended. All records below `actual` are confirmed: read what came in between, decide, and append again.
    """

    outcome = "not_appended"

    def __init__(self, message: str = "", actual: int | None = None) -> None:
        super().__init__(message)
        self.actual = actual


class SequenceGap(Error):
    """Records are missing between the producer's last one and this append: the next sequence is `expected`.

    Nothing was appended.
    """

    outcome = "not_appended"

    def __init__(self, message: str = "", expected: int | None = None) -> None:
        super().__init__(message)
        self.expected = expected


class ProducerFenced(Error):
    """Another process has claimed the producer since, or the engine has forgotten it (``producer_age``): nothing was appended,
    and nothing will be. Whoever is to go on claims it anew, and is told how far it is.

    `outcome` is "unknown" only of what was lost with an engine before, if the records that may have been it are trimmed."""

    outcome = "not_appended"


class ConsumerFenced(Error):
    """Another process has claimed the consumer since, or it was deleted. Nothing was committed, and nothing appended of the
    batch that was to do it. Whoever is to go on claims it anew, and is told how far it is."""

    outcome = "not_appended"


class ConfigError(Error, ValueError):
    """A setting or argument is outside its limits, or contradicts another; the message says what to change."""


class StreamExists(ConfigError):
    """A stream of that name is there, with other settings, which the message names. Nothing was changed: `Stream.configure`
    changes them, and ``create_stream(exist_ok=True)`` takes the stream as it is."""


class OffsetTrimmed(Error):
    """The offset asked for lies before `start_offset`, the first one that the stream still has."""

    def __init__(self, message: str = "", start_offset: int | None = None) -> None:
        super().__init__(message)
        self.start_offset = start_offset
        self.stream: str | None = None
        """Which one, where several are followed together."""


class CorruptionError(Error):
    """Stored bytes are damaged in a way that no crash explains. Nothing has been changed. `ringwal verify` names every damaged
    place, and `ringwal salvage` makes a log of everything else.

    `segment` is the segment's number, `position` the log position in bytes; None where there is none to name.

    A read also says what cannot be had: the records first_offset <= offset < next_offset of the stream of the name `stream`.
    One that begins at `next_offset` works, as far as nothing else is damaged. Each is None where it is not known.
    """

    def __init__(self, message: str = "", segment: int | None = None, position: int | None = None) -> None:
        named = (("segment", segment), ("position", position))
        place = ", ".join(f"{name} {value}" for name, value in named if value is not None)
        super().__init__(f"{message} ({place})" if place else message)
        self.segment = segment
        self.position = position
        self.stream: str | None = None
        self.first_offset: int | None = None
        self.next_offset: int | None = None

    def denying(self, stream: str, first_offset: int, next_offset: int | None) -> CorruptionError:
        """The same, with the records that it takes; None: from the first one on, up to nobody knows where."""
        what, then = f"the records of stream {stream!r} from offset {first_offset} on cannot be read", ""
        if next_offset is not None:
            several = next_offset - first_offset > 1
            those = f"records {first_offset} to {next_offset - 1}" if several else f"record {first_offset}"
            what, then = f"{those} of stream {stream!r} cannot be read", f"; go on from offset {next_offset}"
        facts = {"stream": stream, "first_offset": first_offset, "next_offset": next_offset}
        made = _rebuild(type(self), (f"{self}: {what}{then}",), {**self.facts(), **facts})
        assert isinstance(made, CorruptionError)
        return made


def _rebuild(cls: type[Error], args: tuple[Any, ...], facts: dict[str, Any]) -> Error:
    """An error as it was, without running its constructor again (which would add to the message)."""
    error = cls.__new__(cls)
    error.args = args
    for name, value in facts.items():
        setattr(error, name, value)
    return error


def by_name(name: str, message: str, facts: dict[str, Any]) -> Error:
    """The error that another process reported: class name, message and `facts()`. An unknown name gives an Error."""
    cls = globals().get(name)
    if not (isinstance(cls, type) and issubclass(cls, Error)):
        return Error(f"{name}: {message}")
    blank = cls("").facts()
    return _rebuild(cls, (message,), {**blank, **{key: facts[key] for key in blank.keys() & facts.keys()}})


def of_code(
    code: int,
    what: str = "",
    *,
    size: int | None = None,
    limit: int | None = None,
    stopped: bool = False,
    errno: int = 0,
    segment: int | None = None,
    position: int | None = None,
) -> Error:
    """What a code of csrc/status.h means, other than RW_OK and those that ask to wait or to call again.

    `what` names the object of the call and leads the message. `size` and `limit` are in bytes. `stopped` and `errno` are
    what the engine said at its end: that it was stopped, or why it failed (0: nothing). An append that such an end finds on
    its way has the outcome "unknown"; who was refused before anything was written says so instead.
    """
    from ringwal._native import lib  # here, so that this module can be imported before the core is built

    lead = f"{what}: " if what else ""
    if code == lib.RW_TOO_LARGE:
        asked = "larger" if size is None else f"{size} bytes in one append; larger"
        return RecordTooLarge(
            f"{lead}{asked} than this client's limit of {limit} bytes (half of its lane): "
            "connect with a larger lane_bytes, or start the engine with a larger --lane-bytes; if its lane is large"
            " enough, with a larger --ring-bytes",
            limit,
        )
    if code == lib.RW_BAD:
        return CorruptionError(f"{lead}bytes are not what was written", segment, position)
    if code == lib.RW_MISMATCH:
        return VersionMismatch(f"{lead}shared memory of another build, engine or epoch")
    if code == lib.RW_DELETED:
        return StreamDeleted(f"{lead}the stream was deleted; nothing was appended")
    ends = {
        lib.RW_GONE: "the engine was stopped before this append was confirmed" if stopped else _why_it_failed(errno),
        lib.RW_FAULT: "the engine refused this client's lane because it held damaged requests",
        lib.RW_IO: "the engine could not write this append",
        lib.RW_FAILED_REQUEST: "the engine could not write this append",
    }
    if code in ends:
        return EngineFailed(lead + ends[code], errno if errno and not stopped else None)
    return Error(f"{lead}unexpected status {code} of the native core")


def verdict_of(code: int) -> tuple[int, int]:
    """Why a request was refused alone, and the number that belongs to that, by what its completion says (csrc/layout.h,
    RW_ANSWERED). (0, 0): it was not, or its stream is deleted."""
    return (code >> 56 & 0x7F, code & (1 << 56) - 1) if code < ANSWERED else (0, 0)


def _why_it_failed(errno: int) -> str:
    if errno == _errno.ESTALE:
        return "the engine ended because its directory was moved, replaced or deleted"
    if errno == 0:
        return "the engine was killed, or gave up, before this append was confirmed"
    return f"the engine failed ({describe_errno(errno)})"


def describe_errno(number: int) -> str:
    """What an errno means, for messages."""
    return os.strerror(number) if number else "no error number"


def describe_full(number: int) -> str:
    """Why the engine can prepare no segment, and what to do."""
    if number == _errno.EDQUOT:
        return "the log has reached its max_log_bytes, or a disk quota is used up: trim or delete streams, or raise the limit"
    return f"{describe_errno(number)}, or less than min_free_bytes: free space in its file system, or trim or delete streams"


def full_errno(reason: str) -> int:
    """Of what the engine's report says in `storage_full`."""
    return _errno.EDQUOT if reason == os.strerror(_errno.EDQUOT) else _errno.ENOSPC
