"""A client's end of the registration socket. The protocol is described in messages.py."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from ringwal import limits, lock_file
from ringwal._native import lib
from ringwal.errors import ConfigError, NotRunning, ShmUnavailable, by_name
from ringwal.file_errors import FileErrors, check_proc
from ringwal.held import Held
from ringwal.protocol.arrival import receive
from ringwal.protocol.messages import (
    SOCKET_NAME,
    Descriptors,
    Hello,
    LaneGrant,
    Message,
    check_consumer_name,
    check_owner_name,
    check_stream_name,
    encode,
)
from ringwal.steps import Ready, Rest, Steps, alone, park
from ringwal.thread_lock import ThreadLock

PEEK_BYTES = 512
"""A reply that grants a lane is shorter."""

FIRST_LOOK, LONGEST_LOOK = 0.002, 0.1
"""How long a request sleeps, at first and at most, before it looks whether another one has met its answer."""

WAIT_SHARE = 0.8
"""Of a client's timeout, how much the engine may wait for a place: the refusal has to arrive within the rest."""


Role = Literal["client", "stop"]


@contextlib.contextmanager
def _address(directory: Path) -> Iterator[str]:
    """A path to the socket that is short enough for the kernel, however long that of the directory is."""
    held = Held()
    fd = held[held.open(directory, os.O_PATH | os.O_DIRECTORY)]
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        held.close()


class Registration:
    """A client's connection to its engine. Closing it, or dying, gives back everything that was granted on it.

    Threads may share it: one request is on its way at a time, except that a signal handler or a destructor may make one in
    the middle of another one of its thread. That one may take the outer one's answer from the socket, and ends its waiting
    for a lane: so the outer one asks again. A request that was ended by an exception leaves nothing but an answer with a tag
    that nobody waits for. What such an answer grants is given back by whoever meets it, or by the next request for a lane.
    """

    def __init__(self, directory: str | os.PathLike[str], timeout: float | None = 5.0, *, role: Role = "client") -> None:
        """Connect and say hello.

        Args:
            directory: the engine's.
            role: "stop" is heard by an engine that is stopping, too.
            timeout: seconds that an answer may take, of this and every later request; None waits for ever. An engine
                that is still recovering answers when it is done.

        Raises:
            NotRunning: nobody listens there, or no answer came in time.
            FileError: the system does not let this process there.
            VersionMismatch: the engine was built with another memory layout.
        """
        self._prepare(directory, timeout, role)
        park(self._join())

    @classmethod
    def steps(
        cls, directory: str | os.PathLike[str], timeout: float | None = 5.0, *, role: Role = "client"
    ) -> Steps[Self]:
        """One that is made in steps. Arguments and errors as `Registration`."""
        made = cls.__new__(cls)
        made._prepare(directory, timeout, role)
        yield from made._join()
        return made

    def _prepare(self, directory: str | os.PathLike[str], timeout: float | None, role: Role) -> None:
        self.directory = limits.path(directory, error=ConfigError).absolute()
        self.timeout = timeout
        self._role = role
        self._lock = ThreadLock()
        self._tags = itertools.count(1)
        self._latest = 0
        self._waiting: Ready | None = None  # for the socket
        self.granted: dict[tuple[int, int], None] = {}  # slots and generations: lanes that the engine keeps for this client

    def _join(self) -> Steps[None]:
        self._socket = yield from self._connect()
        try:
            self.hello = yield from self._say_hello()
        except BaseException:
            self.close()
            raise

    @property
    def doorbell_fd(self) -> int:
        """The eventfd that wakes the WAL process. It stays open as long as this object exists, also after `close()`: a
        thread may be ringing, and the number must not become another file's meanwhile."""
        return self.arrival[0]

    def hand_over(self) -> Descriptors:
        """What came with the hello, once. The caller closes all but the doorbell."""
        return Descriptors(self.doorbell_fd, *(self.arrival.take(place) for place in range(1, len(self.arrival))))

    def lane(self, lane_bytes: int) -> tuple[LaneGrant, int]:
        """As `lane_steps`, with the descriptor, which the caller closes."""
        granted, arrival = park(self.lane_steps(lane_bytes))
        return granted, arrival.take(0)

    def lane_steps(self, lane_bytes: int, *, bell: bool = False) -> Steps[tuple[LaneGrant, Held]]:
        """A new lane of at least `lane_bytes`, and its descriptor; 0 for one that carries only wait flags. With `bell`, the
        second descriptor listens to this lane's bell, which the drain rings as csrc/wait.h has it.

        Places that other clients have just left take a moment to come back; that is waited for, within the timeout.

        Raises:
            ConfigError: no lane may have that size.
            ShmUnavailable: all places are taken, or there is no memory.
        """
        wait = {} if self.timeout is None else {"wait": max(self.timeout * WAIT_SHARE, 0.0)}
        rung = {"bell": True} if bell else {}
        reply, arrival = yield from self._request({"op": "lane", "bytes": lane_bytes, **wait, **rung}, 2 if bell else 1)
        return LaneGrant(reply["slot"], reply["generation"], reply["bytes"]), arrival

    def release(self, slot: int, generation: int) -> None:
        """Give that lane and its place back. Again, it does nothing."""
        park(self.release_steps(slot, generation))

    def release_steps(self, slot: int, generation: int) -> Steps[None]:
        """As `release`."""
        yield from self._request({"op": "release", "slot": slot, "generation": generation})
        self.granted.pop((slot, generation), None)

    def stream(self, name: str, *, look: bool = False) -> int:
        """As `stream_steps`."""
        return park(self.stream_steps(name, look=look))

    def stream_steps(self, name: str, *, look: bool = False) -> Steps[int]:
        """The handle of the stream of that name (csrc/stream.h: its number and its place), made on first use unless this is
        only a look.

        Raises:
            ConfigError: the name is not legal.
            NoSuchStream: there is none, and this is only a look.
            ShmUnavailable: the stream table is full.
        """
        check_stream_name(name)
        message: Message = {"op": "stream", "name": name}
        reply, _ = yield from self._request({**message, "look": True} if look else message)
        return int(lib.rw_handle(reply["place"], reply["number"]))

    def change_steps(self, message: Message) -> Steps[Message]:
        """Ask for a trim, a deletion, a creation, other settings (messages.py). It is under way when this returns.

        Raises:
            NotRunning: the engine is stopping, and refused it; or, with a `__cause__`, no answer came: it may be under way.
            ConfigError: it cannot be meant.
        """
        reply, _ = yield from self._request(message)
        return reply

    def claim_steps(self, stream: str, name: str) -> Steps[tuple[int, int, int]]:
        """The producer of that name is the caller's from now on, on stable storage: its number, epoch and next sequence.

        Raises:
            NotRunning: the engine is stopping; or, with a `__cause__`, no answer came: claim it again, which does no harm.
            ConfigError: a name that is none. ShmUnavailable: there is no place for another producer.
        """
        check_stream_name(stream)
        check_owner_name(name)
        reply, _ = yield from self._request({"op": "claim", "stream": stream, "name": name})
        return int(reply["number"]), int(reply["epoch"]), int(reply["next"])

    def consume_steps(self, name: str, wanted: list[tuple[str, int]]) -> Steps[list[dict[str, Any]]]:
        """The consumer of that name is the caller's from now on, on stable storage: of each of its streams its name, the row's
        number and epoch, and where it goes on. ``wanted``: streams, and where it begins in each if it is new there.

        Raises as `claim_steps`.
        """
        check_consumer_name(name)
        said: Message = {"op": "consume", "name": name, "count": len(wanted)}
        for n, (stream, start) in enumerate(wanted):  # requests have plain values only
            said |= {f"stream{n}": stream, f"start{n}": start}
        reply, _ = yield from self._request(said)
        return list(reply["rows"])

    def status(self) -> dict[str, Any]:
        """The engine's report."""
        return park(self.status_steps())

    def status_steps(self) -> Steps[dict[str, Any]]:
        """As `status`."""
        reply, _ = yield from self._request({"op": "status"})
        return {key: value for key, value in reply.items() if key not in ("ok", "tag")}

    def stop(self) -> None:
        """Ask the engine to stop in order. It has begun to when this returns, and has ended when `alive()` is False."""
        park(self._request({"op": "stop"}))

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
        if self._waiting is not None and self._waiting.leave is not None:
            self._waiting.leave()
        self._socket.close()

    def forked(self) -> None:
        """In the child of a fork: detach. The loop in which a task waits is the parent's, and so is its selector."""
        self._waiting = None
        self.close()

    def _connect(self) -> Steps[socket.socket]:
        with FileErrors(self.directory, "reach an engine on"):
            return (yield from self._connect_to(self.directory))

    def _connect_to(self, directory: Path) -> Steps[socket.socket]:
        deadline = self._deadline()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        look = FIRST_LOOK
        try:
            connection.settimeout(0.0)
            while not _is_connected(connection, directory):
                # The backlog is full, and nobody says when there is a place in it.
                if deadline is not None and time.monotonic() >= deadline:
                    raise self._no_answer()
                yield Rest(look)
                look = min(2 * look, LONGEST_LOOK)
            connection.settimeout(None)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            connection.close()
            raise self._nobody() from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _deadline(self) -> float | None:
        return None if self.timeout is None else time.monotonic() + self.timeout

    def _say_hello(self) -> Steps[Hello]:
        message = {
            "op": "hello",
            "layout": lib.rw_fingerprint(),
            "format": lib.RW_FORMAT_VERSION,
            "pid": os.getpid(),
            "role": self._role,
        }
        reply, self.arrival = yield from self._request(message, len(Descriptors._fields))
        facts = {name: reply[name] for name in Hello._fields}
        return Hello(**{**facts, "uuid": bytes.fromhex(reply["uuid"])})

    def _nobody(self) -> NotRunning:
        """Why nobody answers at the socket of this directory. Raises Error: here nobody could."""
        check_proc()
        pid, held = self._holder()
        if pid is not None:
            return _ending(
                f"the engine on {self.directory} (process {pid}) runs and cannot be reached: its {SOCKET_NAME} is missing;"
                " it makes it again within seconds"
            )
        if held:
            return _ending(
                f"no engine answers on {self.directory}, but one holds it: it is ending; or its lock file and socket were"
                " removed, and it makes them again within seconds; or it runs in another pid namespace"
            )
        error = NotRunning(f"no engine runs on {self.directory}{_way_in(self.directory)}")
        error.why = "absent"
        return error

    def _no_answer(self) -> NotRunning:
        pid, _ = self._holder()
        named = "" if pid is None else f" (process {pid})"
        error = NotRunning(f"the engine on {self.directory}{named} did not answer within {self.timeout:g} s")
        error.why = "silent"
        return error

    def _holder(self) -> tuple[int | None, bool]:
        """The pid of the engine that holds the directory, if it can be seen from here, and whether there is one."""
        directory = Held()
        try:
            fd = directory[directory.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)]
        except OSError:
            return None, False
        found = lock_file.holder(fd)
        return (None, lock_file.held(fd)) if found is None else (found.pid, True)

    def _request(self, message: Message, wanted: int = 0) -> Steps[tuple[Message, Held]]:
        """The reply, and the descriptors that came with it: `wanted` of them."""
        try:
            reply, arrival = yield from alone(self._lock, partial(self._ask, message, wanted, self._deadline()))
        except TimeoutError as error:
            raise self._no_answer() from error
        except OSError as error:
            raise NotRunning(f"the engine on {self.directory} has ended") from error
        if reply.get("ok") is not True:
            refusal = by_name(str(reply.get("error")), str(reply.get("message")), reply)
            if isinstance(refusal, NotRunning):  # says an engine
                refusal.why = "ending"
            raise refusal
        return reply, arrival

    def _ask(self, message: Message, wanted: int, deadline: float | None) -> Steps[tuple[Message, Held]]:
        tag, look = (yield from self._send(message, deadline)), FIRST_LOOK
        while True:
            if self._latest != tag:
                tag, look = (yield from self._send(message, deadline)), FIRST_LOOK
            try:
                received = yield from self._receive(deadline, look)
            except TimeoutError:
                self._withdraw(tag)
                raise
            if received is None:
                look = min(2 * look, LONGEST_LOOK)
                continue
            reply, arrival = received
            ours = reply.get("tag") == tag or _of_connection(reply)
            if ours and (reply.get("ok") is not True or len(arrival) == wanted):
                return reply, arrival
            came = len(arrival)
            arrival.close()
            self._give_back(reply)
            if ours:
                raise ShmUnavailable(
                    f"{came} of {wanted} descriptors came from the engine: this process may open no more files"
                )

    def _send(self, message: Message, deadline: float | None) -> Steps[int]:
        """Sends the message under a new tag, which is returned."""
        tag = next(self._tags)
        packet = encode({**message, "tag": tag})
        self._latest = tag
        while True:
            try:
                self._socket.send(packet, socket.MSG_DONTWAIT)
            except BlockingIOError:
                yield from self._await(select.POLLOUT, deadline, LONGEST_LOOK)
            except ConnectionError:  # what the engine said before it hung up is to be read
                return tag
            else:
                return tag

    def _receive(self, deadline: float | None, look: float) -> Steps[tuple[Message, Held] | None]:
        """The next packet. None if there is none after so many seconds. Raises TimeoutError behind the deadline."""
        if not (yield from self._await(select.POLLIN, deadline, look)):
            return None
        try:
            # First known, then taken: whatever happens in between, the lane is not forgotten.
            self._note(self._socket.recv(PEEK_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT))
            received = receive(self._socket.fileno())
        except BlockingIOError:  # somebody has met it meanwhile
            return None
        except ConnectionResetError:  # the engine hung up; the kernel says so once, and then gives what it had said before
            return None
        if received is None:
            raise ConnectionResetError
        return received

    def _withdraw(self, tag: int) -> None:
        """The engine may meet the request only now, and is told at once that nobody waits for what it gives."""
        with contextlib.suppress(OSError):  # no room, or it has ended: the next request gives back what came for this one
            self._socket.send(encode({"op": "withdraw", "request": tag, "tag": 0}), socket.MSG_DONTWAIT)

    def _give_back(self, reply: Message) -> None:
        """The lane of an answer that cannot be used, or that nobody waits for any more. Nor for the answer to this."""
        if "slot" in reply:
            returned = {"op": "release", "slot": reply["slot"], "generation": reply["generation"], "tag": 0}
            with contextlib.suppress(BlockingIOError):  # no room: it stays in `granted`
                self._socket.send(encode(returned), socket.MSG_DONTWAIT)
                self.granted.pop((reply["slot"], reply["generation"]), None)

    def _note(self, packet: bytes) -> None:
        if b'"generation"' in packet:  # or it grants nothing
            with contextlib.suppress(ValueError, TypeError, KeyError):
                reply = json.loads(packet)
                self.granted[int(reply["slot"]), int(reply["generation"])] = None

    def _await(self, event: int, deadline: float | None, seconds: float) -> Steps[bool]:
        """Waits so long for the socket, and not beyond the deadline. Raises TimeoutError there."""
        left = seconds if deadline is None else min(seconds, deadline - time.monotonic())
        descriptor = self._socket.fileno()
        if descriptor < 0:
            raise ConnectionResetError
        # Another one in the middle of this, of a signal handler, puts back what it has found.
        before, self._waiting = self._waiting, Ready(descriptor, event, max(left, 0.001))
        try:
            if (yield self._waiting):
                return True
        finally:
            self._waiting = before
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError
        return False


def _way_in(path: Path) -> str:
    """What to do where no engine runs: a path that was mistyped is not told as an engine that is down."""
    try:
        found = path.is_dir()
    except OSError:  # it cannot be seen from here
        found = True
    if found:
        return f"; start one with `ringwal run {path}`"
    if path.exists() or any(parent.exists() and not parent.is_dir() for parent in path.parents):
        return ": that is no directory; `ringwal run DIR` makes a log in a directory of its own"
    return f": there is no such directory; if the path is right, make a log there with `ringwal run {path}`"


def _ending(message: str) -> NotRunning:
    error = NotRunning(message)
    error.why = "ending"
    return error


def _is_connected(connection: socket.socket, directory: Path) -> bool:
    """Is it now? False: there is no place for it yet."""
    with _address(directory) as address:
        try:
            connection.connect(address)
        except BlockingIOError:
            return False
    return True


def _of_connection(reply: Message) -> bool:
    """Is it a refusal of the whole connection, whatever was asked?"""
    return reply.get("ok") is False and reply.get("tag") is None
