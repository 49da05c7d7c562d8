"""What the supervisor hands to its processes across the fork, and the contract of their `main`.

`main(context) -> int` runs in the child, in its main thread, and returns the process's exit code:

    0   (EX_OK)        asked to stop by FINISH, and finished: WAL has written what was published, drain has confirmed
                       what was sealed
    74  (EX_IOERR)     a write or sync failed, in WAL or as drain sees in memory. The epoch is over
    72  (EX_OSFILE)    WAL only: the directory is not what it was (ownership.py). The epoch is over
    71  (EX_OSERR)     the system gives it no thread or memory. The epoch is over
    70  (EX_SOFTWARE)  shared memory is not what it should be, or the process cannot work. The epoch is over
    any other death    the supervisor starts a successor, with `replacement` set

The keeper is expendable (roles.py): however it ends, all that follows is another one.

SIGINT, SIGHUP and SIGTERM are ignored in the child: terminals and service managers send them to everybody at once, and the
order of a stop is the supervisor's. FINISH is ignored until `main` installs its handler, and is sent again and again during
a stop until the process has ended. SIGKILL follows the supervisor's death at once.
"""

from __future__ import annotations

import dataclasses
import logging
import signal
import socket
import time

from ringwal.config import Config
from ringwal.log.directory import Directory
from ringwal.memory import Mapping
from ringwal.processes.lanes import Intake
from ringwal.processes.ownership import Ownership

LOG = logging.getLogger("ringwal")
FINISH = signal.SIGUSR2
"""The supervisor's word to WAL and drain: a signal that nobody sends to a whole group."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineContext:
    """One epoch of one engine. The memory is mapped before the fork and stays valid in the children."""

    ownership: Ownership
    """The directory and its locks, held as long as any process of the engine has these descriptors."""
    config: Config
    uuid: bytes
    """16 bytes that name the log."""
    epoch: int
    control: Mapping
    """`rw_control *`, writable."""
    ring: Mapping
    """`uint8_t *`, writable, mapped twice in a row."""
    direct: bool
    """Segments are written past the page cache: found out once, as a replacement may meet a full disk."""
    doorbell_fd: int
    """eventfd that clients ring when the WAL process sleeps; who has it may make it blocking, so only that one reads it."""
    inner_fd: int
    """eventfd that the engine's own processes ring instead, and no client has; non-blocking."""
    maintenance_fd: int
    """eventfd that wakes the WAL process's main thread for housekeeping; non-blocking."""
    began: float = dataclasses.field(default_factory=time.monotonic)
    """When the epoch began, by the clock that nobody sets."""
    intake: Intake | None = None
    """In WAL and drain: where the lanes of clients come from."""
    line: socket.socket | None = None
    """In the keeper: to the supervisor (keeper_line.py)."""
    unlocked: Directory | None = None
    """In the keeper: the directory, opened once more, with nothing of its locks."""
    replacement: bool = False
    """The process takes over from one that died: restore from shared memory first."""
    log: logging.Logger = LOG

    @property
    def directory(self) -> Directory:
        """Of the log."""
        return self.ownership.directory if self.unlocked is None else self.unlocked
