"""Streams that are created, and settings that are changed, at a client's request.

Asked for over the socket, and awaited in memory, as trims are (removal.py): the engine answers with a version, and the
settings are on stable storage when the stream's words say that this version is confirmed, or a later one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ringwal._native import ffi, lib
from ringwal.client.removal import Asked, change
from ringwal.errors import EngineFailed, StreamDeleted
from ringwal.log import settings
from ringwal.log.retention import Limits, own_settings
from ringwal.log.settings import Settings
from ringwal.protocol.messages import Message
from ringwal.steps import Steps

if TYPE_CHECKING:
    from ringwal.client.attachment import Attachment

LOOK_SECONDS = 0.001


def create(attachment: Attachment, name: str, wanted: dict[str, Any], timeout: float | None) -> Steps[int]:
    """The handle of that stream, which exists with these settings, on stable storage. Errors: see `Client.create_stream`."""
    again = "it is under way: create it again, which does no harm"
    asked = Asked(f"the creation of stream {name!r}", again, repeatable=True)
    return (yield from _settle(attachment, {"op": "create", "name": name, **wanted}, None, asked, timeout))


def configure(attachment: Attachment, name: str, wanted: dict[str, Any], timeout: float | None) -> Steps[None]:
    """That stream's settings are changed, on stable storage. Errors: see `Stream.configure`."""
    handle = yield from attachment.handle_steps(name, look=True)
    again = "they are under way: ask `stat`, or set them again, which does no harm"
    asked = Asked(f"the settings of stream {name!r}", again, repeatable=True)
    message = {"op": "configure", "name": name, "number": lib.rw_handle_number(handle), **wanted}
    yield from _settle(attachment, message, handle, asked, timeout)


def _settle(
    attachment: Attachment, message: Message, handle: int | None, asked: Asked, timeout: float | None
) -> Steps[int]:
    told: Message = {}

    def confirmed() -> bool:
        if handle is None or not told:  # no answer came
            return False
        if not attachment.lives(handle):
            raise StreamDeleted(f"stream {message['name']!r} was deleted meanwhile; nothing of it is left to be set")
        return bool(lib.rw_settings_confirmed(attachment.control, handle) >= told["version"])

    def hear(reply: Message) -> None:
        nonlocal handle
        told.update(reply)
        handle = int(lib.rw_handle(reply["place"], reply["number"]))

    yield from change(attachment, message, confirmed, asked, timeout, hear)
    assert handle is not None
    return handle


def look(control: Any, handle: int, usable: Callable[[], bool]) -> Settings:
    """What the stream has of its own, as it was last asked for; nothing, if it is deleted. ``usable`` says whether the engine
    lives. Raises EngineFailed."""
    found = ffi.new("rw_settings *")
    while (code := lib.rw_settings_look(control, handle, found)) == lib.RW_PENDING:
        if not usable():  # who was storing them is dead, and nobody comes after it
            raise EngineFailed("the engine ended while the settings of a stream were being changed")
        time.sleep(LOOK_SECONDS)
    if code != lib.RW_OK or not found.version:
        return settings.NEVER_SET
    return settings.decode(bytes(ffi.buffer(found)))


def facts(own: Settings, defaults: Limits) -> dict[str, Any]:
    """Of a StreamInfo."""
    limits = defaults.over(own)
    return {
        "retention_age": None if limits.age_ns is None else limits.age_ns / 1e9,
        "retention_bytes": limits.payload_bytes,
        "retention_records": limits.records,
        "retain_until": own.retain_until,
        "own_settings": own_settings(own),
    }
