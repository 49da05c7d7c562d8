"""A log with a limit that drops its oldest records: at full load, and over deaths. What is read is judged at once, as it is
gone later (`tests.support.endless`).

    python -m tests.faults.space --seconds 180 --limit 2GiB      the figures of a long run
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from ringwal.config import parse_size
from tests.faults.kills import ROLES
from tests.faults.oracle import Verdict
from tests.faults.table import Fault, often
from tests.support.endless import Endless, endless
from tests.support.host import SMALL, Engine, pause, until

WRITERS = READERS = 4
OUTSTANDING = 1000
SEGMENT = 64 << 20
LIMIT_SMALL = "25MiB"
SAMPLE_SECONDS = 0.25
STREAMS = [f"load-{i}" for i in range(WRITERS)]


def faults(tier: str) -> list[Fault]:
    seconds, limit = often(tier, 10.0, 900.0), often(tier, 512 << 20, 2 << 30)
    return [
        Fault("space", "drop_oldest at full load", partial(full_load, seconds, limit)),
        Fault("space", "deaths while segments are dropped", partial(deaths, often(tier, 12, 300))),
    ]


def full_load(seconds: float, limit: int, directory: Path, seed: int) -> Verdict:
    """Four writers and four readers: no append waits for room, and the directory keeps to its limit."""
    return Run(directory, limit).measure(seconds)[0]


class Run:
    """One engine with that limit, and its load."""

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory, self.limit = directory, limit
        self.engine_dir = directory / "engine"
        self.largest = 0
        self.samples: list[tuple[float, int]] = []
        """Time, and records confirmed until then."""

    def measure(self, seconds: float) -> tuple[Verdict, dict[str, Any]]:
        """The verdict, and figures."""
        verdict = Verdict(runs=1)
        with (
            Engine(self.engine_dir, "--max-log-bytes", str(self.limit), "--on-full", "drop_oldest") as running,
            endless(self.engine_dir, self.directory, STREAMS, readers=READERS, outstanding=OUTSTANDING) as load,
        ):
            load.await_records(1)
            self._sample(running, load, seconds, verdict)
            readers = load.facts()[WRITERS:]
            for wrong in load.stop():
                verdict.expect(not wrong, wrong)
            counters = running.status()["counters"]
            code = running.stop()
        verdict.confirmed = load.records()
        verdict.expect(code == 0, f"the orderly stop ended with code {code}")
        verdict.expect(counters["segments_dropped"] > 0, "nothing was dropped: the row has shown nothing")
        allowed = self.limit + 3 * SEGMENT
        verdict.expect(self.largest <= allowed, f"the directory took {self.largest} bytes of {allowed}")
        verdict.expect("appends wait" not in running.log.read_text(), "appends had to wait for room")
        figures = {
            "seconds": seconds,
            "limit": self.limit,
            "du_max": self.largest,
            **{name: counters[name] for name in ("segments_freed", "segments_recycled", "segments_dropped")},
            "read": [facts["records"] for facts in readers],
            "trimmed": [facts["trimmed"] for facts in readers],
            **self._throughput(seconds),
        }
        return verdict, figures

    def _sample(self, running: Engine, load: Endless, seconds: float, verdict: Verdict) -> None:
        end = time.monotonic() + seconds
        full = False
        while time.monotonic() < end and not load.wrong():
            pause(SAMPLE_SECONDS)
            self.largest = max(self.largest, disk_usage(self.engine_dir))
            self.samples.append((time.monotonic(), load.records()))
            full = full or running.status()["storage_full"] is not None
        verdict.expect(not full, "the engine said that it has no room")

    def _throughput(self, seconds: float) -> dict[str, float]:
        """Records a second in the first and the last minute, or third."""
        part = min(60.0, seconds / 3)

        def rate(low: float, high: float) -> float:
            inside = [(at, count) for at, count in self.samples if low <= at <= high]
            (first, one), (last, other) = inside[0], inside[-1]
            return (other - one) / (last - first)

        begin, end = self.samples[0][0], self.samples[-1][0]
        first, last = rate(begin, begin + part), rate(end - part, end)
        return {"first_per_s": round(first), "last_per_s": round(last), "last_to_first": round(last / first, 3)}


def disk_usage(directory: Path) -> int:
    """As `du` counts."""
    total = 0
    for path in (directory, *directory.rglob("*")):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:  # freed meanwhile
            continue
    return total


def deaths(times: int, directory: Path, seed: int) -> Verdict:
    """One process, or all, again and again; whoever is left goes on, and no file is left over."""
    chance, verdict = random.Random(f"{seed}/space"), Verdict(runs=times)
    flags = (*SMALL, "--max-log-bytes", LIMIT_SMALL, "--on-full", "drop_oldest", "--max-restarts", "1000")
    engine_dir = directory / "engine"
    running = Engine(engine_dir, *flags)
    try:
        with endless(engine_dir, directory, STREAMS[:2], readers=2) as load:
            for _ in range(times):
                load.await_records(chance.randrange(1, 2000))
                if not running.die(chance.choice(ROLES)):
                    continue
                running = Engine(engine_dir, *flags)
                lost = running.facts["recovery"]["missing_segments"]
                verdict.expect(not lost, f"segments {lost} are missing")
            until(lambda: running.status()["counters"]["segments_dropped"] > 0, "a segment to be dropped")
            load.await_records(1000)
            for wrong in load.stop():
                verdict.expect(not wrong, wrong)
            verdict.confirmed = load.records()
        largest = sum(path.stat().st_size for path in (engine_dir / "segments").glob("*.seg"))
        verdict.expect(largest <= parse_size(LIMIT_SMALL), f"the segments take {largest} bytes")
        code = running.stop()
        verdict.expect(code == 0, f"the orderly stop ended with code {code}")
    finally:
        running.__exit__(None, None, None)
    return verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.space", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--limit", type=parse_size, default=parse_size("2GiB"))
    parser.add_argument("--directory", type=Path, help="on the disk that is measured  [default: a temporary one]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ringwal-space-", dir=options.directory) as place:
        verdict, figures = Run(Path(place), options.limit).measure(options.seconds)
    json.dump({**figures, "verdict": dataclasses.asdict(verdict), "kept": verdict.kept()}, sys.stdout, indent=1)
    print()
    return 0 if verdict.kept() and figures["last_to_first"] >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
