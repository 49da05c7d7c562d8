"""A client's end of the registration socket. The protocol is described in messages.py."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ringwal import lock_file
from ringwal._native import lib
from ringwal.errors import NotRunning, ShmUnavailable, by_name
from ringwal.protocol.messages import (
    SOCKET_NAME,
    Descriptors,
    Hello,
    LaneGrant,
    Message,
    check_stream_name,
    close_all,
    decode,
    encode,
    receive_packet,
)

WAIT_SHARE = 0.8
"""Of a client's timeout, how much the engine may wait for a place: the refusal has to arrive within the rest."""


@contextlib.contextmanager
def _address(directory: Path) -> Iterator[str]:
    """A path to the socket that is short enough for the kernel, however long that of the directory is."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        os.close(fd)


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
        self.directory = Path(directory).absolute()
        self.timeout = timeout
        self._lock = threading.Lock()
        self._tag = 0
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
        return self._fds.bell

    def hand_over(self) -> Descriptors:
        """What came with the hello, once. The caller closes all but the bell."""
        del self._open[1:]
        return self._fds

    def lane(self, lane_bytes: int) -> tuple[LaneGrant, int]:
        """A new lane of at least `lane_bytes`, and its descriptor, which the caller closes; 0 for one that carries only wait
        flags.

        Places that other clients have just left take a moment to come back; that is waited for, within the timeout.

        Raises:
            ConfigError: no lane may have that size.
            ShmUnavailable: all places are taken, or there is no memory.
        """
        wait = {} if self.timeout is None else {"wait": max(self.timeout * WAIT_SHARE, 0.0)}
        reply, fds = self._request({"op": "lane", "bytes": lane_bytes, **wait}, 1)
        return LaneGrant(reply["slot"], reply["generation"], reply["bytes"]), fds[0]

    def release(self, slot: int, generation: int) -> None:
        """Give that lane and its place back."""
        self._request({"op": "release", "slot": slot, "generation": generation})

    def stream(self, name: str) -> int:
        """The id of the stream of that name, opened on first use.

        Raises:
            ConfigError: the name is not legal.
            ShmUnavailable: the stream table is full.
        """
        check_stream_name(name)
        return int(self._request({"op": "stream", "name": name})[0]["id"])

    def status(self) -> dict[str, Any]:
        """The engine's report."""
        reply, _ = self._request({"op": "status"})
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
            raise NotRunning(self._why_not()) from error
        except BlockingIOError as error:
            connection.close()
            raise self._no_answer() from error
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
        reply, fds = self._request(message, len(Descriptors._fields))
        self._fds, self._open = Descriptors(*fds), fds
        weakref.finalize(self, close_all, fds).atexit = False
        facts = {name: reply[name] for name in Hello._fields}
        return Hello(**{**facts, "uuid": bytes.fromhex(reply["uuid"])})

    def _why_not(self) -> str:
        """Why nobody answers at the socket of this directory."""
        pid, held = self._holder()
        if pid is not None:
            return (
                f"the engine on {self.directory} (process {pid}) runs and cannot be reached: its {SOCKET_NAME} is missing;"
                " it makes it again within seconds"
            )
        if held:
            return (
                f"no engine answers on {self.directory}, but one holds it: it is ending; or its lock file and socket were"
                " removed, and it makes them again within seconds; or it runs in another pid namespace"
            )
        hint = f"start one with `ringwal run {self.directory}`, or connect with autostart=True"
        return f"no engine runs on {self.directory}; {hint}"

    def _no_answer(self) -> NotRunning:
        pid, _ = self._holder()
        named = "" if pid is None else f" (process {pid})"
        return NotRunning(f"the engine on {self.directory}{named} did not answer within {self.timeout:g} s")

    def _holder(self) -> tuple[int | None, bool]:
        """The pid of the engine that holds the directory, if it can be seen from here, and whether there is one."""
        try:
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None, False
        try:
            found = lock_file.holder(fd)
            return (None, lock_file.held(fd)) if found is None else (found.pid, True)
        finally:
            os.close(fd)

    def _request(self, message: Message, wanted: int = 0) -> tuple[Message, list[int]]:
        """The reply, and the descriptors that came with it: `wanted` of them, which the caller closes."""
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        with self._lock:
            self._tag += 1
            packet = encode({**message, "tag": self._tag})
            try:
                self._set_timeout(deadline)
                self._socket.send(packet)
                while True:
                    reply, fds = self._receive(deadline)
                    complete = reply.get("ok") is not True or len(fds) == wanted
                    if reply.get("tag") == self._tag and complete:
                        break
                    self._give_back(reply, fds)
                    if not complete:
                        raise ShmUnavailable(
                            f"{len(fds)} of {wanted} descriptors came from the engine: this process may open no more files"
                        )
            except TimeoutError as error:
                raise self._no_answer() from error
            except OSError as error:
                raise NotRunning(f"the engine on {self.directory} has ended") from error
        if reply.get("ok") is not True:
            close_all(fds)
            raise by_name(str(reply.get("error")), str(reply.get("message")), reply)
        return reply, fds

    def _receive(self, deadline: float | None) -> tuple[Message, list[int]]:
        self._set_timeout(deadline)
        packet, fds, flags = receive_packet(self._socket)
        if not packet:
            raise ConnectionResetError
        try:
            return decode(packet, flags), fds
        except BaseException:
            close_all(fds)
            raise

    def _give_back(self, reply: Message, fds: list[int]) -> None:
        """What an answer grants that cannot be used, or that nobody waits for any more. Nor for the answer to this."""
        close_all(fds)
        if "slot" in reply:
            returned = {"op": "release", "slot": reply["slot"], "generation": reply["generation"], "tag": 0}
            self._socket.send(encode(returned))

    def _set_timeout(self, deadline: float | None) -> None:
        if deadline is not None:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
