"""PostgreSQL over a Unix socket, synchronous_commit=on: INSERT for one record, COPY for several."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.contender import BlockingSession, Contender, ContenderFailedError, Plan, missing, optional
from bench.processes import Server
from bench.scenario import Scenario

SETTINGS = {
    "listen_addresses": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "min_wal_size": "1GB",
    "shared_buffers": "512MB",
    "max_connections": "200",
    "autovacuum": "off",
}
TABLE = """CREATE TABLE log(id bigint GENERATED ALWAYS AS IDENTITY, stream integer NOT NULL, data bytea NOT NULL);
ALTER TABLE log ALTER COLUMN data SET STORAGE EXTERNAL"""

COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""Signature, no flags, no extension of the header."""
COPY_END = b"\xff\xff"
ROW = struct.Struct(">hiii")
"""Number of fields, length and value of an integer, length of the bytes that follow."""


def _program(name: str) -> str | None:
    """Debian keeps the server's programs out of PATH."""
    candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3]), reverse=True)
    return str(candidates[0]) if candidates else shutil.which(name)


def copy_block(stream: int, records: Sequence[bytes]) -> bytes:
    """Binary COPY data of (stream, record) rows, in few operations: a writer's records are all of one size."""
    row = ROW.pack(2, 4, stream, len(records[0]))
    return b"".join((COPY_HEAD, row, row.join(records), COPY_END))


class _Session(BlockingSession):
    def __init__(self, directory: Path, user: str) -> None:
        self.connection = optional("psycopg").connect(host=str(directory), user=user, dbname="postgres", autocommit=True)
        self.cursor = self.connection.cursor(binary=True)

    def commit(self, stream: int, records: Sequence[bytes]) -> None:
        if len(records) == 1:
            self.cursor.execute("INSERT INTO log(stream, data) VALUES (%s, %b)", (stream, records[0]), prepare=True)
            return
        with self.cursor.copy("COPY log(stream, data) FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(copy_block(stream, records))

    def close(self) -> None:
        self.connection.close()


class PostgreSQL(Contender):
    """One cluster, made once per run; a fresh table each turn. Each writer is one connection."""

    name = "postgresql"
    durability = "fsync=on, synchronous_commit=on: WAL synced before each commit returns; one INSERT, or one COPY per batch"

    def __init__(self) -> None:
        self.cluster = Path()
        self.server: Server | None = None
        # The server refuses to run as root; the package's own user is used then.
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self.as_user: dict[str, Any] = (
            {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        )

    def unavailable(self) -> str | None:
        if _program("initdb") is None or _program("postgres") is None:
            return "PostgreSQL server is not installed (Debian: apt install postgresql)"
        if self.as_user and not any(entry.pw_name == "postgres" for entry in pwd.getpwall()):
            return "runs as root and there is no user postgres to run the server as"
        return missing("psycopg", "psycopg[binary]")

    def version(self) -> str:
        done = subprocess.run([str(_program("postgres")), "--version"], capture_output=True, text=True, check=True)
        return "PostgreSQL " + done.stdout.split()[2]

    def prepare(self, directory: Path) -> None:
        self.cluster = directory / "postgresql"
        self.cluster.mkdir()
        if self.as_user:
            shutil.chown(self.cluster, "postgres", "postgres")
            for parent in (directory, *directory.parents):
                if not parent.stat().st_mode & 0o001:
                    raise ContenderFailedError(f"user postgres cannot enter {parent}; choose another --directory")
        command = [
            str(_program("initdb")),
            "-D",
            str(self.cluster),
            "-A",
            "trust",
            "-U",
            self.user,
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **self.as_user)
        if done.returncode != 0:
            raise ContenderFailedError("initdb: " + (done.stderr.strip().splitlines() or ["no message"])[-1])
        with (self.cluster / "postgresql.conf").open("a") as config:
            config.writelines(f"{key} = '{value}'\n" for key, value in SETTINGS.items())
            config.write(f"unix_socket_directories = '{self.cluster}'\n")

    def setup(self, directory: Path, scenario: Scenario) -> None:
        command = [str(_program("postgres")), "-D", str(self.cluster)]
        self.server = Server(command, directory / "postgresql.log", cwd="/", **self.as_user)
        self.server.wait_until(self._answers)
        session = _Session(self.cluster, self.user)
        session.connection.execute("DROP TABLE IF EXISTS log")
        for statement in TABLE.split(";"):
            session.connection.execute(statement)
        session.connection.execute("CHECKPOINT")
        session.close()

    def _answers(self) -> bool:
        psycopg = optional("psycopg")
        try:
            _Session(self.cluster, self.user).close()
        except psycopg.OperationalError:
            return False
        return True

    def open(self, plan: Plan) -> BlockingSession:
        return _Session(self.cluster, self.user)

    def server_pids(self) -> list[int]:
        return self.server.pids() if self.server else []

    def teardown(self) -> None:
        if self.server is not None:
            self.server.stop(signal.SIGINT)
            self.server = None
