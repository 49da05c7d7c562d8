"""The clients' desk: connections, what was granted on each, and the answers to their requests."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import selectors
from collections.abc import Callable
from typing import Any

from engine._native import lib
from engine.errors import ConfigError, Error, NotRunning, ShmUnavailable
from engine.processes.context import LOG, EngineContext
from engine.processes.descriptors import allow_descriptors
from engine.processes.slots import SlotTable
from engine.processes.streams import StreamTable
from engine.registration import Connection, Listener, Message, check_hello

OTHER_DESCRIPTORS = 64
"""Descriptors of the supervisor that are not connections, generously."""

SPARE_DESCRIPTORS = 12
"""Kept back from connections: a lane, a report or a replacement needs some for a moment, whoever is knocking."""


class Service:
    """Serves the clients of one epoch. Everything granted on a connection is taken back when the kernel ends it."""

    def __init__(
        self,
        context: EngineContext,
        selector: selectors.BaseSelector,
        listener: Listener,
        streams: StreamTable,
        slots: SlotTable,
        *,
        report: Callable[[], dict[str, Any]],
        stop: Callable[[], None],
    ) -> None:
        self._context = context
        self._selector = selector
        self._listener = listener
        self._streams = streams
        self._slots = slots
        self._report = report
        self._stop = stop
        self._connections: dict[Connection, list[int]] = {}  # with the slots granted on each
        # Clients that only look need no slot, so there may be more connections than slots.
        self._limit = 2 * context.config.max_clients + 64
        self._descriptors = allow_descriptors(self._limit + OTHER_DESCRIPTORS) - SPARE_DESCRIPTORS
        selector.register(listener, selectors.EVENT_READ, listener)

    def __len__(self) -> int:
        return len(self._connections)

    def accept(self) -> None:
        """The listener is readable."""
        connection = self._listener.accept()
        if connection is None:
            return
        if len(self._connections) >= self._limit:
            self._refuse(connection, {"tag": 1}, ShmUnavailable(f"the engine serves {self._limit} connections already"))
            connection.close()
            return
        if connection.fileno() >= self._descriptors:  # the kernel gives out the lowest number that is free
            self._refuse(connection, {"tag": 1}, ShmUnavailable("the engine may not open more files (RLIMIT_NOFILE)"))
            connection.close()
            return
        self._connections[connection] = []
        self._selector.register(connection, selectors.EVENT_READ, connection)

    def serve(self, connection: Connection) -> None:
        """`connection` is readable: one request, or its end."""
        try:
            request = connection.receive()
            if request is not None:
                self._answer(connection, request)
        except EOFError:
            self.drop(connection)
        except ConfigError as error:  # not a message: there is no telling what else is wrong with the peer
            with contextlib.suppress(EOFError):  # it has gone already
                self._refuse(connection, {}, error)
            self.drop(connection)

    def drop(self, connection: Connection) -> None:
        """The client is gone, or of no use: its slots begin to close."""
        slots = self._connections.pop(connection)
        self._selector.unregister(connection)
        connection.close()
        self._slots.close(slots)

    def close(self) -> None:
        """Stop listening and hang up on everybody."""
        self._selector.unregister(self._listener)
        self._listener.close()
        for connection in list(self._connections):
            self.drop(connection)

    def _answer(self, connection: Connection, request: Message) -> None:
        try:
            if not connection.greeted:
                check_hello(request)
                self._check_running()
                connection.greeted = True
                connection.reply(request, self._hello(), [self._context.bell_fd])
                return
            connection.reply(request, self._do(connection, request))
        except (Error, OSError) as error:  # OSError: the system refused something that this request alone needs
            told = error if isinstance(error, Error) else Error(f"the engine cannot answer: {error}")
            self._refuse(connection, request, told)
            if not connection.greeted:
                raise EOFError from error
            return
        if request["op"] == "stop":
            LOG.info("asked to stop by process %d", connection.pid)
            self._stop()

    def _do(self, connection: Connection, request: Message) -> Message:
        match request:
            case {"op": "lane", "bytes": int(size)}:
                self._check_running()
                grant = self._slots.grant(size, connection.pid)
                self._connections[connection].append(grant.slot)
                return grant._asdict()
            case {"op": "stream", "name": name}:
                self._check_running()
                return {"id": self._streams.open(name)}
            case {"op": "status"}:
                return self._report()
            case {"op": "stop"}:
                return {}
        raise ConfigError(f"the engine does not know the request {str(request)[:200]}")

    def _check_running(self) -> None:
        if self._context.control.pointer.state != lib.RW_RUNNING:
            raise NotRunning(f"the engine on {self._context.directory} is stopping")

    def _hello(self) -> Message:
        context = self._context
        return {
            "uuid": context.uuid.hex(),
            "epoch": context.epoch,
            "control": context.control.name,
            "control_bytes": context.control.bytes,
            "log": context.ring.name,
            "ring_bytes": context.config.ring_bytes,
            "directory": str(context.directory),
            "config": dataclasses.asdict(context.config),
        }

    def _refuse(self, connection: Connection, request: Message, error: Error) -> None:
        level = logging.INFO if isinstance(error, NotRunning) else logging.WARNING
        LOG.log(level, "refused a request of process %d: %s", connection.pid, error)
        try:
            connection.refuse(request, error)
        except EOFError:
            if connection in self._connections:
                raise
