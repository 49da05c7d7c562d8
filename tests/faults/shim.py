"""The test's end of shim.c: builds it, arms it, reads its counters."""

from __future__ import annotations

import atexit
import enum
import errno
import functools
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.support.host import ROOT, NotRun

CALL: Final = {"write_block": 1, "write": 2, "datasync": 4, "sync": 8, "allocate": 16, "read": 32}
WORDS: Final = struct.Struct("=8I4I")


class Mode(enum.IntEnum):
    ONCE = 0
    EVER = 1
    SHORT = 2
    UNWRITTEN = 3
    """Blocks are taken and never reach the device; each open file is told once, by its next sync."""


@functools.cache
def library(name: str = "shim") -> Path:
    """A compiled shim. Raises NotRun without a compiler."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NotRun("needs a C compiler")
    built = Path(tempfile.mkdtemp(prefix="ringwal-shim-")) / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    flags = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-I", str(ROOT / "csrc"))
    subprocess.run([compiler, *flags, "-o", str(built), str(source)], check=True)
    atexit.register(shutil.rmtree, built.parent, ignore_errors=True)
    return built


class Shim:
    """One engine's shim; give `env` to the engine."""

    def __init__(self, state: Path) -> None:
        state.write_bytes(bytes(mmap.PAGESIZE))
        with state.open("r+b") as file:
            self._words = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.env = {"LD_PRELOAD": str(library()), "RINGWAL_SHIM": str(state)}

    def arm(
        self, calls: tuple[str, ...], at: int, mode: Mode = Mode.ONCE, error: int = errno.EIO, *, segments_only: bool = False
    ) -> None:
        """From now on the ``at``-th of these calls fails; with EVER every later one too; with SHORT it and every
        later one does half; with UNWRITTEN it and every later one comes to nothing."""
        kinds = sum(CALL[name] for name in calls)
        struct.pack_into("=5I", self._words, 4, kinds, at, mode, error, segments_only)
        struct.pack_into("=I", self._words, 0, 1)

    @property
    def calls(self) -> int:
        """Of the armed kinds so far."""
        return int(WORDS.unpack_from(self._words)[8])

    @property
    def failures(self) -> int:
        return int(WORDS.unpack_from(self._words)[9])

    def failed_in(self, inodes: Iterable[int]) -> bool:
        """Was the file of the latest failure one of these?"""
        return int(WORDS.unpack_from(self._words)[11]) in {inode & 0xFFFFFFFF for inode in inodes}

    @property
    def later(self) -> int:
        """Writes and syncs of a file after one of its calls had failed."""
        return int(WORDS.unpack_from(self._words)[10])
