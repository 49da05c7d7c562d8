"""Engines and writers as the tests of processes want them: small, by the names of the settings, in one directory.

What starts, watches and kills processes is `host`, which the campaign uses too; what writers note and what judges it is the
demo's (`ringwal.demo.journal`, `ringwal.demo.oracle`).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import ringwal
from ringwal.demo.journal import Kind, read
from ringwal.demo.oracle import Oracle
from tests.support import host
from tests.support.host import children_of, inherited, package_of, until

__all__ = ["children_of", "until"]  # with what stands here

WAIT = 30.0
"""The patience of a test: what takes longer has failed."""
CHECKOUT = host.ROOT
SMALL = {"ring_bytes": "1MiB", "lane_bytes": "64KiB", "segment_bytes": "4MiB", "max_streams": "256", "max_clients": "16"}
LARGE = 16_000
"""The size of each eighth record of `Writers`: a few fill a lane, so that everybody meets its end."""
NOBODY = 65534
AS_NOBODY = """
import os, resource, signal, sys
# While they may still be read: the checkout may lie where nobody may look.
import ringwal.processes.drain, ringwal.processes.keeper, ringwal.processes.supervisor, ringwal.processes.wal
from ringwal import cli
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)  # no limit of processes binds root
signal.signal(signal.SIGUSR1, lambda *_: resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)))
cli.main()
"""
"""A program: the command line, as that user, on what root could load."""
OF_ANOTHER_BUILD = """
from ringwal import cli
from ringwal.protocol import server

class Other:
    def __getattr__(self, name):
        return getattr(built, name)

    def rw_fingerprint(self):
        return 1

built, server.lib = server.lib, Other()
cli.main()
"""
"""A program: the command line, of an engine whose memory has another layout than what is installed here."""


def verify(client: ringwal.Client, journals: dict[str, Path]) -> int:
    """Every confirmed record is at its offset, and nothing is there that must not be. Returns the number of records."""
    oracle = Oracle()
    for writer, path in journals.items():
        oracle.add_writer(writer, read(path))
    for info in client.streams():
        oracle.take_records(info.name, list(read_all(client.stream(info.name))))
    verdict = oracle.close()
    assert verdict.kept(), verdict
    assert verdict.recovered >= verdict.confirmed > 0
    return verdict.recovered


def read_all(stream: ringwal.Stream) -> Iterable[ringwal.Record]:
    start = 0
    with contextlib.suppress(ringwal.NoSuchStream):  # no record of it was kept
        while records := stream.read(start, max_records=5000):
            yield from records
            start = records[-1].offset + 1


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


def arm(once: Path, order: str) -> None:
    """Gives the order (csrc/points.h) to whoever comes by its point next."""
    draft = once.with_suffix(".draft")
    draft.write_text(order)
    draft.rename(once)


def append_and_hold(stream: ringwal.Stream, once: Path, records: Sequence[bytes]) -> list[ringwal.Receipt]:
    """Appends them. The first block of them is on the disk, and nobody knows: the WAL process has stopped itself there. Its
    engine stops at named points and finds its order at `once`."""
    arm(once, "l.write.done:1:stop")
    receipts = [stream.append(record) for record in records]
    until(lambda: not once.exists(), "a block has been written")
    return receipts


def environment(root: Path, once: Path | None = None) -> dict[str, str]:
    return {**inherited(), **package_of(root), **ordered(once)}


def ordered(once: Path | None) -> dict[str, str]:
    """What tells a process where it finds an order (`arm`)."""
    return {} if once is None else {"RINGWAL_POINT_ONCE": str(once)}


class _Process(host.Engine):
    """An engine for one test. `facts` is its report when it was ready; empty, or its error, if it ended before."""

    def __init__(self, directory: Path, *flags: str, **options: Any) -> None:
        super().__init__(
            directory, *flags, log=directory.parent / "engine.log", cwd=directory.parent, wait=False, **options
        )
        with contextlib.suppress(host.EngineEnded):
            self.await_ready()

    def terminate(self) -> int:
        return self.stop()

    def wait(self) -> int:
        return self.await_exit()

    def kill(self) -> None:
        """SIGKILL to the supervisor, with which all of it dies. Returns when the last process is gone."""
        others = self.pidfds_of_others()
        pids = children_of(self.process.pid)
        self.process.kill()
        self.process.wait()
        host.await_death(others)
        for pid in pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def said(self) -> str:
        return self.log.read_text()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Engine(_Process):
    """`python -m ringwal run` on a directory."""

    def __init__(
        self,
        directory: Path,
        root: Path = CHECKOUT,
        *,
        once: Path | None = None,
        wrapper: Sequence[str] = (),
        preexec: Callable[[], None] | None = None,
        **settings: object,
    ) -> None:
        flags = (f"--{name.replace('_', '-')}={value}" for name, value in (SMALL | settings).items())
        super().__init__(directory, *flags, env=ordered(once), root=root, wrapper=wrapper, preexec=preexec)

    def status(self) -> dict[str, Any]:
        with ringwal.connect(self.directory, timeout=WAIT) as client:
            return client.status()


class OfNobody(_Process):
    """`ringwal run` by a user who owns nothing but the directory. Root starts it, and what it imports may be closed to it."""

    def __init__(self, directory: Path) -> None:
        flags = (f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items())
        super().__init__(directory, *flags, program=("-c", AS_NOBODY, "run", "--json"))


class OfAnotherBuild(_Process):
    """`ringwal run` of a version whose shared memory has another layout."""

    def __init__(self, directory: Path) -> None:
        flags = (f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items())
        super().__init__(directory, *flags, program=("-c", OF_ANOTHER_BUILD, "run", "--json"))


class Embedded(_Process):
    """`Supervisor` in a program of its own (host_engine.py), which takes what `ringwal run` does not."""

    def __init__(self, directory: Path, **settings: object) -> None:
        super().__init__(directory, json.dumps(settings), program=(str(Path(__file__).with_name("host_engine.py")),))


class Writers(host.Writers):
    """Writer processes at work on the same streams. They go on, over the ends of engines, until `stop`."""

    def __init__(self, directory: Path, root: Path, count: int, streams: list[str], *, once: Iterable[Path] = ()) -> None:
        """`once`: where the first writers, each in a file of its own, find an order (`arm`)."""
        super().__init__(
            directory,
            directory.parent,
            [streams] * count,
            window=16,
            seconds=1e6,
            env={"RINGWAL_FAULT_LARGE": str(LARGE)},
            own=[ordered(path) for path in once],
            root=root,
        )
        self.pids = [process.pid for process in self.processes]

    def await_told(self, *writers: int) -> None:
        """Until each of these writers (all, if none is named) was told of more confirmations than by now."""
        self.await_progress(2, only=writers)

    def await_gone(self, path: Path, what: str) -> None:
        """Until `path` does not exist."""
        until(lambda: not path.exists(), what)

    def settled(self, writer: int) -> bool:
        """All that it appended is confirmed."""
        noted = [row.kind for row in read(self.journals[f"w{writer}"])]
        return noted.count(Kind.CONFIRMED) == noted.count(Kind.SUBMITTED) > 0

    def close(self) -> None:
        self.kill()
