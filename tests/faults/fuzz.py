"""Bytes that nobody wrote: in segment files and lanes (the targets of tests/fuzz), and in the files of a whole log.

Checksums keep accidents out. What lies behind them must hold without them too: against a client that makes its own, and
against a defect that stamped what it should not have.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from tests.faults.host import ROOT, NotRun
from tests.faults.oracle import Verdict
from tests.faults.table import Fault, often
from tests.fuzz import corpus

SPARE_SECONDS = 60
CLANG, DRIVE = ("clang", "libfuzzer"), ("gcc", "drive")
"""Compiler, and what calls the target."""


def faults(tier: str) -> list[Fault]:
    seconds = often(tier, 2, 45, 900)
    return [
        Fault("fuzz", "bytes of segment files", partial(target, "segment", seconds)),
        Fault("fuzz", "a lane that changes between two looks", partial(target, "lane", seconds)),
        Fault("fuzz", "files of a log", partial(logs, often(tier, 12, 700, 20_000))),
    ]


@functools.cache
def targets() -> Path:
    """The compiled targets; made once, gone at the end. Raises NotRun."""
    built = Path(tempfile.mkdtemp(prefix="ringwal-fuzz-"))
    atexit.register(shutil.rmtree, built, ignore_errors=True)
    said = "needs make"
    for compiler, driver in (CLANG, DRIVE):
        if shutil.which("make") is None or shutil.which(compiler) is None:
            continue
        variables = (f"CC={compiler}", f"DRIVER={driver}", f"BUILD={built}")
        command = ["make", "-s", "-j2", "-C", str(ROOT / "tests" / "fuzz"), *variables]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return built
        said = done.stderr
        shutil.rmtree(built)
    raise NotRun(f"needs gcc or clang with sanitizers: {said.strip()[-200:]}")


def target(name: str, seconds: int, directory: Path, seed: int) -> Verdict:
    """Runs are inputs. One that breaks it is left in the row's directory."""
    program, inputs, verdict = targets() / name, directory / "corpus", Verdict()
    corpus.make(name, inputs, seed)
    command = [
        *(str(program), f"-seed={seed % (1 << 31) or 1}", f"-max_total_time={seconds}", "-timeout=20", "-max_len=131072"),
        *(f"-artifact_prefix={directory}/", str(inputs)),
    ]
    scratch = directory / "tmp"
    scratch.mkdir()
    done = subprocess.run(
        command,
        env={**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=16", "TMPDIR": str(scratch)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=seconds + SPARE_SECONDS,
    )
    said = done.stderr.decode(errors="replace")
    count = re.search(r"^Done (\d+) runs", said, re.MULTILINE)
    verdict.runs = int(count[1]) if count else 1
    findings = [line for line in said.splitlines() if re.search(r"ERROR|runtime error|not so:|ALARM", line)]
    verdict.expect(done.returncode == 0, f"{name} ended with {done.returncode}: {findings[:1] or said[-300:]}")
    verdict.expect(verdict.runs >= 100 or not verdict.kept(), f"{name} came no further than {verdict.runs} inputs")
    return verdict


def logs(count: int, directory: Path, seed: int) -> Verdict:
    """Recovery of logs that were changed at will."""
    from tests.faults import fuzz_logs  # only here: it takes hypothesis, which the others need not have

    return fuzz_logs.run(count, directory, seed)
