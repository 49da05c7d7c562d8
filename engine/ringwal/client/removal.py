"""Trims and deletions, asked for by a client: the engine is told over the socket, and its memory says when it is so.

Waiting there needs no answer that could get lost, be met by another request of this process, or keep others from asking.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ringwal import positions
from ringwal._native import lib
from ringwal.errors import AckTimeout, EngineFailed, NotRunning
from ringwal.protocol.messages import Message
from ringwal.steps import Rest, Steps
from ringwal.times import At

if TYPE_CHECKING:
    from ringwal.client.attachment import Attachment

FIRST_REST, LONGEST_REST = 0.0002, 0.01
"""Seconds between two looks, at first and at most."""


class Asked(NamedTuple):
    """What is said of a request whose end is not known."""

    what: str
    again: str
    repeatable: bool


def trim(attachment: Attachment, name: str, before: int | At, timeout: float | None) -> Steps[int]:
    """Drops the records of that stream below ``before``; returns its start offset once that is on stable storage.

    Raises:
        NoSuchStream: there is none. StreamDeleted: it was deleted meanwhile.
        ValueError: there is no such offset yet.
        NotRunning, AckTimeout, EngineFailed: see `Stream.trim`.
    """
    handle = yield from attachment.handle_steps(name, look=True)
    before = positions.offset(attachment, handle, before)
    found, end = attachment.bounds(handle)
    if before > end:
        raise ValueError(f"before is {before}; stream {name!r} ends at {end}, and can be trimmed up to there")
    if before <= found:
        return found  # it was confirmed before it was shown
    again = "it is under way: ask `stat`, or trim again, which does no harm"
    asked = Asked(f"the trim of stream {name!r}", again, repeatable=True)

    def in_force() -> bool:
        nonlocal found
        found, _ = attachment.bounds(handle)
        return found >= before

    message: Message = {"op": "trim", "name": name, "number": lib.rw_handle_number(handle), "before": before}
    yield from change(attachment, message, in_force, asked, timeout)
    return found


def delete(attachment: Attachment, name: str, timeout: float | None) -> Steps[None]:
    """Deletes that stream; returns once that is on stable storage. Errors as `trim`."""
    handle = yield from attachment.handle_steps(name, look=True)
    again = "it is under way: look again later whether the stream is there"
    asked = Asked(f"the deletion of stream {name!r}", again, repeatable=False)

    def gone() -> bool:
        return not attachment.lives(handle)

    message: Message = {"op": "delete", "name": name, "number": lib.rw_handle_number(handle)}
    yield from change(attachment, message, gone, asked, timeout)


def _nobody(_: Message) -> None:
    """Who asks for what memory shows as done needs no answer."""


def change(
    attachment: Attachment,
    message: Message,
    done: Callable[[], bool],
    asked: Asked,
    timeout: float | None,
    hear: Callable[[Message], None] = _nobody,
) -> Steps[None]:
    """Asks for it, lets ``hear`` have the answer, if one comes, and waits until it is done. Raises as `trim`."""
    began = time.monotonic()
    left = timeout
    try:
        hear((yield from attachment.registration.change_steps(message)))
    except NotRunning as error:
        if error.__cause__ is None:  # the engine's own refusal
            raise
        left = 0.0  # without an answer: it may have been taken, and be done by now
    yield from _await(attachment, done, asked, began, left)


def _await(
    attachment: Attachment, done: Callable[[], bool], asked: Asked, began: float, timeout: float | None
) -> Steps[None]:
    rest = FIRST_REST
    while not done():
        if not attachment.usable():
            if done():  # just before the end
                return
            raise EngineFailed(f"the engine ended before {asked.what} was confirmed: it may or may not be in force")
        waited = time.monotonic() - began
        if timeout is not None and waited >= timeout:
            raise _late(asked, waited)
        yield Rest(rest)
        rest = min(2 * rest, LONGEST_REST)


def _late(asked: Asked, waited: float) -> AckTimeout:
    """Not a variable where it is raised: error and frame would hold each other, and the attachment with them."""
    late = AckTimeout(f"{asked.what} is not confirmed after {waited:.3g} s; {asked.again}")
    late.retriable = asked.repeatable
    return late
