"""An engine in a process of its own, for tests: `python host_engine.py DIR SETTINGS-AS-JSON`.

Prints the report as one JSON line when it is ready. `autostart` among the settings makes it end with its last client,
soon enough for a test.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from ringwal import errors
from ringwal.config import Config
from ringwal.processes import supervisor


def ready(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(process)d %(message)s")
    settings = json.loads(sys.argv[2])
    autostart = settings.pop("autostart", False)
    if autostart:
        supervisor.AUTOSTART_FIRST_SECONDS = autostart
        supervisor.AUTOSTART_GRACE_SECONDS = 0.05
    try:
        return supervisor.Supervisor(
            sys.argv[1], Config(**settings), on_ready=ready, autostart=bool(autostart)
        ).run()
    except errors.Error as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error), **error.facts()}), flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
