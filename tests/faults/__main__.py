"""The command: runs the groups of a tier and prints what came out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import kills
from tests.faults.host import Hung
from tests.faults.oracle import Verdict


@dataclasses.dataclass
class Fault:
    """One row of the table."""

    group: str
    name: str
    runs: int
    body: Callable[[Path, int], Verdict]


def faults(tier: str) -> list[Fault]:
    """What a tier runs."""
    times = {"change": 5, "nightly": 20, "release": 100}[tier]
    return [
        Fault("kills", f"SIGKILL {role}", times, lambda directory, seed, role=role: kills.run(directory, role, times, seed))  # type: ignore[misc]
        for role in kills.ROLES
    ]


HEAD = f"{'fault':<24} {'runs':>5} {'confirmed':>10} {'lost':>5} {'dupl':>5} {'reord':>5} {'hung':>5} {'stall ms':>9}  verdict"


def line(fault: Fault, verdict: Verdict) -> str:
    kept = "kept" if verdict.kept() else "BROKEN"
    return (
        f"{fault.name:<24} {fault.runs:>5} {verdict.confirmed:>10} {verdict.lost:>5} {verdict.duplicated:>5} "
        f"{verdict.reordered:>5} {verdict.hung:>5} {verdict.longest_ms:>9.1f}  {kept}"
    )


def one(fault: Fault, seed: int) -> tuple[Verdict, Path | None]:
    """Runs one fault; keeps its directory if the promise was broken."""
    directory = Path(tempfile.mkdtemp(prefix="ringwal-fault-"))
    try:
        verdict = fault.body(directory, seed)
    except Hung as error:
        verdict = Verdict(hung=1, notes=[str(error)])
    except Exception as error:  # noqa: BLE001  whatever it is, the row is broken and says so
        verdict = Verdict(notes=[f"{type(error).__name__}: {error}"])
    if verdict.kept():
        shutil.rmtree(directory)
        return verdict, None
    return verdict, directory


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--tier", choices=("change", "nightly", "release"), default="change")
    parser.add_argument("--only", metavar="GROUP")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--json", metavar="FILE", type=Path)
    options = parser.parse_args()
    print(f"tier {options.tier}, seed {options.seed}\n{HEAD}", flush=True)
    rows, broken = [], False
    for fault in faults(options.tier):
        if options.only not in (None, fault.group):
            continue
        began = time.monotonic()
        verdict, kept = one(fault, options.seed)
        print(line(fault, verdict), flush=True)
        if kept is not None:
            broken = True
            print(f"    seed {options.seed}, directory {kept}")
            for note in verdict.notes:
                print(f"    {note}")
        row = {"group": fault.group, "fault": fault.name, "runs": fault.runs, "seconds": time.monotonic() - began}
        rows.append({**row, **dataclasses.asdict(verdict), "kept": verdict.kept()})
    if options.json:
        options.json.write_text(json.dumps({"tier": options.tier, "seed": options.seed, "rows": rows}, indent=1))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
