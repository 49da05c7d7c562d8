"""Standard descriptors: whoever starts a process may have closed them, and then the next file that it opens becomes its
standard output."""

from __future__ import annotations

import contextlib
import os
import sys

STANDARD = {"stdin": "r", "stdout": "w", "stderr": "w"}


def hold_descriptors() -> set[int]:
    """Open /dev/null as those of 0, 1 and 2 that are closed. Returns which those were."""
    held = set()
    for fd in range(len(STANDARD)):
        try:
            os.fstat(fd)
        except OSError:
            with contextlib.suppress(OSError):  # no /dev/null here: there is nothing better
                opened = os.open(os.devnull, os.O_RDWR)
                if opened == fd:
                    os.set_inheritable(fd, True)  # noqa: FBT003
                else:
                    os.dup2(opened, fd)
                    os.close(opened)
                held.add(fd)
    return held


def hold_streams() -> set[int]:
    """`hold_descriptors`, and the streams of `sys` that Python left out because of it. For programs: first of all."""
    held = hold_descriptors()
    for fd, (name, mode) in enumerate(STANDARD.items()):
        if getattr(sys, name) is None:  # a descriptor that is open nevertheless is somebody's file by now
            stream = open(fd if fd in held else os.devnull, mode, closefd=fd not in held)  # noqa: SIM115
            setattr(sys, name, stream)
    return held
