"""What engines have in /dev/shm: nothing. An object has a name there only for the moment in which it is made."""

from __future__ import annotations

import os
import time
from pathlib import Path

SHM = Path("/dev/shm")
PREFIX = "ringwal-"
MOMENT_SECONDS = 5.0
"""Far more than an engine needs from making a name to removing it, also on a machine that is busy."""


def _names() -> set[str]:
    return {entry.name for entry in SHM.iterdir() if entry.name.startswith(PREFIX)}


_FOUND = _names()
"""Of engines that ended before this session began."""


def left() -> list[str]:
    """Names that stay: whoever looks while an engine starts somewhere on the machine sees one that goes at once."""
    found = _names() - _FOUND
    deadline = time.monotonic() + MOMENT_SECONDS
    while found and time.monotonic() < deadline:
        os.sched_yield()
        found &= _names()
    return sorted(found)
