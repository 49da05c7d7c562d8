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

from tests.faults import build
from tests.faults.oracle import Verdict
from tests.faults.table import Fault, often
from tests.fuzz import corpus
from tests.support.host import ROOT, NotRun

KINDS = (("clang", "libfuzzer", ("-fsanitize=fuzzer",)), ("gcc", "drive", ("-fsanitize=address,undefined",)))
"""Compiler, what calls the target there, and what the compiler needs for it; the first that is here."""


def faults(tier: str) -> list[Fault]:
    segments, lanes = often(tier, 6000, 150_000, 3_000_000), often(tier, 500, 8000, 200_000)
    return [
        Fault("fuzz", "bytes of segment files", partial(target, "segment", segments)),
        Fault("fuzz", "a lane that changes between two looks", partial(target, "lane", lanes)),
        Fault("fuzz", "files of a log", partial(logs, often(tier, 12, 500, 20_000))),
    ]


@functools.cache
def targets() -> Path:
    """The compiled targets; made once, gone at the end. Raises NotRun."""
    usable = [kind for kind in KINDS if build.can_link(kind[0], *kind[2])]
    if not usable or shutil.which("make") is None:
        raise NotRun("needs make, and gcc with its sanitizers or clang with libFuzzer")
    compiler, driver, _ = usable[0]
    built = Path(tempfile.mkdtemp(prefix="ringwal-fuzz-"))
    atexit.register(shutil.rmtree, built, ignore_errors=True)
    variables = (f"CC={compiler}", f"DRIVER={driver}", f"BUILD={built}")
    subprocess.run(["make", "-s", "-j2", "-C", str(ROOT / "tests" / "fuzz"), *variables], check=True)
    return built


def target(name: str, count: int, directory: Path, seed: int) -> Verdict:
    """Runs are inputs. One that breaks it is left in the row's directory."""
    program, inputs, verdict = targets() / name, directory / "corpus", Verdict()
    corpus.make(name, inputs, seed)
    command = [
        *(*build.fixed_addresses(), str(program), f"-seed={seed % (1 << 31) or 1}"),
        *(f"-runs={count}", "-timeout=60", "-max_len=131072"),
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
    )
    said = done.stderr.decode(errors="replace")
    came = re.search(r"^Done (\d+) runs", said, re.MULTILINE)
    verdict.runs = int(came[1]) if came else 1
    findings = [line for line in said.splitlines() if re.search(r"ERROR|runtime error|not so:|ALARM", line)]
    verdict.expect(done.returncode == 0, f"{name} ended with {done.returncode}: {findings[:1] or said[-300:]}")
    verdict.expect(verdict.runs >= count or not verdict.kept(), f"{name} came no further than {verdict.runs} inputs")
    return verdict


def logs(count: int, directory: Path, seed: int) -> Verdict:
    """Recovery of logs that were changed at will."""
    from tests.faults import fuzz_logs  # only here: it takes hypothesis, which the others need not have

    return fuzz_logs.run(count, directory, seed)
