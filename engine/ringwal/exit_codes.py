"""Exit codes of the command line: one table, shown by `ringwal --help`, repeated in docs/command-line.md and tested.

The numbers are those of sysexits.h. Errors are named by class, so that neither the table nor the help text needs the
engine to be imported.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

HUNG_UP = 129  # 128 + SIGHUP
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
TERMINATED = 143  # 128 + SIGTERM


class ExitCode(NamedTuple):
    """One row of the table: the code, what it says to a script, and the errors that end in it."""

    code: int
    meaning: str
    errors: tuple[str, ...] = ()


EXIT_CODES: tuple[ExitCode, ...] = (
    ExitCode(os.EX_OK, "done"),
    ExitCode(1, "the operation failed (no other code fits)",
             ("RecordTooLarge", "OffsetMismatch", "SequenceGap", "ProducerFenced", "ConsumerFenced", "ClosedError", "ForkError",
              "NotWritable", "Error")),
    ExitCode(2, "the command line is wrong"),
    ExitCode(os.EX_DATAERR, "stored data is damaged; the message names segment and position", ("CorruptionError",)),
    ExitCode(os.EX_NOINPUT, "no such stream, consumer, offset or file",
             ("NoSuchStream", "StreamDeleted", "NoSuchOffsetError", "NoSuchConsumerError", "OffsetTrimmed",
              "FileNotFoundError")),
    ExitCode(os.EX_UNAVAILABLE, "no engine is running on this directory", ("NotRunning",)),
    ExitCode(os.EX_SOFTWARE, "the engine gave up: its processes ended again and again, or found their memory damaged"),
    ExitCode(os.EX_OSERR, "the system gives no other process, thread or memory; an engine has ended of that", ("MemoryError",)),
    ExitCode(os.EX_OSFILE, "the engine ended because its directory was moved, replaced or deleted"),
    ExitCode(os.EX_CANTCREAT, "shared memory or a file cannot be created", ("ShmUnavailable", "FileExistsError")),
    ExitCode(os.EX_IOERR, "a write, a sync or a read failed, or the disk is full",
             ("EngineFailed", "StorageFull", "FileError", "OSError", "OutputFailedError")),
    ExitCode(os.EX_TEMPFAIL, "not now, try again: a timeout; an engine that does not answer, is stopping or holds DIR",
             ("BackpressureTimeout", "AckTimeout", "Locked", "TimeoutError")),
    ExitCode(os.EX_PROTOCOL, "client and engine are of different versions", ("VersionMismatch",)),
    ExitCode(os.EX_NOPERM, "permission denied", ("PermissionError",)),
    ExitCode(os.EX_CONFIG, "a setting is wrong, or two settings contradict each other", ("ConfigError", "StreamExists")),
    ExitCode(HUNG_UP, "ended by SIGHUP: its terminal has gone", ("Hangup",)),
    ExitCode(INTERRUPTED, "interrupted (Ctrl-C)", ("KeyboardInterrupt",)),
    ExitCode(TERMINATED, "ended by SIGTERM", ("Terminated",)),
)

_BY_ERROR = {name: row.code for row in EXIT_CODES for name in row.errors}


def exit_code_of(error: BaseException) -> int:
    """The code of the table for `error`: its own row, or that of its nearest base class; 1 where none is named."""
    kind: type[BaseException] = type(error)
    if kind.__name__ == "FileError" and isinstance(error, OSError) and error.errno:
        if error.errno in (errno.ENOMEM, errno.EAGAIN):
            return os.EX_OSERR
        kind = type(OSError(error.errno, ""))  # PermissionError and its like: the number says which
    if getattr(error, "why", None) in ("silent", "ending"):  # there is an engine, so nobody may take its directory for free
        return os.EX_TEMPFAIL
    return next((_BY_ERROR[cls.__name__] for cls in kind.__mro__ if cls.__name__ in _BY_ERROR), 1)
