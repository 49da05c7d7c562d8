"""engine.pml, checked by spin: the way of a request through writer, WAL threads and drain, in sizes beyond
test_doorbell.py.

Findings (spin 6.5.2, all of them exhaustive)
    the doorbell alone      2 writers of 2 requests, 2 WAL threads    3,379,967 states, holds
                        1 writer of 1 request, 3 WAL threads      1,058,189 states, holds
    the whole way       1 writer of 1 request, 2 WAL threads      1,993,728 states, holds
    All eight mutants end in the monitor's assertion.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).with_name("engine.pml")
SECONDS = 100.0

pytestmark = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("cc") is None,
    reason="needs spin (Debian package spin) and a C compiler, which builds the checker that spin writes",
)


def holds(directory: Path, *defines: str, optimise: str) -> bool:
    """Whether the whole state space was searched and no assertion failed; False if one did."""

    def run(*command: str) -> str:
        done = subprocess.run(
            command,
            cwd=directory,
            timeout=SECONDS,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.stdout

    shutil.copy(MODEL, directory)
    run("spin", "-a", *(f"-D{d}" for d in defines), MODEL.name)
    run("cc", optimise, "-w", "-DSAFETY", "-o", "pan", "pan.c")
    report = run("./pan", "-E", "-m200000", "-w22")
    assert "error: max search depth too small" not in report, report
    if "errors: 0" in report:
        assert "Search not completed" not in report, report
        return True
    assert "assertion violated" in report, report
    return False


@pytest.mark.parametrize(
    "size",
    [
        ("DOORBELL_ONLY", "WRITERS=2", "REQUESTS=2", "THREADS=2"),
        ("DOORBELL_ONLY", "WRITERS=1", "REQUESTS=1", "THREADS=3"),
        ("WRITERS=1", "REQUESTS=1", "THREADS=2"),
    ],
    ids=" ".join,
)
def test_every_request_is_taken_confirmed_and_its_writer_woken(size: tuple[str, ...], tmp_path: Path) -> None:
    assert holds(tmp_path, *size, optimise="-O2")


@pytest.mark.parametrize(
    ("mutant", "size"),
    [
        ("NO_PUBLISH_FENCE", ("DOORBELL_ONLY", "WRITERS=1")),
        ("NO_LOOK_BEFORE_IDLE", ("DOORBELL_ONLY", "WRITERS=1")),
        ("NO_LOOK_AS_SENTINEL", ("DOORBELL_ONLY", "WRITERS=1")),
        ("NO_SEQUENCE", ("DOORBELL_ONLY", "WRITERS=1", "REQUESTS=2")),
        ("NO_DRAIN_LOOK", ("WRITERS=1", "THREADS=1")),
        ("BUMP_BEFORE_PERSISTED", ("WRITERS=1", "THREADS=1")),
        ("NO_WRITER_LOOK", ("WRITERS=1", "THREADS=1")),
        ("WAITERS_BEFORE_WAKE", ("WRITERS=1", "THREADS=1")),
    ],
)
def test_mutant_is_found(mutant: str, size: tuple[str, ...], tmp_path: Path) -> None:
    assert not holds(tmp_path, mutant, *size, optimise="-O0")
