"""The socket between clients and the supervisor: both ends of one small protocol.

SOCK_SEQPACKET, so that a message is a packet and the kernel reports the peer's death as end of file, in any pid
namespace. A message is one JSON object of at most MESSAGE_BYTES_MAX; each request gets one reply.

    {"op": "hello", "layout": n, "format": n, "pid": n, "role": "client"}      first, and once
        -> {"uuid", "epoch", "control", "control_bytes", "log", "ring_bytes", "directory", "config"}, the bell's eventfd
    {"op": "lane", "bytes": n, "wait": seconds}
        -> {"slot", "generation", "name", "bytes"}, at once or, if every place is taken but some are closing, when one has
           closed; refused after `wait`. Without it there is no limit. Any other request of the connection ends the waiting
    {"op": "stream", "name": s}   -> {"id"}
    {"op": "status"}              -> the report
    {"op": "stop"}                -> {}, then the engine stops

Every reply has "ok", and the request's "tag", so that the answer to a request that timed out is never taken for the
answer to another. A refusal is {"ok": false, "error": class name, "message", facts}. The connection stays open as long
as the client lives.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import select
import socket
import struct
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ringwal._native import lib
from ringwal.errors import ConfigError, Error, NotRunning, VersionMismatch, by_name

SOCKET_NAME = "engine.sock"
MESSAGE_BYTES_MAX = 64 * 1024
BACKLOG = 1024
WAIT_SHARE = 0.8
"""Of a client's timeout, how much the engine may wait for a place: the refusal has to arrive within the rest."""

Message: TypeAlias = dict[str, Any]


def check_stream_name(name: object) -> bytes:
    """The UTF-8 form of a legal stream name. Raises ConfigError: not 1 to 120 bytes, or with control characters."""
    if not isinstance(name, str):
        raise ConfigError(f"a stream name is a str, not {type(name).__name__}")
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"stream name {name!r} cannot be written as UTF-8") from None
    if not 1 <= len(encoded) <= lib.RW_STREAM_NAME_MAX:
        raise ConfigError(
            f"stream name {name[:40]!r} has {len(encoded)} bytes in UTF-8; it must have 1 to {lib.RW_STREAM_NAME_MAX}"
        )
    if any(c < " " or "\x7f" <= c < "\xa0" for c in name):
        raise ConfigError(f"stream name {name!r} contains control characters")
    return encoded


@contextlib.contextmanager
def _address(directory: Path) -> Iterator[str]:
    """A path to the socket that is short enough for the kernel, however long that of the directory is."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        os.close(fd)


def _encode(message: Message) -> bytes:
    packet = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    if len(packet) > MESSAGE_BYTES_MAX:
        raise ConfigError(f"a message of {len(packet)} bytes is larger than the limit of {MESSAGE_BYTES_MAX}")
    return packet


def _decode(packet: bytes, flags: int) -> Message:
    if flags & socket.MSG_TRUNC:
        raise ConfigError(f"a message is larger than the limit of {MESSAGE_BYTES_MAX} bytes")
    try:
        message = json.loads(packet)
    except (ValueError, RecursionError):
        raise ConfigError("a message is not JSON") from None
    if not isinstance(message, dict):
        raise ConfigError("a message is not a JSON object")
    return message


def _packet(connection: socket.socket) -> tuple[bytes, list[int], int]:
    """The next packet, the descriptors that came with it, and its flags. Descriptors are close-on-exec from the start."""
    fds = array.array("i")
    # Not socket.recv_fds(), which drops its flags.
    packet, ancillary, flags, _ = connection.recvmsg(
        MESSAGE_BYTES_MAX, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return packet, list(fds), flags


# ------------------------------------------------------------------------------------------------------- client


class Hello(NamedTuple):
    """What the engine says of itself."""

    uuid: bytes
    epoch: int
    control: str
    control_bytes: int
    log: str
    ring_bytes: int
    directory: str
    config: dict[str, Any]


class LaneGrant(NamedTuple):
    """A lane made for this client: the shared object `name` with `bytes` of data."""

    slot: int
    generation: int
    name: str
    bytes: int


class Registration:
    """A client's connection to its engine. Closing it, or dying, gives back everything that was granted on it.

    Threads may share it: one request is on its way at a time.
    """

    def __init__(self, directory: str | os.PathLike[str], timeout: float | None = 5.0) -> None:
        """Connect and say hello.

        Args:
            directory: the engine's.
            timeout: seconds that an answer may take, of this and every later request; None waits for ever. An engine
                that is still recovering answers when it is done.

        Raises:
            NotRunning: nobody listens there, or no answer came in time.
            VersionMismatch: the engine was built with another memory layout.
        """
        self.directory = Path(directory)
        self.timeout = timeout
        self._lock = threading.Lock()
        self._tag = 0
        self._bell: list[int] = []
        self._socket = self._connect()
        try:
            self.hello = self._say_hello()
        except BaseException:
            self.close()
            raise

    @property
    def bell_fd(self) -> int:
        """The eventfd that wakes the WAL process. It stays open as long as this object exists, also after `close()`: a
        thread may be ringing, and the number must not become another file's meanwhile."""
        return self._bell[0]

    def lane(self, lane_bytes: int) -> LaneGrant:
        """A new lane of at least `lane_bytes`; 0 for one that carries only wait flags.

        Places that other clients have just left take a moment to come back; that is waited for, within the timeout.

        Raises:
            ConfigError: no lane may have that size.
            ShmUnavailable: all places are taken, or there is no memory.
        """
        wait = {} if self.timeout is None else {"wait": max(self.timeout * WAIT_SHARE, 0.0)}
        reply = self._request({"op": "lane", "bytes": lane_bytes, **wait})
        return LaneGrant(reply["slot"], reply["generation"], reply["name"], reply["bytes"])

    def stream(self, name: str) -> int:
        """The id of the stream of that name, opened on first use.

        Raises:
            ConfigError: the name is not legal.
            ShmUnavailable: the stream table is full.
        """
        check_stream_name(name)
        return int(self._request({"op": "stream", "name": name})["id"])

    def status(self) -> dict[str, Any]:
        """The engine's report."""
        reply = self._request({"op": "status"})
        return {key: value for key, value in reply.items() if key not in ("ok", "tag")}

    def stop(self) -> None:
        """Ask the engine to stop in order. It has begun to when this returns, and has ended when `alive()` is False."""
        self._request({"op": "stop"})

    def alive(self) -> bool:
        """False when the engine has closed the connection: proof that it is gone, or has dropped this client."""
        try:
            # Not by peeking at what there is to read: that may be the reply that another thread waits for.
            poller = select.poll()
            poller.register(self._socket, select.POLLRDHUP)
            return not poller.poll(0)
        except (OSError, ValueError):  # ValueError: closed
            return False

    def fileno(self) -> int:
        """For polling: readable when the engine has gone."""
        return self._socket.fileno()

    def close(self) -> None:
        """Detach. Calling it again does nothing."""
        self._socket.close()

    def _connect(self) -> socket.socket:
        hint = f"start one with `ringwal run {self.directory}`, or connect with autostart=True"
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            if self.timeout is not None:
                # settimeout() would make connect() fail at once on a full backlog instead of waiting for a place in it.
                seconds, rest = divmod(max(self.timeout, 0.001), 1)
                limit = struct.pack("@ll", int(seconds), int(rest * 1e6))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            with _address(self.directory) as address:
                connection.connect(address)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            connection.close()
            raise NotRunning(f"no engine runs on {self.directory}; {hint}") from error
        except BlockingIOError as error:
            connection.close()
            raise NotRunning(f"the engine on {self.directory} did not answer within {self.timeout:g} s") from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _say_hello(self) -> Hello:
        message = {
            "op": "hello",
            "layout": lib.rw_fingerprint(),
            "format": lib.RW_FORMAT_VERSION,
            "pid": os.getpid(),
            "role": "client",
        }
        reply = self._request(message)
        if not self._bell:
            raise VersionMismatch(f"the engine on {self.directory} sent no bell")
        facts = {name: reply[name] for name in Hello._fields}
        return Hello(**{**facts, "uuid": bytes.fromhex(reply["uuid"])})

    def _request(self, message: Message) -> Message:
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        with self._lock:
            self._tag += 1
            packet = _encode({**message, "tag": self._tag})
            try:
                self._set_timeout(deadline)
                self._socket.send(packet)
                while (reply := self._receive(deadline)).get("tag") != self._tag:
                    pass
            except TimeoutError as error:
                raise NotRunning(f"the engine on {self.directory} did not answer within {self.timeout:g} s") from error
            except OSError as error:
                raise NotRunning(f"the engine on {self.directory} has ended") from error
        if reply.get("ok") is not True:
            raise by_name(str(reply.get("error")), str(reply.get("message")), reply)
        return reply

    def _receive(self, deadline: float | None) -> Message:
        self._set_timeout(deadline)
        packet, fds, flags = _packet(self._socket)
        for fd in fds:
            self._bell.append(fd)
            weakref.finalize(self, os.close, fd).atexit = False
        if not packet:
            raise ConnectionResetError
        return _decode(packet, flags)

    def _set_timeout(self, deadline: float | None) -> None:
        if deadline is not None:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))


# --------------------------------------------------------------------------------------------------- supervisor


class Connection:
    """The supervisor's end of one client's connection. Nothing here blocks: a peer that does not read is dropped."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self.pid, self.uid, _ = struct.unpack("3i", credentials)
        self.greeted = False

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
            packet, fds, flags = _packet(self._socket)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise EOFError from error
        for fd in fds:  # clients have no descriptor to give
            os.close(fd)
        if not packet:
            raise EOFError
        return _decode(packet, flags)

    def reply(self, request: Message, facts: Message, fds: Sequence[int] = ()) -> None:
        """Answer `request`. Raises EOFError if the client has gone or does not read its answers."""
        self._send({"ok": True, "tag": request.get("tag"), **facts}, fds)

    def refuse(self, request: Message, error: Error) -> None:
        """Answer `request` with an error. Raises EOFError as `reply` does."""
        facts = {name: value for name, value in error.facts().items() if isinstance(value, int | str | None)}
        tag = request.get("tag")
        self._send({**facts, "ok": False, "tag": tag, "error": type(error).__name__, "message": str(error)}, ())

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _send(self, message: Message, fds: Sequence[int]) -> None:
        try:
            packet = _encode(message)
            if fds:
                socket.send_fds(self._socket, [packet], list(fds))
            else:
                self._socket.send(packet)
        except OSError as error:
            raise EOFError from error


class Listener:
    """The supervisor's listening socket in its directory. The caller holds the directory's lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            with _address(directory) as address:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(address)  # noqa: PTH108  what a killed engine left: nobody else may hold the lock
                self._socket.bind(address)
                os.chmod(address, 0o600)  # noqa: PTH101  before listen(): nobody can be connected yet
            self._socket.listen(BACKLOG)
        except BaseException:
            self._socket.close()
            raise

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
        accepted.settimeout(0)
        connection = Connection(accepted)
        if connection.uid in (os.geteuid(), 0):
            return connection
        with contextlib.suppress(EOFError):
            connection.refuse({"tag": 1}, NotRunning("the engine belongs to another user"))
        connection.close()
        return None

    def close(self) -> None:
        """Stop listening and remove the socket's name. Calling it again does nothing."""
        if self._socket.fileno() < 0:
            return
        with contextlib.suppress(OSError), _address(self._directory) as address:
            os.unlink(address)  # noqa: PTH108
        self._socket.close()


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
