"""Processes each delivery once, in order, however often it is killed, and however often a delivery was sent.

    python worker.py

What a delivery causes, and the offset of the next one, are written in one SQLite transaction: both are there, or neither.
"""

from __future__ import annotations

import json
import os
import sqlite3

import ringwal

LOG = os.environ.get("WEBHOOK_LOG", "webhooks.d")
AUTOSTART = os.environ.get("WEBHOOK_AUTOSTART", "yes") == "yes"
DATABASE = os.environ.get("WEBHOOK_DATABASE", "worker.db")
TABLES = """
CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY CHECK (one = 1), next INTEGER NOT NULL);
INSERT OR IGNORE INTO position VALUES (1, 0);
CREATE TABLE IF NOT EXISTS processed (source TEXT, id TEXT, record INTEGER, body BLOB, PRIMARY KEY (source, id));
"""


def main() -> None:
    database = sqlite3.connect(DATABASE, isolation_level="IMMEDIATE")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")  # a transaction that has returned survives a power cut
    database.executescript(TABLES)
    (position,) = database.execute("SELECT next FROM position").fetchone()
    # A tail goes on over an engine's end. A minute without one ends this program; its service manager starts it again.
    with ringwal.connect(LOG, autostart=AUTOSTART, timeout=30.0, reconnect=60.0) as client:
        for record in client.stream("deliveries").tail(position, missing="wait"):
            with database:
                said = process(database, record)
                advance(database, record.offset)
            print(record.offset, said, flush=True)


def process(database: sqlite3.Connection, record: ringwal.Record) -> str:
    """What is done with a delivery stands here. A sender that had no answer has sent it again: that is ignored."""
    head, _, body = record.data.partition(b"\n")
    told = json.loads(head)
    name = told["id"] or f"record {record.offset}"  # senders that name nothing cannot be told from others
    row = (told["source"], name, record.offset, body)
    new = database.execute("INSERT OR IGNORE INTO processed VALUES (?, ?, ?, ?)", row).rowcount
    return f"{told['source']} {name}: {'processed' if new else 'seen before'}"


def advance(database: sqlite3.Connection, offset: int) -> None:
    """Past that record. Ends the program, and takes back the transaction, if another worker has done so meanwhile."""
    if database.execute("UPDATE position SET next = ? WHERE next = ?", (offset + 1, offset)).rowcount != 1:
        raise SystemExit(f"another worker uses {DATABASE}, and has processed record {offset}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except ringwal.Error as error:
        raise SystemExit(f"worker: {error}") from None
