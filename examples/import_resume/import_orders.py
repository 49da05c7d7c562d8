"""Imports a CSV file into a stream, one record a row; killed at any moment and started again, it goes on where it was.

    python import_orders.py FILE [DIR]
"""

import csv
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import ringwal

ROWS_AT_ONCE = 500


def rows(path: Path) -> Iterator[bytes]:
    """Each row as JSON: the same ones, in the same order, each time."""
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            yield json.dumps(row).encode()


def main(path: Path, directory: str) -> None:
    with ringwal.connect(directory, autostart=True, reconnect=30.0) as client:
        # The key is the input's name: the engine knows how many of its rows are in the stream.
        producer = client.producer("orders", path.name)
        print(f"{producer.next} rows are there already", flush=True)
        left = islice(rows(path), producer.next, None)
        while batch := list(islice(left, ROWS_AT_ONCE)):
            producer.append_many(batch)
        producer.flush(60.0)
        print(f"{producer.next} rows are in the stream, each once", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "orders.d")
