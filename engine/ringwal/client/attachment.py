"""A process's attachment to one life of an engine: the registration, the mappings, the reader, the lane, the numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ringwal import memory, views
from ringwal._native import ffi, lib
from ringwal.client import configuring
from ringwal.client.autostart import connect_or_start
from ringwal.client.lane import Lane
from ringwal.errors import ClosedError, EngineFailed, Error, NotRunning, ShmUnavailable, StreamDeleted
from ringwal.file_errors import FileErrors
from ringwal.log import manifest
from ringwal.log.directory import SEGMENTS, Directory
from ringwal.log.retention import NO_LIMITS, Limits
from ringwal.model import StreamInfo
from ringwal.protocol.client import Registration
from ringwal.protocol.messages import Descriptors
from ringwal.read.reader import Reader
from ringwal.steps import Steps, alone, park
from ringwal.thread_lock import ThreadLock

if TYPE_CHECKING:
    import asyncio

WAITERS_MAX = 3
"""Waiting lanes that may be refused one after the other before a tail gives up."""


class Attachment:
    """Made in one go: an engine that ends takes its attachments with it, its successor gets new ones.

    A stream's handle, a lane and a place in memory mean something in one life of one engine only. So they are had from an
    attachment, and kept in it or together with it (`Binding`), never beside it.
    """

    @classmethod
    def steps(
        cls,
        path: Path,
        *,
        autostart: bool,
        timeout: float | None,
        log: bytes | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Steps[Self]:
        """``log`` is the uuid of the log that the client has used before: another one in its place is refused. ``loop`` is the
        event loop in which its lanes are awaited.

        Raises:
            NotRunning, FileError, VersionMismatch, ShmUnavailable: see `ringwal.connect`.
        """
        with FileErrors(path, "look into"):
            autostart = autostart and (log is None or (path / manifest.NAME).exists())
        return cls(path, (yield from connect_or_start(path, autostart=autostart, timeout=timeout)), log, loop)

    def __init__(
        self, path: Path, registration: Registration, log: bytes | None, loop: asyncio.AbstractEventLoop | None
    ) -> None:
        """See `steps`. The registration is closed with the attachment, also if this raises."""
        self.registration = registration
        self._loop = loop
        self.reading = FileErrors(path / SEGMENTS, "read from")
        try:
            self.log = self.registration.hello.uuid
            if log not in (None, self.log):
                raise _other_log(path)
            hello, arrival = self.registration.hello, self.registration.arrival
            self.epoch = hello.epoch
            directory, control, ring = (Descriptors._fields.index(name) for name in ("directory", "control", "ring"))
            with FileErrors(path, "open"):
                # The engine's own, whatever the path leads to by now.
                self.directory = Directory(path, partial(arrival.move, directory))
                self.control_map = memory.attach_control(arrival[control], hello.control_bytes, hello.uuid, hello.epoch)
                self.ring_map = memory.attach_log(arrival[ring], hello.ring_bytes)
            arrival.close(control, ring)
        except BaseException:
            self.registration.close()
            raise
        self.control = self.control_map.pointer
        self.lane_bytes = int(hello.config["lane_bytes"])
        age, size, records = (hello.config[name] for name in ("retention_age", "retention_bytes", "retention_records"))
        self._defaults = Limits(None if age is None else round(age * 1e9), size, records)
        self.reader = Reader.of_engine(self.directory, self.control, self.ring_map.pointer)
        self._lock = ThreadLock()
        self._handles: dict[str, int] = {}
        # The first one that is good is used, the others are those of interrupted calls.
        self._lanes: list[Lane] = []
        self._waiters: list[Lane] = []
        self._waiters_refused = 0

    def usable(self) -> bool:
        """False once the engine has stopped, failed or died."""
        return _usable(self.control, self.registration)

    # --------------------------------------------------------------------------------------------------- streams

    def handle_of(self, name: str, *, look: bool = False) -> int:
        """As `handle_steps`."""
        handle = self._handles.get(name)
        return handle if handle is not None and self.lives(handle) else park(self.handle_steps(name, look=look))

    def handle_steps(self, name: str, *, look: bool = False) -> Steps[int]:
        """The handle of the stream of that name, which is created if need be, unless this is only a look.

        Raises ConfigError, ShmUnavailable; NoSuchStream for a look.
        """
        handle = self._handles.get(name)
        if handle is None or not self.lives(handle):
            handle = self._handles[name] = yield from self.registration.stream_steps(name, look=look)
        return handle

    def keep_handle(self, name: str, handle: int) -> None:
        """That is the stream of that name, for now."""
        self._handles[name] = handle

    def lives(self, handle: int) -> bool:
        """Is the stream of that handle there, and not deleted?"""
        return bool(lib.rw_stream_look(self.control, handle, ffi.new("rw_stream_bounds *")) == lib.RW_OK)

    def bounds(self, handle: int) -> tuple[int, int]:
        """Start and confirmed offset of that stream, of one moment. Raises StreamDeleted."""
        return bounds_at(self.control, handle)

    def stream_info(self, place: int, number: int) -> StreamInfo | None:
        """None: there is no such stream at that place any more."""
        return stream_info_at(self.control, place, number, self._defaults, self.usable)

    def stream_infos(self) -> Iterator[StreamInfo]:
        return stream_infos_at(self.control, None, self._defaults, self.usable)

    # ----------------------------------------------------------------------------------------------------- lanes

    def lane(self, lane_bytes: int | None) -> Lane:
        """As `lane_steps`."""
        return park(self.lane_steps(lane_bytes))

    def lane_steps(self, lane_bytes: int | None) -> Steps[Lane]:
        """This process's lane for appends, made with the first of them, or another one if it was refused.

        Raises:
            ShmUnavailable: no memory, or no free place.
            NotRunning: the engine ended meanwhile.
        """
        return (yield from alone(self._lock, partial(self._appending, self.lane_bytes if lane_bytes is None else lane_bytes)))

    def waiter(self) -> Lane:
        """As `waiter_steps`."""
        return park(self.waiter_steps())

    def waiter_steps(self) -> Steps[Lane]:
        """A lane to wait in: the one for appends, or, before there is one, one without room for requests, as a reader needs
        the drain's wake only."""
        return (yield from alone(self._lock, self._waiting))

    def _waiting(self) -> Steps[Lane]:
        found = next(filter(self._is_good, self._lanes.copy()), None)
        return found or (yield from self._good(self._waiters, 0))

    def _appending(self, lane_bytes: int) -> Steps[Lane]:
        """A client has one place: who has waited in a lane of its own waits in this one from now on."""
        try:
            lane = yield from self._good(self._lanes, lane_bytes)
        except ShmUnavailable:
            if not self._waiters:
                raise
            # The place may be its own. Until there is the other lane, its tails look by themselves, ten times a second.
            yield from self._release_all_but(self._lanes)
            lane = yield from self._good(self._lanes, lane_bytes)
        if self._waiters:
            for waiter in self._waiters.copy():
                waiter.wait_in(lane)
            self._waiters.clear()
            yield from self._release_all_but(self._lanes)
        return lane

    def _is_good(self, lane: Lane) -> bool:
        return lane.lost is None and (lane.slot, lane.generation) in self.registration.granted

    def _release_all_but(self, lanes: list[Lane]) -> Steps[None]:
        used = {(lane.slot, lane.generation) for lane in lanes}
        for slot, generation in self.registration.granted.keys() - used:
            yield from self.registration.release_steps(slot, generation)

    def _good(self, kept: list[Lane], lane_bytes: int) -> Steps[Lane]:
        """The first of these lanes that is good, opened if need be. What the engine keeps for nobody is given back before."""
        while True:
            for lane in kept.copy():
                if self._is_good(lane):
                    return lane
                with contextlib.suppress(ValueError):  # a signal handler has done it
                    kept.remove(lane)
            yield from self._release_all_but([*self._lanes, *self._waiters])
            kept.append((yield from self._open_lane(lane_bytes)))

    def other_waiter_steps(self) -> Steps[Lane]:
        """Another lane to wait in instead of one that the engine does not look at. Raises EngineFailed: again and again."""
        yield from alone(self._lock, self._give_up)
        return (yield from self.waiter_steps())

    def _give_up(self) -> Steps[None]:
        """Whoever waited in a lane that was given back is told the same, so each is asked itself."""
        for lane in (*self._lanes, *self._waiters):
            if lane.lost is None and views.slot(self.control, lane.slot).fault == lane.generation:
                self._waiters_refused += lane in self._waiters
                if self._waiters_refused > WAITERS_MAX:
                    raise EngineFailed("the engine refuses the lanes in which this client waits; see the engine's log")
                lane.end(EngineFailed("the engine refused this lane"))
        yield from ()

    def _open_lane(self, lane_bytes: int) -> Steps[Lane]:
        granted, arrival = yield from self.registration.lane_steps(lane_bytes, bell=self._loop is not None)
        try:
            with FileErrors(self.directory.path, "open a lane of the engine on"):
                mapping = memory.attach_lane(self.control_map, arrival[0], granted.slot, granted.generation, granted.bytes)
                lane = Lane(
                    control=self.control,
                    lane=mapping.pointer,
                    doorbell_fd=self.registration.doorbell_fd,
                    # Not a method: a lane is kept by receipts, and must not keep all that an attachment holds open.
                    alive=partial(_usable, self.control, self.registration),
                    keep=(self.control_map, mapping, self.registration.arrival),  # the last for the doorbell
                )
                if self._loop is not None:
                    from ringwal.client.bell import Bell  # asyncio is loaded by who uses it

                    lane.bell = Bell(self._loop, lane, arrival, 1)
                return lane
        except Exception:
            with contextlib.suppress(NotRunning):  # the error under way is the one to tell
                yield from self.registration.release_steps(granted.slot, granted.generation)
            raise
        finally:
            arrival.close(0)

    # ------------------------------------------------------------------------------------------------------- end

    def flush_steps(self, timeout: float | None) -> Steps[None]:
        """Waits until every append is confirmed. Raises AckTimeout, or the first failure that nobody was told of."""
        for lane in self._lanes.copy():
            if lane.lost is None:
                yield from lane.flush_steps(None, timeout)

    def end(self, error: Error) -> None:
        """Appends that are pending end with this error."""
        for lane in self._lanes.copy():
            lane.end(error)

    def forked(self) -> None:
        """In the child of a fork: the lanes stay the parent's, and the connection with them."""
        for lane in (*self._lanes, *self._waiters):
            lane.forked()
        self.registration.forked()
        self.close()

    def close(self) -> None:
        """Ends the registration: the engine reclaims the lanes. The mappings go with their last user."""
        for waiter in self._waiters.copy():
            waiter.end(ClosedError("this client was closed", outcome="unknown"))
        self.reader.release()
        self.registration.close()


def _usable(control: Any, registration: Registration) -> bool:
    state = lib.rw_engine_state(control)
    return state in (lib.RW_RUNNING, lib.RW_STOPPING) and not lib.rw_supervisor_died(control) and registration.alive()


def _other_log(path: Path) -> NotRunning:
    error = NotRunning(
        f"{path} holds another log than the one that this client used: the directory was moved, replaced or made anew;"
        " connect again to use what is there now",
        outcome="not_appended",
    )
    error.retriable = False
    return error


class Binding:
    """A stream's handle with the lane and the attachment that it belongs to: read together, replaced together."""

    __slots__ = ("attachment", "handle", "lane", "writer")

    def __init__(self, attachment: Attachment, lane: Lane, handle: int) -> None:
        self.attachment = attachment
        self.lane = lane
        self.handle = handle
        self.writer = lane.writer


def bounds_at(control: Any, handle: int) -> tuple[int, int]:
    """Start and confirmed offset of that stream, of one moment. Raises StreamDeleted."""
    seen = ffi.new("rw_stream_bounds *")
    if lib.rw_stream_look(control, handle, seen) != lib.RW_OK:
        raise StreamDeleted("the stream was deleted")
    return int(seen.start_offset), int(seen.confirmed_offset)


def stream_info_at(
    control: Any, place: int, number: int, defaults: Limits = NO_LIMITS, usable: Callable[[], bool] = bool
) -> StreamInfo | None:
    """What an engine's memory says of the stream of that number; None: it is not at that place any more. ``defaults`` hold
    where the stream has not said anything else; ``usable`` says whether the engine lives."""
    seen = views.stream(control, place)
    if not seen.number == lib.rw_stream_number(lib.rw_stream_of(control, place)) == number != seen.deleted:
        return None
    confirmed, start = int(seen.confirmed_offset), int(seen.start_offset)
    return StreamInfo(
        name=bytes(ffi.buffer(seen.name, seen.name_bytes)).decode(),
        start_offset=start,
        confirmed_offset=confirmed,
        records=confirmed - start,
        confirmed_bytes=int(seen.confirmed_bytes),
        last_timestamp_ns=int(seen.last_timestamp_ns),
        number=number,
        **configuring.facts(configuring.look(control, lib.rw_handle(place, number), usable), defaults),
    )


def stream_infos_at(
    control: Any, place: int | None = None, defaults: Limits = NO_LIMITS, usable: Callable[[], bool] = bool
) -> Iterator[StreamInfo]:
    """Of all streams that live, or of the one at that place."""
    for at in range(views.engine(control).stream_count) if place is None else (place,):
        found = stream_info_at(control, at, lib.rw_stream_number(lib.rw_stream_of(control, at)), defaults, usable)
        if found is not None:
            yield found
