"""A `logging.Handler` whose records are records of a stream: durable, in order, from many processes.

    {"class": "ringwal.logging.StreamHandler", "path": "logs.d", "stream": "app", "on_down": "buffer"}

While an engine answers, a logging call appends: the record is in the engine's memory when the call returns, and so
outlives the process, whatever ends it. For the rest see docs/logging.md, and delivery.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import weakref
from typing import Literal

from ringwal import limits
from ringwal.config import lane_size
from ringwal.delivery import NOTHING, Delivery, Entry, Settings, Told
from ringwal.errors import ConfigError
from ringwal.file_errors import FileErrors
from ringwal.protocol.messages import check_own_name, check_stream_name

__all__ = ["StreamHandler"]

ON_DOWN = ("buffer", "drop", "raise")
MAX_WAIT = {"buffer": 1.0, "drop": 1.0, "raise": 10.0}
"""Seconds that one logging call may wait, where nothing else is said."""
BUFFER_RECORDS = 10_000
BUFFER_BYTES = 8 << 20
FLUSH_TIMEOUT = 5.0
LATEST_TIME = (1 << 63) - 1


class StreamHandler(logging.Handler):
    """Appends what is logged to a stream. Threads may share it, and it goes on in the child of a fork.

    It opens nothing before the first record of a process. Without an engine the application starts and runs: ``on_down``
    says what becomes of its records. None is appended twice, and their order is kept: what waits goes first.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        stream: str,
        *,
        on_down: Literal["buffer", "drop", "raise"] = "buffer",
        autostart: bool = False,
        buffer_records: int = BUFFER_RECORDS,
        buffer_bytes: int = BUFFER_BYTES,
        max_wait: float | None = None,
        flush_timeout: float = FLUSH_TIMEOUT,
        lane_bytes: int | None = None,
        encoding: str = "utf-8",
        level: int | str = logging.NOTSET,
    ) -> None:
        """
        Args:
            path: the engine's directory.
            stream: the stream's name; it is made by the first record.
            on_down: while no engine takes records, because there is none or because it has no room: "buffer" keeps them, up to
                the limits of the buffer; "drop" does not; "raise" lets the logging call raise.
            autostart: start an engine if none runs, as `ringwal.connect` does.
            buffer_records: how many records may wait in this process.
            buffer_bytes: how many bytes of them, as they are encoded.
            max_wait: the longest that a logging call waits for an engine, in seconds. With "buffer" and "drop" it is 1, for the
                first record of a process and for the first one after an engine's end, and no other waits; with "raise" 10.
            flush_timeout: the longest that `flush` waits, in seconds, and so the end of the program.
            lane_bytes: see `ringwal.connect`; a record may take half of it.
            encoding: of the text that the formatter makes. What it cannot express is written with backslashes.
            level: see `logging.Handler`.

        Raises:
            ValueError: a setting outside of its limits, an unknown ``on_down``.
            ConfigError: a name that no stream, or a path that no file can have.
            LookupError: an unknown encoding.
        """
        if on_down not in ON_DOWN:
            raise ValueError(f"on_down is {limits.shown(on_down)}; it must be one of {', '.join(ON_DOWN)}")
        given = limits.path(path, error=ConfigError)
        check_stream_name(stream)
        check_own_name(stream)
        "".encode(encoding)
        with FileErrors(given, "find"):  # the current directory may be gone
            self.path = given.absolute()
        self.stream = stream
        self.encoding = encoding
        self.flush_timeout = _finite(flush_timeout, "flush_timeout")
        self._settings = Settings(
            path=self.path,
            stream=stream,
            on_down=on_down,
            autostart=autostart,
            buffer_records=limits.whole(buffer_records, "buffer_records", 0),
            buffer_bytes=limits.whole(buffer_bytes, "buffer_bytes", 0),
            max_wait=_finite(MAX_WAIT[on_down] if max_wait is None else max_wait, "max_wait"),
            lane_bytes=lane_size(lane_bytes),
        )
        super().__init__(level)
        self.addFilter(_not_the_engines)
        self._delivery = self._new_delivery()
        _handlers.add(self)

    def _new_delivery(self) -> Delivery:
        return Delivery(self._settings, self.lock, self._notice)

    @property
    def dropped(self) -> int:
        """Records of this process that were not appended and never will be; with "raise", those of which the logging call has
        raised."""
        return self._delivery.in_all().lost

    @property
    def unknown(self) -> int:
        """Records of this process that an engine had taken and not confirmed when it ended, as far as this process has noticed
        (`flush` looks). They may be in the stream or not, and are not appended again."""
        return self._delivery.in_all().unknown

    @property
    def buffered(self) -> int:
        """Records that wait in this process now."""
        return self._delivery.waiting()

    def emit(self, record: logging.LogRecord) -> None:
        """Appends the record, or does with it what ``on_down`` says.

        Raises, with "raise" only:
            ringwal.Error: see `ringwal.Stream.append`; the record was not appended.
        """
        try:
            entry = self._entry(record)
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001  a record that cannot be formatted: what all handlers do
            self.handleError(record)
            return
        if self._settings.on_down == "raise":
            self._delivery.must(entry)
        else:
            self._delivery.put(entry)

    def _entry(self, record: logging.LogRecord, told: Told | None = None) -> Entry:
        own = int(record.created * 1e9)
        return Entry(self._encoded(self.format(record)), own if 0 <= own <= LATEST_TIME else None, told)

    def _encoded(self, text: str) -> bytes:
        return text.encode(self.encoding, "backslashreplace")

    def _notice(self, told: Told, in_all: Told, why: object) -> Entry:
        """What the stream is told about records that are not in it, in their place."""
        parts = [f"{told.lost} log records before this one were lost"] if told.lost else []
        if told.unknown:
            those = "more" if told.lost else "log records before this one"
            parts.append(f"of {told.unknown} {those} it is not known whether they are there")
        facts = {
            "name": __name__,
            "levelno": logging.WARNING,
            "levelname": logging.getLevelName(logging.WARNING),
            "msg": f"{', '.join(parts)}: {why}",
            "lost": told.lost,
            "unknown": told.unknown,
            "lost_in_all": in_all.lost,
            "unknown_in_all": in_all.unknown,
        }
        record = logging.makeLogRecord(facts)
        try:
            return self._entry(record, told)
        except Exception:  # noqa: BLE001  a formatter that wants more of a record than this one has
            return Entry(self._encoded(record.getMessage()), None, told)

    def flush(self) -> None:
        """Returns when all that was logged is on stable storage, or lost, ``flush_timeout`` seconds at the most. It raises
        nothing: `buffered`, `dropped` and `unknown` say what there is to say."""
        self._delivery.flush(self.flush_timeout)

    def close(self) -> None:
        """Flushes, and lets go of the engine. What is lost and could not be said in the stream is said on stderr."""
        delivery = self._delivery
        if delivery.closed:
            return
        delivery.close(self.flush_timeout)
        super().close()
        lost, unknown = delivery.untold
        if delivery.untold != NOTHING and logging.raiseExceptions and sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):  # it is closed, or nobody reads it
                sys.stderr.write(
                    f"ringwal.logging: {lost} log records for stream {self.stream!r} of {self.path} were lost, and of"
                    f" {unknown} it is not known whether they are there: {delivery.why}\n"
                )

    def _forked(self) -> None:
        """In the child of a fork: what waits is the parent's to append, and its counts are its own."""
        closed = self._delivery.closed
        self._delivery = self._new_delivery()
        self._delivery.closed = closed

    def __repr__(self) -> str:
        return f"<StreamHandler {self.stream!r} of {str(self.path)!r} ({logging.getLevelName(self.level)})>"


def _finite(value: float, name: str) -> float:
    found = limits.seconds(value, name)
    if found is None:
        raise ValueError(f"{name} cannot be endless: an application must not wait for its log for ever")
    return found


def _not_the_engines(record: logging.LogRecord) -> bool:
    """An engine inside this program logs, too, and must not wait for itself."""
    return record.name != "ringwal" and not record.name.startswith("ringwal.")


_handlers: weakref.WeakSet[StreamHandler] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for handler in list(_handlers):
        handler._forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
