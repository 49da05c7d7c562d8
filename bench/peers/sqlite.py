"""SQLite in WAL mode with synchronous=FULL: every commit syncs the WAL."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from bench.contender import BlockingSession, Contender, Plan
from bench.scenario import Scenario

BUSY_TIMEOUT_S = 60.0
# Ten times the default, so that checkpoints do not sync the database file every few commits.
CHECKPOINT_PAGES = 10_000


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    return connection


class _Session(BlockingSession):
    def __init__(self, path: Path) -> None:
        self.connection = _connect(path)

    def commit(self, stream: int, records: Sequence[bytes]) -> None:
        execute = self.connection.execute
        if len(records) == 1:
            execute("INSERT INTO log(stream, data) VALUES (?, ?)", (stream, records[0]))
            return
        execute("BEGIN IMMEDIATE")
        self.connection.executemany("INSERT INTO log(stream, data) VALUES (?, ?)", [(stream, record) for record in records])
        execute("COMMIT")

    def close(self) -> None:
        self.connection.close()


class SQLite(Contender):
    """One database file, one connection per process, records appended by rowid."""

    name = "sqlite"
    durability = f"WAL, synchronous=FULL: synced before each commit returns; wal_autocheckpoint={CHECKPOINT_PAGES}"

    def __init__(self) -> None:
        self.path = Path()

    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    def setup(self, directory: Path, scenario: Scenario) -> None:
        self.path = directory / "log.db"
        connection = _connect(self.path)
        connection.execute("CREATE TABLE log(id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, data BLOB NOT NULL)")
        connection.close()

    def open(self, plan: Plan) -> BlockingSession:
        return _Session(self.path)

    def teardown(self) -> None:
        """The file goes with the directory."""
