"""The processes of a running engine beside its supervisor, in one table.

They start in this order, and stop in it, one after the other: each is asked (context.FINISH) when the one before has finished.
Those that are expendable are killed before the first is asked.
What the supervisor does when one ends is the same for all and goes by its exit code (context.py), apart from what the role
says here.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable

from ringwal.processes.context import EngineContext


@dataclasses.dataclass(frozen=True, slots=True)
class Role:
    """One kind of process. There is one of each at a time, and a successor has the same role."""

    name: str
    """As messages have it."""
    module: str
    """Where its `main(context) -> exit code` is, which runs in a fork without exec."""
    descriptors: Callable[[EngineContext], set[int]]
    """Of the engine's own, those that it keeps open over the fork. All that are not expendable keep the directory's, with its
    locks, and their end of the lanes."""
    writes_log: bool
    """It leaves the errno of a failed write in `wal_error`: that ends the epoch, however the process ended."""
    expendable: bool = False
    """Nobody needs it. It holds neither lanes nor the directory's locks, is killed first when the engine stops, and nobody
    waits for its end; it is replaced, after a pause, however it ended and however often."""
    rings: bool = False
    """It rings the clients' bells, so it gets them with the lanes."""
    finished_point: str | None = None
    """Where a test can stop the supervisor when this one has finished and the next one is not asked yet."""

    def __str__(self) -> str:
        return self.name

    def main(self) -> Callable[[EngineContext], int]:
        """Its body, loaded: to be called before the fork, so that successors find it loaded."""
        body: Callable[[EngineContext], int] = importlib.import_module(self.module).main
        return body


WAL = Role(
    name="WAL",
    module="ringwal.processes.wal",
    descriptors=lambda context: {context.doorbell_fd, context.inner_fd, context.maintenance_fd},
    writes_log=True,
    finished_point="s.stop.written",
)
DRAIN = Role(
    name="drain",
    module="ringwal.processes.drain",
    descriptors=lambda context: {context.inner_fd},
    writes_log=False,
    rings=True,
)
KEEPER = Role(
    name="keeper",
    module="ringwal.processes.keeper",
    descriptors=lambda context: {context.maintenance_fd},
    writes_log=False,
    expendable=True,
)
ROLES = (WAL, DRAIN, KEEPER)


def after(role: Role) -> Role | None:
    """Who is asked to stop when that one has finished; None: it was the last."""
    following = [each for each in ROLES[ROLES.index(role) + 1 :] if not each.expendable]
    return following[0] if following else None
