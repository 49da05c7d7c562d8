"""What clients send, received and let go so that nothing in it holds up the supervisor.

A packet may carry descriptors, though no client of ours has one to give. Whoever closes the last descriptor of a file waits
as long as the file's owner likes: a socket for its linger, a file of FUSE or NFS for its server. It makes no difference
that the packet is received without room for them, or never received and dropped with its socket: the kernel closes what
was on its way in the process that drops it. So a packet with descriptors is seen before it is taken (MSG_PEEK, which says
that there was no room for them), and stays where it is. A socket that has one is closed by a thread that nobody waits for.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import deque

from ringwal.errors import ConfigError
from ringwal.protocol.messages import MESSAGE_BYTES_MAX

_ROOM = socket.CMSG_SPACE(struct.calcsize("3i"))
"""For the sender's credentials, which are with every packet and not with the end, and for nothing else."""


def prepare(connection: socket.socket) -> None:
    """For `receive` and `hang_up`."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def receive(connection: socket.socket) -> tuple[bytes, int]:
    """The next packet and its flags; no bytes at the end.

    Raises:
        ConfigError: it carries descriptors. It stays there; the connection is of no use any more.
        BlockingIOError: there is none. OSError.
    """
    _, _, flags, _ = connection.recvmsg(1, _ROOM, socket.MSG_PEEK)
    if flags & socket.MSG_CTRUNC:
        raise ConfigError("a request carries no descriptors")
    packet, _, flags, _ = connection.recvmsg(MESSAGE_BYTES_MAX, _ROOM)
    return packet, flags


def hang_up(connection: socket.socket) -> None:
    """Close it without waiting. What was sent to the peer, it can still read; what the peer has sent is gone."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # nothing more comes in
    if _emptied(connection):
        connection.close()
    else:
        _closers.take(connection)


def _emptied(connection: socket.socket) -> bool:
    """Drop what has come. False: there are descriptors in it."""
    connection.settimeout(0)
    while True:
        try:
            _, ancillary, flags, _ = connection.recvmsg(1, _ROOM, socket.MSG_PEEK)
            if flags & socket.MSG_CTRUNC:
                return False
            if not ancillary:
                return True
            connection.recv(1)
        except ConnectionResetError:
            continue  # said once, before the rest
        except OSError:
            return True


class Closers:
    """Threads that close sockets: as many as there are sockets to close, and at most so many. What is left waits for them."""

    THREADS_MAX = 8

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: deque[socket.socket] = deque()
        self._running = 0

    def take(self, connection: socket.socket) -> None:
        """Close it at some time."""
        with self._lock:
            self._left.append(connection)
            if self._running == self.THREADS_MAX:
                return
            self._running += 1
        try:
            threading.Thread(target=self._work, name="ringwal closer", daemon=True).start()
        except RuntimeError:  # the system has no thread for it: it stays open until there is another one to close
            with self._lock:
                self._running -= 1

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._left:
                    self._running -= 1
                    return
                connection = self._left.popleft()
            with contextlib.suppress(OSError):
                connection.close()


_closers = Closers()
