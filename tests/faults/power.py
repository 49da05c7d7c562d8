"""Power cuts under load, on a file system of its own: direct and buffered writes, ext4 and XFS."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

from tests.faults import names
from tests.faults.disk import Disk, disk
from tests.faults.oracle import Verdict, stop_and_judge
from tests.faults.table import Fault, often
from tests.support.host import SMALL, Engine, pause, writers

WRITERS = 4
ROUND = 20
"""Cuts before the log is judged and a new one begun: nothing is trimmed, so a log only grows."""


def faults(tier: str) -> list[Fault]:
    cuts = often(tier, 4, 250, 1000)
    return [
        *(
            Fault("power", f"power cut, {kind}, direct_io {direct}", partial(run, kind, direct, cuts))
            for kind in ("ext4", "xfs")
            for direct in ("auto", "off")
        ),
        Fault("power", "names whose directory was not synced", partial(names.run, often(tier, 3, 30))),
    ]


def run(kind: str, direct: str, cuts: int, directory: Path, seed: int) -> Verdict:
    chance = random.Random(f"{seed}/{kind}/{direct}")
    total = Verdict()
    for number, first in enumerate(range(0, cuts, ROUND)):
        part = directory / f"round-{number}"
        part.mkdir()
        with disk(part, kind) as medium:
            total.add(_round(medium.mount / "engine", part, medium, min(ROUND, cuts - first), chance, direct))
        if not total.kept():
            break
    return total


def _round(engine_dir: Path, journals: Path, medium: Disk, times: int, chance: random.Random, direct: str) -> Verdict:
    flags = (*SMALL, "--direct-io", direct)
    streams = [["hot", f"own-{i}", f"pair-{i // 2}"] for i in range(WRITERS)]
    engine = Engine(engine_dir, *flags)
    try:
        with writers(engine_dir, journals, streams) as fleet:
            for _ in range(times):
                fleet.await_progress()
                pause(chance.random() * 0.1)  # the moment of the cut is the random variable
                medium.cut()
                engine.__exit__(None, None, None)
                medium.again()
                engine = Engine(engine_dir, *flags)
            fleet.await_progress()
        return stop_and_judge(engine, fleet.journals, times)
    finally:
        engine.__exit__(None, None, None)
