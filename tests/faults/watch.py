"""Looks, all the while a row runs, at who could write to the log: never two processes at once.

It asks the kernel and not the engine: a process could write if it has a segment open for writing, whatever it is called and
whoever started it. A process that was killed and hangs in a write still counts.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.faults.oracle import Verdict

EVERY_SECONDS = 0.05


class Watch:
    """A thread that looks around. `seen` are those that could write at some time, `together` those that could at once."""

    def __init__(self, directory: Path) -> None:
        self.seen: set[int] = set()
        self.together: set[tuple[int, int]] = set()
        self._directory = directory
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def look(self) -> list[int]:
        """Who could write now, at one and the same moment."""
        able = [pid for pid in self._engines() if self._could_write(pid)]
        self.seen.update(able)
        if len(able) < 2:
            return able
        # One after the other they may have been; both were there at once if the first one still is.
        still = [pid for pid in able[:-1] if self._could_write(pid)]
        found = [*still, able[-1]]
        self.together.update((a, b) for a in found for b in found if a < b)
        return found

    def _run(self) -> None:
        while not self._end.wait(EVERY_SECONDS):
            self.look()

    def _engines(self) -> list[int]:
        """Processes whose command line names the directory: a fork keeps it, in any pid namespace."""
        wanted, found = os.fsencode(self._directory), []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{entry.name}/cmdline").read_bytes().split(b"\0")
                    if wanted in words and b"run" in words:
                        found.append(int(entry.name))
                    elif words == [b""] and self._could_write(int(entry.name)):
                        found.append(int(entry.name))  # it was killed and hangs: its memory has gone, its files have not
        return found

    def _could_write(self, pid: int) -> bool:
        """By any of its threads: they share their files, but the first one may be gone and another hang in a write."""
        segments = f"{(self._directory / 'segments').resolve()}/"
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                files = f"/proc/{pid}/task/{task}/fd"
                with contextlib.suppress(OSError):
                    for fd in os.listdir(files):
                        with contextlib.suppress(OSError):
                            if os.readlink(f"{files}/{fd}").startswith(segments) and writable(pid, task, fd):
                                return True
        return False

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def judge(self) -> Verdict:
        verdict = Verdict()
        verdict.expect(bool(self.seen), "nobody was ever seen with a segment open for writing: the watch is blind")
        for pair in self.together:
            verdict.notes.append("processes {} and {} could write to the log at the same time".format(*pair))
        return verdict


def writable(pid: int, task: str, fd: str) -> bool:
    """Whether a descriptor was opened for writing."""
    lines = Path(f"/proc/{pid}/task/{task}/fdinfo/{fd}").read_text().splitlines()
    flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
    return flags & os.O_ACCMODE != os.O_RDONLY


@contextlib.contextmanager
def watched(directory: Path, verdict: Verdict) -> Iterator[Watch]:
    """Adds to ``verdict`` what was seen until the end; nothing if the row fails otherwise."""
    with Watch(directory) as watch:
        yield watch
    verdict.add(watch.judge())
