"""How a defect is put into a copy of the engine, and what has to notice it is run there."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.faults import build
from tests.faults.oracle import Verdict
from tests.support.host import NotRun, package_of

LIMIT_SECONDS = 240
"""Rows and tests notice by themselves that something hangs. One that has not ended by then says nothing."""
HANG_SECONDS = 20
PATIENCE = 10.0
"""`host.PATIENCE` in a copy: nothing that works takes as long, and defects that hang are many."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """``old``, which is in ``file`` exactly once, becomes ``new``; ``caught_by`` has to go red."""

    name: str
    file: str
    old: str
    new: str
    caught_by: tuple[str, ...]
    hangs: bool = False
    """In C, where no test's own limit reaches it: then it is red not to come to an end."""

    def applied(self, text: str) -> str:
        """Raises LookupError: the place is not there, or not the only one; the mutant has to be brought up to date."""
        if (count := text.count(self.old)) != 1:
            raise LookupError(f"{self.file} has the place of the mutant {self.name!r} {count} times")
        return text.replace(self.old, self.new)


def row(group: str, name: str, tier: str = "change") -> tuple[str, ...]:
    """A row of this campaign."""
    return ("-m", "tests.faults", "--seed", "1", "--only", group, "--row", name, "--tier", tier)


def units(place: str) -> tuple[str, ...]:
    """A part of the unit tests: a file, or one test of it."""
    return ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", place)


def control(mutants: list[Mutant], directory: Path, seed: int) -> Verdict:
    """What has to notice is quiet over a copy without a defect; else it might be red over the copy itself, or its patience.
    The longer rows belong to the tiers in which the mutants run, so they are left to those."""
    root, verdict = build.workshop().replica(directory / "copy"), Verdict()
    for number, evidence in enumerate(sorted({mutant.caught_by for mutant in mutants})):
        if evidence[-1] == "nightly":
            continue
        code, said = _run(evidence, root, directory / str(number), LIMIT_SECONDS)
        verdict.runs += 1
        verdict.expect(code == 0, f"{' '.join(evidence[1:])} is not quiet: code {code}, {said[-1:]}")
    shutil.rmtree(root)
    return verdict


def run(mutant: Mutant, directory: Path, seed: int) -> Verdict:
    """Kept means: caught. Raises NotRun: what has to notice cannot be run here."""
    shop, verdict = build.workshop(), Verdict(runs=1)
    root = shop.replica(directory / "copy")
    path = root / mutant.file
    path.write_text(mutant.applied(path.read_text()))
    shop.rebuild(root, mutant.file)
    limit = HANG_SECONDS if mutant.hangs else LIMIT_SECONDS
    code, said = _run(mutant.caught_by, root, directory / "run", limit)
    for line in said:
        _, missing, reason = line.partition("NOT RUN: ")
        if missing:
            raise NotRun(reason)
    # 1 is what both the campaign and pytest end with if something is red, and nothing else.
    verdict.expect(
        code == 1 or (code is None and mutant.hangs),
        f"not caught by {' '.join(mutant.caught_by[1:])}: code {code}, {said[-1:]}",
    )
    shutil.rmtree(root)
    return verdict


def _run(evidence: tuple[str, ...], root: Path, directory: Path, limit: float) -> tuple[int | None, list[str]]:
    """Code, or None if it does not end, and output."""
    scratch, output = directory / "tmp", directory / "said"
    scratch.mkdir(parents=True)
    own = {"TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1", "RINGWAL_FAULT_PATIENCE": str(PATIENCE)}
    with output.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, *evidence],
            cwd=root,
            env={**os.environ, **package_of(root), **own},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        code = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(limit)
        finally:
            _end(process)
    return code, output.read_text(errors="replace").strip().splitlines()


def _end(process: subprocess.Popen[bytes]) -> None:
    """If it still runs: an interrupt, at which it takes down what it has started."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
