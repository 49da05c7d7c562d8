"""Connecting to a directory's engine, and starting one if none runs.

The engine outlives its starter and is nobody's child (processes/daemon.py): a program that waits for its children does not
meet it. It is started by Python itself, so it cannot be where `sys.executable` is something else: a frozen program, or a
server that has Python inside, would only start itself again.

Until it has left its starter, a Python that starts slowly is the starter's child, and is waited for no longer than anything
else. One that is not ready by then is ended, with all that it has started: a child that goes on unasked is what nobody
expects. From then on an engine goes on starting, whoever waits for it, and the next one to connect finds it.

Many processes may begin at the same moment, as the workers of a server do, and a Python each would load for as many times as
long. So one of them starts it: DIR/engine.log is locked, by the descriptor that what is started has as its stderr, until the
engine is ready (processes/daemon.py) or the last process that was on the way to one has ended. No starter keeps the lock, be
it stopped or not.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

from ringwal import lock_file
from ringwal.errors import FileError, NotRunning
from ringwal.file_errors import FileErrors, file_error
from ringwal.log.directory import give_to_owner
from ringwal.log.files import make_directory
from ringwal.observer import observe, recovering
from ringwal.protocol.client import Registration
from ringwal.steps import Rest, Steps

LOG_NAME = "engine.log"
SAID_BYTES = 4096
"""Of the end of that, what is looked at for its last line."""
FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.1
LONGEST_WAIT_PAUSE = 0.02
"""Seconds between two looks whether the Python that was started has left this process."""
KILLED_SECONDS = 1.0
"""How long the end of what was killed may take."""
STARTING = "RINGWAL_STARTING"
"""Set in what is started here; who finds it set before an engine runs was taken for a Python, and is none."""


def connect_or_start(path: Path, *, autostart: bool, timeout: float | None) -> Steps[Registration]:
    """Registers with the engine that serves ``path``.

    With ``autostart``, starts one if none answers, and waits up to ``timeout`` seconds until it has recovered and answers.
    Several processes may do so at once: the directory lock lets one engine live, and all connect to that one. One that is
    about to end is waited for, and then another is started.

    Raises:
        NotRunning: no engine answers (in time), or none can be started.
        FileError: the directory cannot be used, or made.
        VersionMismatch: the engine that answers was built from another version.
    """
    if not autostart:
        try:
            return (yield from Registration.steps(path, timeout))
        except NotRunning as error:
            if error.why == "silent":
                error.args = (f"{error}: {_state_of(path)}",)
            raise
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = FIRST_PAUSE
    with contextlib.ExitStack() as stack:
        starter: _Starter | None = None
        while True:
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                registration = yield from Registration.steps(path, left)
                registration.timeout = timeout
                return registration
            except NotRunning as error:
                if deadline is not None and time.monotonic() >= deadline:
                    state = _state_of(path)
                    raise NotRunning(f"no engine answers for {path} within {timeout:g} s: {state}{_said(path)}") from error
            if starter is not None and (code := starter.ended()) is not None:
                if code not in (os.EX_OK, os.EX_TEMPFAIL, os.EX_NOPERM):
                    raise NotRunning(f"the engine for {path} ended at once with exit code {code}{_said(path)}")
                starter = None  # there was another one, or it has ended with its last client
            if starter is None and not _held(path):
                with contextlib.suppress(_UnderWay):
                    starter = stack.enter_context(contextlib.closing((yield from _started(path, deadline, timeout))))
            yield Rest(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


class _UnderWay(Exception):
    """Somebody else's engine is."""


class _Starter:
    """An engine that was started, and what it says of its end."""

    def __init__(self, status: int) -> None:
        self._status = status

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


def _started(path: Path, deadline: float | None, timeout: float | None) -> Steps[_Starter]:
    """`timeout` is what the caller has said; at `deadline` it is over, and what has not left this process by then is ended.

    Raises NotRunning, FileError: an engine cannot be started from here; _UnderWay.
    """
    python = _python()
    path = path.absolute()
    with FileErrors(path, "start an engine on"):
        _make_last(path)
        status, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with _open_log(path) as log:
                _give_to_owner(log.fileno(), path)
                _be_alone(log, path)
                child = _run(python, path, told, log)
            code = yield from _wait(child, deadline)
        except BaseException:
            os.close(status)
            raise
        finally:
            os.close(told)
    if code == 0:
        return _Starter(status)
    os.close(status)
    if code is None:
        raise NotRunning(
            f"no engine runs on {path}, and none was started within {timeout:g} s: {python} (process {child.pid}) was still"
            f" loading and has been ended; connect with a longer timeout, or start one with `ringwal run {path}`"
        )
    raise NotRunning(f"no engine could be started for {path}: {python} ended with exit code {code}{_said(path)}")


def _run(python: str, path: Path, told: int, log: BinaryIO) -> subprocess.Popen[bytes]:
    """Raises FileError: there is no such interpreter, or it cannot be run."""
    # The engine must run the code that this process runs, whatever the current directory holds.
    package = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    try:
        return subprocess.Popen(
            [python, "-P", "-m", "ringwal.processes.daemon", str(path), str(told)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=[told],
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": search, STARTING: "1"},
        )
    except OSError as error:
        refused = file_error(error, Path(python), "start an engine with the interpreter of this program (sys.executable),")
        refused.args = (f"{refused}; put that right, or start one with `ringwal run`",)
        raise refused from error


def _wait(child: subprocess.Popen[bytes], deadline: float | None) -> Steps[int | None]:
    """Its exit code; None: not done at the deadline. Then, or after any exception, it is ended, with what it has begun."""
    pause = FIRST_PAUSE
    try:
        while child.poll() is None and (deadline is None or time.monotonic() < deadline):
            yield Rest(pause)
            pause = min(2 * pause, LONGEST_WAIT_PAUSE)
        return child.returncode
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # it leads a session of its own, which an engine on its way is still in
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel, which ends it some time
                child.wait(KILLED_SECONDS)


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


def _be_alone(log: BinaryIO, path: Path) -> None:
    """Raises _UnderWay: somebody else starts an engine, or has just done it."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _UnderWay from None
    except OSError:  # a file system without such locks: the directory's lock decides between their engines
        return
    if _held(path):
        raise _UnderWay


def _give_to_owner(fd: int, path: Path) -> None:
    directory = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        give_to_owner(fd, at=directory)
    finally:
        os.close(directory)


def _make_last(path: Path) -> None:
    """Makes the directory, and not what is missing above it: that was rather mistyped. Raises FileError, OSError."""
    for above in reversed(path.parents):
        if not above.is_dir():
            number = errno.ENOTDIR if above.exists() else errno.ENOENT
            raise FileError(
                f"cannot start an engine on {path}: {above} {'is no directory' if above.exists() else 'does not exist'};"
                " only the last directory of a path is made",
                number,
                str(above),
            )
    make_directory(path)


def _state_of(path: Path) -> str:
    """What an engine does that does not answer, as far as it can be seen: what was waited for."""
    seen = observe(path)
    if seen is not None:
        who = f"process {seen['pid']}"
        if seen["processes"].get("supervisor") == "stopped":
            return f"its {who} stands still (SIGSTOP, or a debugger)"
        return {
            "stopping": f"the old engine ({who}) is still stopping",
            "running": f"it ({who}) runs, and has not answered on its socket",
        }.get(seen["state"], f"it ({who}) is {seen['state']}")
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return "no engine answers on its socket"
    try:
        holder = lock_file.holder(directory)
        held = lock_file.held(directory)
    finally:
        os.close(directory)
    if holder is not None:  # it describes its memory when it has recovered
        return f"it (process {holder.pid}) is recovering{_how_far(path)}"
    return "it cannot be seen from here" if held else "no engine holds the directory"


def _how_far(path: Path) -> str:
    seen = recovering(path)
    if seen is None or seen.total == 0:
        return ""
    return f", {100 * seen.done // seen.total} % ({seen.done >> 20} of {seen.total >> 20} MiB of the log read)"


def _open_log(path: Path) -> BinaryIO:
    """DIR/engine.log, to be added to. Raises FileError: it is something else than a file, which nobody may ever read."""
    name = path / LOG_NAME
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    with FileErrors(name, "write"):
        fd = os.open(name, flags, 0o666)  # ENXIO: a pipe that nobody reads
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return os.fdopen(fd, "ab")


def _said(path: Path) -> str:
    """The last line of the engine's log, for the error message."""
    try:
        fd = os.open(path / LOG_NAME, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as log:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return ""
            log.seek(max(0, os.fstat(fd).st_size - SAID_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return f"; it said: {lines[-1]}" if lines else ""
