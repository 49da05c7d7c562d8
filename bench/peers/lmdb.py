"""LMDB: a memory-mapped B+tree with one writer at a time; every commit syncs."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from bench.contender import BlockingSession, Contender, Plan, missing, optional
from bench.scenario import Scenario

MAP_BYTES = 64 << 30
RECORDS_PER_COMMIT = 1 << 20
KEY = struct.Struct(">IQ")


def _open(path: Path) -> Any:
    return optional("lmdb").open(str(path), map_size=MAP_BYTES, subdir=False, max_readers=1024, sync=True, metasync=True)


class _Session(BlockingSession):
    def __init__(self, path: Path, streams: int) -> None:
        self.environment = _open(path)
        self.last = streams == 1

    def commit(self, stream: int, records: Sequence[bytes]) -> None:
        with self.environment.begin(write=True) as transaction:
            # The transaction's number orders the records of a stream without a look-up: as cheap as a key can be had.
            first = transaction.id() * RECORDS_PER_COMMIT
            if len(records) == 1:
                transaction.put(KEY.pack(stream, first), records[0], append=self.last)
                return
            keys = map(KEY.pack, repeat(stream), range(first, first + len(records)))
            _, added = transaction.cursor().putmulti(zip(keys, records, strict=True), append=self.last)
            if added != len(records):
                raise OSError(f"only {added} of {len(records)} records were added")

    def close(self) -> None:
        self.environment.close()


class Lmdb(Contender):
    """One environment, opened by every process; keys are (stream, order)."""

    name = "lmdb"
    durability = "sync and metasync on: data and meta page synced before each commit returns"

    def __init__(self) -> None:
        self.path = Path()

    def unavailable(self) -> str | None:
        return missing("lmdb", "lmdb")

    def version(self) -> str:
        lmdb = optional("lmdb")
        return f"LMDB {'.'.join(map(str, lmdb.version()))}, py-lmdb {lmdb.__version__}"

    def setup(self, directory: Path, scenario: Scenario) -> None:
        self.path = directory / "log.mdb"
        _open(self.path).close()

    def open(self, plan: Plan) -> BlockingSession:
        return _Session(self.path, plan.scenario.streams)

    def teardown(self) -> None:
        """The file goes with the directory."""
