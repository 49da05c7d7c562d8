"""What an engine has open is its own processes': other forks of the program around it let go.

A descriptor lives as long as any process has it. A lock in a stranger's child keeps the directory from its next engine, a
listener there takes clients whom nobody serves, and the end of a connection there keeps a client from seeing the engine's
death. Files are close-on-exec anyway; a fork without exec is told by Python (os.register_at_fork). A fork that C code makes
behind Python's back cannot be seen, and keeps everything until its exec.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator


class Private:
    """Of one engine. WAL and drain are forked under `inherited`; in every other child what is `held` then is let go."""

    def __init__(self) -> None:
        self._held: dict[int, Callable[[], None]] = {}
        self._next = 0
        self._thread = threading.get_ident()
        self._forking = False
        _ENGINES.add(self)

    @contextlib.contextmanager
    def held(self, leave: Callable[[], None]) -> Iterator[None]:
        """`leave` closes something without touching what others see of it. It is withdrawn before that is closed here: a number
        that is free already may be somebody else's file."""
        number, self._next = self._next, self._next + 1
        self._held[number] = leave
        try:
            yield
        finally:
            del self._held[number]

    @contextlib.contextmanager
    def inherited(self) -> Iterator[None]:
        """What this thread forks meanwhile is a process of the engine."""
        self._thread, self._forking = threading.get_ident(), True
        try:
            yield
        finally:
            self._forking = False

    def here(self) -> bool:
        """Is this the engine's thread, whose frames go on in a child that it forks?"""
        return self._thread == threading.get_ident()

    def _forked(self) -> None:
        if self._forking and self.here():
            return
        for leave in list(self._held.values()):
            with contextlib.suppress(Exception):  # the others are to be let go, too
                leave()


_ENGINES: weakref.WeakSet[Private] = weakref.WeakSet()


def _leave_all() -> None:
    for each in list(_ENGINES):
        each._forked()


os.register_at_fork(after_in_child=_leave_all)
