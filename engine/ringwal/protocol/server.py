"""The supervisor's end of the registration socket. The protocol is described in messages.py."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Sequence

from ringwal._native import lib
from ringwal.errors import ConfigError, Error, FileError, VersionMismatch
from ringwal.protocol import incoming
from ringwal.protocol.messages import SOCKET_NAME, Message, check_request, decode, encode

BACKLOG = 1024


class Connection:
    """The supervisor's end of one client's connection. Nothing here blocks: a peer that does not read is dropped."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        incoming.prepare(connection)
        self._socket = connection
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self.pid, self.uid, _ = struct.unpack("3i", credentials)
        self.greeted = False
        self.granted: tuple[object, int, int] | None = None
        """Tag of the request that got the latest lane, and the lane's slot and generation."""

    def fileno(self) -> int:
        """For polling."""
        return self._socket.fileno()

    def receive(self) -> Message | None:
        """The next request, or None if there is none yet.

        Raises:
            EOFError: the client has gone.
            ConfigError: the packet is not a message; the connection is of no use any more.
        """
        try:
            packet, flags = incoming.receive(self._socket)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise EOFError from error
        if not packet:
            raise EOFError
        return check_request(decode(packet, flags))

    def reply(self, request: Message, facts: Message, fds: Sequence[int] = ()) -> None:
        """Answer `request`. Raises EOFError if the client has gone or does not read its answers."""
        self._send({"ok": True, "tag": request.get("tag"), **facts}, fds)

    def refuse(self, request: Message, error: Error) -> None:
        """Answer `request` with an error. Raises EOFError as `reply` does."""
        facts = {name: value for name, value in error.facts().items() if isinstance(value, int | str | None)}
        tag = request.get("tag")
        self._send({**facts, "ok": False, "tag": tag, "error": type(error).__name__, "message": str(error)}, ())

    def hang_up(self, error: Error) -> None:
        """Tell the client why, and close."""
        with contextlib.suppress(EOFError):
            self.refuse({}, error)
        self.close()

    def close(self) -> None:
        """Hang up. What was sent is still read."""
        incoming.hang_up(self._socket)

    def leave(self) -> None:
        """In the child of a fork: the connection stays its parent's."""
        self._socket.close()

    def _send(self, message: Message, fds: Sequence[int]) -> None:
        try:
            packet = encode(message)
            if fds:
                socket.send_fds(self._socket, [packet], list(fds))
            else:
                self._socket.send(packet)
        except OSError as error:
            raise EOFError from error


class Listener:
    """The supervisor's listening socket in its directory. The caller holds the directory's lock."""

    def __init__(self, directory: int) -> None:
        """`directory` is a descriptor of DIR, which stays open meanwhile. Raises OSError."""
        self._directory = directory
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET_NAME, dir_fd=directory)  # what a killed engine left: nobody else may hold the lock
        self._bind()

    def _bind(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            address = f"/proc/self/fd/{self._directory}/{SOCKET_NAME}"
            self._socket.bind(address)
            os.chmod(address, 0o600)  # noqa: PTH101  before listen(): nobody can be connected yet
            owner = os.fstat(self._directory)
            if os.geteuid() == 0 and owner.st_uid != 0:  # as everything that root makes there
                os.chown(address, owner.st_uid, owner.st_gid)
            self._name = os.stat(SOCKET_NAME, dir_fd=self._directory)
            self._socket.listen(BACKLOG)
        except BaseException:
            self._socket.close()
            raise

    def state(self) -> str | None:
        """None: clients find this listener by its name. "missing": there is no such name. "foreign": it is another's."""
        try:
            found = os.stat(SOCKET_NAME, dir_fd=self._directory)
        except FileNotFoundError:
            return "missing"
        return None if os.path.samestat(found, self._name) else "foreign"

    def make_again(self) -> None:
        """A new socket under the name that somebody removed. `fileno()` is another afterwards. Raises OSError."""
        before = self._socket
        try:
            self._bind()
        except BaseException:
            self._socket = before
            raise
        _close_listening(before)

    def fileno(self) -> int:
        """For polling."""
        return self._socket.fileno()

    def accept(self) -> Connection | None:
        """The next client of the engine's own user or of root, or None. Others are told so and hung up on."""
        try:
            accepted, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                return None  # the machine is short of something: those who are here go on, those who knock wait
            raise
        connection = Connection(accepted)
        if connection.uid in (os.geteuid(), 0):
            return connection
        connection.hang_up(self._other_user(connection.uid))
        return None

    def _other_user(self, user: int) -> FileError:
        path = "this directory"
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{self._directory}")
        own = os.geteuid()
        return FileError(
            f"the engine on {path} runs as user {own} and serves that user and root; this process is user {user}",
            errno.EACCES,
            path,
            own,
        )

    def leave(self) -> None:
        """Close the socket; its name stays whose it is."""
        self._socket.close()

    def close(self) -> None:
        """Stop listening, and remove the socket's name if it is this one's. Calling it again does nothing."""
        if self._socket.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            if self.state() is None:
                os.unlink(SOCKET_NAME, dir_fd=self._directory)
        _close_listening(self._socket)


def _close_listening(listener: socket.socket) -> None:
    """Those who knocked and were not let in have sent something, too."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)  # nobody else knocks
        while True:
            accepted, _ = listener.accept()
            incoming.prepare(accepted)
            incoming.hang_up(accepted)
    listener.close()


def check_hello(request: Message) -> None:
    """Refuse a client of another build. Raises VersionMismatch or ConfigError."""
    if request.get("op") != "hello":
        raise ConfigError("the first message of a connection is hello")
    for key, own in (("layout", lib.rw_fingerprint()), ("format", lib.RW_FORMAT_VERSION)):
        if request.get(key) != own:
            raise VersionMismatch(
                f"client and engine come from different builds ({key} {request.get(key)} and {own});"
                " install the same version on both sides and start them again"
            )
