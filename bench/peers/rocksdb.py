"""RocksDB: only one process may write a database, so its writers are threads of one process.

The library is called through its own C interface: ctypes gives the interpreter lock back during each call, so commits of
several threads really meet in RocksDB's write group. (The rocksdict package keeps the lock while it syncs, which made 16
threads as slow as one.)
"""

from __future__ import annotations

import ctypes
import ctypes.util
import itertools
import struct
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from bench.contender import BlockingSession, Contender, Plan
from bench.scenario import Scenario

KEY = struct.Struct(">IQ")
PUT = 1
MEMTABLE_BYTES = 256 << 20


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("rocksdb"))
    pointer, text, size, flag = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_ubyte
    error = ctypes.POINTER(ctypes.c_char_p)
    for name, result, arguments in (
        ("options_create", pointer, []),
        ("options_set_create_if_missing", None, [pointer, flag]),
        ("options_set_enable_pipelined_write", None, [pointer, flag]),
        ("options_set_write_buffer_size", None, [pointer, size]),
        ("options_set_compression", None, [pointer, ctypes.c_int]),
        ("writeoptions_create", pointer, []),
        ("writeoptions_set_sync", None, [pointer, flag]),
        ("open", pointer, [pointer, text, error]),
        ("close", None, [pointer]),
        ("put", None, [pointer, pointer, text, size, text, size, error]),
        ("writebatch_create_from", pointer, [text, size]),
        ("writebatch_destroy", None, [pointer]),
        ("write", None, [pointer, pointer, pointer, error]),
    ):
        function = getattr(library, f"rocksdb_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class _Database:
    """The open database of the writer process, shared by its threads."""

    def __init__(self, path: Path) -> None:
        self.library = _library()
        options = self.library.rocksdb_options_create()
        self.library.rocksdb_options_set_create_if_missing(options, 1)
        self.library.rocksdb_options_set_enable_pipelined_write(options, 1)
        self.library.rocksdb_options_set_write_buffer_size(options, MEMTABLE_BYTES)
        self.library.rocksdb_options_set_compression(options, 0)
        self.synced = self.library.rocksdb_writeoptions_create()
        self.library.rocksdb_writeoptions_set_sync(self.synced, 1)
        error = ctypes.c_char_p()
        self.handle = self.library.rocksdb_open(options, str(path).encode(), ctypes.byref(error))
        check(error)
        self.order = itertools.count()
        self.users = 0

    def close(self) -> None:
        self.library.rocksdb_close(self.handle)


def check(error: ctypes.c_char_p) -> None:
    """Raises what the library said, if it said anything."""
    if error.value:
        raise OSError(error.value.decode(errors="replace"))


def _batch(keys: Sequence[bytes], records: Sequence[bytes]) -> bytes:
    """A write batch in RocksDB's own format (sequence number, count, puts): one call a batch instead of one a record."""
    head = bytes([PUT, KEY.size])
    size = _varint(len(records[0]))
    puts = [b"%b%b%b%b" % (head, key, size, record) for key, record in zip(keys, records, strict=True)]
    return struct.pack("<QI", 0, len(records)) + b"".join(puts)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Session(BlockingSession):
    def __init__(self, owner: RocksDB) -> None:
        self.owner = owner
        with owner.lock:
            if owner.database is None:
                owner.database = _Database(owner.path)
            self.database = owner.database
            self.database.users += 1

    def commit(self, stream: int, records: Sequence[bytes]) -> None:
        database, library = self.database, self.database.library
        error = ctypes.c_char_p()
        if len(records) == 1:
            key = KEY.pack(stream, next(database.order))
            library.rocksdb_put(
                database.handle, database.synced, key, len(key), records[0], len(records[0]), ctypes.byref(error)
            )
        else:
            content = _batch([KEY.pack(stream, next(database.order)) for _ in records], records)
            batch = library.rocksdb_writebatch_create_from(content, len(content))
            library.rocksdb_write(database.handle, database.synced, batch, ctypes.byref(error))
            library.rocksdb_writebatch_destroy(batch)
        check(error)

    def close(self) -> None:
        with self.owner.lock:
            self.database.users -= 1
            if not self.database.users:
                self.database.close()
                self.owner.database = None


class RocksDB(Contender):
    """One database, writers as threads of one process; RocksDB groups their commits itself."""

    name = "rocksdb"
    durability = "sync=true: its log is synced before each write returns; writers are THREADS of one process"
    workers = "threads"

    def __init__(self) -> None:
        self.path = Path()
        self.lock = threading.Lock()
        self.database: _Database | None = None

    def unavailable(self) -> str | None:
        if ctypes.util.find_library("rocksdb") is None:
            return "librocksdb is not installed (Debian: apt install librocksdb-dev)"
        return None

    def version(self) -> str:
        return f"RocksDB {str(ctypes.util.find_library('rocksdb')).partition('.so.')[2] or 'unknown'}"

    def setup(self, directory: Path, scenario: Scenario) -> None:
        self.path = directory / "log.rocks"

    def open(self, plan: Plan) -> BlockingSession:
        return _Session(self)

    def teardown(self) -> None:
        """The database was in the writer process and goes with the directory."""
