"""The engine as a contender: started as a user starts it, used as a user uses it."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from bench.contender import Contender, PipelinedSession, Plan, Session
from bench.processes import Server
from bench.scenario import Scenario

CHECKOUT = Path(__file__).resolve().parent.parent
FILL_TIMEOUT = 180.0
"""Seconds for filling segments before a turn, on a disk that others use too."""
COUNTERS = (
    "wal_blocks",
    "wal_requests",
    "wal_records",
    "wal_payload_bytes",
    "wal_block_bytes",
    "wal_writes",
    "wal_parks",
    "drain_passes",
    "drain_confirmed_requests",
    "drain_batches",
    "drain_waited",
    "drain_wakes",
    "drain_parks",
)


def start(directory: Path, settings: Mapping[str, str], log: Path, timeout: float = 120.0) -> Server:
    """An engine on `directory`, ready for clients."""
    flags = [f"--{key}={value}" for key, value in settings.items()]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "engine")}
    server = Server([sys.executable, "-m", "ringwal", "run", str(directory), *flags], log, cwd=CHECKOUT, env=environment)
    try:
        server.wait_until(lambda: b"ready: " in log.read_bytes(), timeout)
    except BaseException:
        server.stop()
        raise
    return server


class _Session(PipelinedSession):
    def __init__(self, directory: Path, plan: Plan) -> None:
        import ringwal

        self.client = ringwal.connect(directory)
        self.streams = [self.client.create_stream(f"s{i}") for i in plan.streams()]
        # A stream's first record also defines it in the log; the steady state is what is measured.
        receipts = [stream.append(b"first") for stream in self.streams]
        for receipt in receipts:
            receipt.result()

    def appenders(self, plan: Plan) -> list[Callable[[], Any]]:
        data, batch = plan.payload(), plan.scenario.batch
        if batch:
            return [functools.partial(stream.append_many, [data] * batch) for stream in self.streams]
        return [functools.partial(stream.append, data) for stream in self.streams]

    def close(self) -> None:
        self.client.close()


class Ringwal(Contender):
    """This engine with its defaults, except where the scenario names a setting."""

    name = "ringwal"
    durability = "every block written O_DIRECT + RWF_DSYNC (or synced) before its records are confirmed; checksummed, ordered"
    settings: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        self.directory = Path()
        self.server: Server | None = None

    def version(self) -> str:
        import ringwal

        return f"ringwal {ringwal.__version__}"

    def setup(self, directory: Path, scenario: Scenario) -> None:
        self.directory = directory / "engine"
        self.directory.mkdir()
        self.server = start(self.directory, {**scenario.engine, **self.settings}, directory / "engine.log")

    def open(self, plan: Plan) -> Session:
        return _Session(self.directory, plan)

    def server_pids(self) -> list[int]:
        return self.server.pids() if self.server else []

    def server_processes(self) -> dict[str, list[int]]:
        import ringwal
        from ringwal import views

        with ringwal.connect(self.directory) as client:
            seen = views.engine(client._attachment().control)
            named = {int(seen.wal_pid): "WAL", int(seen.drain_pid): "drain"}
        found: dict[str, list[int]] = {}
        for pid in self.server_pids():
            found.setdefault(named.get(pid, "supervisor"), []).append(pid)
        return found

    def counters(self) -> dict[str, int]:
        return counters(self.directory)

    def teardown(self) -> None:
        if self.server is not None:
            server, self.server = self.server, None
            server.stop()


class RingwalLog(Ringwal):
    """The same with confirmation in order of the whole log."""

    name = "ringwal-log"
    durability = Ringwal.durability + '; confirm_order="log"'
    settings: ClassVar[Mapping[str, str]] = {"confirm-order": "log"}


class RingwalAhead(Ringwal):
    """The same with as many segments filled before the load as one second of it can use up: a burst, not a steady load."""

    name = "ringwal-ahead"
    segments = 36
    durability = Ringwal.durability + f"; {segments} segments (2.25 GiB) filled with zeros before the load begins"
    settings: ClassVar[Mapping[str, str]] = {"segments-ahead": str(segments)}

    def setup(self, directory: Path, scenario: Scenario) -> None:
        super().setup(directory, scenario)
        assert self.server is not None
        self.server.wait_until(self._filled, FILL_TIMEOUT)

    def _filled(self) -> bool:
        import ringwal

        with ringwal.connect(self.directory) as client:
            return bool(client.status()["segments"]["ahead"] == self.segments)


class RingwalRecycled(Ringwal):
    """The same on a log that has reached its limit: it drops its oldest records, and writes into the files that had them."""

    name = "ringwal-recycled"
    limit = 16
    durability = Ringwal.durability + f"; at its limit of {limit} segments (1 GiB), dropping what is oldest"
    settings: ClassVar[Mapping[str, str]] = {"max-log-bytes": str(limit * ((64 << 20) + 4096)), "on-full": "drop_oldest"}

    def setup(self, directory: Path, scenario: Scenario) -> None:
        super().setup(directory, scenario)
        assert self.server is not None
        self.server.wait_until(self._all_used, FILL_TIMEOUT)

    def _all_used(self) -> bool:
        """Appends some more; True when every file is one that has been used before."""
        import ringwal

        with ringwal.connect(self.directory) as client:
            stream = client.stream("before")
            for _ in range(1000):
                stream.append(bytes(64 << 10))
            stream.flush(FILL_TIMEOUT)
            return bool(client.status()["counters"]["segments_recycled"] > self.limit)


def counters(directory: Path) -> dict[str, int]:
    """The engine's running counters, read from its shared memory by a short-lived client."""
    import ringwal
    from ringwal import views

    with ringwal.connect(directory) as client:
        seen = views.engine(client._attachment().control)
        return {name: int(getattr(seen, name)) for name in COUNTERS}
