"""Who did what: the records of both streams, by time. It needs no engine, and disturbs none.

    python who.py --since 1h
    python who.py --since 2027-01-31T09:30:00+00:00 --actor alice
    python who.py /mnt/audit.backup --since 30d
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import ringwal

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
EVER = datetime(1970, 1, 1, tzinfo=UTC)


def moment(text: str) -> datetime:
    """`1h`, `30d`: so long ago; or ISO 8601."""
    if found := re.fullmatch(r"(\d+)([smhdw])", text):
        return datetime.now(UTC) - timedelta(**{UNITS[found[2]]: int(found[1])})
    return datetime.fromisoformat(text).astimezone()


def records(log: ringwal.ReadOnlyLog, name: str, since: datetime) -> Iterator[tuple[int, str, ringwal.Record]]:
    try:
        for record in log.stream(name).records(since):
            yield record.timestamp_ns, name, record
    except ringwal.NoSuchStream:
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", default=os.environ.get("AUDIT_LOG", "audit.d"))
    parser.add_argument("--since", type=moment, default=EVER)
    parser.add_argument("--actor")
    options = parser.parse_args()
    with ringwal.open_readonly(options.directory) as log:
        streams = [records(log, name, options.since) for name in ("changes", "views")]
        for at_ns, name, record in heapq.merge(*streams, key=lambda found: found[0]):
            told = json.loads(record.data)
            if options.actor in (None, told["actor"]):
                at = datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
                print(at, f"{name}/{record.offset}", told["actor"] or "-", told["action"], told.get("object", ""))


if __name__ == "__main__":
    main()
