"""Crash after crash leaves nothing: no shared memory, no descriptor, no file that nobody names."""

from __future__ import annotations

import operator
import random
from functools import partial
from pathlib import Path

from tests.faults.decode import manifest
from tests.faults.kills import ROLES
from tests.faults.oracle import Verdict, judge
from tests.faults.table import Fault, often
from tests.support import shm_names
from tests.support.host import SMALL, Engine, until, writers

FILES = {"lock", "manifest", "checkpoint-0", "checkpoint-1", "home", "last-status.json", "segments"}
STREAMS = [["hot", f"own-{i}"] for i in range(2)]
ROUND = 50
"""Crashes before a new log is begun: nothing is trimmed, so a log only grows."""


def faults(tier: str) -> list[Fault]:
    return [
        Fault("leaks", "after crash cycles", partial(rounds, often(tier, 8, 1000))),
        Fault("leaks", "descriptors over replacements", partial(descriptors, often(tier, 10, 200))),
    ]


def rounds(times: int, directory: Path, seed: int) -> Verdict:
    chance, total = random.Random(f"{seed}/leaks"), Verdict()
    for number, first in enumerate(range(0, times, ROUND)):
        part = directory / f"round-{number}"
        part.mkdir()
        total.add(_cycles(min(ROUND, times - first), part, chance))
        if not total.kept():
            break
    return total


def _cycles(times: int, directory: Path, chance: random.Random) -> Verdict:
    engine_dir = directory / "engine"
    running = Engine(engine_dir, *SMALL, "--max-restarts", "1000")
    try:
        with writers(engine_dir, directory, STREAMS) as fleet:
            for _ in range(times):
                fleet.await_progress(5)
                if running.die(chance.choice(ROLES)):
                    running = Engine(engine_dir, *SMALL, "--max-restarts", "1000")
            fleet.await_progress()
        code = running.stop()
        verdict = judge(engine_dir, fleet.journals)
        verdict.runs = times
        verdict.expect(code == 0, f"the orderly stop ended with code {code}")
        state = manifest(engine_dir)
        left = shm_names.left()
        verdict.expect(not left, f"shared memory is left: {left}")
        strange = {path.name for path in engine_dir.iterdir()} - FILES
        verdict.expect(not strange, f"files are left: {strange}")
        names = sorted(path.name for path in (engine_dir / "segments").glob("*.seg"))
        named = [f"{n:020d}.seg" for n in range(state.named_end)]
        verdict.expect(names == named, f"segments are {names}, and {named} are named")
        return verdict
    finally:
        running.__exit__(None, None, None)


def descriptors(times: int, directory: Path, seed: int) -> Verdict:
    """Of supervisor, WAL and drain process: as many after many replacements and clients as before."""
    engine_dir, verdict = directory / "engine", Verdict(runs=times)
    with Engine(engine_dir, *SMALL, "--max-restarts", "1000") as running:
        with writers(engine_dir, directory, STREAMS) as fleet:
            fleet.await_progress()
            before = _open(running)
            for i in range(times):
                running.strike(("wal", "drain")[i % 2])
                fleet.await_progress(5)
        with writers(engine_dir, directory, STREAMS) as second:
            second.await_progress()
            # A segment more may be open at the moment of the look.
            until(
                lambda: all(map(operator.le, _open(running), (count + 1 for count in before))), "descriptors to be closed", 10
            )
        code = running.stop()
    verdict.expect(code == 0, f"the orderly stop ended with code {code}")
    return verdict


def _open(running: Engine) -> list[int]:
    status = running.status()
    return [len(list(Path(f"/proc/{status[key]}/fd").iterdir())) for key in ("pid", "wal_pid", "drain_pid")]
