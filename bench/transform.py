"""Consumers, and exactly once from stream to stream: how fast, beside SQLite, interleaved.

    python -m bench.transform --records 300000 --rounds 5

read        a consumer that polls records of 1 KiB, 10,000 at once
commit      one that iterates, and commits each record without waiting for it
transform   reads, appends what follows from it, and commits both together every 100 records, which is on stable storage
            before the next; SQLite (WAL, synchronous=FULL) inserts the output and updates the position in one transaction
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import subject
from bench.peers.sqlite import _connect

RECORD = bytes(1024)
TOGETHER = 100
AT_ONCE = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.transform", description=__doc__)
    parser.add_argument("--records", type=int, default=300_000, help="that are read  [default: 300000]")
    parser.add_argument("--transformed", type=int, default=30_000, help="[default: 30000]")
    parser.add_argument("--rounds", type=int, default=5, help="[default: 5]")
    parser.add_argument("--directory", type=Path, help="on the disk that is measured  [default: a temporary one]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ringwal-transform-", dir=options.directory) as place:
        rates = _measure(Path(place), options.records, options.transformed, options.rounds)
    found: dict[str, Any] = {name: {"median": round(statistics.median(each)), "all": each} for name, each in rates.items()}
    pairs = zip(rates["transform"], rates["transform, SQLite"], strict=True)
    found["transform / SQLite"] = round(statistics.median(ours / theirs for ours, theirs in pairs), 2)
    json.dump(found, sys.stdout, indent=1)
    print()
    return 0


def _measure(place: Path, records: int, transformed: int, rounds: int) -> dict[str, list[int]]:
    """Records a second."""
    rates: dict[str, list[int]] = {"read": [], "commit": [], "transform": [], "transform, SQLite": []}
    server = subject.start(place / "engine", {}, place / "engine.log")
    try:
        database = _filled(place / "sqlite.db", transformed)
        _fill(place / "engine", max(records, transformed))
        for turn in range(rounds):
            rates["read"].append(_rate(_read(place / "engine", f"read-{turn}", records)))
            rates["commit"].append(_rate(_commit(place / "engine", f"commit-{turn}", records)))
            rates["transform"].append(_rate(_transform(place / "engine", f"transform-{turn}", transformed)))
            rates["transform, SQLite"].append(_rate(_transform_in(database, turn, transformed)))
        database.close()
    finally:
        server.stop()
    return rates


def _rate(work: Iterator[int]) -> int:
    """Of what it yields once it is ready, and in the end: nothing, and how many it has done."""
    next(work)
    began = time.perf_counter()
    return round(next(work) / (time.perf_counter() - began))


def _fill(directory: Path, count: int) -> None:
    import ringwal

    with ringwal.connect(directory) as client:
        for _ in range(0, count, 1000):
            client.stream("in").append_many([RECORD] * 1000)


def _read(directory: Path, name: str, count: int) -> Iterator[int]:
    import ringwal

    with ringwal.connect(directory) as client, client.consumer(name, ["in"]) as consumer:
        yield 0
        done = 0
        while done < count:
            done += len(consumer.poll(AT_ONCE, None))
        yield done


def _commit(directory: Path, name: str, count: int) -> Iterator[int]:
    import ringwal

    with ringwal.connect(directory) as client, client.consumer(name, ["in"]) as consumer:
        yield 0
        for done, record in enumerate(consumer, 1):
            consumer.commit(record, wait=False)
            if done == count:
                break
        consumer.flush()
        yield count


def _transform(directory: Path, name: str, count: int) -> Iterator[int]:
    import ringwal

    with ringwal.connect(directory) as client, client.consumer(name, ["in"]) as consumer:
        yield 0
        for _ in range(0, count, TOGETHER):
            records = consumer.poll(TOGETHER, None)
            with client.batch() as batch:
                for record in records:
                    batch.append(name, record.data)
                batch.commit(consumer, records[-1])
        yield count


def _filled(path: Path, count: int) -> sqlite3.Connection:
    database = _connect(path)
    database.execute("CREATE TABLE input(id INTEGER PRIMARY KEY, data BLOB NOT NULL)")
    database.execute("CREATE TABLE output(id INTEGER PRIMARY KEY, turn INTEGER NOT NULL, data BLOB NOT NULL)")
    database.execute("CREATE TABLE position(turn INTEGER PRIMARY KEY, done INTEGER NOT NULL)")
    database.execute("BEGIN")
    database.executemany("INSERT INTO input(data) VALUES (?)", ((RECORD,) for _ in range(count)))
    database.execute("COMMIT")
    return database


def _transform_in(database: sqlite3.Connection, turn: int, count: int) -> Iterator[int]:
    database.execute("INSERT INTO position VALUES (?, 0)", (turn,))
    yield 0
    done = 0
    while done < count:
        rows = database.execute("SELECT id, data FROM input WHERE id > ? ORDER BY id LIMIT ?", (done, TOGETHER)).fetchall()
        done = rows[-1][0]
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO output(turn, data) VALUES (?, ?)", ((turn, data) for _, data in rows))
        database.execute("UPDATE position SET done = ? WHERE turn = ?", (done, turn))
        database.execute("COMMIT")
    yield done


if __name__ == "__main__":
    sys.exit(main())
