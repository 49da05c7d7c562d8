"""Backups under load, while somebody is killed, each restored at once and held against the journals: everything that was
confirmed before it began is there, and nothing else than what was appended. And copies made by other means, and damage."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from tests.faults.oracle import Verdict, judge
from tests.faults.scene import WINDOW, held
from tests.faults.table import Fault, often
from tests.support.host import PATIENCE, ROOT, SMALL, Engine, EngineEnded, Writers, inherited, package_of, pause, writers

ROLES = ("wal", "drain", "supervisor", "all", "backup")
FLAGS = (*SMALL, "--max-restarts", "1000")
DROPS = (*FLAGS, "--max-log-bytes", "24MiB", "--on-full", "drop_oldest")
STREAMS = [["hot", f"own-{i}"] for i in range(4)]
LATEST_SECONDS = 0.4
"""A backup takes about as long, and most of it is the start of Python."""
OVER = (os.EX_IOERR, os.EX_UNAVAILABLE, os.EX_TEMPFAIL)
"""What a backup may end with whose engine was killed."""


def faults(tier: str) -> list[Fault]:
    times = often(tier, 3, 30, 300)
    return [
        *(Fault("backups", f"SIGKILL {role} during backups", partial(kills, role, times, FLAGS)) for role in ROLES),
        Fault("backups", "segments are dropped during backups", partial(kills, "nobody", times, DROPS)),
        Fault("backups", "SIGKILL all, drop_oldest", partial(kills, "all", times, DROPS)),
        Fault("backups", "hot copies are whole or refused", partial(hot_copies, often(tier, 4, 40), FLAGS)),
        Fault("backups", "hot copies, drop_oldest", partial(hot_copies, often(tier, 4, 40), DROPS)),
        Fault("backups", "bits of a backup", partial(bits, often(tier, 25, 400))),
    ]


def ringwal(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "ringwal", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**inherited(), **package_of(ROOT)},
    )


def finished(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    said = process.communicate(timeout=PATIENCE)[1]
    return process.returncode, said.decode(errors="replace").strip()[-300:]


@dataclasses.dataclass
class Backups:
    """One backup that is brought up to date again and again. `began_ns` is that of the one in force; None: there is none."""

    directory: Path
    fleet: Writers
    drops: bool
    verdict: Verdict = dataclasses.field(default_factory=Verdict)
    began_ns: int | None = None

    @property
    def dest(self) -> Path:
        return self.directory / "backup"

    def began(self) -> tuple[subprocess.Popen[bytes], int]:
        began_ns = time.monotonic_ns()
        return ringwal("backup", "--incremental", "--timeout", "20", self.directory / "engine", self.dest), began_ns

    def ended(self, process: subprocess.Popen[bytes], began_ns: int, *, killed: bool) -> None:
        """``killed``: it may have failed."""
        code, said = finished(process)
        self.verdict.runs += 1
        allowed = (0, *OVER, -9) if killed else (0,)
        self.verdict.expect(code in allowed, f"a backup ended with code {code}: {said}")
        possible = [each for each in (self.began_ns, began_ns if code in (0, -9) else None) if each is not None]
        if code == 0:
            possible = [began_ns]
        with held(*(process.pid for process in self.fleet.processes)):  # else there is more and more to look at
            self._look(possible)

    def _look(self, possible: list[int]) -> None:
        """It can be restored, and was begun at one of these moments."""
        out = self.directory / "restored"
        code, said = finished(ringwal("restore", self.dest, out))
        if not possible or (code == os.EX_CONFIG and self.began_ns is None):
            wanted = (os.EX_CONFIG, os.EX_NOINPUT)
            self.verdict.expect(code in wanted, f"an unfinished backup: restore ended with code {code}: {said}")
            return
        self.verdict.expect(code == 0, f"restore ended with code {code}: {said}")
        if code == 0:
            found = [judge(out, self.fleet.journals, drops=self.drops, until_ns=each) for each in possible]
            good = next((k for k in reversed(range(len(found))) if found[k].kept()), len(found) - 1)
            self.verdict.add(dataclasses.replace(found[good], runs=0))
            self.began_ns = possible[good]
            with Engine(out, *SMALL) as engine:
                self.verdict.expect((code := engine.stop()) == 0, f"an engine on what was restored ended with code {code}")
        shutil.rmtree(out)


def kills(role: str, times: int, flags: tuple[str, ...], directory: Path, seed: int) -> Verdict:
    """Somebody dies at a random moment of each second backup."""
    chance, at = random.Random(f"{seed}/{role}"), directory / "engine"
    running = Engine(at, *flags)
    try:
        with writers(at, directory, STREAMS, window=WINDOW) as fleet:
            made = Backups(directory, fleet, "drop_oldest" in flags)
            for turn in range(2 * times):
                fleet.await_progress()
                process, began_ns = made.began()
                dies = role != "nobody" and turn % 2 == 1
                if dies:
                    pause(chance.random() * LATEST_SECONDS)  # the moment of the kill is the random variable
                    if role == "backup":
                        process.kill()
                    elif running.die(role):
                        made.ended(process, began_ns, killed=True)
                        running = Engine(at, *flags)
                        continue
                made.ended(process, began_ns, killed=dies and role == "backup")
            fleet.kill()
            running.kill()
        return made.verdict
    finally:
        running.__exit__(None, None, None)


def hot_copies(times: int, flags: tuple[str, ...], directory: Path, seed: int) -> Verdict:
    """cp -a while the log is written. Where an engine starts on the copy, all of it is there."""
    chance, at, verdict = random.Random(f"{seed}/copies"), directory / "engine", Verdict()
    with Engine(at, *flags) as running, writers(at, directory, STREAMS, window=WINDOW) as fleet:
        for turn in range(times):
            fleet.await_progress()
            pause(chance.random() * 0.3)
            began_ns, copied = time.monotonic_ns(), directory / f"copy-{turn}"
            if running.process.poll() is not None:
                break
            subprocess.run(["cp", "-a", str(at), str(copied)], check=False, capture_output=True)  # files vanish meanwhile
            verdict.runs += 1
            try:
                with Engine(copied, *flags) as engine, held(*(process.pid for process in fleet.processes)):
                    verdict.expect((code := engine.stop()) == 0, f"the copy's engine ended with code {code}")
                    found = judge(copied, fleet.journals, drops="drop_oldest" in flags, until_ns=began_ns)
                verdict.add(dataclasses.replace(found, runs=0))
            except EngineEnded as ended:
                said = engine_log(copied)
                verdict.expect(ended.code == os.EX_DATAERR and "`ringwal backup`" in said, f"the copy is refused: {ended}")
            shutil.rmtree(copied)
        fleet.kill()
        verdict.expect((code := running.stop()) == 0, f"the orderly stop ended with code {code}")
    return verdict


def engine_log(directory: Path) -> str:
    return directory.with_name(f"{directory.name}.log").read_text()


def bits(times: int, directory: Path, seed: int) -> Verdict:
    """A flipped bit anywhere: restore refuses, or the bit did not count and all is there."""
    chance, at, dest = random.Random(f"{seed}/bits"), directory / "engine", directory / "backup"
    with Engine(at, *SMALL) as running, writers(at, directory, STREAMS, window=WINDOW) as fleet:
        fleet.await_progress(200)
        fleet.stop()
        running.stop()
        began_ns = time.monotonic_ns()
    verdict = Verdict()
    code, said = finished(ringwal("backup", "--copy", at, dest))
    verdict.expect(code == 0, f"the backup ended with code {code}: {said}")
    whole = {path: path.read_bytes() for path in sorted(dest.rglob("*")) if path.is_file()}
    refused = 0
    for _ in range(times):
        path = chance.choice(list(whole))
        data = bytearray(whole[path])
        used = max(1, len(data.rstrip(b"\0")))
        data[chance.randrange(used)] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        out = directory / "restored"
        code, said = finished(ringwal("restore", dest, out))
        verdict.runs += 1
        if code == 0:
            verdict.add(dataclasses.replace(judge(out, fleet.journals, until_ns=began_ns), runs=0))
        else:
            refused += 1
            verdict.expect(code in (os.EX_DATAERR, os.EX_CONFIG, os.EX_PROTOCOL), f"restore ended with code {code}: {said}")
        shutil.rmtree(out, ignore_errors=True)
        path.write_bytes(whole[path])
    verdict.expect(refused > 0, "nothing was refused: the row has shown nothing")
    return verdict
