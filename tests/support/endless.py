"""Writers and readers of a log that forgets. What a record is follows from its stream and its offset, so that each can be
judged when it is read, however many have gone.

    python -m tests.support.endless write DIR STREAM SIZE OUTSTANDING REPORT
    python -m tests.support.endless read DIR STREAM SIZE OUTSTANDING REPORT

Each stream has one writer, so its records are to have the offsets that the writer counts. Both go on over the engine's end,
and end at SIGTERM. REPORT is one JSON object that is replaced as a whole: `offset` behind what is confirmed or read, `records`
by this process, `trimmed` (how often records were gone that were wanted), `wrong` (what must not be).
"""

from __future__ import annotations

import collections
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ringwal
from tests.support.host import PATIENCE, ROOT, inherited, package_of, pause, until

REPORT_SECONDS = 0.1
APPEND_SECONDS = 30.0


def record(stream: str, offset: int, size: int) -> bytes:
    """What stands there."""
    return (offset.to_bytes(8, "little") + stream.encode() * (size // len(stream) + 1))[:size]


class _Worker:
    def __init__(self, directory: Path, stream: str, size: int, outstanding: int, report: Path) -> None:
        self.directory, self.name, self.size, self.outstanding, self.report = directory, stream, size, outstanding, report
        self.facts: dict[str, Any] = {"offset": 0, "records": 0, "trimmed": 0, "wrong": None}
        self.stopped = False
        self.told = 0.0
        self.expected = (0, b"")
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, *_: object) -> None:
        self.stopped = True

    def run(self, act: str) -> int:
        while not self.stopped:
            client = None
            try:
                client = ringwal.connect(self.directory, timeout=1.0, append_timeout=APPEND_SECONDS)
                getattr(self, act)(client.stream(self.name))
            except (ringwal.NotRunning, ringwal.EngineFailed, ringwal.NoSuchStream):
                pause(0.01)  # the next engine, or the first record, is on its way
            except (ringwal.Error, AssertionError) as error:
                self.facts["wrong"] = f"{act} {self.name} at {self.facts['offset']}: {type(error).__name__}: {error}"
                break
            finally:
                if client is not None:
                    with contextlib.suppress(ringwal.Error):
                        client.close(0)
        self.tell(now=True)
        return 1 if self.facts["wrong"] else 0

    def tell(self, *, now: bool = False) -> None:
        if now or time.monotonic() > self.told + REPORT_SECONDS:
            self.told = time.monotonic()
            draft = self.report.with_suffix(".tmp")
            draft.write_text(json.dumps(self.facts))
            draft.replace(self.report)

    def write(self, stream: ringwal.Stream) -> None:
        with contextlib.suppress(ringwal.NoSuchStream):
            confirmed = stream.stat().confirmed_offset
            assert confirmed >= self.facts["offset"], f"{confirmed} are confirmed, and {self.facts['offset']} were before"
            self.facts["offset"] = confirmed
        following, out = self.facts["offset"], collections.deque[ringwal.Receipt]()
        tail = record(self.name, 0, self.size)[8:]
        while True:
            while len(out) < self.outstanding and not self.stopped:
                out.append(stream.append(following.to_bytes(8, "little") + tail))
                following += 1
            if not out:
                return
            offset = out.popleft().result(APPEND_SECONDS).offset
            assert offset == self.facts["offset"], f"the record after {self.facts['offset'] - 1} got offset {offset}"
            self.facts["offset"] = offset + 1
            self.facts["records"] += 1
            self.tell()

    def read(self, stream: ringwal.Stream) -> None:
        tail = record(self.name, 0, self.size)[8:]
        while not self.stopped:
            offset = self.facts["offset"]
            try:
                found = stream.read(offset, max_records=1000, max_bytes=1 << 20)
            except ringwal.OffsetTrimmed as trimmed:
                self.go_on_at(trimmed.start_offset or 0)
                continue
            for n, one in enumerate(found, offset):
                assert one.offset == n, f"offset {one.offset} in the place of {n}"
                assert one.data[:8] == n.to_bytes(8, "little") and one.data[8:] == tail, f"record {n} is not what was appended"
            self.facts["offset"] += len(found)
            self.facts["records"] += len(found)
            if not found:
                pause(0.001)
            self.tell()


    def go_on_at(self, start: int) -> None:
        assert start > self.facts["offset"], f"trimmed to {start}"
        self.facts["offset"] = start
        self.facts["trimmed"] += 1


class Endless:
    """Writers, one a stream, and readers of the same streams."""

    def __init__(
        self, directory: Path, place: Path, streams: Sequence[str], *, readers: int, size: int, outstanding: int
    ) -> None:
        self._reports = []
        self.processes = []
        acts = [("write", stream) for stream in streams] + [("read", streams[i % len(streams)]) for i in range(readers)]
        for i, (act, stream) in enumerate(acts):
            report = place / f"{i}-{act}.json"
            self._reports.append(report)
            command = [sys.executable, "-m", "tests.support.endless", act, directory, stream, size, outstanding, report]
            self.processes.append(
                subprocess.Popen(
                    list(map(str, command)),
                    stdin=subprocess.DEVNULL,
                    cwd=ROOT,
                    start_new_session=True,
                    env={**inherited(), **package_of(ROOT)},
                )
            )
        self.writers = len(streams)

    def facts(self) -> list[dict[str, Any]]:
        """The reports, writers first; of those that have not said anything yet, an empty one."""
        blank = {"offset": 0, "records": 0, "trimmed": 0, "wrong": None}
        return [json.loads(path.read_text()) if path.exists() else blank for path in self._reports]

    def wrong(self) -> list[str]:
        """What must not be, as far as it is known."""
        ended = [f"a process ended with {p.returncode}" for p in self.processes if p.poll() not in (None, 0, 1)]
        return [str(facts["wrong"]) for facts in self.facts() if facts["wrong"]] + ended

    def records(self) -> int:
        """Confirmed so far."""
        return sum(facts["records"] for facts in self.facts()[: self.writers])

    def await_records(self, more: int) -> None:
        """Every process has dealt with so many more since the call. Raises Hung, or AssertionError for what must not be."""
        before = [facts["records"] for facts in self.facts()]

        def gone_on() -> bool:
            assert not self.wrong(), self.wrong()
            return all(now["records"] >= was + more for now, was in zip(self.facts(), before, strict=True))

        until(gone_on, f"{more} more records at every writer and reader")

    def stop(self) -> list[str]:
        """End all of them. Returns what was wrong."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(PATIENCE)
        return self.wrong()

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


@contextlib.contextmanager
def endless(
    directory: Path, place: Path, streams: Sequence[str], *, readers: int = 0, size: int = 1000, outstanding: int = 64
) -> Iterator[Endless]:
    """They work while the body runs; those that are left at its end are killed."""
    all_of_them = Endless(directory, place, streams, readers=readers, size=size, outstanding=outstanding)
    try:
        yield all_of_them
    finally:
        all_of_them.kill()


if __name__ == "__main__":
    _, act, directory, stream, size, outstanding, report = sys.argv
    sys.exit(_Worker(Path(directory), stream, int(size), int(outstanding), Path(report)).run(act))
