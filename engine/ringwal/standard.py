"""Standard descriptors: whoever starts a process may have closed them, and then the next file that it opens becomes its
standard output; or nobody reads what it says there, and then its next word waits for ever."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import sys

STANDARD = {"stdin": "r", "stdout": "w", "stderr": "w"}


def hold_descriptors() -> set[int]:
    """Open /dev/null as those of 0, 1 and 2 that are closed; a pipe with nobody at its other end where there is none. Returns
    which those were. Raises OSError: this process may open no files at all."""
    held = set()
    for fd in range(len(STANDARD)):
        try:
            os.fstat(fd)
        except OSError:
            opened = _nothing(writing=fd > 0)
            if opened == fd:
                os.set_inheritable(fd, True)  # noqa: FBT003
            else:
                os.dup2(opened, fd)
                os.close(opened)
            held.add(fd)
    return held


def _nothing(*, writing: bool) -> int:
    """A file that is at its end; or one that takes nothing, or keeps nothing."""
    try:
        return os.open(os.devnull, os.O_RDWR)
    except OSError:  # a chroot, or a container, without devices
        reader, writer = os.pipe()
        os.close(reader if writing else writer)
        return writer if writing else reader


def hold_streams() -> set[int]:
    """`hold_descriptors`, and the streams of `sys` that Python left out because of it. For programs: first of all."""
    held = hold_descriptors()
    for fd, (name, mode) in enumerate(STANDARD.items()):
        if getattr(sys, name) is None:  # a descriptor that is open nevertheless is somebody's file by now
            stream = open(fd if fd in held else _nothing(writing=fd > 0), mode, closefd=fd not in held)  # noqa: SIM115
            setattr(sys, name, stream)
    return held


class Hasty:
    """A text stream to a standard descriptor, as `logging` wants one, that never waits for a reader: what a full pipe, socket
    or stopped terminal does not take is dropped, and how often is said when it takes something again.

    The descriptor's flags belong to everybody who has it, so they stay as they are. Of a pipe or terminal a description of
    its own is opened for each write: it must not become another file where a fork closes what it does not know.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._dropped = 0

    def write(self, text: str) -> int:
        """One message, at once or not at all, as far as it is no longer than a page. Never raises OSError."""
        said = f"({self._dropped} messages before this one were dropped: nobody read them)\n{text}" if self._dropped else text
        with contextlib.suppress(OSError):
            _write_at_once(self._fd, said.encode(errors="backslashreplace"))
            self._dropped = 0
            return len(text)
        self._dropped += 1
        return len(text)

    def flush(self) -> None:
        """There is nothing to flush."""


def takes(fd: int) -> bool:
    """Would it take a line now, or is it full, and nobody reads it? True, too, where it can say what is wrong with it."""
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(0))


def _write_at_once(fd: int, data: bytes) -> None:
    """Raises BlockingIOError: nobody reads it now; OSError: nobody will."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        with socket.socket(fileno=os.dup(fd)) as other:
            other.send(data, socket.MSG_DONTWAIT)
        return
    if not stat.S_ISFIFO(mode) and not stat.S_ISCHR(mode):
        os.write(fd, data)
        return
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # another user's, or no descriptor left; other writers may still come in between
        if not takes(fd):
            raise BlockingIOError from None
        os.write(fd, data[: select.PIPE_BUF])
        return
    try:
        os.write(own, data)
    finally:
        os.close(own)
