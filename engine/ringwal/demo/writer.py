"""One writer process of the demo: `python -m ringwal.demo.writer DIR JOURNAL WRITER WRITERS`.

Appends its share of the corpus, each line to the stream of its package and to the hot stream, until the engine is gone
or a signal ends it. What is about to be appended goes to the journal before, in groups; confirmations are waited for in
the order of the appends and go there in groups, too.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import deque
from pathlib import Path

import ringwal
from ringwal.demo import corpus
from ringwal.demo.journal import Journal, Kind, digest
from ringwal.exit_codes import exit_code_of

WINDOW = 1024  # records appended and not yet confirmed; below any sensible max_outstanding
GROUP = 256  # records journalled in one go
CONFIRM_TIMEOUT = 20.0  # seconds; longer than any replacement of a killed process takes

Pending = tuple[str, int, int, ringwal.Receipt]  # stream, number, digest, receipt


def ingest(client: ringwal.Client, journal: Journal, writer: int, writers: int) -> None:
    """Appends for ever. Raises what the engine raises; everything confirmed before is in the journal then."""
    files = corpus.sources()
    handles = {name: client.stream(name) for name in corpus.streams(files)}
    numbers = dict.fromkeys(handles, 0)
    pending: deque[Pending] = deque()
    lines = corpus.lines(files[writer::writers])
    while True:
        group = []
        for name, line in itertools.islice(lines, GROUP // 2):
            for stream in (name, corpus.HOT):
                number = numbers[stream]
                numbers[stream] = number + 1
                record = b"%d %d %b" % (writer, number, line)
                group.append((stream, number, digest(record), record))
                journal.submitted(stream, number, (group[-1][2],))
        journal.push()
        for stream, number, record_digest, record in group:
            pending.append((stream, number, record_digest, handles[stream].append(record)))
        if len(pending) > WINDOW - GROUP:
            settle(pending, journal, GROUP)


def settle(pending: deque[Pending], journal: Journal, count: int) -> None:
    """Waits for the oldest `count` receipts and journals them. If one fails, others that are confirmed still count."""
    try:
        for _ in range(count):
            stream, number, record_digest, receipt = pending[0]
            journal.confirmed(stream, number, receipt.result(CONFIRM_TIMEOUT).offset, (record_digest,))
            pending.popleft()
    except ringwal.Error as failed:
        if isinstance(failed, ringwal.AckTimeout):
            stream, number, record_digest, _ = pending[0]
            journal.ended(Kind.HUNG, stream, number, (record_digest,))
        for stream, number, record_digest, receipt in pending:
            with contextlib.suppress(ringwal.Error):
                journal.confirmed(stream, number, receipt.result(0).offset, (record_digest,))
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
