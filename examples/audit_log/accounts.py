"""A program that is audited: roles of users, in a database. As many of it may run at a time as you like.

    python accounts.py ACTOR grant USER ROLE
    python accounts.py ACTOR show USER
    python accounts.py < COMMANDS              the same, a command a line
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys

import ringwal
from audit import Trail

DATABASE = os.environ.get("AUDIT_DATABASE", "accounts.db")
TABLE = "CREATE TABLE IF NOT EXISTS roles (user TEXT PRIMARY KEY, role TEXT, record INTEGER)"


def grant(trail: Trail, database: sqlite3.Connection, actor: str, user: str, role: str) -> str:
    """The record first: whoever is killed between the two has recorded what was not done, and never done what is not
    recorded. The latest record wins, whoever comes to the database first."""
    offset = trail.change(actor, f"granted {role}", object=user)
    with database:
        database.execute(
            "INSERT INTO roles VALUES (?, ?, ?) ON CONFLICT (user) DO UPDATE"
            " SET role = excluded.role, record = excluded.record WHERE excluded.record > record",
            (user, role, offset),
        )
    return f"{user} is {role} (record {offset})"


def show(trail: Trail, database: sqlite3.Connection, actor: str, user: str) -> str:
    trail.view(actor, user)
    found = database.execute("SELECT role FROM roles WHERE user = ?", (user,)).fetchone()
    return f"{user} is {found[0] if found else 'nobody'}"


def obey(trail: Trail, database: sqlite3.Connection, words: list[str]) -> str:
    """Raises ValueError: nobody knows what that means."""
    match words:
        case [actor, "grant", user, role]:
            return grant(trail, database, actor, user, role)
        case [actor, "show", user]:
            return show(trail, database, actor, user)
    raise ValueError(f"not a command: {' '.join(words)}")


def main() -> int:
    commands = [sys.argv[1:]] if sys.argv[1:] else (line.split() for line in sys.stdin)
    code = 0
    with Trail() as trail, contextlib.closing(sqlite3.connect(DATABASE, isolation_level="IMMEDIATE")) as database:
        database.execute(TABLE)
        for words in commands:
            try:
                print(obey(trail, database, words), flush=True)
            except ringwal.Error as error:
                print(f"not done: {' '.join(words)}; the trail's record: {error.outcome}", flush=True)
                code = 1
    return code


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (ValueError, ringwal.Error) as error:
        raise SystemExit(f"accounts: {error}") from None
