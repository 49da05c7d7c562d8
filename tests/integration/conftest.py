"""A build with named points, once per session, and engines and writers that never outlive their test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.faces import FACES, Face
from tests.support.mounts import tmpfs
from tests.support.rig import CHECKOUT, Engine, Writers

PARTS = ("engine", "csrc", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="session")
def points_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a copy of the package that stops at named points (csrc/points.h)."""
    root = tmp_path_factory.mktemp("points")
    for part in PARTS:
        source = CHECKOUT / part
        if source.is_dir():
            shutil.copytree(source, root / part, ignore=shutil.ignore_patterns("*.so", "__pycache__", "_native.c"))
        elif source.exists():
            shutil.copy(source, root / part)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=root,
        env={**os.environ, "RINGWAL_POINTS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory with room for three segments."""
    with tmpfs(tmp_path / "disk", "14m") as place:
        yield place


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., Engine]]:
    """Starts engines on `directory`; those that still run at the end are killed."""
    started: list[Engine] = []

    def start_one(*args: object, **options: object) -> Engine:
        started.append(Engine(directory, *args, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start_one
    for each in started:
        each.close()


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Face:
    """Each face of the client; a file with a fixture of its own leaves some out."""
    found: Face = request.param
    return found


@pytest.fixture
def write(directory: Path) -> Iterator[Callable[..., Writers]]:
    """Starts writers on `directory`."""
    started: list[Writers] = []

    def start_some(root: Path, count: int, streams: list[str], **options: object) -> Writers:
        started.append(Writers(directory, root, count, streams, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start_some
    for each in started:
        each.close()

