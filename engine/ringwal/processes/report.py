"""The engine's report about itself: what `status` shows."""

from __future__ import annotations

import os
import time
from typing import Any

from ringwal import consumed, observer, views
from ringwal._native import ffi, lib
from ringwal.log import settings
from ringwal.log.files import PAGE, free_bytes
from ringwal.log.home import Home
from ringwal.log.recovery import Recovered
from ringwal.processes.context import EngineContext
from ringwal.processes.process_group import ProcessGroup
from ringwal.processes.roles import DRAIN, KEEPER, WAL

HOLDERS_SHOWN = 8


def report(context: EngineContext, group: ProcessGroup, recovered: Recovered, home: Home) -> dict[str, Any]:
    """Facts by name; sizes in bytes, times in seconds: what the memory says, and what only the supervisor knows."""
    control = context.control.pointer
    pids = group.pids()
    facts = observer.facts(control)
    seen = views.engine(control)
    # As the manifest has them, and not by listing the directory: that takes long where there are many.
    files = max(recovered.manifest.named_end, seen.segments_end) - max(recovered.manifest.first_segment, seen.first_segment)
    direct = facts["io"] == "direct" if facts["wal_pid"] else recovered.direct
    return {
        "directory": str(context.directory.path),
        **facts,
        "pid": os.getpid(),
        "wal_pid": pids.get(WAL),
        "drain_pid": pids.get(DRAIN),
        "keeper_pid": pids.get(KEEPER),
        "home": home.id,
        "uptime": round(time.monotonic() - context.began, 3),
        "restarts": group.restarts,
        "io": "direct" if direct else "buffered",
        "durability": observer.DIRECT if direct else observer.BUFFERED,
        "segments": {**facts["segments"], "files": files},
        "space": {
            **facts["space"],
            # an engine with more segments ahead may have made them
            "ahead": max(0, files * (PAGE + recovered.manifest.segment_bytes) - facts["space"]["used"]),
            "limit": context.config.max_log_bytes,
            "on_full": context.config.on_full,
            "free": free_bytes(context.directory.segments),
            "min_free": context.config.min_free_bytes,
            "held_by": holders(control),
        },
        "recovery": {
            name: getattr(recovered.statistics, name) for name in recovered.statistics.__dataclass_fields__
        },
    }


def holders(control: Any) -> list[dict[str, Any]]:
    """Streams with records that are kept for consumers, whatever else is set for them, and who holds them; a few of them."""
    place, rows = ffi.new("uint32_t *"), ffi.new("rw_keeping[]", HOLDERS_SHOWN)
    count = lib.rw_retention_rows(control, ffi.new("rw_limits *"), True, place, rows, HOLDERS_SHOWN)  # noqa: FBT003
    committed = {(row.stream, row.name): row.committed for row in consumed.rows(control)} if count else {}
    found = []
    for row in (rows[i] for i in range(count)):
        seen, own = views.stream(control, row.place), ffi.new("rw_settings *")
        if lib.rw_settings_look(control, lib.rw_handle(row.place, row.number), own) == lib.RW_OK:  # so the name is its, too
            name = bytes(ffi.buffer(seen.name, seen.name_bytes)).decode()
            names = settings.decode(bytes(ffi.buffer(own))).retain_until
            start, there = int(row.start_offset), {one: committed.get((int(row.number), one)) for one in names}
            found.append({"stream": name, "start_offset": start, "consumers": list(names), **_slowest(start, there)})
    return found


def _slowest(start: int, committed: dict[str, int | None]) -> dict[str, Any]:
    """Of the consumers that hold a stream, those that hold most of it, and from which offset on. One that there is not holds
    everything."""
    missing = [name for name, offset in committed.items() if offset is None]
    least = min((offset for offset in committed.values() if offset is not None), default=start)
    slowest = missing or [name for name, offset in committed.items() if offset == least]
    return {"held_from": start if missing else max(start, least), "slowest": slowest, "missing": missing}
