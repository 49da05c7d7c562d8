"""The engine's report about itself: what `status` shows."""

from __future__ import annotations

import os
import time
from typing import Any

from ringwal import observer, views
from ringwal.log.home import Home
from ringwal.log.recovery import Recovered
from ringwal.processes.context import EngineContext
from ringwal.processes.process_group import ProcessGroup
from ringwal.processes.roles import DRAIN, WAL


def report(context: EngineContext, group: ProcessGroup, recovered: Recovered, home: Home) -> dict[str, Any]:
    """Facts by name; sizes in bytes, times in seconds: what the memory says, and what only the supervisor knows."""
    control = context.control.pointer
    pids = group.pids()
    facts = observer.facts(control)
    ready_end = int(views.engine(control).segments_end)
    direct = facts["io"] == "direct" if facts["wal_pid"] else recovered.direct
    return {
        "directory": str(context.directory.path),
        **facts,
        "pid": os.getpid(),
        "wal_pid": pids.get(WAL),
        "drain_pid": pids.get(DRAIN),
        "home": home.id,
        "uptime": round(time.monotonic() - context.began, 3),
        "restarts": group.restarts,
        "io": "direct" if direct else "buffered",
        "durability": observer.DIRECT if direct else observer.BUFFERED,
        # As the manifest has them, and not by listing the directory: that takes long where there are many.
        "segments": {
            **facts["segments"],
            "files": max(recovered.manifest.named_end, ready_end) - recovered.manifest.first_segment,
        },
        "recovery": {
            name: getattr(recovered.statistics, name) for name in recovered.statistics.__dataclass_fields__
        },
    }
