"""The engine's report about itself: what `status` shows."""

from __future__ import annotations

import os
import time
from typing import Any

from ringwal._native import ffi, lib
from ringwal.log import segment
from ringwal.log.recovery import Recovered
from ringwal.processes.children import Role
from ringwal.processes.context import EngineContext
from ringwal.processes.crew import Crew
from ringwal.processes.slots import SlotTable

CLIENTS_SHOWN = 200
"""A reply is one packet of bounded size, so a crowd is not listed whole."""

STATES = {
    lib.RW_STARTING: "starting",
    lib.RW_RUNNING: "running",
    lib.RW_STOPPING: "stopping",
    lib.RW_STOPPED: "stopped",
    lib.RW_FAILED: "failed",
}
COUNTERS = [
    name
    for name, field in ffi.typeof("rw_control").fields
    if name.startswith(("wal_", "drain_")) and field.type.cname == "uint64_t"
]
DIRECT = "confirmed after the block's own synchronous write past the page cache (O_DIRECT, RWF_DSYNC)"
BUFFERED = "confirmed after the block's write and fdatasync"


def report(context: EngineContext, crew: Crew, slots: SlotTable, recovered: Recovered) -> dict[str, Any]:
    """Facts by name; sizes in bytes, times in seconds. Readable at any time, also while it changes."""
    c = context.control.pointer
    pids = crew.pids()
    direct = bool(c.io_direct) if c.wal_pid else recovered.direct
    clients = _clients(context, slots)
    current = c.sealed_end // c.segment_bytes
    return {
        "directory": str(context.directory),
        "state": STATES[c.state],
        "pid": os.getpid(),
        "wal_pid": pids.get(Role.WAL),
        "drain_pid": pids.get(Role.DRAIN),
        "epoch": context.epoch,
        "uuid": context.uuid.hex(),
        "uptime": round(time.monotonic() - context.began, 3),
        "since_confirmed": round(time.monotonic() - c.confirmed_ns / 1e9, 3) if c.confirmed_ns else None,
        "restarts": crew.restarts,
        "io": "direct" if direct else "buffered",
        "durability": DIRECT if direct else BUFFERED,
        "write_us": round(c.write_ns / 1e3, 1) if c.write_ns else None,
        "confirm_order": context.config.confirm_order,
        "storage_full": os.strerror(c.storage_full) if c.storage_full else None,
        "ring": {"bytes": c.ring_bytes, "used": c.sealed_end - c.released_end},
        "segments": {
            "bytes": c.segment_bytes,
            "files": len(segment.numbers(context.directory)),
            "current": current,
            "ahead": max(0, c.segments_end - 1 - current),
        },
        "streams": c.stream_count,
        "clients_attached": len(clients),
        "clients": clients[:CLIENTS_SHOWN],
        "counters": {name: getattr(c, name) for name in COUNTERS},
        "recovery": {
            name: getattr(recovered.statistics, name) for name in recovered.statistics.__dataclass_fields__
        },
    }


def _clients(context: EngineContext, slots: SlotTable) -> list[dict[str, Any]]:
    rows = ((k, slots.slot(k)) for k in range(context.config.max_clients))
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
