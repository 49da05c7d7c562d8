"""What an engine's control area says of it: for its own report, and for whoever looks at one that does not answer.

An engine whose supervisor is stopped, or hangs, cannot hand out its memory. `observe` takes it from /proc/PID/fd, where
the lock file says it is: by the same user, in the same pid namespace, and only if that process holds the directory's lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ringwal import consumed, lock_file, memory, views
from ringwal._native import ffi, lib
from ringwal.config import PAGE
from ringwal.errors import Error
from ringwal.words import WORDS

STATES = {
    lib.RW_STARTING: "starting",
    lib.RW_RUNNING: "running",
    lib.RW_STOPPING: "stopping",
    lib.RW_STOPPED: "stopped",
    lib.RW_FAILED: "failed",
}
COUNTERS = [word.name for word in WORDS if (word.struct, word.unit) == ("rw_control", "counter")]
DIRECT = "confirmed after the block's own synchronous write past the page cache (O_DIRECT, RWF_DSYNC)"
BUFFERED = "confirmed after the block's write and fdatasync"
LAST_STATUS_NAME = "last-status.json"
"""In the directory: the report of the engine that ended there last, unless it was killed. Its successor removes it."""
CLIENTS_SHOWN = 200
"""A reply is one packet of bounded size, so a crowd is not listed whole."""


def facts(control: Any) -> dict[str, Any]:
    """Facts by name, of a mapped `rw_control *`; sizes in bytes, times in seconds. Readable at any time, also while it
    changes."""
    c = views.engine(control)
    current = c.sealed_end // c.segment_bytes
    file_bytes, ahead = c.segment_bytes + PAGE, max(0, c.segments_end - 1 - current)
    clients = _clients(control, c.client_slots)
    return {
        "state": STATES.get(c.state, "unknown"),
        "pid": c.supervisor_pid,
        "wal_pid": c.wal_pid or None,
        "drain_pid": c.drain_pid or None,
        "keeper_pid": c.keeper_pid or None,
        "processes": {
            name: process_state(pid)
            for name, pid in (
                ("supervisor", c.supervisor_pid), ("wal", c.wal_pid), ("drain", c.drain_pid), ("keeper", c.keeper_pid)
            )
            if pid  # a process says so itself when it has begun
        },
        "epoch": c.epoch,
        "uuid": bytes(ffi.buffer(c.uuid)).hex(),
        "since_confirmed": round(time.monotonic() - c.confirmed_ns / 1e9, 3) if c.confirmed_ns else None,
        "io": "direct" if c.io_direct else "buffered",
        "durability": DIRECT if c.io_direct else BUFFERED,
        "write_us": round(c.write_ns / 1e3, 1) if c.write_ns else None,
        "confirm_order": "log" if c.confirm_order else "stream",
        "storage_full": os.strerror(c.storage_full) if c.storage_full else None,
        "ring": {"bytes": c.ring_bytes, "used": c.sealed_end - c.released_end},
        "segments": {"bytes": c.segment_bytes, "current": current, "ahead": ahead},
        # Files of segments; `used` are those up to the one that is written now.
        "space": {
            "used": max(0, min(current + 1, c.segments_end) - c.first_segment) * file_bytes,
            "ahead": ahead * file_bytes,
            "freed": c.segments_freed * file_bytes,
            # of appends since the engine began; a block takes whole pages
            "written_per_byte": round(c.wal_block_bytes / c.wal_payload_bytes, 3) if c.wal_payload_bytes else None,
        },
        # Side files stand beside all segments below `end`, or cannot be had; so many more could be there by now.
        "side_files": {
            "end": c.side_end,
            "behind": max(0, c.checkpointed // c.segment_bytes - c.side_end),
            "hindered": os.strerror(c.keeper_error) if c.keeper_error else None,
        },
        # Blocks that were alive in segments below `end`, which are free to go or gone.
        "attic": {"end": c.attic_end, "bytes": c.attic_bytes},
        "streams": lib.rw_streams_living(control),
        "consumers": consumed.summary(control),
        "clients_attached": len(clients),
        "clients": clients[:CLIENTS_SHOWN],
        "counters": {name: getattr(c, name) for name in COUNTERS},
    }


def process_state(pid: int) -> str:
    """`running`, also where it waits for something; `stopped` (SIGSTOP, a debugger, a job control shell); `gone`."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "gone"
    return "stopped" if state in ("T", "t") else "gone" if state in ("Z", "X") else "running"


class Recovering(NamedTuple):
    """How far an engine is that recovers: bytes of its log that it has read, and that it has to read; 0: not known yet."""

    pid: int
    done: int
    total: int


def recovering(path: Path) -> Recovering | None:
    """What the engine that holds the directory says of its recovery; None: there is none, or nothing can be seen of it."""
    with _words(path, "progress", memory.observe_progress) as found:
        if found is None:
            return None
        pid, words = found
        seen = views.progress(words)
        return Recovering(pid, min(seen.done, seen.total), seen.total)


def observe(path: Path) -> dict[str, Any] | None:
    """`facts` of the engine that holds the directory, without asking it; None if there is none, or it cannot be seen."""
    with _words(path, "control", memory.observe_control) as found:
        if found is None:
            return None
        pid, control = found
        return {"directory": str(path.absolute()), **facts(control), "pid": pid}


@contextlib.contextmanager
def _words(path: Path, name: str, attach: Callable[[int], memory.Mapping]) -> Iterator[tuple[int, Any] | None]:
    """The pid of the engine that holds the directory, and its shared words of that name, mapped; None: they cannot be seen."""
    with contextlib.ExitStack() as stack:
        try:
            directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, directory)
            holder = lock_file.holder(directory)
            found = None
            if holder is not None and getattr(holder, name) is not None:
                fd = os.open(f"/proc/{holder.pid}/fd/{getattr(holder, name)}", os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                # Once more, behind the open: until then the process may have ended, and its number be another's.
                if lock_file.holder(directory) == holder:
                    found = holder.pid, stack.enter_context(attach(fd)).pointer
        except (OSError, Error):
            found = None
        yield found


def last_status(path: Path) -> dict[str, Any] | None:
    """What the engine that ended there last has left: `ended`, `exit_code`, `reason` and its report; None: nothing. After a
    start that was refused (`started` is False) it is that, with the report of the engine `before`."""
    try:
        directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return last_status_at(directory)
    finally:
        os.close(directory)


def last_status_at(directory: int) -> dict[str, Any] | None:
    """`last_status` of the directory that is open as that."""
    try:
        fd = os.open(LAST_STATUS_NAME, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        with open(fd, encoding="utf-8") as file:  # noqa: PTH123
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _clients(control: Any, slots: int) -> list[dict[str, Any]]:
    rows = ((k, views.slot(control, k)) for k in range(slots))
    return [
        {
            "slot": k,
            "pid": slot.pid,
            "generation": slot.generation,
            "lane_bytes": slot.lane_bytes,
            "requests": slot.requests,
            "confirmed": slot.confirmed,
            "closing": slot.state == lib.RW_SLOT_CLOSING,
        }
        for k, slot in rows
        if slot.state != lib.RW_SLOT_FREE
    ]
