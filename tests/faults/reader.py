"""A reader process under test: follows a stream from its beginning and writes down what it saw.

    python -m tests.faults.reader DIR JOURNAL STREAM

It notes what it saw, and a complaint if it ends early. It goes on with the next engine where it stood.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ringwal
from ringwal.demo.journal import Journal, digest
from tests.support.payload import origin_of
from tests.support.writer import connect, persist


def follow(client: ringwal.Client, name: str, journal: Journal) -> None:
    expected = 0
    while True:
        expected, ended = read_on(client, name, journal, expected)
        if ended:
            persist(client._attachment)


def read_on(client: ringwal.Client, name: str, journal: Journal, expected: int) -> tuple[int, bool]:
    """What comes next, and whether the engine has ended. What was raised is let go: it has hold of the attachment, and with it
    of a file system that may have to be unmounted."""
    try:
        for record in persist(lambda: client.stream(name)).tail(start=expected, missing="wait"):
            origin = origin_of(record.data)
            if record.offset != expected or origin is None or origin.stream != name:
                raise ValueError(f"{name}[{expected}] was read as offset {record.offset}, {record.data[:40]!r}")
            journal.seen(name, record.offset, digest(record.data))
            journal.push()
            expected += 1
    except ringwal.OffsetTrimmed as error:
        if error.start_offset is None or error.start_offset <= expected:
            raise
        journal.trimmed(name, error.start_offset)
        journal.push()
        return error.start_offset, False
    except (ringwal.EngineFailed, ringwal.NotRunning, ringwal.FileError):  # the last: its disk has gone first
        return expected, True
    return expected, False


def main() -> None:
    directory, path, name = sys.argv[1:]
    journal = Journal(Path(path))
    try:
        follow(connect(Path(directory)), name, journal)
    except BaseException as error:
        journal.complain(f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
