"""A process's attachment to one life of an engine: the registration, the mappings, the reader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringwal import memory
from ringwal._native import ffi, lib
from ringwal.autostart import connect_or_start
from ringwal.errors import NotRunning
from ringwal.lane import Lane
from ringwal.reader import Reader

if TYPE_CHECKING:
    from ringwal.client import StreamInfo


class Attachment:
    """Made in one go and never changed: an engine that ends takes its attachments with it, its successor gets new ones."""

    def __init__(self, path: Path, *, autostart: bool, timeout: float | None) -> None:
        self.registration = connect_or_start(path, autostart=autostart, timeout=timeout)
        try:
            hello = self.registration.hello
            self.epoch = hello.epoch
            self.control_map = memory.attach_control(hello.control, hello.control_bytes, hello.uuid, hello.epoch)
            self.ring_map = memory.attach_log(hello.log, hello.ring_bytes)
        except BaseException:
            self.registration.close()
            raise
        self.control = self.control_map.pointer
        self.lane_bytes = int(hello.config["lane_bytes"])
        self.reader = Reader(path, self.control, self.ring_map.pointer)
        self._waiter: Lane | None = None
        self._pid = os.getpid()

    def usable(self) -> bool:
        """False once the engine has stopped, failed or died."""
        state = self.control.state
        return state in (lib.RW_RUNNING, lib.RW_STOPPING) and self.registration.alive()

    def open_lane(self, lane_bytes: int | None) -> Lane:
        """A new lane of this process; ``0`` bytes makes one that can only wait.

        Raises:
            ShmUnavailable: no memory, or no free place.
            NotRunning: the engine ended meanwhile.
        """
        granted = self.registration.lane(self.lane_bytes if lane_bytes is None else lane_bytes)
        mapping = memory.attach_lane(self.control_map, granted.name, granted.slot, granted.generation, granted.bytes)
        return Lane(
            control=self.control,
            lane=mapping.pointer,
            bell_fd=self.registration.bell_fd,
            alive=self.usable,
            keep=(self.control_map, mapping),
        )

    def waiter(self) -> Lane:
        """A lane for waiting only: a reader needs the drain's wake, not room for requests."""
        if self._waiter is None:
            self._waiter = self.open_lane(0)
        return self._waiter

    def stream_id(self, name: str) -> int:
        """The number of the stream of that name, which is created if need be."""
        return self.registration.stream(name)

    def stream(self, number: int) -> Any:
        """The shared ``rw_stream`` of that number."""
        return lib.rw_stream_of(self.control, number)

    def stream_info(self, number: int) -> StreamInfo:
        from ringwal.client import StreamInfo

        shared = self.stream(number)
        confirmed = int(lib.rw_stream_confirmed(self.control, number))
        return StreamInfo(
            name=bytes(ffi.buffer(shared.name, shared.name_bytes)).decode(),
            start_offset=int(shared.start_offset),
            confirmed_offset=confirmed,
            records=confirmed - int(shared.start_offset),
            confirmed_bytes=int(shared.confirmed_bytes),
            last_timestamp_ns=int(shared.last_timestamp_ns),
        )

    def stream_infos(self) -> Iterator[StreamInfo]:
        for number in range(self.control.max_streams):
            if self.stream(number).state == lib.RW_STREAM_OPEN:
                yield self.stream_info(number)

    def status(self) -> dict[str, Any]:
        return self.registration.status()

    def close(self) -> None:
        """Ends the registration: the engine reclaims the lanes. The mappings go with their last user."""
        if self._waiter is not None:
            self._waiter.end(NotRunning("this client was closed"))
        self.registration.close()
