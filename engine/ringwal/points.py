"""Named points at which a test build kills, stops or delays the process (csrc/points.h). Elsewhere they do nothing."""

from __future__ import annotations

import os

from ringwal._native import lib

_rw_point = getattr(lib, "rw_point", None)


def point(name: str) -> None:
    """A place where a test may interfere.

    Raises:
        OSError: the test asked for this errno.
    """
    if _rw_point is not None and (number := _rw_point(name.encode())):
        raise OSError(number, os.strerror(number))
