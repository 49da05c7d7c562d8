"""A file system that keeps a name only once its directory has been synced, as POSIX has it.

ext4, XFS and btrfs sync a new file's name along with the file, so a power cut on them says nothing about who forgot the
directory. Here an engine under names.c is killed, and every name that it made and whose directory it did not sync
afterwards is taken away before the next start.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from tests.faults.oracle import Verdict, stop_and_judge
from tests.faults.shim import library
from tests.support.host import SMALL, Engine, EngineEnded, pause, writers

LIVES = 3
STREAMS = [["hot", f"own-{i}"] for i in range(2)]


class Load(NamedTuple):
    """Flags of the engine, environment of the writers, and what is waited for before each cut."""

    flags: tuple[str, ...] = SMALL
    env: Mapping[str, str] = MappingProxyType({})
    wait: Callable[[Path], None] = lambda _: None
    drops: bool = False


class Names:
    """What the engines of one log made and synced. Give `env` to them."""

    def __init__(self, root: Path, journal: Path) -> None:
        self._journal = journal
        self.env = {"LD_PRELOAD": str(library("names")), "RINGWAL_NAMES": str(journal), "RINGWAL_NAMES_ROOT": str(root)}

    def unsynced(self) -> list[Path]:
        """In the order in which they were made."""
        names: dict[Path, None] = {}
        for line in self._journal.read_text().splitlines():
            kind, path = line[0], Path(line[2:])
            if kind == "+":
                names[path] = None
            elif kind == "-":
                names.pop(path, None)
            else:
                names = {name: None for name in names if name.parent != path}
        return list(names)

    def lose(self) -> None:
        """The power cut: no process of the engine is left."""
        for path in self.unsynced():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self._journal.unlink()


def run(times: int, directory: Path, seed: int, load: Load = Load()) -> Verdict:  # noqa: B008  it does not change
    """Logs that are made, killed, robbed of their unsynced names and gone on with, from their first directory on. Of each
    but the first the making is cut short, which takes no names yet."""
    chance, total = random.Random(f"{seed}/names"), Verdict()
    for number in range(times):
        part = directory / f"log-{number}"
        part.mkdir()
        engine_dir = part / "some" / "where"
        names = Names(part, part / "names")
        if number == 0 or _making_cut_short(engine_dir, names, number, part / "engine.log"):
            total.add(_one(engine_dir, names, part, chance, load))
    return total


def _making_cut_short(engine_dir: Path, names: Names, lines: int, log: Path) -> bool:
    """False: it was over before."""
    try:
        Engine(engine_dir, *SMALL, env={**names.env, "RINGWAL_NAMES_LINES": str(lines)}, log=log).kill()
    except EngineEnded:
        return True
    return False


def _one(engine_dir: Path, names: Names, part: Path, chance: random.Random, load: Load) -> Verdict:
    running = Engine(engine_dir, *load.flags, env=names.env, log=part / "engine.log")
    try:
        with writers(engine_dir, part, STREAMS, env=load.env) as fleet:
            for _ in range(LIVES):
                fleet.await_progress()
                load.wait(engine_dir)
                pause(chance.random() * 0.1)  # the moment of the cut is the random variable
                running.kill()
                names.lose()
                running = Engine(engine_dir, *load.flags, env=names.env, log=part / "engine.log")
            fleet.await_progress()
        return stop_and_judge(running, fleet.journals, LIVES, drops=load.drops)
    finally:
        running.__exit__(None, None, None)
