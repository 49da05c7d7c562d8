"""Fixtures of the micro-benchmarks: `pytest bench/micro`. Their times are for comparison on one machine, nothing more."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringwal
from bench import subject

pytest.importorskip("pytest_benchmark")


@pytest.fixture
def memory_directory() -> Iterator[Path]:
    """A directory in memory, so that a write costs a copy and a sync nothing."""
    path = Path(tempfile.mkdtemp(prefix="bench-micro-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ringwal.Client]:
    """A client of a real engine."""
    server = subject.start(tmp_path / "engine", {}, tmp_path / "log")
    try:
        with ringwal.connect(tmp_path / "engine") as attached:
            yield attached
    finally:
        server.stop()
