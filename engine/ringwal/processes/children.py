"""Starting the processes of the table in roles.py, proving their death, and how often they may be replaced.

A child is a fork without exec: the memory is mapped and the code is loaded, so a successor works within milliseconds.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ringwal._native import ffi, lib
from ringwal.errors import Error
from ringwal.points import point
from ringwal.processes import strays
from ringwal.processes.context import FINISH, LOG, EngineContext
from ringwal.processes.keeper_line import SupervisorEnd
from ringwal.processes.lanes import Intake, Lanes
from ringwal.processes.roles import Role

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, FINISH)
"""In a child; the last until it listens."""


@dataclasses.dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: by exiting with `code`, or by the signal -`code`."""

    code: int

    def __str__(self) -> str:
        if self.code >= 0:
            return f"exit code {self.code}"
        with contextlib.suppress(ValueError):
            return signal.Signals(-self.code).name
        return f"signal {-self.code}"


class Child:
    """A running process of some role. `fileno()` becomes readable when all its threads are gone."""

    def __init__(self, role: Role, pid: int, pidfd: int, said: int) -> None:
        """`said` is a pipe to which it writes its exit code before it exits."""
        self.role = role
        self.pid = pid
        self._pidfd = pidfd
        self._said = said

    def fileno(self) -> int:
        """The pidfd, for polling."""
        return self._pidfd

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that is dead already does not mind."""
        with contextlib.suppress(ProcessLookupError):
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOSYS):
                    raise
                os.kill(self.pid, number)  # a sandbox refuses the other; nobody but us reaps this pid

    def reap(self, *, wait: float | None = 0.0) -> Exit | None:
        """How it ended, if it has, or does within so many seconds (None: however long it takes); else None. This proves its
        death."""
        ended = select.poll()  # not select(), which takes no numbers above 1023
        ended.register(self._pidfd, select.POLLIN)
        if not ended.poll(None if wait is None else wait * 1e3):
            return None
        try:
            found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            assert found is not None
            code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        except ChildProcessError:  # the program around this engine ignores SIGCHLD, or waits for all its children
            said = b""
            with contextlib.suppress(BlockingIOError):  # a stranger's child has the other end
                said = os.read(self._said, 1)
            code = said[0] if said else -signal.SIGKILL
        self.leave()
        return Exit(code)

    def leave(self) -> None:
        """Close what there is of it here."""
        fds, self._pidfd, self._said = {self._pidfd, self._said} - {-1}, -1, -1
        for fd in fds:
            os.close(fd)


def spawn(
    role: Role, context: EngineContext, lanes: Lanes, line: SupervisorEnd, *, replacement: bool = False
) -> Child:
    """Fork a process of that role. It has the lanes that there are, or if it is expendable the other end of `line`.

    Raises OSError when no process can be made.
    """
    main = role.main()
    parent = os.getpid()
    # Until the child has put its own handlers in place, the supervisor's must not run in it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_IGNORED, signal.SIGCHLD})
    said, say = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        source = line.connect() if role.expendable else lanes.connect(role, rings=role.rings)
        with source, context.ownership.private.inherited(), _named(role):
            pid = os.fork()
            if pid == 0:
                with_end = (
                    dataclasses.replace(context, line=source)
                    if role.expendable
                    else dataclasses.replace(context, intake=Intake(source, lanes.inheritance(rings=role.rings)))
                )
                _run_child(role, main, dataclasses.replace(with_end, replacement=replacement), parent, say)
        return Child(role, pid, _pidfd(pid), said)
    except BaseException:
        os.close(said)
        raise
    finally:
        os.close(say)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _named(role: Role) -> Iterator[None]:
    """What is forked meanwhile has that name from its first moment on, so that nobody else's fork is taken for it (strays.py).
    It keeps it; this thread has its own again."""
    before = ffi.new("char[]", lib.RW_THREAD_NAME_BYTES)
    lib.rw_thread_name(before, f"{strays.NAMES}{role.name}".encode())
    try:
        yield
    finally:
        lib.rw_thread_name(ffi.NULL, before)


def check_pidfd() -> None:
    """Raises Error if this system has no pidfds: nothing else proves the death of a process."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        raise Error(
            f"this system refuses pidfd_open ({error.strerror}), without which no dead process can be replaced:"
            " a kernel before 5.3, or a sandbox (a seccomp profile, gVisor) that has to allow it"
        ) from error


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:  # a child that cannot be watched must not run
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _run_child(
    role: Role, main: Callable[[EngineContext], int], context: EngineContext, parent: int, say: int
) -> None:
    """The child, from fork to exit. Never returns, whatever happens: the parent's stack is not the child's."""
    code = 1  # an unexpected exception is no verdict on the memory: a successor may do better
    try:
        point(f"{role.name.lower()}.born")
        if lib.rw_die_with_parent(parent) == lib.RW_OK:  # first: until then it outlives its parent, with all that this has
            code = main(_leave_parent(role, context, say))
    except MemoryError as error:
        code = os.EX_OSERR
        with contextlib.suppress(BaseException):
            context.log.error("%s: %s", main.__module__, str(error) or os.strerror(errno.ENOMEM))
    except BaseException:  # reported, and the exit code says the rest
        with contextlib.suppress(BaseException):
            context.log.exception("%s has ended of a fault", main.__module__)
    finally:
        with contextlib.suppress(OSError):
            os.write(say, bytes([code]))
        os._exit(code)


def _leave_parent(role: Role, context: EngineContext, say: int) -> EngineContext:
    """What is the parent's own is left behind. Returns what the child works with."""
    with contextlib.suppress(ValueError):  # not the main thread of the parent: nothing was set
        signal.set_wakeup_fd(-1)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    keep = {0, 1, 2, say, *role.descriptors(context)}
    if context.line is not None:
        # Opened anew: what was locked stays with those that everybody waits for.
        unlocked = context.directory.unlocked()
        keep |= {context.line.fileno(), unlocked.fd, unlocked.segments}
        context = dataclasses.replace(context, unlocked=unlocked)
    else:
        assert context.intake is not None
        keep |= {*context.ownership.descriptors(), *context.intake.descriptors()}
    for name in [entry.name for entry in Path("/proc/self/fd").iterdir()]:
        if int(name) not in keep:
            with contextlib.suppress(OSError):  # the directory listing's own is closed already
                os.close(int(name))
    return context


class RestartBudget:
    """How many replacements are left: at most `limit` in any `window` seconds."""

    def __init__(self, limit: int, window: float) -> None:
        self.total = 0
        self._limit = limit
        self._window = window
        self._times: collections.deque[float] = collections.deque()

    def take(self) -> bool:
        """Count one replacement. False if there have been too many."""
        now = time.monotonic()
        while self._times and self._times[0] <= now - self._window:
            self._times.popleft()
        if len(self._times) >= self._limit:
            return False
        self._times.append(now)
        self.total += 1
        return True


def reap_strangers(ours: set[int]) -> None:
    """As PID 1: reap every dead process that is not one of `ours`. Those are left for `Child.reap`."""
    while (found := _waitable()) is not None and found not in ours:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(found, 0)
            LOG.debug("reaped process %d", found)


def _waitable() -> int | None:
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid
