"""The command: runs the groups of a tier, prints what came out, and says so by its exit code."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.oracle import Verdict
from tests.faults.table import TIERS, Fault
from tests.support.host import Hung, NotRun

GROUPS = {
    "kills": "kills",
    "power": "power",
    "recorder": "recorder",
    "io": "io_errors",
    "media": "media",
    "life": "life",
    "keeper": "keeper",
    "reading": "reading",
    "following": "following",
    "expecting": "expecting",
    "producing": "producing",
    "batching": "batching",
    "consuming": "consuming",
    "offline": "offline",
    "retention": "retention",
    "attic": "attic",
    "backups": "backups",
    "fuzz": "fuzz",
    "clients": "clients",
    "time": "time_and_identity",
    "recovery": "recoveries",
    "ownership": "ownership",
    "surroundings": "surroundings",
    "space": "space",
    "leaks": "leaks",
    "points": "points",
    "mutants": "mutants",
}
"""Group and the module that does it; a module's ``faults(tier)`` lists its rows."""

ROW_SECONDS_MAX = {"change": 240, "nightly": 3600, "release": 4 * 3600}
COLUMNS = ("runs", "confirmed", "lost", "duplicated", "reordered", "hung")
HEAD = f"{'fault':<44} {'runs':>5} {'confirmed':>9} {'lost':>4} {'dupl':>4} {'reord':>5} {'hung':>4} {'stall ms':>8}  verdict"


@dataclasses.dataclass
class Row:
    """What became of a fault. ``reason`` is set if it was not run."""

    fault: Fault
    verdict: Verdict
    seconds: float
    reason: str | None = None
    kept: Path | None = None

    def word(self) -> str:
        if self.reason is not None:
            return f"NOT RUN: {self.reason}"
        return "kept" if self.verdict.kept() else "BROKEN"

    def line(self) -> str:
        v = self.verdict
        return (
            f"{f'{self.fault.group}: {self.fault.name}':<44} {v.runs:>5} {v.confirmed:>9} {v.lost:>4} {v.duplicated:>4} "
            f"{v.reordered:>5} {v.hung:>4} {v.longest_ms:>8.0f}  {self.word()}"
        )

    def facts(self) -> dict[str, object]:
        facts: dict[str, object] = {"group": self.fault.group, "fault": self.fault.name, "seconds": round(self.seconds, 1)}
        return {**facts, **dataclasses.asdict(self.verdict), "verdict": self.word()}


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises Hung in a row that does not end."""

    def over(number: int, frame: object) -> None:
        raise Hung(f"the row took more than {seconds} s")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def run(fault: Fault, seed: int, seconds: int) -> Row:
    """Runs one fault; keeps its directory if the promise was broken."""
    directory = Path(tempfile.mkdtemp(prefix="ringwal-fault-"))
    began, reason = time.monotonic(), None
    try:
        with limited(seconds):
            verdict = fault.body(directory, seed)
    except NotRun as error:
        verdict, reason = Verdict(), str(error)
    except Hung as error:
        verdict = Verdict(runs=1, hung=1, notes=[str(error)])
    except Exception as error:  # noqa: BLE001  whatever it is, the row is broken and says so
        verdict = Verdict(runs=1, notes=[f"{type(error).__name__}: {error}"])
    if verdict.kept():
        shutil.rmtree(directory)
    return Row(fault, verdict, time.monotonic() - began, reason, None if verdict.kept() else directory)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--tier", choices=TIERS, default="change")
    parser.add_argument("--only", metavar="GROUP", choices=sorted(GROUPS), action="append", help="may be given again")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--row", metavar="TEXT", default="", help="only rows whose name contains this")
    parser.add_argument("--every", metavar="N", type=int, default=1, help="only each N-th row, from one on that the seed says")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing is left behind
    print(f"tier {options.tier}, seed {options.seed}\n{HEAD}", flush=True)
    rows = []
    turn = options.seed
    for group in options.only or GROUPS:
        for fault in importlib.import_module(f"tests.faults.{GROUPS[group]}").faults(options.tier):
            turn += 1
            if options.row not in fault.name or turn % options.every:
                continue
            row = run(fault, options.seed, ROW_SECONDS_MAX[options.tier])
            rows.append(row)
            print(row.line(), flush=True)
            if row.kept is not None:
                print(f"    seed {options.seed}, directory {row.kept}")
                print("".join(f"    {note}\n" for note in row.verdict.notes), end="", flush=True)
    missing = sum(row.reason is not None for row in rows)
    broken = sum(row.kept is not None for row in rows)
    print(f"{len(rows) - missing - broken} kept, {broken} broken, {missing} not run, {sum(r.seconds for r in rows):.0f} s")
    if options.json:
        table = {"tier": options.tier, "seed": options.seed, "rows": [row.facts() for row in rows]}
        options.json.write_text(json.dumps(table, indent=1))
    return 1 if broken or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
