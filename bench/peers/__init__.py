"""The peers, one file each. `everyone()` is the register."""

from __future__ import annotations

from bench.contender import Contender
from bench.peers.flock_file import FlockFile
from bench.peers.lmdb import Lmdb
from bench.peers.nats import NatsJetStream
from bench.peers.postgresql import PostgreSQL
from bench.peers.redis_streams import RedisStreams
from bench.peers.rocksdb import RocksDB
from bench.peers.sqlite import SQLite


def everyone() -> list[Contender]:
    """A fresh instance of every peer."""
    return [FlockFile(), SQLite(), Lmdb(), RocksDB(), RedisStreams(), PostgreSQL(), NatsJetStream()]
