"""The supervisor's look at its directory, once a second: what is said about it in ownership.py, and done about it here."""

from __future__ import annotations

import contextlib
import os
import time

from ringwal import lock_file, views
from ringwal._native import lib
from ringwal.errors import Locked
from ringwal.processes.context import LOG, EngineContext
from ringwal.processes.process_group import ProcessGroup
from ringwal.processes.service import Service
from ringwal.protocol.messages import SOCKET_NAME
from ringwal.protocol.server import Listener

LOOK_SECONDS = 1.0


class DirectoryWatch:
    """Ends the epoch when the directory is lost, and makes again what was removed and puts no record at risk."""

    def __init__(self, context: EngineContext, group: ProcessGroup, service: Service, listener: Listener) -> None:
        self._ownership = context.ownership
        self._control = context.control.pointer
        self._group = group
        self._service = service
        self._listener = listener
        self._due = time.monotonic()
        seen = views.engine(self._control)
        self._from = seen.released_end // seen.segment_bytes
        self._missed: set[str] = set()
        self._troubled = False

    def tick(self) -> float:
        """Look, if it is time to. Seconds until it is again."""
        now = time.monotonic()
        if now < self._due:
            return self._due - now
        self._due = now + LOOK_SECONDS
        try:
            self._look()
            self._troubled = False
        except (OSError, Locked) as error:  # it will show in a write, if it is more than a moment's trouble
            if not self._troubled:
                LOG.warning("cannot look after %s: %s", self._ownership.directory.path, error)
            self._troubled = True
        return LOOK_SECONDS

    def last_look(self, code: int) -> int:
        """The exit code of an engine that is about to end with `code`: what it confirmed since the last look may be gone."""
        if code == os.EX_OK:
            with contextlib.suppress(OSError):
                if what := self._ownership.check():
                    LOG.error("%s %s in the last second", self._ownership.directory.path, what)
                    self._group.directory_lost, code = True, os.EX_OSFILE
        return code

    def _look(self) -> None:
        c = views.engine(self._control)
        # Also those that were in use at the look before: what was removed then may be full by now.
        # Small segments that fill quickly may have been freed since: the engine says so before a file goes.
        in_use, self._from = range(self._from, c.segments_end), c.released_end // c.segment_bytes
        socket, lock = self._listener.state(), self._ownership.lock_file_state()
        what = self._ownership.check(in_use, lambda: int(lib.rw_engine_first_segment(self._control)))
        if what is None and socket == "foreign":
            what = f"has got the {SOCKET_NAME} of somebody else"
        if what is None and lock == "lost":
            what = "has got the lock file of somebody else, or lost the only lock that there is"
        if what is not None:
            self._group.lose_directory(what)
            return
        # Twice in a row: whoever deletes a directory removes these names on the way, and would find it not empty at the end.
        missing = {name for name, state in ((SOCKET_NAME, socket), (lock_file.NAME, lock)) if state == "missing"}
        for name in missing & self._missed:
            LOG.warning("somebody removed %s; it is made again", self._ownership.directory.path / name)
            if name == SOCKET_NAME:
                self._service.listen_again()
            else:
                self._ownership.make_lock_file()
        self._missed = missing
