"""What clients ask to be done to whole streams, trims, deletions, settings, on its way into the engine's own lane.

A client does not wait for an answer but looks at memory (removal.py). So a repeated request adds nothing: of one stream
there is at most one trim, one deletion and one frame of settings on the way, whatever clients do; a trim that goes further
meanwhile is one number here, settings that differ meanwhile are one set of them, and follow.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

from ringwal import views
from ringwal._native import ffi, lib
from ringwal.errors import ConfigError, NoSuchStream, StreamExists
from ringwal.log import settings
from ringwal.log.settings import Settings
from ringwal.processes.context import LOG
from ringwal.processes.control_lane import ControlLane
from ringwal.processes.streams import StreamTable
from ringwal.protocol.messages import check_own_name

VERSION_MAX = (1 << 32) - 1
NOT_SAID = -1
_LIMITS = {"age": "age_ns", "bytes": "payload_bytes", "records": "records"}
"""In a request, and in `Settings`."""


class Set(NamedTuple):
    """The stream whose settings are confirmed when this version is, or a later one."""

    number: int
    place: int
    version: int


class StreamChanges:
    """Trims and deletions of the streams of one epoch."""

    def __init__(self, control: Any, streams: StreamTable, lane: ControlLane) -> None:
        self._control = control
        self._places = int(views.engine(control).max_streams)
        self._streams = streams
        self._lane = lane
        self._trims: dict[int, int] = {}  # by the number of a stream with a trim in the lane: the furthest offset asked for
        self._deletions: set[int] = set()
        self._settings: dict[int, Settings] = {}  # of a stream with settings in the lane: the last that were asked for

    def trim(self, name: object, number: int, before: object) -> None:
        """Of that stream, up to that offset. If it is deleted, or trimmed so far, nothing is done.

        Raises ConfigError: the name is the engine's own, or there is no such offset.
        """
        place = self._place(name, number)
        bounds = ffi.new("rw_stream_bounds *")
        if place is None or lib.rw_stream_look(self._control, lib.rw_handle(place, number), bounds) != lib.RW_OK:
            return
        if not isinstance(before, int) or not 0 <= before <= bounds.confirmed_offset:
            raise ConfigError(f"stream {name!r} ends at {bounds.confirmed_offset}, and cannot be trimmed up to {before!r}")
        if before > bounds.start_offset:
            self._go_on_trimming(place, number, before)

    def trim_place(self, place: int, number: int, before: int) -> None:
        """As the keeper asks: of the stream of that number at that place, which may be deleted meanwhile. What cannot be, or is
        so already, is not done."""
        bounds = ffi.new("rw_stream_bounds *")
        if place >= self._places or lib.rw_stream_look(self._control, lib.rw_handle(place, number), bounds) != lib.RW_OK:
            return
        if bounds.start_offset < before <= bounds.confirmed_offset:
            self._go_on_trimming(place, number, before)

    def delete(self, name: object, number: int) -> None:
        """That stream. If it is deleted, nothing is done. Raises as `trim`."""
        place = self._place(name, number)
        if place is None or number in self._deletions:
            return
        self._deletions.add(number)
        self._lane.delete(place, number, partial(self._deleted, name, number))

    def create(self, name: object, request: dict[str, Any]) -> Set:
        """The stream of that name, made if need be, with these settings.

        Raises:
            StreamExists: it has others, and `exist_ok` is not asked for. One of which nobody has set any gets these.
            ConfigError: the name is the engine's own, or not legal; settings that make no sense.
            ShmUnavailable: the table is full.
        """
        check_own_name(name)
        wanted = _changed(settings.NEVER_SET, request)
        key = self._streams.open(name)
        current = self._current(key.place, key.number)
        if current.version and not current.same(wanted):
            if request.get("exist_ok") is True:
                return Set(key.number, key.place, current.version)
            raise StreamExists(
                f"stream {name!r} is there, with other settings: {settings.difference(current, wanted)}; change them with"
                " `configure`, or take it as it is (exist_ok=True, --exist-ok)"
            )
        return self._set(key.place, key.number, current, wanted)

    def configure(self, name: object, number: int, request: dict[str, Any]) -> Set:
        """That stream's settings, as far as the request says any. Raises as `create`; NoSuchStream: it is deleted."""
        place = self._place(name, number)
        if place is None:
            raise NoSuchStream(f"there is no stream {name!r} any more: it was deleted")
        current = self._current(place, number)
        return self._set(place, number, current, _changed(current, request))

    def _current(self, place: int, number: int) -> Settings:
        """As they were asked for last."""
        if number in self._settings:
            return self._settings[number]
        found = ffi.new("rw_settings *")
        # None is in the lane, so nobody is storing them: what is confirmed was stored before.
        if lib.rw_settings_look(self._control, lib.rw_handle(place, number), found) != lib.RW_OK or not found.version:
            return settings.NEVER_SET
        return settings.decode(bytes(ffi.buffer(found)))

    def _set(self, place: int, number: int, current: Settings, wanted: Settings) -> Set:
        if current.version and current.same(wanted):
            return Set(number, place, current.version)
        if current.version == VERSION_MAX:
            raise ConfigError("the settings of this stream were changed as often as they can be")
        wanted = dataclasses.replace(wanted, version=current.version + 1)
        wanted.encode()  # raises, before anything is kept
        if number not in self._settings:
            self._submit_settings(place, number, wanted)
        self._settings[number] = wanted
        return Set(number, place, wanted.version)

    def _submit_settings(self, place: int, number: int, wanted: Settings) -> None:
        self._lane.set(place, number, wanted.encode(), partial(self._settled, place, number, wanted))

    def _settled(self, place: int, number: int, those: Settings, code: int) -> None:
        wanted = self._settings.pop(number, those)
        if code >= 0 and wanted != those:
            self._settings[number] = wanted
            self._submit_settings(place, number, wanted)

    def _place(self, name: object, number: int) -> int | None:
        """Of the stream that has both; None: it is deleted."""
        check_own_name(name)
        try:
            found = self._streams.find(name)
        except NoSuchStream:
            return None
        return found.place if found.number == number else None

    def _go_on_trimming(self, place: int, number: int, before: int) -> None:
        if number in self._trims:
            self._trims[number] = max(self._trims[number], before)
        else:
            self._submit_trim(place, number, before)

    def _submit_trim(self, place: int, number: int, before: int) -> None:
        self._trims[number] = before
        self._lane.trim(place, number, before, partial(self._trimmed, place, number, before))

    def _trimmed(self, place: int, number: int, before: int, code: int) -> None:
        wanted = self._trims.pop(number)
        if code >= 0 and wanted > before:
            self._submit_trim(place, number, wanted)

    def _deleted(self, name: object, number: int, code: int) -> None:
        self._deletions.discard(number)
        if code >= 0:
            LOG.debug("stream %r is deleted", name)


def _changed(current: Settings, request: dict[str, Any]) -> Settings:
    """With what the request says. Raises ConfigError."""
    said: dict[str, Any] = {}
    for name, field in _LIMITS.items():
        if name in request:
            said[field] = None if (value := _limit(name, request[name])) == NOT_SAID else value
    if "retain" in request:
        text = request["retain"]
        if not isinstance(text, str):
            raise ConfigError(f"retain is {str(text)[:40]!r}; it is names of consumers")
        said["retain_until"] = tuple(text.split("\n")) if text else ()
    changed = dataclasses.replace(current, **said)
    settings.text_of(changed.retain_until)
    return changed


def _limit(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not NOT_SAID <= value < 1 << 63:
        raise ConfigError(f"{name} is {str(value)[:40]}; it is a whole number from -1 to {(1 << 63) - 1}")
    return value
