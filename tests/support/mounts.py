"""Small file systems for tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def tmpfs(place: Path, size: str) -> Iterator[Path]:
    """A small file system, mounted there. Skips where that cannot be had."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=False).returncode != 0:
        pytest.skip("this container may not mount anything")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
