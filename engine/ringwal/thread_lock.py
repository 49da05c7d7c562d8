"""A lock between threads that neither a signal handler nor an interrupt can turn against its own thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ringwal.greenlets import patched

Found = TypeVar("Found")


class Occupied(Exception):
    """A lock was not to be had in time."""


class ThreadLock:
    """Only one thread at a time is in `run`. A signal handler or destructor of the same thread comes in beside what it
    interrupts, so that must be right with what is half done.

    An exception may strike before any bytecode, those at the end of a ``with`` included, which would leave the lock taken
    for good. So the outermost call lets go of it once more.

    Greenlets are threads here from the moment at which gevent patches the standard library. A lock from before tells threads
    of the system apart, so all greenlets would be inside at once, and let go of it for each other: it is made anew. A server
    loads an application, forks, and patches in the child.
    """

    def __init__(self) -> None:
        self._lock: Any = threading.RLock()
        self._of_greenlets = patched()
        self.awaited: Any = None
        """The same between tasks of one event loop, made by whoever needs it."""

    def held(self) -> bool:
        """Is this thread inside? Then a signal handler or destructor asks, which has interrupted what goes on there."""
        return self._of_greenlets is patched() and bool(self._lock._is_owned())

    def run(self, call: Callable[[], Found], seconds: float | None = None) -> Found:
        """Raises Occupied: others have held it for so many seconds."""
        if self._of_greenlets is not patched():
            self._lock, self._of_greenlets = threading.RLock(), patched()
        lock = self._lock
        inside = lock._is_owned()
        try:
            if seconds is None or inside:
                with lock:
                    return call()
            if not lock.acquire(timeout=seconds):
                raise Occupied
            with lock:  # and no `try`: its first bytecode is covered by no handler
                lock.release()
                return call()
        finally:
            if not inside and lock._is_owned():
                lock._release_save()
