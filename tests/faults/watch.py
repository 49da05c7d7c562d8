"""Looks, all the while a row runs, at who could write to the log: never two processes at once.

It asks the kernel and not the engine: a process could write if it has a segment open for writing, whatever it is called and
whoever started it. A process that was killed and hangs in a write still counts.

Numbers are given anew, and some rows see to it that they are: what was a dead process's number when /proc was listed may be
another process's a moment later, or a thread's. So a process is asked through its directory, opened once: that one never
becomes another's.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from tests.faults.oracle import Verdict

EVERY_SECONDS = 0.05


class Process:
    """One process and no other, also when it is gone and its number is not. Raises OSError when nobody has this number."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._segment = ""

    def close(self) -> None:
        os.close(self._fd)

    def words(self) -> list[bytes]:
        """The command line; one empty word once its memory is gone. Raises OSError when the process is."""
        return self._read("cmdline").split(b"\0")

    def is_thread(self) -> bool:
        """/proc has a directory for the number of every thread, and does not list it. Raises OSError when it is gone."""
        return self._field("status", b"Tgid:") != b"%d" % self.pid

    def could_write(self, segments: str) -> bool:
        """By any of its threads: they share their files, but the first one may be gone and another hang in a write."""
        with contextlib.suppress(OSError):
            for task in self._names("task"):
                with contextlib.suppress(OSError):
                    for file in self._names(f"task/{task}/fd"):
                        with contextlib.suppress(OSError):
                            path = os.readlink(f"task/{task}/fd/{file}", dir_fd=self._fd)
                            segment = path.startswith(segments) and path.endswith(".seg")
                            if segment and self._writable(f"task/{task}/fdinfo/{file}"):
                                self._segment = path
                                return True
        return False

    def _writable(self, info: str) -> bool:
        return int(self._field(info, b"flags:"), 8) & os.O_ACCMODE != os.O_RDONLY

    def _names(self, path: str) -> list[str]:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def _read(self, path: str) -> bytes:
        with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags, dir_fd=self._fd)) as file:
            return file.read()

    def _field(self, path: str, name: bytes) -> bytes:
        for line in self._read(path).splitlines():
            if line.startswith(name):
                return line.split()[1]
        raise ProcessLookupError(f"{path} of process {self.pid} has no {name.decode()}")

    def __str__(self) -> str:
        """What it was when it could last write, for a verdict that has to be understood afterwards."""
        parts = [str(self.pid)]
        with contextlib.suppress(OSError):
            parts.append(f"of {self._field('status', b'PPid:').decode()}")
            parts.append(f"state {self._field('status', b'State:').decode()}")
            parts.append(repr(b" ".join(self.words()).decode(errors="replace")[-80:]))
        return f"{', '.join(parts)} with {Path(self._segment).name}"


class Watch:
    """A thread that looks around. `seen` are those that could write at some time, `together` those that could at once, told
    as text for their pids."""

    def __init__(self, directory: Path) -> None:
        self.seen: set[int] = set()
        self.together: dict[tuple[int, int], str] = {}
        self._directory = directory
        self._segments = f"{(directory / 'segments').resolve()}/"
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ended_well = False

    def look(self) -> list[int]:
        """Who could write now, at one and the same moment."""
        with contextlib.ExitStack() as opened:
            able = [each for each in self._engines(opened) if each.could_write(self._segments)]
            self.seen.update(each.pid for each in able)
            # One after the other they may have been; they were there at once if the first ones still are.
            found = [*(each for each in able[:-1] if each.could_write(self._segments)), *able[-1:]]
            for i, a in enumerate(found):
                for b in found[i + 1 :]:
                    self.together.setdefault((a.pid, b.pid), f"{a} and {b}")
            return [each.pid for each in found]

    def _run(self) -> None:
        while not self._end.wait(EVERY_SECONDS):
            self.look()
        self._ended_well = True

    def _engines(self, opened: contextlib.ExitStack) -> list[Process]:
        """Processes whose command line names the directory: a fork keeps it, in any pid namespace."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if (process := self.candidate(int(name))) is not None:
                    opened.callback(process.close)
                    found.append(process)
        return found

    def candidate(self, pid: int) -> Process | None:
        """The process with this number if it is one of the engine; the caller closes it. Raises OSError when there is none."""
        with contextlib.ExitStack() as unless_ours:
            process = Process(pid)
            unless_ours.callback(process.close)
            words = process.words()
            # One that was killed and hangs: its memory has gone, its files have not.
            ours = os.fsencode(self._directory) in words and b"run" in words
            if (ours or (words == [b""] and process.could_write(self._segments))) and not process.is_thread():
                unless_ours.pop_all()
                return process
        return None

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def judge(self) -> Verdict:
        """Once it has ended."""
        verdict = Verdict()
        verdict.expect(bool(self.seen), "nobody was ever seen with a segment open for writing: the watch is blind")
        verdict.expect(self._ended_well, "the watch ended early: what came later was seen by nobody")
        for pair in self.together.values():
            verdict.notes.append(f"could write to the log at the same time: {pair}")
        return verdict
