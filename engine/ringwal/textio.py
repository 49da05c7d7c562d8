"""Text at the edges of the command line: lines in, records and tables out. Knows no engine; pure bytes and streams."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Protocol

STDIN, STDOUT, STDERR = 0, 1, 2
CLOSED: set[int] = set()
"""Those of the three that were closed when the process began; by now they are /dev/null."""
LENGTH_BYTES = 4  # what a record of a batch costs beside its payload


class RecordLike(Protocol):
    """What printing needs of a record."""

    @property
    def offset(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def timestamp_ns(self) -> int: ...
    @property
    def own_timestamp_ns(self) -> int | None: ...


class StreamRecordLike(RecordLike, Protocol):
    """What printing needs of a record of one of several streams."""

    @property
    def stream(self) -> str: ...


# ------------------------------------------------------------------------------------------------------------ out


class OutputFailedError(Exception):
    """Standard output took less than it was given. What the verb did besides has nothing to do with it."""

    def __init__(self, number: int, reason: str = "") -> None:
        super().__init__(f"the output cannot be written: {reason or os.strerror(number)}")
        self.errno = number


class Output:
    """Standard output as bytes. Each `write` is passed on at once, so whoever reads the pipe sees whole batches.

    Nothing stays in a buffer: what could not be written would be tried again at the end of the process, and change its
    exit code. Raises OutputFailedError; EPIPE is that the reader has gone (`ringwal read | head`).
    """

    def __init__(self, fd: int = STDOUT) -> None:
        self.fd = fd

    def write(self, data: bytes | memoryview) -> None:
        if self.fd in CLOSED:
            raise OutputFailedError(errno.EBADF, "standard output is closed")
        try:
            write_all(self.fd, data)
        except OSError as error:
            raise OutputFailedError(error.errno or 0) from error

    def watch(self, seconds: float) -> None:
        """Returns after so long. Raises as soon as nobody can read any more what would be written."""
        if self.fd in CLOSED:
            raise OutputFailedError(errno.EBADF, "standard output is closed")
        poller = select.poll()
        poller.register(self.fd, 0)  # errors are told without being asked for
        if poller.poll(seconds * 1000):
            raise OutputFailedError(errno.EPIPE)

    def line(self, text: str) -> None:
        self.write(text.encode("utf-8", "backslashreplace") + b"\n")

    def json(self, value: object) -> None:
        """One JSON value on a line of its own."""
        self.line(json_text(value))


def write_all(fd: int, data: bytes | memoryview) -> None:
    """All of it, also into a pipe that somebody has made non-blocking. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])


def say(text: str) -> None:
    """A line on stderr; lost where there is none, or where it takes nothing."""
    with contextlib.suppress(OSError):
        write_all(STDERR, text.encode("utf-8", "backslashreplace") + b"\n")


def die_of_broken_pipe() -> NoReturn:
    """As SIGPIPE would have it: in silence. The signal is not switched back on earlier, because a write to the engine's
    socket must raise, not kill."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.raise_signal(signal.SIGPIPE)
    os._exit(128 + signal.SIGPIPE)  # only if the signal is blocked


def visible(text: str) -> str:
    """`text` for a terminal: what it would obey, or not show, is escaped (controls, bidi, zero width, no characters)."""
    return text if text.isprintable() else "".join([_escaped(c) if _hidden(c) else c for c in text])


def json_text(value: object) -> str:
    """JSON that holds what `visible` escapes as JSON escapes it: the value is the same."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join([json.dumps(c)[1:-1] if _hidden(c) else c for c in text])


def _hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def raw_records(records: Sequence[RecordLike]) -> bytes:
    """The payloads, back to back."""
    return b"".join([record.data for record in records])


def record_lines(records: Sequence[RecordLike]) -> bytes:
    """The payloads, each followed by a newline."""
    return b"".join([record.data + b"\n" for record in records])


def json_records(records: Sequence[RecordLike]) -> bytes:
    """One JSON object a line with the keys offset, timestamp_ns, own_timestamp_ns (where there is one), encoding and data.

    `encoding` is "utf-8" where the payload is valid UTF-8, else "base64".
    """
    return b"".join([json.dumps(_record_object(r), ensure_ascii=False).encode() + b"\n" for r in records])


def named_lines(records: Sequence[StreamRecordLike]) -> bytes:
    """As `record_lines`, each behind the name of its stream and a tab, which no name has."""
    return b"".join([visible(record.stream).encode() + b"\t" + record.data + b"\n" for record in records])


def named_json_records(records: Sequence[StreamRecordLike]) -> bytes:
    """As `json_records`, with the key stream in front."""
    return b"".join([json_text({"stream": r.stream, **_record_object(r)}).encode() + b"\n" for r in records])


def _record_object(record: RecordLike) -> dict[str, Any]:
    try:
        encoding, data = "utf-8", record.data.decode("utf-8")
    except UnicodeDecodeError:
        encoding, data = "base64", base64.b64encode(record.data).decode("ascii")
    own = {} if record.own_timestamp_ns is None else {"own_timestamp_ns": record.own_timestamp_ns}
    return {"offset": record.offset, "timestamp_ns": record.timestamp_ns, **own, "encoding": encoding, "data": data}


def counted(count: int, what: str) -> str:
    """So many of them: `1 record`, `2 records`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """Columns padded to their widest cell, numbers to the right, everything else to the left."""
    cells = [list(header)] + [[f"{v:,}" if isinstance(v, int) else visible(str(v)) for v in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    right = [bool(rows) and isinstance(rows[0][i], int) for i in range(len(header))]
    lines = []
    for row in cells:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested dictionaries and lists as ("a.b.0", "text") pairs, in order, for `key value` output."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield from flat(item, f"{prefix}{key}.")
        elif isinstance(item, (list, tuple)) and any(isinstance(i, dict) for i in item):
            yield from flat({str(n): i for n, i in enumerate(item)}, f"{prefix}{key}.")
        else:
            plain = isinstance(item, (bool, list, tuple, type(None)))
            yield f"{prefix}{key}", json_text(item) if plain else visible(str(item))


def size_text(count: float) -> str:
    """A byte count in IEC units: 512 B, 1.5 KiB, 100.0 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


class Progress:
    """A line on stderr that is rewritten at most five times a second; silent where stderr is no terminal."""

    INTERVAL = 0.2

    def __init__(self, total_bytes: int | None, enabled: bool | None = None) -> None:
        self._total = total_bytes
        self._enabled = sys.stderr.isatty() if enabled is None else enabled
        self._started = self._shown_at = time.monotonic()
        self._shown = False

    def update(self, records: int, done_bytes: int) -> None:
        now = time.monotonic()
        if not self._enabled or now - self._shown_at < self.INTERVAL:
            return
        self._shown_at, self._shown = now, True
        share = f" of {size_text(self._total)}" if self._total else ""
        rate = size_text(done_bytes / (now - self._started))
        self._show(f"{records:,} records, {size_text(done_bytes)}{share}, {rate}/s")

    def close(self) -> None:
        """Takes the line away again."""
        if self._shown:
            self._show("")
            self._shown = False

    def _show(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that has gone is no reason to stop
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


# ------------------------------------------------------------------------------------------------------------- in


def chunks(fd: int, chunk_bytes: int) -> Iterator[bytes]:
    """What `fd` gives, as it comes: a pipe that trickles is passed on piece by piece."""
    while True:
        try:
            chunk = os.read(fd, chunk_bytes)
        except BlockingIOError:  # whoever gave it to us has made it so
            select.select([fd], [], [])
            continue
        if not chunk:
            return
        yield chunk


def line_batches(pieces: Iterator[bytes], batch_bytes: int, line_limit: int) -> Iterator[list[bytes]]:
    """Lists of lines without their newlines, in order; the last line counts whether or not a newline ends it.

    A list costs at most `batch_bytes` (each line its length and LENGTH_BYTES), or is one longer line by itself. All
    lines that are complete in what was read so far are given out before more is read. A line that has passed
    `line_limit` bytes without an end is given out as it is, for the engine to refuse: memory stays bounded.
    """
    held: list[bytes] = []  # pieces of a line whose end has not come yet
    held_bytes = 0
    for piece in pieces:
        head, newline, rest = piece.partition(b"\n")
        held.append(head)
        held_bytes += len(head)
        if newline:
            lines = [b"".join(held), *rest.split(b"\n")]
            held = [lines.pop()]
            yield from _bounded(lines, held_bytes + len(rest), batch_bytes)
            held_bytes = len(held[0])
        elif held_bytes > line_limit:
            yield [b"".join(held)]
            held, held_bytes = [], 0
    if held_bytes:
        yield [b"".join(held)]


def _bounded(lines: list[bytes], total: int, batch_bytes: int) -> Iterator[list[bytes]]:
    """`lines` in lists of bounded cost; `total` is their length together, so the usual case needs no loop."""
    if total + LENGTH_BYTES * len(lines) <= batch_bytes:
        yield lines
        return
    batch: list[bytes] = []
    room = batch_bytes
    for line in lines:
        cost = len(line) + LENGTH_BYTES
        if batch and cost > room:
            yield batch
            batch, room = [], batch_bytes
        batch.append(line)
        room -= cost
    yield batch


def whole(pieces: Iterator[bytes], limit: int) -> bytes:
    """Everything as one value; of more than `limit` bytes, what was read until that was known."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size > limit:
            break
    return b"".join(held)
