"""The WAL and the drain process killed at their points, while the keeper trims by what is set for a stream, and what is left in
its segments goes into the attic."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import ringwal
from ringwal.log.verify import verify
from tests.faults import build
from tests.faults.oracle import Verdict
from tests.faults.points import came_after_all, came_by
from tests.faults.table import Fault, often
from tests.support.host import PATIENCE, SMALL, Engine, NotRun, until
from tests.support.log_place import log_at

POINTS = {
    "wal": ("seg.first_raised", "l.cut.composed", "ckpt.named", "seg.renamed", "seg.named"),
    "drain": ("d.trim.confirmed", "d.release.mid", "d.cursor.post"),
}
VISIT_SECONDS = 20.0
KEPT, RECORD, PER_SEGMENT = 100, 16_000, 270


def faults(tier: str) -> list[Fault]:
    return [
        Fault("attic", f"kill {role} at {point}, retention and attic", partial(at_point, point, often(tier, 2, 15)))
        for role, points in POINTS.items()
        for point in points[: often(tier, 1, len(points))]
    ]


class Feeder(threading.Thread):
    """Appends a record that stays to each segment, and many that go by the number of them that is kept."""

    def __init__(self, directory: Path) -> None:
        super().__init__(name="feeder")
        self._client = ringwal.connect(directory, timeout=PATIENCE, append_timeout=PATIENCE)
        self._busy = self._client.create_stream("busy", retention_records=KEPT)
        self._over = threading.Event()
        self.old: list[bytes] = []
        self.complaint: str | None = None

    def run(self) -> None:
        try:
            while not self._over.is_set():
                data = os.urandom(100)
                offset = self._client.stream("quiet").append(data).result(PATIENCE).offset
                assert offset == len(self.old), f"record {len(self.old)} has offset {offset}"
                self.old.append(data)
                receipts = [self._busy.append(bytes(RECORD)) for _ in range(PER_SEGMENT)]
                receipts[-1].result(PATIENCE)
        except Exception as error:  # noqa: BLE001  told in the verdict
            self.complaint = f"{type(error).__name__}: {error}"
        finally:
            with contextlib.suppress(ringwal.Error, OSError):
                self._client.close(PATIENCE)

    def end(self) -> None:
        self._over.set()
        self.join(2 * PATIENCE)


@contextlib.contextmanager
def feeding(directory: Path) -> Iterator[Feeder]:
    feeder = Feeder(directory)
    feeder.start()
    try:
        yield feeder
    finally:
        feeder.end()


def at_point(point: str, times: int, directory: Path, seed: int) -> Verdict:
    """Visit after visit; then everything is killed, and all that the attic and the segments have of the stream is read."""
    at, once, visits = directory / "engine", directory / "once", 0
    trap = {"RINGWAL_POINT": f"{point}:*:kill", "RINGWAL_POINT_ONCE": str(once)}  # whichever visit is the next
    with Engine(at, *SMALL, "--max-restarts", "1000", root=build.with_points(), env=trap) as engine, feeding(at) as feeder:
        for _ in range(times):
            await_attic(engine, feeder)
            once.touch()
            visits += came_by(once, VISIT_SECONDS) or came_after_all(once)
        await_attic(engine, feeder)
        restarts = engine.status()["restarts"]
        feeder.end()
        engine.kill()
    if not visits:
        raise NotRun("nobody came by in time")
    verdict = Verdict(runs=visits, confirmed=len(feeder.old))
    verdict.expect(feeder.complaint is None, str(feeder.complaint))
    verdict.expect(restarts >= visits, f"{visits} were killed and {restarts} replaced: this shows nothing")
    judge(at, feeder.old, verdict)
    return verdict


def await_attic(engine: Engine, feeder: Feeder) -> None:
    before = engine.status()["attic"]["end"]
    until(
        lambda: feeder.complaint is not None or engine.status()["attic"]["end"] > before, "the attic to take more", 2 * PATIENCE
    )


def judge(at: Path, old: list[bytes], verdict: Verdict) -> None:
    with Engine(at, *SMALL) as last:
        with ringwal.connect(at, timeout=PATIENCE) as client:
            quiet, busy = client.stream("quiet"), client.stream("busy")
            found = [(record.offset, record.data) for record in quiet.records()]
            verdict.expect(found[: len(old)] == list(enumerate(old)), f"{len(found)} of {len(old)} old records, or others")
            until(lambda: busy.stat().records <= KEPT, "retention after the start")
            verdict.expect(len(list(busy.records())) == busy.stat().records, "records of the busy stream are missing")
        code = last.stop()
    verdict.expect(code == 0, f"the orderly stop ended with code {code}")
    with log_at(at) as log:
        places = verify(log, deep=True).places
    verdict.expect(not places, f"verify finds {places[:3]}")
