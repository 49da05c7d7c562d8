"""Connecting to a directory's engine, and starting one if none runs.

The engine outlives its starter and is nobody's child (processes/daemon.py): a program that waits for its children does not
meet it. It is started by Python itself, so it cannot be where `sys.executable` is something else: a frozen program, or a
server that has Python inside, would only start itself again.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from ringwal import lock_file
from ringwal.errors import NotRunning
from ringwal.log.directory import give_to_owner
from ringwal.log.files import make_directory
from ringwal.protocol.client import Registration

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.1
STARTING = "RINGWAL_STARTING"
"""Set in what is started here; who finds it set before an engine runs was taken for a Python, and is none."""


def connect_or_start(path: Path, *, autostart: bool, timeout: float | None) -> Registration:
    """Registers with the engine that serves ``path``.

    With ``autostart``, starts one if none answers, and waits up to ``timeout`` seconds until it has recovered and answers.
    Several processes may do so at once: the directory lock lets one engine live, and all connect to that one. One that is
    about to end is waited for, and then another is started.

    Raises:
        NotRunning: no engine answers (in time), or none can be started.
        VersionMismatch: the engine that answers was built from another version.
    """
    if not autostart:
        return Registration(path, timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = FIRST_PAUSE
    with contextlib.ExitStack() as stack:
        starter: _Starter | None = None
        while True:
            try:
                return Registration(path, timeout)
            except NotRunning as error:
                if deadline is not None and time.monotonic() >= deadline:
                    raise NotRunning(f"no engine answers for {path} within {timeout:g} s{_said(path)}") from error
            if starter is not None and (code := starter.ended()) is not None:
                if code not in (os.EX_OK, os.EX_TEMPFAIL, os.EX_NOPERM):
                    raise NotRunning(f"the engine for {path} ended at once with exit code {code}{_said(path)}")
                starter = None  # there was another one, or it has ended with its last client
            if starter is None and not _held(path):
                starter = stack.enter_context(contextlib.closing(_Starter(path)))
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


class _Starter:
    """An engine that was started, and what it says of its end."""

    def __init__(self, path: Path) -> None:
        """Raises NotRunning: an engine cannot be started from here."""
        python = _python()
        path = path.absolute()
        make_directory(path)
        # The engine must run the code that this process runs, whatever the current directory holds.
        package = str(Path(__file__).resolve().parent.parent)
        search = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        self._status, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with _log_path(path).open("ab") as log:
                _give_to_owner(log.fileno(), path)
                code = subprocess.run(
                    [python, "-P", "-m", "ringwal.processes.daemon", str(path), str(told)],
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    pass_fds=[told],
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": search, STARTING: "1"},
                ).returncode
        except BaseException:
            os.close(self._status)
            raise
        finally:
            os.close(told)
        if code != 0:
            os.close(self._status)
            raise NotRunning(f"no engine could be started for {path}: {python} ended with exit code {code}{_said(path)}")

    def ended(self) -> int | None:
        """The engine's exit code, -9 if it could not say; None while it runs."""
        try:
            said = os.read(self._status, 1)
        except BlockingIOError:
            return None
        return said[0] if said else -9

    def close(self) -> None:
        """Nobody wants to know its end any more."""
        os.close(self._status)


def _python() -> str:
    """The interpreter that starts an engine. Raises NotRunning: there is none that could be trusted to be one."""
    found = sys.executable
    if getattr(sys, "frozen", False):
        why = "this is a frozen program, which would only start itself again"
    elif not found:
        why = "Python does not know its own executable here (sys.executable)"
    elif re.search("py", Path(found).name, re.IGNORECASE) is None:
        why = f"sys.executable is {found}, which does not look like a Python"
    elif STARTING in os.environ:
        why = f"{found} was started as a Python and runs this program instead"
    else:
        return found
    raise NotRunning(f"no engine runs, and none can be started from here: {why}; start one with `ringwal run`")


def _held(path: Path) -> bool:
    """Does an engine hold the directory, starting or ending, so that no other could?"""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return lock_file.held(directory)
    finally:
        os.close(directory)


def _give_to_owner(fd: int, path: Path) -> None:
    directory = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        give_to_owner(fd, at=directory)
    finally:
        os.close(directory)


def _log_path(path: Path) -> Path:
    return path / "engine.log"


def _said(path: Path) -> str:
    """The last line of the engine's log, for the error message."""
    try:
        lines = _log_path(path).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return f"; it said: {lines[-1]}" if lines else ""
