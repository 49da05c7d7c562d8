"""What else may go on in a writer's process, as RINGWAL_FAULT_STORM says: signals, threads, forks, trims, ends of streams."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from functools import partial
from typing import TYPE_CHECKING

import ringwal
from tests.support.payload import Origin

if TYPE_CHECKING:
    from tests.support.writer import Writer

THREADS = 2
KEPT = 50
"""Records of a stream that are not trimmed."""


def keep(kind: str, writer: Writer) -> None:
    """Begins it."""
    if kind == "signals":
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    elif kind == "spawns":
        threading.Thread(target=lambda: [subprocess.run(["true"], check=False) for _ in range(1 << 30)], daemon=True).start()
    elif kind == "forks":
        writer.between = partial(fork_and_use, writer)
    elif kind == "forks among threads":
        for _ in range(THREADS):
            threading.Thread(target=append_for_ever, args=(writer,), daemon=True).start()
        writer.between = partial(fork_and_use, writer)
    elif kind == "trims":
        writer.between = partial(trim_and_delete, writer)
    elif kind == "child":
        writer.between = partial(fork_and_leave, writer)


def trim_and_delete(writer: Writer) -> None:
    """Of each of its streams what is older than some records; and a stream of its own ends, with appends under way, and has
    another life."""
    for stream, end in list(writer.ends.items()):
        before = max(0, end - KEPT)
        writer.journal.trim(stream, before)
        writer.journal.push()
        writer.outlive(partial(trim, writer, stream, before))
    brief = f"brief-{writer.name}"
    writer.numbers.setdefault(brief, 0)
    for _ in range(3):
        writer.outlive(partial(writer.append, Origin(brief, writer.name, writer.numbers[brief])))
    writer.journal.delete(brief)
    writer.journal.push()
    while not writer.stopped and not gone(writer, brief):
        writer.reconnect()
    while writer.pending:  # of the life that has ended: before the journal says so
        writer.outlive(writer.settle)
    if not writer.stopped:
        writer.journal.deleted(brief)
        writer.ends.pop(brief, None)
        writer.outlive(partial(writer.append, Origin(brief, writer.name, writer.numbers[brief])))


def trim(writer: Writer, stream: str, before: int) -> None:
    start = writer.client.stream(stream).trim(before)
    writer.journal.trimmed(stream, start)
    writer.journal.push()


def gone(writer: Writer, stream: str) -> bool:
    """False: the engine has ended in between."""
    try:
        writer.client.delete_stream(stream)
    except ringwal.NoSuchStream:  # by the attempt before
        return True
    except (ringwal.EngineFailed, ringwal.NotRunning):
        return False
    return True


def append_for_ever(writer: Writer) -> None:
    """With the writer's own client: some fork finds this thread in the middle of an append."""
    try:
        while True:
            writer.client.stream("children").append(b"thread").result(30.0)
    except Exception as error:  # noqa: BLE001  whatever it is, the row has to hear of it
        writer.journal.complain(f"a thread: {type(error).__name__}: {error}")


def fork_and_use(writer: Writer) -> None:
    """A child appends on its own account, with the client of its parent, and checks that receipts did not come along."""
    inherited = writer.pending[0][2] if writer.pending else None
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if inherited is not None and not isinstance(inherited.exception(0), ringwal.ForkError | None):
                os._exit(2)
            writer.client.stream("children").append(b"child").result(30.0)
            code = 0
        finally:
            os._exit(code)
    writer.children.append(pid)
    while len(writer.children) > 4:
        code = os.waitstatus_to_exitcode(os.waitpid(writer.children.pop(0), 0)[1])
        if code != 0:
            raise AssertionError(f"a child ended with {code}")


def fork_and_leave(writer: Writer) -> None:
    """A child that never touches what it inherited, and does not end with its parent."""
    writer.between = None
    if os.fork() == 0:
        while True:
            signal.pause()
