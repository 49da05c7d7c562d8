"""Engines and writers as processes of their own, and the comparison of what writers were told with what can be read.

A writer appends records that say who they are (`payload`), and keeps a journal outside the engine's directory: an entry
before each append, an entry after each confirmation. `verify` reads everything back and holds it against the journals.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import ringwal

WAIT = 30.0
"""The patience of a test: what takes longer has failed."""
HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
SMALL = {"ring_bytes": "1MiB", "lane_bytes": "64KiB", "segment_bytes": "4MiB", "max_streams": "256", "max_clients": "16"}

# ----------------------------------------------------------------------------------------- records and their journal

ENTRY = struct.Struct("=cBQQ")  # kind, stream, number, offset
SUBMITTED, CONFIRMED, REFUSED = b"s", b"c", b"r"
_FILLING = bytes(i * 131 % 251 for i in range(40_000))


def payload(stream: str, writer: int, number: int, first: int, count: int) -> bytes:
    """Record `number` that `writer` appends to `stream`, one of the `count` of a batch that begins with `first`."""
    size = 16_000 if number % 8 == 7 else number * 37 % 600
    return b"%b %d %d %d %d " % (stream.encode(), writer, number, first, count) + _FILLING[number % 251 :][:size]


def identity(data: bytes) -> tuple[str, int, int, int, int]:
    stream, writer, number, first, count, _ = data.split(b" ", 5)
    return stream.decode(), int(writer), int(number), int(first), int(count)


@dataclass
class Journal:
    """What one writer did and was told. Keys are (stream, number)."""

    submitted: set[tuple[str, int]] = field(default_factory=set)
    confirmed: dict[tuple[str, int], int] = field(default_factory=dict)
    refused: set[tuple[str, int]] = field(default_factory=set)

    @classmethod
    def load(cls, path: Path, streams: list[str]) -> Self:
        journal = cls()
        data = path.read_bytes()
        for kind, stream, number, offset in ENTRY.iter_unpack(data[: len(data) // ENTRY.size * ENTRY.size]):
            key = (streams[stream], number)
            if kind == SUBMITTED:
                journal.submitted.add(key)
            elif kind == REFUSED:
                journal.refused.add(key)
            else:
                assert journal.confirmed.setdefault(key, offset) == offset
        return journal


def verify(client: ringwal.Client, journals: list[Journal]) -> int:
    """Every confirmed record is at its offset, and nothing is there that must not be. Returns the number of records."""
    seen: set[tuple[int, str, int]] = set()
    places: dict[tuple[int, str, int], int] = {}
    for info in client.streams():
        last: dict[int, int] = {}
        run: tuple[int, int, int] | None = None  # the batch under way: writer, first, records still to come
        for offset, record in enumerate(read_all(client.stream(info.name))):
            assert record.offset == offset
            stream, writer, number, first, count = identity(record.data)
            key = (writer, stream, number)
            assert record.data == payload(stream, writer, number, first, count), f"{info.name}[{offset}] has changed"
            assert stream == info.name
            assert key not in seen, f"{key} is there twice"
            assert number > last.get(writer, -1), f"{key} comes too late"
            assert (stream, number) in journals[writer].submitted, f"{key} was never submitted"
            assert (stream, number) not in journals[writer].refused, f"{key} was refused and is there"
            if run is not None:
                assert (writer, first) == run[:2], f"a batch is torn at {info.name}[{offset}]"
            else:
                assert number == first, f"a batch lacks its beginning at {info.name}[{offset}]"
            left = count - 1 - (number - first)
            run = (writer, first, left) if left else None
            last[writer] = number
            seen.add(key)
            places[key] = offset
        assert run is None, f"a batch lacks its end in {info.name}"
    for writer, journal in enumerate(journals):
        for (stream, number), offset in journal.confirmed.items():
            assert places.get((writer, stream, number)) == offset, f"confirmed {stream}[{offset}] of {writer} is lost"
    return len(seen)


def read_all(stream: ringwal.Stream) -> Iterable[ringwal.Record]:
    start = 0
    with contextlib.suppress(ringwal.NoSuchStream):  # no record of it was kept
        while records := stream.read(start, max_records=5000):
            yield from records
            start = records[-1].offset + 1


# --------------------------------------------------------------------------------------------------------- processes


def children_of(pid: int) -> set[int]:
    with contextlib.suppress(OSError):
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return set()


def state_of(pid: int) -> str:
    """The kernel's letter for what the process does: S sleeps, T is stopped, Z is dead, X is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except OSError:
        return "X"


def stop_process(pid: int) -> None:
    """SIGSTOP, and wait until each of its threads has stopped: until then some go on."""
    os.kill(pid, signal.SIGSTOP)
    tasks = [Path(task, "stat") for task in Path(f"/proc/{pid}/task").iterdir()]
    until(lambda: all(task.read_text().rsplit(") ", 1)[1][0] == "T" for task in tasks), f"process {pid} has stopped")


def await_readable(fd: int, what: str, seconds: float = WAIT) -> None:
    assert select.select([fd], [], [], seconds)[0], f"waited {seconds:g} s for {what}"


def until(condition: Callable[[], bool], what: str) -> None:
    """For what has no descriptor to wait on: asked anew each time the kernel gives this process its turn."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT:g} s until {what}"
        os.sched_yield()


def arm(once: Path, order: str) -> None:
    """Gives the order (csrc/points.h) to whoever comes by its point next."""
    draft = once.with_suffix(".draft")
    draft.write_text(order)
    draft.rename(once)


def environment(root: Path, once: Path | None = None) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith("RINGWAL_")}
    found["PYTHONPATH"] = str(root / "engine")
    if once is not None:
        found["RINGWAL_POINT_ONCE"] = str(once)
    return found


class Engine:
    """`python -m ringwal run` on a directory. `facts` is its report when it was ready; empty if it ended before."""

    def __init__(
        self,
        directory: Path,
        root: Path = CHECKOUT,
        *,
        once: Path | None = None,
        wrapper: Iterable[str] = (),
        preexec: Callable[[], None] | None = None,
        **settings: object,
    ) -> None:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in (SMALL | settings).items()]
        command = [*wrapper, sys.executable, "-m", "ringwal", "run", str(directory), "--json", *flags]
        self.directory = directory
        self.log = directory.parent / "engine.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=directory.parent,
                env=environment(root, once),
                preexec_fn=preexec,  # noqa: PLW1509  the test process has no other threads then
            )
        assert self.process.stdout is not None
        await_readable(self.process.stdout.fileno(), "the engine to start")
        self.facts: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")

    def status(self) -> dict[str, Any]:
        with ringwal.connect(self.directory, timeout=WAIT) as client:
            return client.status()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(WAIT)

    def kill(self) -> None:
        """SIGKILL to all of it. Returns when the last process is gone."""
        with contextlib.ExitStack() as stack:
            handles = {}
            for pid in children_of(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    handles[pid] = os.pidfd_open(pid)
                    stack.callback(os.close, handles[pid])
            self.process.kill()
            self.wait()
            for pid, handle in handles.items():
                await_readable(handle, "a process of the engine to die with its supervisor")
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def said(self) -> str:
        return self.log.read_text()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Writers:
    """Writer processes (writers.py) at work. They go on, over the ends of engines, until `stop`."""

    def __init__(
        self,
        directory: Path,
        root: Path,
        count: int,
        streams: list[str],
        *,
        once: Iterable[Path] = (),
    ) -> None:
        """`once`: where the first writers, each in a file of its own, find an order (`arm`)."""
        self.streams = streams
        self.paths = [directory.parent / f"journal-{k}" for k in range(count)]
        pipes = [os.pipe2(os.O_NONBLOCK) for _ in range(count)]
        self.progress = [reader for reader, _ in pipes]
        stop, self._stop = os.pipe()
        order = {
            "directory": str(directory),
            "streams": streams,
            "journals": [str(path) for path in self.paths],
            "progress": [writer for _, writer in pipes],
            "stop": stop,
            "once": [str(path) for path in once],
        }
        fds = (stop, *(writer for _, writer in pipes))
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "writers.py"), json.dumps(order)],
            stdout=subprocess.PIPE,
            cwd=directory.parent,
            env=environment(root),
            pass_fds=fds,
        )
        for fd in fds:
            os.close(fd)
        assert self.process.stdout is not None
        self.pids: list[int] = json.loads(self.process.stdout.readline())

    def await_progress(self, *writers: int) -> None:
        """Until each of these writers (all, if none is named) was told of more confirmations than by now."""
        chosen = writers or range(len(self.progress))
        for k in chosen:
            with contextlib.suppress(BlockingIOError):
                while os.read(self.progress[k], 65536):
                    pass
        for k in chosen:
            # Two: the first may be of a moment before.
            for _ in range(2):
                await_readable(self.progress[k], f"writer {k} to go on")
                assert os.read(self.progress[k], 1), f"writer {k} has ended"

    def await_gone(self, path: Path, what: str) -> None:
        """Until `path` does not exist. There is no descriptor for that, but the writers tell of the time."""
        told = set(self.progress)
        deadline = time.monotonic() + WAIT
        while path.exists():
            assert time.monotonic() < deadline, f"waited {WAIT:g} s for {what}"
            for fd in select.select(list(told), [], [], 0.05)[0]:
                if not os.read(fd, 65536):
                    told.discard(fd)

    def stop(self) -> list[int]:
        """The exit codes (or -signal), by writer."""
        os.close(self._stop)
        self._stop = -1
        assert self.process.stdout is not None
        await_readable(self.process.stdout.fileno(), "the writers to end", 2 * WAIT)
        codes: list[int] = json.loads(self.process.stdout.readline())
        self.process.wait(WAIT)
        return codes

    def journals(self) -> list[Journal]:
        return [Journal.load(path, self.streams) for path in self.paths]

    def close(self) -> None:
        if self._stop >= 0:
            os.close(self._stop)
        if self.process.poll() is None:
            for pid in children_of(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait(WAIT)
        assert self.process.stdout is not None
        self.process.stdout.close()
        for fd in self.progress:
            os.close(fd)
