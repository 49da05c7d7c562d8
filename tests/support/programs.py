"""Programs as users write them, with all the processes that they make: none outlives its test."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.rig import CHECKOUT, WAIT, environment


class Program:
    """It leads a session of its own, in which its processes stay. A context manager, at whose end all of them are killed."""

    def __init__(
        self,
        *command: str | Path,
        place: Path,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int = subprocess.PIPE,
    ) -> None:
        """``command`` is what Python is given; ``place`` is its directory."""
        self._said = os.fdopen(os.memfd_create("said"), "w+b")
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=place,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**environment(CHECKOUT), "PYTHONUNBUFFERED": "1", **(env or {})},
            pass_fds=pass_fds,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self._read = b""

    def said(self) -> str:
        """What it has written to stderr."""
        return os.pread(self._said.fileno(), 1 << 20, 0).decode(errors="replace")

    def line(self) -> str:
        """The next one of its output. Fails where none comes."""
        assert self.process.stdout is not None
        fd, deadline = self.process.stdout.fileno(), time.monotonic() + WAIT
        while b"\n" not in self._read:
            ready = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]
            more = os.read(fd, 1 << 16) if ready else b""
            assert more, f"{'it has ended' if ready else f'no line within {WAIT:g} s'}; it said: {self.said()}"
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def tell(self, line: str = "") -> None:
        """A line for its input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        try:
            return self.process.wait(WAIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end; it said: {self.said()}") from None

    def check(self) -> str:
        """Wait for its end, which must be a good one. Returns the rest of its output."""
        code = self.wait()
        assert code == 0, f"exit code {code}; it said: {self.said()}"
        assert self.process.stdout is not None
        return (self._read + self.process.stdout.read()).decode()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # no process of the session is left
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        for end in (self.process.stdin, self.process.stdout, self._said):
            if end is not None:
                with contextlib.suppress(BrokenPipeError):
                    end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def script(place: Path, name: str, text: str) -> Path:
    """A file of Python in that directory."""
    made = place / name
    made.write_text(text)
    return made
