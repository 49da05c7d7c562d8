"""The clients' desk: connections, what was granted on each, and the answers to their requests."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import selectors
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ringwal._native import lib
from ringwal.errors import ConfigError, Error, NoSuchStream, NotRunning, ShmUnavailable
from ringwal.processes.claims import Claimed, Claims
from ringwal.processes.consumers import Consumers
from ringwal.processes.context import LOG, EngineContext
from ringwal.processes.descriptors import allow_descriptors
from ringwal.processes.slots import Grant, SlotTable
from ringwal.processes.stream_changes import StreamChanges
from ringwal.processes.streams import StreamTable
from ringwal.protocol.messages import Descriptors, Message, check_own_name
from ringwal.protocol.server import Connection, Listener, check_hello

OTHER_DESCRIPTORS = 64
"""Descriptors of the supervisor that are not connections, generously."""

SPARE_DESCRIPTORS = 12
"""Kept back from connections: a lane, a report or a replacement needs some for a moment, whoever is knocking."""

WAIT_SECONDS_MAX = 86_400
"""What a client says of its patience is cut to this: as a float it has to fit into a timeout of the selector."""


class Service:
    """Serves the clients of one epoch. Everything granted on a connection is taken back when the kernel ends it."""

    def __init__(
        self,
        context: EngineContext,
        selector: selectors.BaseSelector,
        listener: Listener,
        streams: StreamTable,
        slots: SlotTable,
        changes: StreamChanges,
        claims: Claims,
        consumers: Consumers,
        *,
        report: Callable[[], dict[str, Any]],
        stop: Callable[[], None],
    ) -> None:
        self._context = context
        self._selector = selector
        self._listener = listener
        self._streams = streams
        self._slots = slots
        self._changes = changes
        self._claims = claims
        self._consumers = consumers
        self._report = report
        self._stop = stop
        self._connections: dict[Connection, list[int]] = {}  # with the slots granted on each
        # Requests for a lane that wait for closing slots, in the order they came: at most one a connection.
        self._waiting: dict[Connection, tuple[Message, float | None]] = {}
        # Requests for a lane that is being made, step by step, each in its turn.
        self._making: dict[Connection, tuple[Message, float | None, Grant]] = {}
        # Clients that only look need no slot, so there may be more connections than slots.
        self._limit = 2 * context.config.max_clients + 64
        needed = self._limit + 2 * context.config.max_clients + OTHER_DESCRIPTORS  # a lane and a bell are kept for each slot
        self._descriptors = allow_descriptors(needed) - SPARE_DESCRIPTORS
        selector.register(listener, selectors.EVENT_READ, listener)
        # DIR by an open of its own: a client that outlives the engine must not keep its lock.
        self._reopened = context.directory.reopened()
        assert context.control.fd is not None
        assert context.ring.fd is not None
        self._handed_out = Descriptors(context.doorbell_fd, self._reopened, context.control.fd, context.ring.fd)

    def listen_again(self) -> None:
        """Somebody removed the socket's name. Raises OSError."""
        self._selector.unregister(self._listener)
        try:
            self._listener.make_again()
        finally:
            self._selector.register(self._listener, selectors.EVENT_READ, self._listener)

    def __len__(self) -> int:
        return len(self._connections)

    def accept(self) -> None:
        """The listener is readable."""
        connection = self._listener.accept()
        if connection is None:
            return
        if len(self._connections) >= self._limit:
            self._turn_away(
                connection,
                f"the engine serves {self._limit} connections already; close some, or start it with a larger max_clients",
            )
            return
        if connection.fileno() >= self._descriptors:  # the kernel gives out the lowest number that is free
            self._turn_away(
                connection,
                "the engine may not open more files (RLIMIT_NOFILE); close some clients, or raise its limit (ulimit -n)",
            )
            return
        self._connections[connection] = []
        self._selector.register(connection, selectors.EVENT_READ, connection)

    def _turn_away(self, connection: Connection, why: str) -> None:
        LOG.warning("refused a connection of process %d: %s", connection.pid, why)
        connection.hang_up(ShmUnavailable(why))

    def serve(self, connection: Connection) -> None:
        """`connection` is readable: one request, or its end."""
        with self._served(connection):
            try:
                request = connection.receive()
            except ConfigError as error:  # not a message: there is no telling what else is wrong with the peer
                self._refuse(connection, {}, error)
                raise EOFError from error
            if request is not None:
                self._forget(connection)  # it has given up what it asked for before: its own timeout was shorter
                self._answer(connection, request, _deadline(request))

    def tick(self) -> float | None:
        """Answer those who waited for a slot, if one is free or they may wait no longer, and go on with a lane in the making.

        Returns the seconds until there is more to do; None: nobody waits, or without a limit.
        """
        now = time.monotonic()
        for connection, (request, deadline) in list(self._waiting.items()):
            if self._may_wait() and (deadline is None or now < deadline):
                continue
            del self._waiting[connection]
            with self._served(connection):
                self._answer(connection, request, deadline, last=True)
        if self._making:
            connection = next(iter(self._making))
            with self._served(connection):
                request, deadline, begun = self._making.pop(connection)
                self._answer(connection, request, deadline, begun=begun)
        deadlines = [deadline for _, deadline in self._waiting.values() if deadline is not None]
        if self._making:
            return 0.0
        return max(min(deadlines) - now, 0.0) if deadlines else None

    @contextlib.contextmanager
    def _served(self, connection: Connection) -> Iterator[None]:
        """The boundary between one client and all others: whatever goes wrong in serving it ends its connection only."""
        try:
            yield
        except EOFError:
            self.drop(connection)
        except Exception:  # noqa: BLE001  what one request brings about is nobody else's end
            LOG.exception("a request of process %d cannot be served; its connection is closed", connection.pid)
            self.drop(connection)

    def _forget(self, connection: Connection) -> None:
        self._waiting.pop(connection, None)
        if (making := self._making.pop(connection, None)) is not None:
            self._slots.abandon(making[-1])

    def drop(self, connection: Connection) -> None:
        """The client is gone, or of no use: its slots begin to close."""
        self._forget(connection)
        slots = self._connections.pop(connection)
        self._selector.unregister(connection)
        connection.close()
        self._slots.close(slots)

    def leave(self) -> None:
        """In a stranger's child: nothing of the clients stays open."""
        for connection in self._connections:
            connection.leave()
        for *_, begun in self._making.values():
            begun.draft.close()
        os.close(self._reopened)

    def close(self) -> None:
        """Stop listening and hang up on everybody."""
        self._selector.unregister(self._listener)
        self._listener.close()
        os.close(self._reopened)
        for connection in list(self._connections):
            self.drop(connection)

    def _answer(
        self,
        connection: Connection,
        request: Message,
        deadline: float | None,
        *,
        last: bool = False,
        begun: Grant | None = None,
    ) -> None:
        """Answer `request`, or keep it among the waiting ones unless this is its `last` chance; `begun` is its lane so far."""
        try:
            if not connection.greeted:
                check_hello(request)
                if request.get("role") != "stop":
                    self._check_running()
                connection.greeted = True
                connection.reply(request, self._hello(), self._handed_out)
                return
            if begun is None and request.get("op") == "lane":
                _check_wait(request)
            if begun is None and not last and request.get("op") == "lane" and self._may_wait():
                self._waiting[connection] = (request, deadline)
                return
            if request.get("op") == "lane":
                self._make(connection, request, deadline, self._begin(request) if begun is None else begun)
                return
            if request.get("op") == "claim":  # answered when it is on stable storage
                self._check_running()
                self._claims.claim(request.get("stream"), request.get("name"), partial(self._claimed, connection, request))
                return
            if request.get("op") == "consume":
                self._check_running()
                told = partial(self._consumed, connection, request)
                self._consumers.claim(request, told)
                return
            connection.reply(request, self._do(connection, request))
        except (Error, OSError) as error:  # OSError: the system refused something that this request alone needs
            refused = error if isinstance(error, Error) else Error(f"the engine cannot answer: {error}")
            self._refuse(connection, request, refused)
            if not connection.greeted:
                raise EOFError from error
            return
        if request["op"] == "stop":
            LOG.info("asked to stop by process %d", connection.pid)
            self._stop()

    def _claimed(self, connection: Connection, request: Message, found: Claimed | Error) -> None:
        self._tell(connection, request, found if isinstance(found, Error) else found._asdict())

    def _consumed(self, connection: Connection, request: Message, found: list[dict[str, Any]] | Error) -> None:
        self._tell(connection, request, found if isinstance(found, Error) else {"rows": found})

    def _tell(self, connection: Connection, request: Message, found: dict[str, Any] | Error) -> None:
        if connection not in self._connections:  # it has gone meanwhile
            return
        with self._served(connection):
            if isinstance(found, Error):
                self._refuse(connection, request, found)
            else:
                connection.reply(request, found)

    def _begin(self, request: Message) -> Grant:
        match request:
            case {"bytes": int(size)}:
                self._check_running()
                return self._slots.begin(size)
        raise _unknown(request)

    def _make(self, connection: Connection, request: Message, deadline: float | None, begun: Grant) -> None:
        """Take one step, and answer if it was the last one."""
        try:
            if not begun.draft.step():
                if deadline is not None and time.monotonic() > deadline:
                    raise ShmUnavailable("the lane was not ready in the time that its client waits for it")
                self._making[connection] = (request, deadline, begun)
                return
            self._check_running()
            grant, lane, heard = self._slots.grant(begun, connection.pid, bell=request.get("bell") is True)
        except BaseException:
            self._slots.abandon(begun)
            raise
        self._connections[connection].append(grant.slot)
        connection.granted = (request.get("tag"), grant.slot, grant.generation)
        if heard is None:
            connection.reply(request, grant._asdict(), [lane])
        else:
            with heard:
                connection.reply(request, grant._asdict(), [lane, heard.fileno()])

    def _do(self, connection: Connection, request: Message) -> Message:
        match request:
            case {"op": "release", "slot": int(slot), "generation": int(generation)}:
                self._release(connection, slot, generation)
                return {}
            case {"op": "withdraw", "request": int(tag)}:  # while it waited, or the lane was made, `serve` has forgotten it
                if connection.granted is not None and connection.granted[0] == tag:
                    self._release(connection, *connection.granted[1:])
                return {}
            case {"op": "stream", "name": name}:
                self._check_running()
                look = request.get("look") is True
                if not look:
                    check_own_name(name)
                return (self._streams.find(name) if look else self._streams.open(name))._asdict()
            case {"op": "trim" | "delete" | "configure" | "create"}:
                self._check_running()
                return self._change(request)
            case {"op": "status"}:
                return self._report()
            case {"op": "stop"}:
                return {}
        raise _unknown(request)

    def _change(self, request: Message) -> Message:
        match request:
            case {"op": "create", "name": name}:
                return self._changes.create(name, request)._asdict()
            case {"op": "configure", "name": name, "number": int(number)}:
                return self._changes.configure(name, number, request)._asdict()
            case {"op": "delete", "name": name, "number": int(number)}:
                self._changes.delete(name, number)
                return {}
            case {"op": "trim", "name": name, "number": int(number)}:
                self._changes.trim(name, number, request.get("before"))
                return {}
        raise _unknown(request)

    def _release(self, connection: Connection, slot: int, generation: int) -> None:
        # A slot that is this connection's is not free, so its generation is still the one that was granted.
        if slot in self._connections[connection] and self._slots.generation(slot) == generation:
            self._connections[connection].remove(slot)
            self._slots.close([slot])

    def _may_wait(self) -> bool:
        return self._running() and self._slots.coming()

    def _running(self) -> bool:
        return bool(lib.rw_engine_state(self._context.control.pointer) == lib.RW_RUNNING)

    def _check_running(self) -> None:
        if not self._running():
            raise NotRunning(f"the engine on {self._context.directory.path} is stopping")

    def _hello(self) -> Message:
        context = self._context
        return {
            "uuid": context.uuid.hex(),
            "epoch": context.epoch,
            "control_bytes": context.control.bytes,
            "ring_bytes": context.config.ring_bytes,
            "directory": str(context.directory.path),
            "config": dataclasses.asdict(context.config),
        }

    def _refuse(self, connection: Connection, request: Message, error: Error) -> None:
        level = logging.INFO if isinstance(error, NotRunning) else logging.WARNING
        if isinstance(error, NoSuchStream):  # somebody looked, which is no fault
            level = logging.DEBUG
        LOG.log(level, "refused a request of process %d: %s", connection.pid, error)
        try:
            connection.refuse(request, error)
        except EOFError:
            if connection in self._connections:
                raise


def _unknown(request: Message) -> ConfigError:
    return ConfigError(f"the engine does not know the request {str(request)[:200]}")


def _deadline(request: Message) -> float | None:
    """When a request for a lane is to be refused; None: never."""
    wait = request.get("wait")
    if not isinstance(wait, int | float) or not wait >= 0:  # so, as NaN is not below zero either
        return None
    return time.monotonic() + min(wait, WAIT_SECONDS_MAX)


def _check_wait(request: Message) -> None:
    """Raises ConfigError."""
    wait = request.get("wait")
    if wait is not None and (not isinstance(wait, int | float) or not wait >= 0):
        raise ConfigError(f"wait is a number of seconds, not {str(wait)[:40]}")
