"""The keeper: a process beside the data path that keeps what is written. Nobody ever waits for it.

It works in rounds: each task says in how many seconds it wants to be called again. It follows the log in memory and on disk
as a reader does, and holds no lane and none of the directory's locks. What it wants done to streams it asks of the supervisor
(keeper_line.py). It is killed, not asked, when the engine stops; dead, stopped or slow it costs disk space, or a reader's time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from typing import Protocol

from ringwal._native import lib
from ringwal.errors import Error
from ringwal.processes.attic_task import AtticTask
from ringwal.processes.context import EngineContext
from ringwal.processes.keeper_line import KeeperEnd
from ringwal.processes.retention import Retention
from ringwal.processes.side_files import SideFiles

TOGETHER_SECONDS = 0.1
"""What is due within so short a time is done at once: one wake-up for all."""

NICE = 5
"""Others go first: it is behind by a moment, and no append is."""

TROUBLE_SECONDS = (1.0, 60.0)
"""A task that has failed is tried again after the first, then later and later, up to the last."""


class Task(Protocol):
    """One thing that the keeper does."""

    name: str

    def work(self) -> float:
        """Do what is due, in a bounded time. Returns in how many seconds it wants to be called again.

        Raises Error, OSError, MemoryError: it is said, once, and tried again later.
        """

    def hindered(self, error: int) -> None:
        """Say in memory that it does not get on, for that errno, 0 where there is none."""


class Keeper:
    """One life of the keeper. What it knows can be found out again."""

    def __init__(self, context: EngineContext) -> None:
        assert context.line is not None
        self._context = context
        self.line = KeeperEnd(context.line)
        self._tasks: list[Task] = [SideFiles(context), Retention(context, self.line), AtticTask(context)]
        self._due = dict.fromkeys(range(len(self._tasks)), 0.0)
        self._troubles = dict.fromkeys(range(len(self._tasks)), 0)
        self._ended = select.poll()
        self._ended.register(context.line, select.POLLIN)

    def run(self) -> int:
        """Works until it is killed, or the supervisor has closed the line. Returns the exit code of the process."""
        lib.rw_keeper_works(self._context.control.pointer, os.getpid())
        while True:
            soon = time.monotonic() + TOGETHER_SECONDS
            for i, task in enumerate(self._tasks):
                if self._due[i] <= soon:
                    self._due[i] = time.monotonic() + self._worked(i, task)
            left = min(self._due.values()) - time.monotonic()
            if self._ended.poll(max(0.0, left) * 1e3):
                return os.EX_OK

    def _worked(self, i: int, task: Task) -> float:
        try:
            seconds = task.work()
        except (Error, OSError, MemoryError) as error:
            number = error.errno or errno.EIO if isinstance(error, OSError) else errno.EIO
            task.hindered(errno.ENOMEM if isinstance(error, MemoryError) else number)
            if self._troubles[i] == 0:
                self._context.log.warning("keeper, %s: %s", task.name, error)
            self._troubles[i] += 1
            return min(TROUBLE_SECONDS[0] * 2.0 ** (self._troubles[i] - 1), TROUBLE_SECONDS[1])
        if self._troubles[i]:
            self._context.log.info("keeper, %s: works again", task.name)
            self._troubles[i] = 0
        return seconds


def main(context: EngineContext) -> int:
    """The body of the keeper, after the fork. Returns its exit code."""
    with contextlib.suppress(OSError):
        os.nice(NICE)
    return Keeper(context).run()
