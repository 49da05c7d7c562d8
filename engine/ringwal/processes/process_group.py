"""The processes of a running engine (roles.py): started together, replaced one by one, stopped in order.

    stop:  SIGKILL to the keeper; FINISH to WAL -> it writes what was published -> FINISH to drain -> it confirms what was
           written -> done
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import time

from ringwal._native import lib
from ringwal.errors import describe_full
from ringwal.file_errors import advice
from ringwal.points import point
from ringwal.processes.children import Child, Exit, RestartBudget, spawn
from ringwal.processes.context import FINISH, LOG, EngineContext
from ringwal.processes.keeper_line import SupervisorEnd
from ringwal.processes.lanes import Lanes
from ringwal.processes.roles import ROLES, Role, after

REMIND_SECONDS = 0.2
"""A process that was asked to stop before it could listen is asked again after this time."""

PAUSE_SECONDS = (0.1, 10.0)
"""Before an expendable process is replaced: twice as long each time it ends again, up to the last."""

STEADY_SECONDS = 60.0
"""One that has worked for so long is as good as new."""

LEFT_SECONDS = 1.0
"""Where the engine ends, so long an expendable process may take to be gone."""


class Pause:
    """How long one waits for the successor of an expendable process."""

    def __init__(self) -> None:
        self.began: float | None = None
        """When the latest one began; None: there was none yet."""
        self._seconds = 0.0
        self._until = 0.0

    def died(self, now: float) -> None:
        """The latest one has ended, or could not be started."""
        first, last = PAUSE_SECONDS
        steady = self.began is not None and now - self.began >= STEADY_SECONDS
        self._seconds = first if steady or self._seconds == 0 else min(2 * self._seconds, last)
        self._until = now + self._seconds

    def left(self) -> float:
        """Seconds until it may be started."""
        return self._until - time.monotonic()


class ProcessGroup:
    """The processes of all roles. `verdict` is None while they work, then the exit code of the engine."""

    def __init__(
        self, context: EngineContext, selector: selectors.BaseSelector, lanes: Lanes, line: SupervisorEnd
    ) -> None:
        self._context = context
        self._lanes = lanes
        self._line = line
        self._control = context.control.pointer
        self._selector = selector
        self._budget = RestartBudget(context.config.max_restarts, context.config.restart_window)
        self._children: dict[Role, Child] = {}
        self._asked: set[Role] = set()
        self._pauses: dict[Role, Pause] = {role: Pause() for role in ROLES if role.expendable}
        self._deadline: float | None = None
        self.verdict: int | None = None
        self.reason: str | None = None
        """Why the epoch ended, if it was not in order."""
        self.directory_lost = False
        """The directory is not this engine's any more: nothing may be written there."""

    @property
    def stopping(self) -> bool:
        """An orderly stop is under way, or over."""
        return self._deadline is not None

    @property
    def restarts(self) -> int:
        """Processes replaced since the start."""
        return self._budget.total

    def pids(self) -> dict[Role, int]:
        """Of the processes that run now."""
        return {role: child.pid for role, child in self._children.items()}

    def start(self) -> None:
        """Fork them all. Raises OSError."""
        for role in ROLES:
            if role.expendable:
                self._start_expendable(role)
            else:
                self._start(role)

    def stop(self) -> None:
        """Begin an orderly stop. Calling it again does nothing."""
        if self.stopping or self.verdict is not None:
            return
        self._deadline = time.monotonic() + self._context.config.stop_timeout
        lib.rw_set_state(self._control, lib.RW_STOPPING, 0)
        for role in self._pauses.keys() & self._children.keys():
            self._children[role].signal(signal.SIGKILL)
        self._ask(ROLES[0])
        point("s.stop.asked")

    def tick(self) -> float | None:
        """What time brings about. Seconds until the next call is due; None: no need."""
        if self.verdict is not None:
            return None
        if self._deadline is None:
            return self._replace_expendable()
        left = self._deadline - time.monotonic()
        if left <= 0:
            needed = [child for role, child in self._children.items() if not role.expendable]
            slow = " and ".join(f"{child.role} process {child.pid}" for child in needed)
            limit, full = self._context.config.stop_timeout, int(lib.rw_engine_storage_full(self._control))
            why = f", as there is no room for a segment ({describe_full(full)})" if full else ""
            self.fail(os.EX_SOFTWARE, 0, f"{slow} did not finish within {limit:g} s{why}; recovery comes with the next start")
            return None
        for role in self._asked & self._children.keys():
            self._children[role].signal(FINISH)
        return min(left, REMIND_SECONDS)

    def died(self, child: Child) -> None:
        """`child`'s pidfd is readable: prove its death, and act on it."""
        self._selector.unregister(child)
        seen = time.monotonic()
        del self._children[child.role]
        ended = child.reap(wait=None)
        assert ended is not None
        if child.role.expendable:
            self._pauses[child.role].died(seen)
            if not self.stopping:
                LOG.warning("%s process %d has ended (%s); another one follows", child.role, child.pid, ended)
            return
        error = int(lib.rw_engine_wal_error(self._control))
        if ended.code == os.EX_IOERR or (child.role.writes_log and error):
            reason = os.strerror(error) if error else "see above"
            self.fail(os.EX_IOERR, error, f"a write to the log failed ({reason}); nothing is confirmed any more{advice(error)}")
        elif ended.code == os.EX_OSERR:
            self._lacking(errno.ENOMEM, f"{child.role} process {child.pid} cannot work")
        elif ended.code == os.EX_OSFILE:
            self.lose_directory("is not what it was when the engine started, says its WAL process")
        elif ended.code == os.EX_SOFTWARE:
            self.fail(os.EX_SOFTWARE, 0, f"{child.role} process {child.pid} cannot go on; only the disk is to be believed")
        elif ended.code == 0 and child.role in self._asked:
            self._finished(child.role)
        else:
            self._replace(child, ended, seen)

    def lose_directory(self, what: str) -> None:
        """End the epoch because of what has happened to the directory (ownership.py)."""
        self.directory_lost = True
        path = self._context.directory.path
        self.fail(os.EX_OSFILE, errno.ESTALE, f"{path} {what}; nothing is confirmed any more")

    def fail(self, code: int, error: int, message: str) -> None:
        """End the epoch: `error` is an errno or 0. Returns when every process is gone."""
        if self.verdict is None:
            lib.rw_set_state(self._control, lib.RW_FAILED, error)
            LOG.error("engine failed: %s", message)
            self.verdict, self.reason = code, message
        self.kill()

    def kill(self) -> None:
        """SIGKILL to what still runs; returns when it is gone, however long a stuck write takes. Nobody waits long for what is
        expendable."""
        for child in self._children.values():
            child.signal(signal.SIGKILL)
        while self._children:
            _, child = self._children.popitem()
            self._selector.unregister(child)
            if child.reap(wait=LEFT_SECONDS if child.role.expendable else None) is None:
                LOG.warning("%s process %d is killed, and not gone yet", child.role, child.pid)
                child.leave()
        self._line.close()

    def leave(self) -> None:
        """In a stranger's child: nothing of theirs stays open."""
        for child in self._children.values():
            child.leave()
        self._line.leave()

    def _lacking(self, error: int, what: str) -> None:
        self.fail(os.EX_OSERR, error, f"{what}: {os.strerror(error)}{advice(error)}")

    def _start(self, role: Role, *, replacement: bool = False) -> Child:
        child = spawn(role, self._context, self._lanes, self._line, replacement=replacement)
        self._children[role] = child
        self._selector.register(child, selectors.EVENT_READ, child)
        return child

    def _ask(self, role: Role) -> None:
        self._asked.add(role)
        if role in self._children:
            self._children[role].signal(FINISH)

    def _finished(self, role: Role) -> None:
        if role.finished_point is not None:
            point(role.finished_point)
        if (following := after(role)) is not None:
            self._ask(following)
        else:
            lib.rw_set_state(self._control, lib.RW_STOPPED, 0)
            self.verdict = os.EX_OK

    def _start_expendable(self, role: Role) -> None:
        try:
            self._start(role, replacement=self._pauses[role].began is not None)
        except OSError as error:
            LOG.warning("no %s process: %s", role, error)
            self._pauses[role].died(time.monotonic())
        else:
            self._pauses[role].began = time.monotonic()

    def _replace_expendable(self) -> float | None:
        """Start those whose pause is over. Seconds until the next one is due; None: all are there."""
        for role in self._pauses.keys() - self._children.keys():
            if self._pauses[role].left() <= 0:
                self._start_expendable(role)
        return min((self._pauses[role].left() for role in self._pauses.keys() - self._children.keys()), default=None)

    def _replace(self, dead: Child, ended: Exit, seen: float) -> None:
        if not self._budget.take():
            config = self._context.config
            limit = f"{config.max_restarts} replacements within {config.restart_window:g} s"
            self.fail(os.EX_SOFTWARE, 0, f"{dead.role} process {dead.pid} ended ({ended}) after {limit}; giving up")
            return
        point("s.replace.pre")
        try:
            child = self._start(dead.role, replacement=True)
        except OSError as error:
            self._lacking(error.errno or 0, f"no successor for {dead.role} process {dead.pid}")
            return
        took = (time.monotonic() - seen) * 1e3
        LOG.warning("replaced %s process %d (%s) with %d after %.0f ms", dead.role, dead.pid, ended, child.pid, took)
