"""The scenarios, as data. What each goal needs stands beside its numbers; how it is measured stands elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

KIB = 1024

LIMITS = ("device", "fdatasync")
PEERS = ("flock-file", "sqlite", "lmdb", "rocksdb", "redis", "postgresql", "nats")
US = "ringwal"
AHEAD = "ringwal-ahead"
"""The engine with segments filled before the load."""
RECYCLED = "ringwal-recycled"
"""The engine on a log at its limit, which uses its oldest segments again."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load. Every contender named here gets one turn a round, in shuffled order."""

    name: str
    title: str
    writers: int = 1
    outstanding: int = 1
    """Appends (with `batch` > 0: batches) that one writer of the engine keeps unconfirmed."""
    record_bytes: int = KIB
    streams: int = 1
    batch: int = 0
    """0: single `append` calls; else records per `append_many`."""
    peer_batch: int = 1
    """Records that a blocking contender may put into one commit."""
    loop: Literal["closed", "open"] = "closed"
    rate: int = 0
    """Open loop: records per second of all writers together."""
    contenders: tuple[str, ...] = (US, *LIMITS, *PEERS)
    engine: dict[str, str] = field(default_factory=dict)
    """Settings of the engine that differ from its defaults, as command line flags without the dashes."""
    weight: float = 1.0
    """Share of the given seconds that one turn takes."""

    def describe(self) -> str:
        """The load in one line."""
        how = f"append_many of {self.batch}" if self.batch else "single appends"
        loop = f"open loop, {self.rate:,} records/s" if self.loop == "open" else "closed loop"
        writers, streams = _count(self.writers, "writer"), _count(self.streams, "stream")
        text = f"{loop}; {writers} x {self.outstanding} outstanding, {self.record_bytes:,} B, {streams}, {how}"
        if self.peer_batch > 1:
            text += f"; peers may commit {self.peer_batch} records at once"
        if self.engine:
            text += "; engine settings " + ", ".join(f"{k}={v}" for k, v in self.engine.items())
        return text


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' if n != 1 else ''}"


MANY_STREAMS = {"max-streams": "131072"}

ONE = Scenario("one", "One writer, one outstanding")
SIXTEEN = Scenario("sixteen", "16 writer processes, one outstanding each", writers=16)
PIPELINED = Scenario(
    "pipelined",
    "4 writers, single appends, 1,000 outstanding",
    writers=4,
    outstanding=1000,
    peer_batch=100,
    streams=4,
    contenders=(US, AHEAD, *LIMITS, *PEERS),
)
BATCHES = Scenario(
    "batches",
    "4 writers, append_many of 1,000 x 128 B",
    writers=4,
    outstanding=8,
    record_bytes=128,
    batch=1000,
    peer_batch=1000,
    streams=4,
    contenders=(US, AHEAD, *LIMITS, *PEERS),
)
LARGE = Scenario(
    "large",
    "4 writers, 64 KiB, 16 outstanding",
    writers=4,
    outstanding=16,
    record_bytes=64 * KIB,
    peer_batch=16,
    streams=4,
    contenders=(US, AHEAD, RECYCLED, *LIMITS, *PEERS),
)
SIXTY_FOUR = Scenario("sixty-four", "64 writer processes, one outstanding each", writers=64)
SOME_STREAMS = Scenario(
    "streams-100",
    "100 streams",
    writers=4,
    outstanding=1000,
    peer_batch=100,
    streams=100,
    engine=MANY_STREAMS,
    contenders=(US, "flock-file", "sqlite", "lmdb", "rocksdb", "redis"),
)
ALL_STREAMS = replace(SOME_STREAMS, name="streams-100000", title="100,000 streams", streams=100_000)
HOT = Scenario(
    "hot-stream",
    "One hot stream for 4 writers",
    writers=4,
    outstanding=1000,
    peer_batch=100,
    contenders=(US, "ringwal-log", "flock-file", "sqlite", "lmdb", "rocksdb", "redis"),
)
ORDER_MIXED = Scenario(
    "confirm-order",
    "confirm_order stream against log: 8 writers, 64 outstanding, 64 streams",
    writers=8,
    outstanding=64,
    streams=64,
    peer_batch=64,
    contenders=(US, "ringwal-log"),
)
OPEN = Scenario(
    "open-loop",
    "Open loop at a fixed rate",
    writers=4,
    outstanding=1000,
    loop="open",
    rate=4000,
    peer_batch=100,
    streams=4,
    contenders=(US, "flock-file", "sqlite", "lmdb", "rocksdb", "redis", "postgresql", "nats"),
)
OPEN_FAST = replace(OPEN, name="open-loop-fast", title="Open loop at a rate that needs group commit", rate=40_000, weight=0.5)

GOALS = (ONE, SIXTEEN, PIPELINED, BATCHES, LARGE, SOME_STREAMS, ALL_STREAMS, SIXTY_FOUR)
SHAPES = (HOT, ORDER_MIXED, OPEN, OPEN_FAST)


def writer_sweep(counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)) -> tuple[Scenario, ...]:
    """Throughput against writers, one outstanding each."""
    return tuple(
        Scenario(f"writers-{n}", f"{_count(n, 'writer')}, one outstanding", writers=n, contenders=(US, *PEERS), weight=0.4)
        for n in counts
    )


def size_sweep(sizes: tuple[int, ...] = (128, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB)) -> tuple[Scenario, ...]:
    """Throughput against record size, with at most 1 MiB outstanding per writer."""
    return tuple(
        Scenario(
            f"size-{n}",
            f"{n:,} B records",
            writers=4,
            record_bytes=n,
            streams=4,
            weight=0.4,
            outstanding=max(4, min(1000, 1024 * KIB // n)),
            peer_batch=max(4, min(100, 1024 * KIB // n)),
            contenders=(US, *PEERS),
        )
        for n in sizes
    )


def outstanding_sweep(counts: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)) -> tuple[Scenario, ...]:
    """Throughput against what each writer keeps unconfirmed; a peer commits as much at once, but not more than 100 records."""
    return tuple(
        Scenario(
            f"outstanding-{n}",
            f"4 writers, {n:,} outstanding each",
            writers=4,
            streams=4,
            weight=0.4,
            outstanding=n,
            peer_batch=min(100, n),
            contenders=(US, *PEERS),
        )
        for n in counts
    )


def everything() -> tuple[Scenario, ...]:
    """All load scenarios of a full run."""
    return (*GOALS, *SHAPES, *writer_sweep(), *size_sweep(), *outstanding_sweep())


def quick() -> tuple[Scenario, ...]:
    """What fits into a minute: the first five goals against the peers that need no server start."""
    cheap = (US, *LIMITS, "flock-file", "sqlite", "lmdb", "rocksdb", "redis")
    return tuple(replace(s, contenders=cheap) for s in (ONE, SIXTEEN, PIPELINED, BATCHES, LARGE))
