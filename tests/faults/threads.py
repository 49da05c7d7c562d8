"""One process with one client and ten threads, each with its own journal, over many lives of the engine.

    python -m tests.faults.threads DIR JOURNALS WINDOW

A stream's number belongs to one life of one engine. So in every epoch each thread appends to a stream that it opened in the
epoch before and never appended to: of that one the engine kept nothing, and its number is another one by now, or another
stream's. Besides, each has a stream for all epochs. Whoever starts the engine opens the streams of the new epoch before the
threads do, in an order of its own, and says so by a file ``opened-EPOCH`` beside the journals.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import ringwal
from tests.support.host import ROOT, Writers, package_of, until
from tests.support.writer import Writer, connect, persist

NAMES = tuple(f"t{i}" for i in range(10))
DECOYS = 3


class Thread(Writer):
    """A writer among others with the same client."""

    def __init__(self, directory: Path, journals: Path, name: str, window: int, client: ringwal.Client) -> None:
        super().__init__(directory, journals / f"{name}.journal", name, [name], window, client)
        self._journals = journals
        self._turn_over()

    def reconnect(self) -> None:
        super().reconnect()
        self._turn_over()

    def _turn_over(self) -> None:
        attachment = persist(self.client._attachment)
        opened = self._journals / f"opened-{attachment.epoch}"
        until(lambda: opened.exists() or not attachment.usable(), "the streams of this epoch to be opened")
        own = f"{self.name}-{attachment.epoch}"
        self.streams = [self.name, own]
        self.numbers.setdefault(own, 0)
        with contextlib.suppress(ringwal.Error):  # gone again: then it is opened in its own epoch
            self.client.create_stream(f"{self.name}-{attachment.epoch + 1}")


class Threads(Writers):
    """The program as seen from the test: writers in one process."""

    def __init__(self, directory: Path, journals: Path, window: int, root: Path = ROOT) -> None:
        self.journals = {name: journals / f"{name}.journal" for name in NAMES}
        command = [sys.executable, "-m", "tests.faults.threads", str(directory), str(journals), str(window)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=root,
            start_new_session=True,
            env={**os.environ, **package_of(root)},
        )
        self.processes = [process] * len(NAMES)


def open_streams(directory: Path, journals: Path, chance: random.Random) -> None:
    """Those of the epoch that has just begun, so that they have numbers that nobody can foresee."""
    with ringwal.connect(directory) as client:
        epoch = client._attachment().epoch
        names = [f"{name}-{epoch}" for name in NAMES] + [f"decoy-{chance.getrandbits(64):x}" for _ in range(DECOYS)]
        chance.shuffle(names)
        for name in names:
            client.create_stream(name)
    (journals / f"opened-{epoch}").touch()


def main() -> None:
    directory, journals, window = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    client = connect(directory)

    def work(name: str) -> None:
        thread = Thread(directory, journals, name, window, client)
        try:
            thread.run(1e6)
        except BaseException as error:  # noqa: BLE001  whatever it is, it ends all of them, and the row hears of it
            thread.journal.complain(f"{type(error).__name__}: {error}")
            os._exit(1)

    for thread in [threading.Thread(target=work, args=(name,)) for name in NAMES]:
        thread.start()


if __name__ == "__main__":
    main()
