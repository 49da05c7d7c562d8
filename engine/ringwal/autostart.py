"""Connecting to a directory's engine, and starting one if none runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from ringwal.errors import NotRunning
from ringwal.log.files import make_directory
from ringwal.protocol.client import Registration

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.1


def connect_or_start(path: Path, *, autostart: bool, timeout: float | None) -> Registration:
    """Registers with the engine that serves ``path``.

    With ``autostart``, starts one if none answers, and waits up to ``timeout`` seconds until it has recovered and answers.
    Several processes may do so at once: the directory lock lets one engine live, and all connect to that one.

    Raises:
        NotRunning: no engine answers (in time).
        VersionMismatch: the engine that answers was built from another version.
    """
    if not autostart:
        return Registration(path, timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    starter: subprocess.Popen[bytes] | None = None
    pause = FIRST_PAUSE
    while True:
        try:
            return Registration(path, timeout)
        except NotRunning as error:
            if deadline is not None and time.monotonic() >= deadline:
                raise NotRunning(f"no engine answers for {path} within {timeout:g} s{_said(path)}") from error
        if starter is None:
            starter = _start(path)
        elif starter.poll() not in (None, 0, os.EX_TEMPFAIL, os.EX_NOPERM):
            raise NotRunning(f"the engine for {path} ended at once with exit code {starter.returncode}{_said(path)}")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _log_path(path: Path) -> Path:
    return path / "engine.log"


def _start(path: Path) -> subprocess.Popen[bytes]:
    """Starts an engine that outlives this process and ends with its last client."""
    make_directory(path)
    # The engine must run the code that this process runs, whatever the current directory holds.
    package = str(Path(__file__).resolve().parent.parent)
    search = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    with _log_path(path).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "ringwal", "run", "--autostart", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": search},
        )


def _said(path: Path) -> str:
    """The last line of the engine's log, for the error message."""
    try:
        lines = _log_path(path).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return f"; it said: {lines[-1]}" if lines else ""
