"""A reader process under test: follows a stream from its beginning and writes down what it saw.

    python -m tests.faults.reader DIR JOURNAL STREAM

Journal lines: `STREAM N WRITER OFFSET`, record N of that writer was seen there; `! REASON` if it ends early. It goes on with
the next engine where it stood.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ringwal
from tests.faults.payload import origin_of
from tests.faults.writer import Journal, connect, persist


def follow(client: ringwal.Client, name: str, journal: Journal) -> None:
    expected = 0
    while True:
        try:
            for record in persist(lambda: client.stream(name)).tail(start=expected, missing="wait"):
                origin = origin_of(record.data)
                if record.offset != expected or origin is None or origin.stream != name:
                    raise ValueError(f"{name}[{expected}] was read as offset {record.offset}, {record.data[:40]!r}")
                journal.line(f"{name} {origin.number} {origin.writer} {record.offset}")
                expected += 1
        except (ringwal.EngineFailed, ringwal.NotRunning):
            persist(client.attachment)


def main() -> None:
    directory, path, name = sys.argv[1:]
    journal = Journal(Path(path))
    try:
        follow(connect(Path(directory)), name, journal)
    except BaseException as error:
        journal.line(f"! {type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
