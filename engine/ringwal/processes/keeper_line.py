"""What the keeper asks the supervisor for: small messages over a socketpair, which nobody waits for.

The keeper holds no lane, so what it wants done to streams the supervisor submits through its own. A message that finds no
room is lost, and asked for again in a later round of the keeper's; so is what was on the way when either died.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from typing import NamedTuple

_TRIM = struct.Struct("=IIQ")
TAKEN_AT_ONCE = 64
"""Messages: the supervisor has others to serve."""


class AskedTrim(NamedTuple):
    """Records of the stream of that number, at that place, below the offset `before` may go."""

    place: int
    number: int
    before: int


class SupervisorEnd:
    """The supervisor's: one line to each keeper after the other. It is registered with the selector while there is one."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._ours: socket.socket | None = None

    def connect(self) -> socket.socket:
        """The other end of a new line, to be inherited, then closed. Raises OSError."""
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._ours = ours
        self._selector.register(ours, selectors.EVENT_READ, self)
        return theirs

    def asked(self) -> list[AskedTrim]:
        """What has come. A keeper that is gone is not listened to any more."""
        found: list[AskedTrim] = []
        while self._ours is not None and len(found) < TAKEN_AT_ONCE:
            try:
                packet = self._ours.recv(_TRIM.size + 1)
            except BlockingIOError:
                break
            except OSError:
                packet = b""
            if not packet:
                self.close()
            elif len(packet) == _TRIM.size:
                found.append(AskedTrim(*_TRIM.unpack(packet)))
        return found

    def close(self) -> None:
        """Calling it again does nothing."""
        ours, self._ours = self._ours, None
        if ours is not None:
            with contextlib.suppress(KeyError, ValueError):  # a selector that is closed already
                self._selector.unregister(ours)
            ours.close()

    def leave(self) -> None:
        """In a stranger's child: only the descriptor is closed."""
        ours, self._ours = self._ours, None
        if ours is not None:
            ours.close()


class KeeperEnd:
    """The keeper's."""

    def __init__(self, line: socket.socket) -> None:
        self.socket = line

    def ask_trim(self, place: int, number: int, before: int) -> bool:
        """Ask that the stream of that number, which is at that place, begins at offset `before`, which has to be confirmed.

        False: there was no room for the message. True does not say that it will be done: look at the stream's start offset.
        """
        try:
            self.socket.send(_TRIM.pack(place, number, before))
        except OSError:
            return False
        return True
