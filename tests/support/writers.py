"""The writer processes of rig.Writers: one program that forks them, so that only one has to load the package.

Says first its children's pids, and at the end how each ended, as JSON lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

import ringwal
from tests.support import rig

WINDOW = 16
HUNG, MISTOLD = 3, 4  # exit codes: no confirmation came; an error did not say what became of the append


class Writer:
    def __init__(self, order: dict[str, Any], k: int) -> None:
        self.k = k
        self.directory = order["directory"]
        self.streams: list[str] = order["streams"]
        self.stop: int = order["stop"]
        self.progress: int = order["progress"][k]
        self.journal = os.open(order["journals"][k], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.numbers = [0] * len(self.streams)
        self.pending: deque[tuple[int, int, int, ringwal.Receipt]] = deque()

    def note(self, kind: bytes, stream: int, first: int, count: int, offset: int = 0) -> None:
        entries = (rig.ENTRY.pack(kind, stream, first + i, offset + i) for i in range(count))
        os.write(self.journal, b"".join(entries))

    def stopped(self, seconds: float = 0) -> bool:
        return bool(select.select([self.stop], [], [], seconds)[0])

    def run(self) -> int:
        while not self.stopped():
            try:
                client = ringwal.connect(self.directory, timeout=5.0)
            except ringwal.Error:
                self.stopped(0.02)  # the next engine is not there yet
                continue
            try:
                self.work(client)
                client.close()
            except ringwal.AckTimeout as error:
                print(f"writer {self.k}: {error}", file=sys.stderr)
                return HUNG
            except ringwal.Error as error:
                if error.outcome is None and not isinstance(error, ringwal.NotRunning):
                    print(f"writer {self.k}: {error!r}", file=sys.stderr)
                    return MISTOLD
                self.abandon()
                with contextlib.suppress(ringwal.Error):
                    client.close(1.0)
        return 0

    def work(self, client: ringwal.Client) -> None:
        handles = [client.stream(name) for name in self.streams]
        turn = 0
        while not self.stopped():
            stream = turn % len(self.streams)
            self.append(handles[stream], stream, 3 if turn % 7 == 5 else 1)
            turn += 1
            if len(self.pending) >= WINDOW:
                self.settle(WINDOW // 2)
        self.settle(len(self.pending))

    def append(self, handle: ringwal.Stream, stream: int, count: int) -> None:
        first = self.numbers[stream]
        self.numbers[stream] += count
        name = self.streams[stream]
        records = [rig.payload(name, self.k, first + i, first, count) for i in range(count)]
        self.note(rig.SUBMITTED, stream, first, count)
        try:
            receipt = handle.append(records[0]) if count == 1 else handle.append_many(records)
        except ringwal.Error as error:
            if error.outcome == "not_appended":
                self.note(rig.REFUSED, stream, first, count)
            raise
        self.pending.append((stream, first, count, receipt))

    def settle(self, count: int) -> None:
        for _ in range(count):
            stream, first, records, receipt = self.pending[0]
            ack = receipt.result(rig.WAIT / 2)
            assert ack.count == records
            self.note(rig.CONFIRMED, stream, first, records, ack.offset)
            self.pending.popleft()
        with contextlib.suppress(BlockingIOError):  # nobody reads it just now
            os.write(self.progress, b".")

    def abandon(self) -> None:
        """The engine is gone. What it had confirmed counts; the fate of the rest is unknown, and must be called so."""
        for stream, first, records, receipt in self.pending:
            error = receipt.exception(rig.WAIT / 2)  # an engine that stops in order may still confirm it
            if error is None:
                self.note(rig.CONFIRMED, stream, first, records, receipt.result(0).offset)
            elif error.outcome != "unknown":
                raise AssertionError(f"{error!r} says {error.outcome} of an append that was published")
        self.pending.clear()


def main() -> None:
    order = json.loads(sys.argv[1])
    pids = []
    for k in range(len(order["journals"])):
        pid = os.fork()
        if pid == 0:
            os.close(1)
            if k < len(order["once"]):
                os.environ["RINGWAL_POINT_ONCE"] = order["once"][k]
            for other, fd in enumerate(order["progress"]):
                if other != k:
                    os.close(fd)
            code = 1
            try:
                code = Writer(order, k).run()
            except BaseException:  # noqa: BLE001  said on stderr, and the code tells the test
                sys.excepthook(*sys.exc_info())
            os._exit(code)
        pids.append(pid)
    for fd in order["progress"]:
        os.close(fd)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(json.dumps(pids), flush=True)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)


if __name__ == "__main__":
    main()
