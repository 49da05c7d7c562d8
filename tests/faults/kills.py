"""SIGKILL to the engine's processes while eight writers are busy."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

from tests.faults.oracle import Verdict, stop_and_judge
from tests.faults.table import Fault, often
from tests.support.host import SMALL, Engine, pause, writers

ROLES = ("wal", "drain", "supervisor", "all")
WRITERS = 8


def faults(tier: str) -> list[Fault]:
    times = often(tier, 5, 50, 500)
    rows = [Fault("kills", f"SIGKILL {role}", partial(run, role, times)) for role in ROLES]
    lingering = ("--linger-us", "2000")
    rows += [
        Fault("kills", f"{role} killed, writers await", partial(run, role, times, env={"RINGWAL_FAULT_ASYNCIO": "1"}))
        for role in ("wal", "drain", "all")
    ]
    return rows + [
        Fault("kills", f"{role} killed, small blocks wait for more", partial(run, role, times, flags=lingering))
        for role in ("wal", "all")
    ]


def run(
    role: str, times: int, directory: Path, seed: int, *, flags: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> Verdict:
    """``times`` kills of one role under load, then the whole engine is killed, started once more, stopped, and judged."""
    chance = random.Random(f"{seed}/{role}")
    engine_dir, journals = directory / "engine", directory
    streams = [["hot", f"own-{i}", f"pair-{i // 2}"] for i in range(WRITERS)]
    flags = (*SMALL, "--max-restarts", "1000", *flags)
    engine = Engine(engine_dir, *flags)
    try:
        with writers(engine_dir, journals, streams, env=env) as fleet:
            for _ in range(times):
                fleet.await_progress()
                pause(chance.random() * 0.05)  # the moment of the kill is the random variable
                if engine.die(role):
                    engine = Engine(engine_dir, *flags)
            fleet.await_progress()
            fleet.kill()
            engine.kill()
        with Engine(engine_dir, *SMALL) as last:
            return stop_and_judge(last, fleet.journals, times)
    finally:
        engine.__exit__(None, None, None)
