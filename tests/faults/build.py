"""Scratch copies of the checkout, built apart from it: with the named points of csrc/points.h, or with a defect."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults.host import ROOT, NotRun

PARTS = ("engine", "csrc", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
NOT_COPIED = shutil.ignore_patterns("*.so", "*.o", "__pycache__", "_native.c", "native")


def copy(to: Path) -> Path:
    """Everything that a build and the campaign need."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, to / part, ignore=NOT_COPIED)
        elif (ROOT / part).exists():
            shutil.copy(ROOT / part, to / part)
    return to


def build(root: Path, *, points: bool) -> None:
    """Compiles the copy's core in place. Raises NotRun: it cannot be compiled here."""
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=root,
        env={**os.environ, "RINGWAL_POINTS": "1"} if points else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NotRun(f"the core cannot be built: {done.stderr.strip()[-200:]}")


@functools.cache
def with_points() -> Path:
    """A copy that stops at named points; made once, gone at the end."""
    root = Path(tempfile.mkdtemp(prefix="ringwal-points-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    copy(root)
    build(root, points=True)
    return root


def at(point: str, hit: int, action: str, once: Path | None = None) -> dict[str, str]:
    """The environment that makes a process do ``action`` at its ``hit``-th visit; with ``once``, while that file exists."""
    environment = {"RINGWAL_POINT": f"{point}:{hit}:{action}"}
    return environment if once is None else {**environment, "RINGWAL_POINT_ONCE": str(once)}
