"""One writer process of the demo: `python -m ringwal.demo.writer DIR JOURNAL WRITER WRITERS`.

Appends its share of the corpus, each line to the stream of its package and to the hot stream, until the engine is gone
or a signal ends it. Confirmations are waited for in the order of the appends and go to the journal at once in groups.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from pathlib import Path

import ringwal
from ringwal.demo import corpus
from ringwal.demo.journal import Journal, digest
from ringwal.exit_codes import exit_code_of

WINDOW = 1024  # records appended and not yet confirmed; below any sensible max_outstanding
GROUP = 256  # confirmations taken in one go when the window is full
CONFIRM_TIMEOUT = 20.0  # seconds; longer than any replacement of a killed process takes

Pending = tuple[int, int, ringwal.Receipt]  # place of the stream, digest, receipt


def ingest(client: ringwal.Client, journal: Journal, writer: int, writers: int) -> None:
    """Appends for ever. Raises what the engine raises; everything confirmed before is in the journal then."""
    files = corpus.sources()
    names = corpus.streams(files)
    places = {name: place for place, name in enumerate(names)}
    handles = [client.stream(name) for name in names]
    numbers = [0] * len(names)
    pending: deque[Pending] = deque()
    hot = places[corpus.HOT]
    for name, line in corpus.lines(files[writer::writers]):
        for place in (places[name], hot):
            record = b"%d %d %b" % (writer, numbers[place], line)
            numbers[place] += 1
            pending.append((place, digest(record), handles[place].append(record)))
        if len(pending) >= WINDOW:
            settle(pending, journal, GROUP)


def settle(pending: deque[Pending], journal: Journal, count: int) -> None:
    """Waits for the oldest `count` receipts and journals them. If one fails, others that are confirmed still count."""
    try:
        for _ in range(count):
            place, record_digest, receipt = pending[0]
            journal.add(place, receipt.result(CONFIRM_TIMEOUT).offset, record_digest, time.monotonic_ns())
            pending.popleft()
    except ringwal.Error:
        for place, record_digest, receipt in pending:
            with contextlib.suppress(ringwal.Error):
                journal.add(place, receipt.result(0).offset, record_digest, time.monotonic_ns())
        raise
    finally:
        journal.push()


def main(arguments: list[str]) -> int:
    directory, journal_path, writer, writers = arguments
    try:
        with Journal(Path(journal_path)) as journal, ringwal.connect(directory, timeout=10.0) as client:
            ingest(client, journal, int(writer), int(writers))
    except ringwal.Error as error:
        print(f"writer {writer}: {type(error).__name__}: {error}", file=sys.stderr)
        return exit_code_of(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
