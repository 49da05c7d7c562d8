"""The audit trail of a host's programs: two streams of one log, each record a line of JSON.

    changes   what was changed, and by whom: on stable storage before the change is made
    views     who has looked at what: through `logging`; nobody waits for the disk
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.config
import os
from typing import Any

import ringwal

LOG = os.environ.get("AUDIT_LOG", "audit.d")
AUTOSTART = os.environ.get("AUDIT_AUTOSTART", "yes") == "yes"  # "no": a service manager runs `ringwal run`
KEPT = {"changes": "400d", "views": "30d"}


class AsJson(logging.Formatter):
    """One object a line, made of the message and its arguments: `info("looked at", {"actor": ..., "object": ...})`."""

    def format(self, record: logging.LogRecord) -> str:
        facts = record.args if isinstance(record.args, dict) else {}
        return json.dumps({"actor": None, "action": record.getMessage(), **facts, "pid": record.process})


LOGGING: dict[str, Any] = {
    "version": 1,
    "formatters": {"json": {"()": AsJson}},
    "handlers": {
        "views": {
            "class": "ringwal.logging.StreamHandler",
            "formatter": "json",
            "path": LOG,
            "stream": "views",
            "on_down": "buffer",  # a program that only shows something goes on without an engine
            "autostart": AUTOSTART,
        },
    },
    "loggers": {"audit.views": {"level": "INFO", "handlers": ["views"], "propagate": False}},
}


class Trail:
    """The trail, open for one program. A context manager."""

    def __init__(self) -> None:
        self._client = ringwal.connect(LOG, autostart=AUTOSTART, timeout=30.0, reconnect=10.0)
        for name, age in KEPT.items():
            with contextlib.suppress(ringwal.StreamExists):  # `ringwal configure` has said something else: that holds
                self._client.create_stream(name, retention_age=age)
        logging.config.dictConfig(LOGGING)
        self._changes = self._client.stream("changes")
        self._views = logging.getLogger("audit.views")

    def change(self, actor: str, action: str, **facts: object) -> int:
        """Returns the record's offset: it is on stable storage, and the change may be made.

        Raises:
            ringwal.Error: it may not. `outcome` says whether the trail has the record all the same.
        """
        record = json.dumps({"actor": actor, "action": action, **facts, "pid": os.getpid()})
        return self._changes.append(record.encode()).result(timeout=30.0).offset

    def view(self, actor: str, what: str) -> None:
        """Somebody looks at something. It raises nothing, and waits for no disk."""
        self._views.info("looked at", {"actor": actor, "object": what})

    def __enter__(self) -> Trail:
        return self

    def __exit__(self, *_: object) -> None:
        logging.shutdown()
        self._client.close()
