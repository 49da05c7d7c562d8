"""Waiting where threads are greenlets: gevent, when it has patched the standard library.

Such threads share one of the system's, and run only while the others wait through the library's patched functions. A wait in
C holds all of them. So the waits of a client look there, and in between they sleep as Python does.
"""

from __future__ import annotations

import sys
import time

FIRST_REST, LONGEST_REST = 1e-4, 0.01
"""Seconds between two looks, after the first one, which only lets the others go on."""


def patched() -> bool:
    """Are threads greenlets here?"""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("time"))


class Rests:
    """The rests between the looks of one wait."""

    __slots__ = ("next",)

    def __init__(self) -> None:
        self.next = 0.0

    def take(self, left: float = LONGEST_REST) -> None:
        """Lets the others run, not longer than ``left`` seconds."""
        time.sleep(max(0.0, min(self.next, left)))  # looked up now: that is what is patched
        self.next = min(max(2 * self.next, FIRST_REST), LONGEST_REST)

    def long(self) -> bool:
        """True if nothing has come for a while."""
        return self.next >= LONGEST_REST
