"""Reading a log without being a client of its engine: from its files where none runs, else beside it, in its memory.

Nothing is written, and nobody is asked. The files of a log that is stopped, or was killed, are read up to the end that a
start would find. Where an engine holds the log, bytes of a file may not be on stable storage yet; so its memory says what is
confirmed, which the observer takes from /proc (observer.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from ringwal import limits, lock_file, memory, positions, views
from ringwal._native import lib
from ringwal.client import configuring
from ringwal.client.attachment import bounds_at, stream_infos_at
from ringwal.errors import (
    ClosedError,
    ConfigError,
    CorruptionError,
    FileError,
    NoSuchStream,
    NotRunning,
    NotWritable,
    StreamDeleted,
)
from ringwal.file_errors import FileErrors
from ringwal.log import settings, standing
from ringwal.log.directory import SEGMENTS, Directory
from ringwal.log.retention import NO_LIMITS
from ringwal.model import EARLIEST, LATEST, Record, StreamInfo
from ringwal.positions import Position
from ringwal.read.bounds import StreamBounds, TableBounds
from ringwal.read.reader import Reader

_LOOKS_MAX = 5
"""How often a log is looked at anew that an engine takes, or leaves, just then."""


def open_readonly(path: str | os.PathLike[str]) -> ReadOnlyLog:
    """Open the log in the directory `path` for reading, without its engine.

    Where no engine runs, that is everything that a start would keep, and it stays so; a start is not needed for it, and not
    hindered by it. Where one runs, it is what that engine has confirmed, up to its end.

    Raises:
        FileError: there is no log (ENOENT), or it may not be read.
        CorruptionError: the log is damaged so that a start would refuse it: `ringwal verify` says where, and `ringwal salvage`
            makes a log of the rest.
        VersionMismatch: it is of another format, or its engine of another version.
        NotRunning: an engine holds the log, and its memory cannot be seen from here.
    """
    where = limits.path(path, error=ConfigError)
    with FileErrors(where, "read"):
        for _ in range(_LOOKS_MAX):
            directory = Directory(where)
            try:
                found = _held(directory) if lock_file.held(directory.fd) else _at_rest(directory)
            except BaseException:
                directory.close()
                raise
            if found is not None:
                return found
            directory.close()
    raise NotRunning(f"engines on {where} begin and end all the time: try again")


def _at_rest(directory: Directory) -> ReadOnlyLog | None:
    """None: somebody has changed it meanwhile."""
    try:
        found = standing.look(directory)
    except FileNotFoundError as error:
        if lock_file.held(directory.fd):  # an engine is making the log just now
            return None
        if directory.has_segments():
            raise CorruptionError(
                f"{directory.path} has segments and no manifest: it is a log that was damaged (`ringwal salvage` makes one of"
                " what can be proven), or a backup or a restore that was not finished (begin it again)"
            ) from error
        raise FileError(f"there is no log in {directory.path}", errno.ENOENT, str(directory.path)) from error
    if lock_file.held(directory.fd):
        return None
    return ReadOnlyLog(directory, _Files(directory, found))


def _held(directory: Directory) -> ReadOnlyLog | None:
    """None: the engine has gone meanwhile."""
    holder = lock_file.holder(directory.fd)
    if holder is None:
        if not lock_file.held(directory.fd):
            return None
        raise _silent(
            f"an engine holds {directory.path}, and its memory cannot be seen from here (another user's, or in another pid"
            " namespace): read as its client (ringwal.connect), or when it has stopped"
        )
    if holder.control is None or holder.ring is None:
        raise _silent(f"the engine on {directory.path} is still starting, or ending: try again in a moment")
    return ReadOnlyLog(directory, _Engine(directory, holder))


def _silent(what: str) -> NotRunning:
    error = NotRunning(what)
    error.why = "silent"
    return error


class _Files:
    """What a log at rest has."""

    def __init__(self, directory: Directory, found: standing.Standing) -> None:
        state = found.manifest
        self._infos = [
            StreamInfo(
                name=one.name,
                start_offset=one.start_offset,
                confirmed_offset=one.next_offset,
                records=one.next_offset - one.start_offset,
                confirmed_bytes=one.payload_bytes,
                last_timestamp_ns=one.timestamp_ns,
                number=one.number,
                **configuring.facts(settings.decode(one.settings), NO_LIMITS),  # no engine, no defaults
            )
            for one in found.streams
        ]
        self._numbers = {one.name: one.number for one in found.streams}
        self._table = TableBounds(
            uuid=state.uuid,
            segment_bytes=state.segment_bytes,
            epochs=found.epochs,
            streams={one.number: StreamBounds(one.start_offset, one.next_offset) for one in found.streams},
            first_segment=state.first_segment,
            names={one.number: one.name for one in found.streams},
        )
        self.reading = FileErrors(directory.path / SEGMENTS, "read from")
        self.reader = Reader(directory, self._table)
        self.live = False

    def stream_infos(self) -> Iterator[StreamInfo]:
        return iter(self._infos)

    def handle_of(self, name: str, *, look: bool = True) -> int:
        try:
            return self._numbers[name]
        except KeyError:
            raise NoSuchStream(f"no stream named {name!r}") from None

    def bounds(self, handle: int) -> tuple[int, int]:
        found = self._table.look(handle)
        if found is None:
            raise StreamDeleted("the stream was deleted")
        return found

    def close(self) -> None:
        pass


class _Engine:
    """What the memory of a running engine says, or of one that has ended since."""

    def __init__(self, directory: Directory, holder: lock_file.Holder) -> None:
        with contextlib.ExitStack() as stack:
            fds = [os.open(f"/proc/{holder.pid}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC) for fd in (holder.control, holder.ring)]
            for fd in fds:
                stack.callback(os.close, fd)
            self._control_map = memory.observe_control(fds[0])
            self._control = self._control_map.pointer
            self._ring_map = memory.attach_log(fds[1], int(views.engine(self._control).ring_bytes))
            if lock_file.holder(directory.fd) != holder:  # the numbers may have become another's meanwhile
                raise _silent(f"the engine on {directory.path} has just ended: try again")
        self.reading = FileErrors(directory.path / SEGMENTS, "read from")
        self.reader = Reader.of_engine(directory, self._control, self._ring_map.pointer)
        self.live = True

    def stream_infos(self) -> Iterator[StreamInfo]:
        return stream_infos_at(self._control)

    def handle_of(self, name: str, *, look: bool = True) -> int:
        for place in range(views.engine(self._control).stream_count):
            for info in stream_infos_at(self._control, place):
                if info.name == name:
                    return int(lib.rw_handle(place, info.number))
        raise NoSuchStream(f"no stream named {name!r}")

    def bounds(self, handle: int) -> tuple[int, int]:
        return bounds_at(self._control, handle)

    def close(self) -> None:
        """The mappings go with their last reader."""


class ReadOnlyLog:
    """A log that is open for reading; `open_readonly` makes it. A context manager. Thread-safe. Pickles as its
    path, which is opened anew."""

    def __init__(self, directory: Directory, source: _Files | _Engine) -> None:
        self.path: Path = directory.path
        self._directory = directory
        self._source: _Files | _Engine | None = source

    @property
    def live(self) -> bool:
        """Is it read beside an engine, so that there may be more later?"""
        return self._attachment().live

    def _attachment(self) -> _Files | _Engine:
        """What it is read from. For the package itself."""
        source = self._source
        if source is None:
            raise ClosedError("this log has been closed")
        return source

    def streams(self) -> list[StreamInfo]:
        """All streams, by name."""
        return sorted(self._attachment().stream_infos())

    def stream(self, name: str) -> ReadOnlyStream:
        """The stream of that name, which need not exist."""
        if not isinstance(name, str):
            raise TypeError(f"a stream's name is a str, not {type(name).__name__}")
        return ReadOnlyStream(self, name)

    def create_stream(self, *_: Any, **__: Any) -> NoReturn:
        """Raises NotWritable, as everything does that changes something."""
        raise _not_writable(self.path)

    batch = consumer = delete_consumer = delete_stream = producer = create_stream

    def tail(self, *_: Any, **__: Any) -> NoReturn:
        """Raises NotWritable, as `ReadOnlyStream.tail` does."""
        raise _nobody_wakes(self.path)

    def close(self) -> None:
        """Let go of the files. Calling it again does nothing. A read that is under way in another thread may fail."""
        self._source = None
        self._directory.close()

    def __enter__(self) -> ReadOnlyLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_readonly, (str(self.path),)

    def __repr__(self) -> str:
        return f"<ReadOnlyLog {str(self.path)!r}{'' if self._source else ' (closed)'}>"


class ReadOnlyStream:
    """One stream of a `ReadOnlyLog`: what `Stream` has for reading, with the same arguments and errors."""

    def __init__(self, log: ReadOnlyLog, name: str) -> None:
        self.log = log
        self.name = name

    def read(
        self, start: Position = 0, max_records: int = 1000, max_bytes: int | None = None, *, until: Position = LATEST
    ) -> list[Record]:
        """As `Stream.read`. Raises ClosedError, too."""
        return positions.read(self.log._attachment, self.name, start, max_records, max_bytes, until)

    def records(self, start: Position = EARLIEST, until: Position = LATEST) -> Iterator[Record]:
        """As `Stream.records`. Raises ClosedError, too."""
        first, end = positions.checked(start), positions.checked(until, "until")
        return positions.range_of(self.log._attachment(), self.name, first, end).records()

    def stat(self) -> StreamInfo:
        """As `Stream.stat`. Raises ClosedError, too."""
        for info in self.log._attachment().stream_infos():
            if info.name == self.name:
                return info
        raise NoSuchStream(f"no stream named {self.name!r}")

    def offset_at(self, when: Position) -> int:
        """As `Stream.offset_at`. Raises ClosedError, too."""
        source = self.log._attachment()
        moment = positions.moment(when) if isinstance(when, datetime) else positions.checked(when, "when")
        return positions.offset(source, source.handle_of(self.name), moment)

    def tail(self, *_: Any, **__: Any) -> NoReturn:
        """Raises NotWritable: a tail waits to be woken, and without a client nobody would wake it."""
        raise _nobody_wakes(self.log.path)

    def append(self, *_: Any, **__: Any) -> NoReturn:
        """Raises NotWritable, as everything does that changes something."""
        raise _not_writable(self.log.path)

    append_many = flush = trim = configure = append

    def __reduce__(self) -> tuple[Any, ...]:
        return _restream, (self.log, self.name)

    def __repr__(self) -> str:
        return f"<ReadOnlyStream {self.name!r} of {str(self.log.path)!r}>"


def _restream(log: ReadOnlyLog, name: str) -> ReadOnlyStream:
    return log.stream(name)


def _nobody_wakes(path: Path) -> NotWritable:
    return NotWritable(
        f"{path} is open for reading only, and nobody is woken here for what comes: tail as a client of its engine"
        " (ringwal.connect), or call read or records again from the next offset on"
    )


def _not_writable(path: Path) -> NotWritable:
    return NotWritable(f"{path} is open for reading only: append or change as a client of its engine (ringwal.connect)")
