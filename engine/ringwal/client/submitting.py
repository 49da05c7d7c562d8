"""How an append gets into a lane, be it of one stream or of several: it attaches, waits for room, follows the engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ringwal._native import lib
from ringwal.errors import BackpressureTimeout, NotRunning
from ringwal.steps import Steps

if TYPE_CHECKING:
    from ringwal.client.core import ClientCore
    from ringwal.client.lane import Lane
    from ringwal.client.results import Results


class Bound(Protocol):
    """A stream's handle, or those of several, with the lane that they belong to."""

    lane: Lane


B = TypeVar("B", bound=Bound)


class Target(Protocol[B]):
    """Where appends go: a stream, or several together."""

    name: str
    _client: ClientCore[Any]
    _numbers: int
    """That it takes, in a row."""

    @property
    def _bound(self) -> B | None: ...
    def _check_gap(self) -> None: ...
    def _bind_to_append(self, began: float) -> Steps[B]: ...
    def _may_follow(self, bound: B) -> bool: ...
    def _refused_with(self, lane: Lane) -> None: ...


def submit_steps(
    target: Target[B], began: float, submit: Callable[[B], int], payload_bytes: int
) -> Steps[tuple[Results, int]]:
    """The append's number, and the results that it is among. ``submit`` gives the number, or why there is none; ``began``
    is when its time began (`time.monotonic`)."""
    client = target._client
    deadline = began + client._append_timeout
    back = began + (client._options["reconnect"] or 0.0)
    followed = ended = False
    target._check_gap()
    bound = target._bound
    if bound is None or bound.lane.lost is not None:
        bound = yield from target._bind_to_append(began)
    while True:
        lane = bound.lane
        bank = lane.bank
        number = submit(bound)
        if number >= 0:
            return lane.results_of(bank, number), number
        if lane.retired:
            bound = yield from target._bind_to_append(began)
        elif number == lib.RW_DELETED:  # before this append, which so goes to its successor
            if ended and time.monotonic() >= deadline:
                raise BackpressureTimeout(f"stream {target.name!r} is deleted again and again; nothing was appended")
            ended, bound = True, (yield from target._bind_to_append(began))
        elif number == lib.RW_MAINTENANCE and lane.used_up():
            if (yield from lane.wind_up_steps(target._numbers, deadline)):
                lane.retire()
        else:
            try:
                yield from lane.refused_steps(number, target._numbers, payload_bytes, deadline, client._append_timeout)
            except NotRunning:
                if (followed and time.monotonic() >= back) or not target._may_follow(bound):
                    target._refused_with(lane)
                    raise
                followed = True
                bound = yield from target._bind_to_append(began)
